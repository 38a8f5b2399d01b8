"""Validation documents are halved: some choose, the others judge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from halfpint.commands._learning import apart
from halfpint.data.corpus import BOTH, CorpusData, judging, prepare_corpus
from halfpint.lookup import text_task
from halfpint.progress import SILENT
from halfpint.train.ngram import Ngram
from halfpint.train.pretrain import Pretrain


def test_what_weights_are_chosen_by_is_not_what_they_are_judged_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": f"Document {number}: {'some words of it ' * 12}{number * 7919}."} for number in range(60)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = CorpusData(sources=(str(tmp_path / "d.jsonl"),), validation_share=0.4, clean=False)
    corpus = prepare_corpus(data, tmp_path / "cache", SILENT)
    monkeypatch.setattr("halfpint.data.corpus._HALVED_BYTES", corpus.validation.size_bytes + 1)
    whole, judged = judging(corpus)
    assert list(judged) == list(whole.validation) and whole.summary()["choosing"] == BOTH
    monkeypatch.setattr("halfpint.data.corpus._HALVED_BYTES", corpus.validation.size_bytes)
    half, judged = judging(corpus)
    assert not set(half.validation) & set(judged) and {*half.validation, *judged} == set(corpus.validation)
    assert abs(len(half.validation) - len(judged)) <= 1 and half.key == corpus.key  # an unfinished run goes on
    assert half.summary()["choosing"]["of"] == "validation" and list(half.train) == list(corpus.train)
    task = text_task()
    assert apart(task, corpus, [Ngram()]) == (corpus, corpus.validation)  # counting chooses nothing
    chosen, judged = apart(task, corpus, [Pretrain()])
    assert not set(chosen.validation) & set(judged)
