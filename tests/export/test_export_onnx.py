"""Exports say what the trained bundle says, and the parity gate lets no other through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from halfpint.bundle import Bundle, new_bundle
from halfpint.data.examples import Example
from halfpint.data.prepare import Prepared
from halfpint.engines import open_engine
from halfpint.errors import HalfpintError, RefusedError
from halfpint.evaluate.parity import check_parity
from halfpint.pipeline import Pipeline
from halfpint.progress import SILENT
from halfpint.stage import Stage
from halfpint.tasks.classify import TASK

Get = Callable[[str], Bundle]


def random_texts(number: int, prepared: Prepared) -> list[str]:
    """Texts of 0 to 300 words out of the tickets, and of signs that they do not hold."""
    random = np.random.default_rng(0)
    words = sorted({word for example in prepared.train for word in example.text.split()} | {"🙂", "文字", "#!", "café"})
    lengths = [0, 1, 2, 300, *random.integers(1, 60, number - 4).tolist()]
    return [" ".join(random.choice(words, length)) for length in lengths]


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_encoder_parity(size: int, bundles: Get, prepared: Prepared) -> None:
    texts = random_texts(64, prepared)
    ours, theirs = (open_engine(bundles(name), threads=1) for name in ("onnx", "classifier"))
    reference = theirs.probabilities(texts)
    assert reference.std(axis=0).max() > 0.05  # the texts do differ
    for start in range(0, len(texts), size):
        found = ours.probabilities(texts[start : start + size])
        np.testing.assert_allclose(found, reference[start : start + size], rtol=0, atol=1e-4)


def test_every_length_and_width(bundles: Get) -> None:
    """The graph takes any number of texts of any number of tokens, not only those it was traced with."""
    from halfpint.engines._onnx import open_session

    session = open_session(bundles("onnx").path / "model.onnx", 1)
    inputs = {one.name: one.shape for one in session.get_inputs()}
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert [one.name for one in session.get_outputs()] == ["logits"]
    random = np.random.default_rng(0)
    for texts, tokens in ((1, 2), (1, 3), (3, 17), (2, 512), (40, 5)):
        ids = random.integers(5, 600, (texts, tokens))
        logits = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
        assert logits.shape == (texts, 8)
        assert logits.dtype == np.float32
        assert np.isfinite(logits).all()


def test_a_graph_does_not_say_where_it_was_made(bundles: Get) -> None:
    content = (bundles("onnx").path / "model.onnx").read_bytes()
    assert b"input_ids" in content
    assert not any(trace in content for trace in (b"site-packages", b".py", b"halfpint."))


@pytest.mark.parametrize("size", [1, 5, 64])
def test_linear_parity(size: int, bundles: Get, prepared: Prepared) -> None:
    texts = random_texts(64, prepared)
    ours, theirs = (open_engine(bundles(name), threads=1) for name in ("onnx-linear", "linear"))
    for start in range(0, len(texts), size):
        part = texts[start : start + size]
        np.testing.assert_allclose(ours.probabilities(part), theirs.probabilities(part), rtol=0, atol=1e-5)


def test_an_export_runs_without_torch(bundles: Get) -> None:
    import os
    import subprocess
    import sys

    code = (
        "import sys\n"
        "from halfpint.bundle import open_bundle\n"
        "from halfpint.engines import open_engine\n"
        "for path in sys.argv[1:]:\n"
        "    open_engine(open_bundle(path), threads=1).probabilities(['a parcel'])\n"
        "print(sorted({'torch', 'transformers', 'sklearn', 'scipy', 'onnx', 'pyarrow'} & set(sys.modules)))\n"
    )
    paths = [str(bundles(name).path) for name in ("onnx", "int8", "onnx-linear", "int8-linear")]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def damaged(source: Bundle, target: Path, shift: int) -> Bundle:
    """The export with the rows of its head moved on by `shift`: a whole bundle that answers with other labels."""
    import onnx
    from onnx import numpy_helper

    with new_bundle(target, source) as (folder, card):
        for file in source.path.iterdir():
            if file.name not in ("card.json", "README.md"):
                (folder / file.name).write_bytes(file.read_bytes())
        model = onnx.load(str(folder / "model.onnx"))
        head = [one for one in model.graph.initializer if 8 in one.dims and len(one.dims) == 2 and 32 in one.dims]
        assert len(head) == 1
        values = numpy_helper.to_array(head[0])
        axis = list(values.shape).index(8)
        head[0].CopyFrom(numpy_helper.from_array(np.roll(values, shift, axis=axis), head[0].name))
        onnx.save(model, str(folder / "model.onnx"))
        card["engine"] = source.card["engine"]
        card["stages"] = source.card["stages"]
    return Bundle(target)


def answers(bundle: Bundle, prepared: Prepared) -> npt.NDArray[np.float32]:
    return np.asarray(open_engine(bundle, threads=1).probabilities(TASK.texts(prepared.validation)))


def test_the_gate_refuses_a_damaged_export(bundles: Get, prepared: Prepared, tmp_path: Path) -> None:
    held, labels = prepared.validation, bundles("classifier").labels
    reference, good = answers(bundles("classifier"), prepared), answers(bundles("onnx"), prepared)
    figures = check_parity("good", TASK, held, labels, reference, good, exact=True, primary="accuracy")
    assert figures["same_labels"] == 1
    assert figures["worst_difference"] < 1e-4
    assert (
        figures["metric"] == figures["metric_reference"] == (good.argmax(axis=1) == TASK.targets(held, labels)).mean()
    )
    bad = answers(damaged(bundles("onnx"), tmp_path / "bad", 1), prepared)
    with pytest.raises(
        RefusedError, match=r"expected the same answer for 99\.5% of 60 texts, got same_labels 0\.\d{4}, "
    ):
        check_parity("bad", TASK, held, labels, reference, bad, exact=True, primary="accuracy")


def test_a_quantised_export_is_held_to_the_interval() -> None:
    random = np.random.default_rng(0)
    true, labels = random.integers(0, 4, 400), list("abcd")
    held = [Example("a text", labels[index], row) for row, index in enumerate(true)]
    reference = np.full((400, 4), 0.1, np.float32)
    reference[np.arange(400), true] = 0.7
    reference[:40] = reference[:40, ::-1]  # some answers are wrong in the trained model too

    def with_wrong(rows: int) -> npt.NDArray[np.float32]:
        other = reference.copy()
        other[-rows:] = np.roll(other[-rows:], 1, axis=1)
        return other

    for rows, passes in ((3, True), (8, True), (60, False)):
        if passes:
            found = check_parity("x", TASK, held, labels, reference, with_wrong(rows), exact=False, primary="f1_macro")
            assert found["same_labels"] == 1 - rows / 400
        else:
            with pytest.raises(RefusedError, match=r"f1_macro of at least 0\.\d+, the lower end.*metric_reference 0\."):
                check_parity("x", TASK, held, labels, reference, with_wrong(rows), exact=False, primary="f1_macro")
    with pytest.raises(RefusedError):
        check_parity("x", TASK, held, labels, reference, with_wrong(3), exact=True, primary="f1_macro")


def test_the_pipeline_passes_good_exports_and_refuses_bad_ones(
    stage_of: Callable[[str], Stage], prepared: Prepared, tmp_path: Path
) -> None:
    """The gate is in the way of every assessment of an export, whatever recipe asked for it."""
    pipeline = Pipeline(prepared, tmp_path, TASK, "accuracy", SILENT)
    linear = pipeline.make([stage_of("linear"), stage_of("onnx-linear")])
    assert pipeline.assess(linear).figures["parity"]["same_labels"] == 1
    path = linear.bundle.path
    swapped_linear(linear.bundle, tmp_path / "swapped")
    for part in ("model.onnx", "card.json"):
        (path / part).write_bytes((tmp_path / "swapped" / part).read_bytes())
    again = pipeline.make(linear.stages)
    assert again.bundle.fingerprint != linear.bundle.fingerprint
    with pytest.raises(RefusedError, match="same_labels"):
        pipeline.assess(again)


def swapped_linear(source: Bundle, target: Path) -> None:
    import onnx
    from onnx import numpy_helper

    with new_bundle(target, source) as (folder, _):
        for file in source.path.iterdir():
            if file.name not in ("card.json", "README.md"):
                (folder / file.name).write_bytes(file.read_bytes())
        model = onnx.load(str(folder / "model.onnx"))
        weight = next(one for one in model.graph.initializer if one.name == "weight")
        values = numpy_helper.to_array(weight).copy()
        values[:, [0, 1]] = values[:, [1, 0]]
        weight.CopyFrom(numpy_helper.from_array(values, "weight"))
        onnx.save(model, str(folder / "model.onnx"))


def test_a_damaged_onnx_file_is_told(bundles: Get, tmp_path: Path) -> None:
    from halfpint.engines._onnx import open_session

    file = tmp_path / "model.onnx"
    file.write_bytes((bundles("onnx-linear").path / "model.onnx").read_bytes()[:200])
    with pytest.raises(HalfpintError, match="an ONNX model that ONNX Runtime reads"):
        open_session(file, 1)
