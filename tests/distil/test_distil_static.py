"""The table of token vectors: numpy says what PyTorch trained, and it is small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from halfpint.bundle import Bundle
from halfpint.data.prepare import Prepared
from halfpint.distil.static import Static
from halfpint.engines import open_engine
from halfpint.engines.static import Pieces, pair_keys
from halfpint.errors import HalfpintError
from halfpint.stage import Work
from halfpint.tasks.classify import TASK
from halfpint.tokenizers.load import open_tokenizer

Make = Callable[..., Work]
Get = Callable[[str], Bundle]


def test_pieces_are_tokens_and_known_pairs(tiny_encoder: Path) -> None:
    tokenizer = open_tokenizer(tiny_encoder)
    none = np.zeros(0, np.int64)
    ids = Pieces(tokenizer, none, 512).ids(["the parcel is late", "", "late"])
    assert [len(row) for row in ids][1] == 0
    pairs = np.sort(pair_keys(ids[0])[[0, 2]])
    pieces = Pieces(tokenizer, pairs, 512)
    rows = pieces.rows(["the parcel is late", "", "late"])
    np.testing.assert_array_equal(rows[0][: len(ids[0])], ids[0])
    assert set(rows[0][len(ids[0]) :].tolist()) == {pieces.tokens, pieces.tokens + 1}
    assert len(rows[1]) == 0 and len(rows[2]) == len(ids[2])
    assert [len(row) for row in Pieces(tokenizer, none, 2).rows(["the parcel is late"])] == [2]


def test_a_table_learns_what_its_teacher_says(bundles: Get, work: Make, prepared: Prepared, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="distilling needs torch")
    teacher = bundles("linear")
    stage = Static(
        teacher=str(teacher.path), width=16, pairs=200, epochs=20, learning_rate=2e-2, head_learning_rate=5e-2,
        label_share=0.0, temperature=1.0, dropout=0.0, patience=0, precision="fp32",
    )  # fmt: skip
    made = stage.run(bundles("encoder"), work(tmp_path / "made"))
    held, labels = prepared.validation, TASK.labels(prepared.train)
    found = open_engine(made).probabilities([example.text for example in held])
    accuracy = float((found.argmax(1) == TASK.targets(held, labels)).mean())
    entry = made.card["stages"][-1]
    assert accuracy == pytest.approx(entry["best_score"], abs=2 / len(held))  # the table in 8 bits says the same
    texts = [example.text for example in prepared.train]
    ours, theirs = (open_engine(one).probabilities(texts).argmax(1) for one in (made, teacher))
    assert (ours == theirs).mean() > np.bincount(theirs).max() / len(texts) + 0.3
    assert (made.path / "model.safetensors").stat().st_size < 40 * (entry["kept_tokens"] + entry["kept_pairs"] + 100)
    assert made.card["engine"] == "static"
    hidden = Static(width=16, pairs=0, hidden=24, epochs=1, precision="fp32", label_share=1.0)
    other = hidden.run(bundles("encoder"), work(tmp_path / "hidden"))
    assert open_engine(other).probabilities(["", "my parcel"]).shape == (2, len(labels))


def test_settings_that_cannot_be(bundles: Get, work: Make, tmp_path: Path) -> None:
    for name, value in (("tokens", 0), ("width", -1), ("dropout", 1.0), ("temperature", 0.0), ("label_share", 2.0)):
        with pytest.raises(HalfpintError, match=f"distil/static: {name}"):
            Static(**{name: value})
