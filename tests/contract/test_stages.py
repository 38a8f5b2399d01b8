"""The contract that every stage and every engine keeps; a new one joins by a row in tests/rows.py or below."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rows import alike, every

from halfpint import registry
from halfpint.bundle import LEARNED, Bundle, open_bundle
from halfpint.data.examples import Example
from halfpint.data.learned import learned_texts
from halfpint.data.prepare import Prepared
from halfpint.engines import open_engine, open_language_engine
from halfpint.errors import HalfpintError
from halfpint.outputs import Outputs, joined
from halfpint.stage import Stage, Work, stage_class
from halfpint.task import LabelTask

ROOMS = ("models", "train", "compress", "distil", "export")
NAMES = (
    "encoder", "majority", "linear", "classifier", "finetuned", "one-layer", "few-tokens", "onnx", "onnx-linear",
    "onnx-few-tokens", "int8", "int8-static", "int4", "blend", "int8-linear", "ngram", "language", "masked",
    "masked-encoder", "pulled", "gguf", "quantized", "codes", "compressed", "packed", "unpacked", "chat", "adapted",
    "mixed", "student", "answers", "hidden", "distilled", "static", "small-language", "token-answers", "taught",
    "inward", "healed", "shallow", "narrow", "narrow-classifier", "sparse", "thin", "pseudo", "written", "on-policy",
    "ranked", "universal", "slim", *every("ROWS"),
)  # fmt: skip

# A Cholesky factor's last bits depend on where its memory lies, and now and then one weight goes in another's place: of
# these files what the model says is compared.
SUMMED = {"sparse": {"model.sparse.safetensors"}}
COSTLY = {"onnx", "gguf", "codes", "compressed"}  # ten seconds each time, so they are made but once

# engine -> the bundles that it runs, and how far one text alone may differ from the same text in a batch. In an int8
# encoder (and a blend with one) the scale of the activations is that of the whole batch, so company shows: there it
# bounds the mean alone.
ENGINES = {
    "majority": {"majority": 0.0},
    "linear": {"linear": 1e-6},
    "onnx_linear": {"onnx-linear": 1e-6, "int8-linear": 1e-6},
    "torch_classifier": {"classifier": 1e-5, "few-tokens": 1e-5},
    "blend": {"blend": 0.02},
    "static": {"static": 1e-5},
    "onnx_encoder": {"onnx": 1e-5, "onnx-few-tokens": 1e-5, "int8": 0.02, "int8-static": 0.01, "int4": 0.02},
}
for _engine, _bundles in every("ENGINES").items():
    ENGINES[_engine] = {**ENGINES.get(_engine, {}), **_bundles}
ALIKE = {"majority", *alike()}
LANGUAGE_ENGINES = {"llama_cpp": "gguf", "mixed": "mixed", "ngram": "ngram", "torch_lm": "language"}
TEXTS = (
    "", " ", "Where is my parcel?", "REFUND!!! now", "ünïcödé 🙂 文字 \u200b", "a" * 3000, "parcel " * 5000, "\x00\n\t",
)  # fmt: skip


def all_stages() -> dict[str, type[Stage]]:
    found = {}
    for room in ROOMS:
        for name in registry.variants(room):
            try:
                found[f"{room}/{name}"] = stage_class(f"{room}/{name}", "here")
            except HalfpintError as error:
                assert "is no stage" in str(error)
    return found


def content(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_every_stage_has_a_row(rows: dict[str, Any]) -> None:
    assert {row.use for row in rows.values()} == set(all_stages())
    assert set(NAMES) == set(rows)


@pytest.mark.parametrize("use", sorted(all_stages()))
def test_a_stage_is_its_settings(use: str) -> None:
    kind = all_stages()[use]
    assert is_dataclass(kind)
    stage = kind()
    assert stage.use == use
    assert stage.changed_settings() == {}
    assert set(stage.settings()) == {item.name for item in fields(kind)}
    assert kind.__doc__
    for item in fields(kind):
        assert f"{item.name}:" in documented(kind) or f"{item.name}," in documented(kind), item.name
        with pytest.raises(FrozenInstanceError):
            setattr(stage, item.name, None)
    with pytest.raises(TypeError):
        kind(*[None])  # positions mean nothing


def documented(kind: type[Stage]) -> str:
    return "\n".join(base.__doc__ or "" for base in kind.__mro__)


@pytest.mark.parametrize("name", NAMES)
def test_contract(
    name: str,
    rows: dict[str, Any],
    bundles: Callable[[str], Bundle],
    stage_of: Callable[[str], Stage],
    work: Callable[..., Work],
    learns_from: Callable[[str], Any],
    few: list[Example],
    tmp_path: Path,
) -> None:
    if name == "compressed":
        pytest.importorskip("compressed_tensors", reason="the extra compressed-tensors is not installed")
    row, stage = rows[name], stage_of(name)
    parent = bundles(row.parent) if row.parent else None
    parent_kind = rows[row.parent].kind if row.parent else "nothing"
    assert parent_kind in stage.needs
    assert row.kind == (parent_kind if stage.gives == "same" else stage.gives)
    before = content(parent.path) if parent else {}
    fingerprint = parent.fingerprint if parent else ""
    first = bundles(name)

    if name in COSTLY:
        made = first
    else:
        made = stage.run(parent, work(tmp_path / "made", train=few, learns=learns_from(name)))
        assert made.path == tmp_path / "made"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]
    opened = open_bundle(made.path)
    if parent:
        assert content(parent.path) == before
        assert open_bundle(parent.path).fingerprint == fingerprint == opened.card["parent"]
    else:
        assert opened.card["parent"] is None
    # Sparse weights are still a model of the kind that they were made from.
    assert opened.kind == (parent_kind if stage.gives in ("same", "sparse") else stage.gives) == opened.card["kind"]
    inherited = parent.card["stages"] if parent else []
    entry = opened.card["stages"][-1]
    assert opened.card["stages"][:-1] == inherited
    assert (entry["use"], entry["settings"]) == (row.use, stage.settings())
    assert entry["seconds"] >= 0
    files = [file for file in made.path.rglob("*") if file.is_file()]
    assert all(
        file.suffix
        in {".json", ".md", ".safetensors", ".onnx", ".npy", ".txt", ".jinja", ".gguf", ".packed", ".hashes"}
        for file in files
    )
    own = work(tmp_path / "none", train=few, learns=learns_from(name))
    trained = any(one["use"].startswith(("train/", "distil/")) for one in opened.card["stages"])
    kept = learned_texts(opened)
    assert (kept is not None) == (trained and isinstance(own.task, LabelTask))
    if kept is not None:  # it knows what it learned from, as far as it says, for at most a twentieth of its size
        recognisable, known = kept.known(own.labelled.texts(own.train))
        assert recognisable.any() and (recognisable == known).all()
        assert (opened.path / LEARNED).stat().st_size <= max(1024, opened.size_bytes / 20)
    apart = {"card.json", *SUMMED.get(name, ())}
    one, other = (
        {key: value for key, value in content(bundle.path).items() if key not in apart} for bundle in (made, first)
    )
    assert one == other
    if name in SUMMED:
        logits = [open_language_engine(bundle, threads=1).after([5, 6, 7]) for bundle in (made, first)]
        np.testing.assert_allclose(*logits, atol=0.02 * float(np.abs(logits[0]).max()))


@pytest.mark.parametrize("name", NAMES)
def test_the_kind_of_a_bundle_that_does_not_tell_it(name: str, bundles: Callable[[str], Bundle]) -> None:
    """Version 0.1.0 wrote none into cards at first."""
    if name == "compressed":
        pytest.importorskip("compressed_tensors", reason="the extra compressed-tensors is not installed")
    whole = bundles(name)
    old = Bundle(whole.path)
    vars(old)["card"] = {key: value for key, value in whole.card.items() if key != "kind"}
    assert old.kind == whole.kind


@pytest.mark.parametrize("name", NAMES)
def test_keys_tell_stages_apart(name: str, stage_of: Callable[[str], Stage]) -> None:
    stage = stage_of(name)
    key = stage.key("parent", "data")
    assert stage_of(name).key("parent", "data") == key
    assert stage.key("another", "data") != key
    assert (stage.key("parent", "other data") != key) == stage.uses_data


def test_every_engine_has_a_row() -> None:
    assert {*ENGINES, *LANGUAGE_ENGINES} == set(registry.variants("engines"))


@pytest.mark.parametrize(
    ("engine", "name", "tolerance"),
    [(engine, name, tolerance) for engine, found in ENGINES.items() for name, tolerance in found.items()],
)
def test_engine(
    engine: str,
    name: str,
    tolerance: float,
    bundles: Callable[[str], Bundle],
    prepared: Prepared,
    work: Callable[..., Work],
    learns_from: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    bundle = bundles(name)
    assert bundle.card["engine"] == engine
    loaded = open_engine(bundle, threads=1)
    texts = [*TEXTS, *(example.text for example in prepared.validation[:40])]
    together = loaded.probabilities(texts)
    assert len(together) == len(texts)
    learned = work(tmp_path, learns=learns_from(name))
    assert loaded.labels == bundle.labels == learned.labels
    units = learned.labelled.units(texts)
    if units is None:
        assert bundle.labels == tuple(sorted({example.label for example in prepared.train}))
    else:
        assert [len(one) for one in together] == units.tolist()
    n = len(bundle.labels)
    values = joined(together, n)
    assert values.dtype == np.float32
    assert values.shape == (len(texts) if units is None else units.sum(), n)
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-5)
    alone = np.concatenate([joined(loaded.probabilities([text]), n) for text in texts])
    for other in (alone, joined(loaded.probabilities(texts[::-1])[::-1], n)):
        differences = np.abs(other - values)
        assert differences.mean() <= tolerance
        assert differences.max() <= (1 if name in ("int8", "blend") else tolerance)
    assert joined(loaded.probabilities([]), n).shape == (0, n)


@pytest.mark.parametrize("name", sorted({name for found in ENGINES.values() for name in found} - ALIKE))
def test_order_is_kept(name: str, bundles: Callable[[str], Bundle], prepared: Prepared) -> None:
    """Texts of very different lengths are batched by length: each still gets its own answer."""
    engine = open_engine(bundles(name), threads=1)
    texts = [example.text for example in prepared.validation[:30]]

    def means(outputs: Outputs) -> Any:
        return np.stack([np.atleast_2d(one).mean(axis=0) for one in outputs])

    together = means(engine.probabilities(texts))
    assert len(np.unique(together.round(4), axis=0)) > 20  # else order would show in nothing
    single = np.concatenate([means(engine.probabilities([text])) for text in texts])
    nearest = np.abs(single[:, None] - together[None]).sum(axis=2).argmin(axis=1)
    assert (nearest == np.arange(len(texts))).mean() > 0.9


@pytest.mark.parametrize(("engine", "name"), sorted(LANGUAGE_ENGINES.items()))
def test_language_engine(engine: str, name: str, bundles: Callable[[str], Bundle], prepared: Prepared) -> None:
    bundle = bundles(name)
    assert (bundle.card["engine"], bundle.card["task"]) == (engine, "predict")
    loaded = open_language_engine(bundle, threads=1)
    texts = [*TEXTS[2:5], *(example.text for example in prepared.validation[:10])]
    together = loaded.score(texts)
    for text, one in zip(texts, together, strict=True):
        logs = np.asarray(one.log_probabilities)
        assert len(logs) and np.isfinite(logs).all() and (logs <= 0).all()
        assert (one.words, one.bytes) == (len(text.split()) + text.count("\n") + 1, len(text.encode()))
        np.testing.assert_allclose(loaded.score([text])[0].log_probabilities, logs, atol=1e-5)
    words = loaded.next_words("I was charged", 5)
    chances = [chance for _, chance in words]
    assert len({word for word, _ in words}) == len(words) == 5
    assert chances == sorted(chances, reverse=True) and 0 < sum(chances) <= 1
    written = ["".join(loaded.generate("My order", max_tokens=12, seed=seed, temperature=1.0)) for seed in (1, 1, 2, 3)]
    assert written[0] == written[1] and len(set(written)) > 1


def test_a_classifier_is_no_language_model(bundles: Callable[[str], Bundle]) -> None:
    with pytest.raises(HalfpintError, match="is not a language model: its task is 'classify'"):
        open_language_engine(bundles("majority"))
