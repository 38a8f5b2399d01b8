"""Students that learn from what is written or labelled for them, from their own texts, and across tokenizers."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle
from halfpint.data.prepare import Prepared
from halfpint.data.token_store import write_tokens
from halfpint.distil.on_policy import OnPolicy
from halfpint.distil.pseudo_labels import PseudoLabels
from halfpint.distil.sequence import Sequence, continued
from halfpint.distil.universal import Universal, aligned
from halfpint.engines import open_engine
from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError
from halfpint.models.sizes import CAUSAL
from halfpint.progress import SILENT, Log
from halfpint.stage import Work
from halfpint.tokenizers.load import open_tokenizer
from halfpint.tokenizers.train import TokenizerSettings, train_tokenizer

torch = pytest.importorskip("torch", reason="distilling needs torch")

Make = Callable[..., Work]
Get = Callable[[str], Bundle]
FAST = {"batch_tokens": 256, "precision": "fp32"}


def test_what_the_teacher_is_sure_of_is_learned_from(
    bundles: Get, work: Make, prepared: Prepared, tmp_path: Path
) -> None:
    texts = [example.text for example in prepared.test[:30]]
    sure = (open_engine(bundles("linear")).probabilities(texts).max(1) >= 0.6).sum()
    assert 0 < sure < 30
    path = tmp_path / "texts.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    log = Log(tmp_path / "events.jsonl", quiet=True)
    stage = PseudoLabels(
        teacher=str(bundles("linear").path), unlabelled=str(path), confidence=0.6, epochs=1, precision="fp32"
    )
    stage.run(bundles("student"), work(tmp_path / "made", train=prepared.train[:40], log=log))
    assert f"labelled {sure} of 30 texts surely" in (tmp_path / "events.jsonl").read_text(encoding="utf-8")
    with pytest.raises(HalfpintError, match="expected a share that the teacher reaches"):
        PseudoLabels(teacher=stage.teacher, unlabelled=str(path), confidence=0.9999).run(
            bundles("student"), work(tmp_path / "none")
        )
    with pytest.raises(HalfpintError, match="expected a table of texts for the teacher to label"):
        PseudoLabels(teacher=stage.teacher)


def test_the_likelier_texts_are_learned_from(bundles: Get, text_work: Make, tmp_path: Path) -> None:
    teacher = bundles("language")
    stage = Sequence(teacher=str(teacher.path), texts=24, new_tokens=12, keep=0.5, tokens=512, context=32, **FAST)
    held = text_work(tmp_path / "made")
    written = stage._written(teacher, held)
    assert len(written) == 24 and len({text for text, _ in written}) > 12
    assert all(sure <= 0 for _, sure in written)
    assert stage._written(teacher, held) == written  # those that are there are not written again
    assert Sequence(texts=24, new_tokens=12, seed=1)._written(teacher, held) != written
    log = Log(tmp_path / "events.jsonl", quiet=True)
    made = stage.run(bundles("small-language"), text_work(tmp_path / "made", log=log))
    assert "12 of 24 texts" in (tmp_path / "events.jsonl").read_text(encoding="utf-8")
    assert made.card["stages"][-1]["use"] == "distil/sequence"


def test_what_comes_after_the_end_does_not_count(bundles: Get) -> None:
    model = load_model(bundles("language").path, CAUSAL)
    prompts = torch.randint(5, 300, (6, 4))
    ids, counted = continued(model, prompts, 10, 1.0)
    assert torch.equal(ids[:, :4], prompts) and counted.shape == (6, ids.shape[1] - 4)
    model.config.eos_token_id = int(ids[0, 6])  # what the third new token of the first text was
    torch.manual_seed(0)
    ids, counted = continued(model, prompts, 10, 1.0)
    for row, kept in zip(ids[:, 4:].tolist(), counted.tolist(), strict=True):
        ends = [place for place, token in enumerate(row) if token == model.config.eos_token_id]
        until = ends[0] + 1 if ends else len(row)
        assert kept == [1.0] * until + [0.0] * (len(row) - until)


def test_the_students_own_texts_bring_it_nearer(bundles: Get, text_work: Make, tmp_path: Path) -> None:
    """The divergence on the student's own texts falls; a student that is its teacher has none."""
    teacher = bundles("language")
    shared: dict[str, Any] = {
        "teacher": str(teacher.path), "student_share": 1.0, "new_tokens": 12, "prompt_tokens": 8, "label_share": 0.0,
        "context": 32, **FAST,
    }  # fmt: skip
    same = OnPolicy(tokens=256, evaluations=1, **shared).run(teacher, text_work(tmp_path / "same"))
    assert same.card["stages"][-1]["history"][0]["loss"] == pytest.approx(0, abs=1e-4)
    stage = OnPolicy(tokens=8192, learning_rate=3e-3, evaluations=4, **shared)
    history = stage.run(bundles("small-language"), text_work(tmp_path / "made")).card["stages"][-1]["history"]
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    with pytest.raises(HalfpintError, match="whole distributions are needed"):
        OnPolicy(cached=True, divergence="forward")


def test_places_of_two_tokenizers_are_aligned(tmp_path: Path) -> None:
    """After the same characters, whatever the tokens are."""
    texts = ["the cat sat on the mat and the dog", "a dog ate the hat of the cat — naïve", "x"] * 6
    readers, stores = [], []
    for kind, size in (("bpe", 300), ("char", 300)):
        train_tokenizer(texts, TokenizerSettings(kind=kind, vocab_size=size), tmp_path / kind, SILENT)
        readers.append(open_tokenizer(tmp_path / kind))
        stores.append(write_tokens(texts, readers[-1], tmp_path / f"{kind}-tokens", "key", SILENT))
    found = aligned(texts, readers, [store.offsets for store in stores])
    assert found.shape == stores[0].tokens.shape
    assert (found >= 0).mean() > 0.7
    for document in range(3):
        for place in range(int(stores[0].offsets[document]), int(stores[0].offsets[document + 1])):
            if found[place] < 0:
                continue
            before = [
                reader.decode(store.tokens[int(store.offsets[document]) : end].tolist())
                for reader, store, end in zip(readers, stores, (place, int(found[place])), strict=True)
            ]
            assert before[0].replace(" ", "") == before[1].replace(" ", "")


def test_a_teacher_with_another_tokenizer_teaches(bundles: Get, text_work: Make, tmp_path: Path) -> None:
    from halfpint.train.pretrain import Pretrain

    other = Pretrain(size="125K", vocabulary=400, tokenizer="unigram", context=64, tokens=512, evaluations=1, **FAST)
    student = other.run(None, text_work(tmp_path / "student"))
    teacher = bundles("language")
    stage = Universal(teacher=str(teacher.path), tokens=4096, learning_rate=3e-3, **FAST)
    made = stage.run(student, text_work(tmp_path / "made"))
    entry = made.card["stages"][-1]
    assert entry["nats_per_token"] < entry["nats_before"]
    from halfpint.distil.token_logits import TokenLogits

    with pytest.raises(HalfpintError, match="expected the tokenizer that the student has"):
        TokenLogits(teacher=str(teacher.path)).run(student, text_work(tmp_path / "refused"))


def test_the_sorted_distance_is_the_formula() -> None:
    """Boizard et al. 2024, equation 5, between vocabularies of other sizes."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 40))
    ours = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    theirs = -np.sort(-random.dirichlet(np.ones(25), size=3))[:, :10]
    wanted = np.abs(-np.sort(-ours)[:, :10] - theirs)[[0, 2]].sum() * 3 / 2  # one place has no counterpart
    kept = theirs[[1, 0, 2]].astype(np.float32), np.array([1, -1, 2])
    found = Universal(draws=10)._from_kept(torch.from_numpy(logits), kept, np.array([0, 1, 2]))
    assert float(found) == pytest.approx(wanted, rel=1e-4)
