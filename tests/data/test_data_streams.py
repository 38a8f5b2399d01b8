"""Rows that go on from step to step: each token once an epoch, its label the next one of its document."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from halfpint.data.packing import IGNORED
from halfpint.data.streams import Streams
from halfpint.data.token_store import TokenStore, write_tokens
from halfpint.errors import HalfpintError
from halfpint.progress import SILENT

tokenizers = pytest.importorskip("tokenizers")

TEXTS = ["a b c d e f g", "h i j", "k", "l m n o p q r s t u v w x y z"]


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    """Each letter a token, numbered from 1 in its order; 26 in all."""
    letters = {chr(97 + number): number + 1 for number in range(26)} | {"?": 0}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(letters, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return write_tokens(TEXTS, tokenizer, tmp_path / "tokens", "key", SILENT)


def test_rows_go_on(store: TokenStore) -> None:
    streams = Streams(store, length=4, batch_size=2, shuffle=False)
    assert (streams.rows, streams.steps_per_epoch) == (2, 3)
    steps = [streams.batch(step) for step in range(3)]
    first = np.concatenate([one.input_ids[0] for one in steps])
    assert first.tolist() == list(range(1, 13))
    assert np.concatenate([one.input_ids[1] for one in steps]).tolist() == list(range(14, 26))
    labels = np.concatenate([one.labels[0] for one in steps])
    ends = {7: IGNORED, 10: IGNORED, 11: IGNORED}  # the last token of a document is followed by none of it
    assert labels.tolist() == [ends.get(token, token + 1) for token in range(1, 13)]
    assert steps[1].segment.tolist() == [1, 1] and steps[0].row.tolist() == [0, 1]
    numbers = np.concatenate([one.sequence_ids[0] for one in steps])
    assert numbers.tolist() == [0] * 7 + [1] * 3 + [2] + [3]


def test_an_epoch_has_another_order_and_the_same_seed_the_same(store: TokenStore) -> None:
    streams, again = (Streams(store, length=4, batch_size=2, seed=3) for _ in range(2))
    epochs = [[streams.batch(3 * epoch + step).input_ids.tolist() for step in range(3)] for epoch in range(4)]
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]
    assert epochs == [[again.batch(3 * epoch + step).input_ids.tolist() for step in range(3)] for epoch in range(4)]
    for epoch in range(4):
        for step in range(3):
            batch = streams.batch(3 * epoch + step)
            follows = batch.labels != IGNORED
            assert (batch.labels[follows] == batch.input_ids[follows] + 1).all()


def test_few_tokens_make_fewer_rows(store: TokenStore) -> None:
    assert Streams(store, length=20, batch_size=8).rows == 1
    whole = Streams(store, length=26, batch_size=1, shuffle=False).batch(0)
    assert whole.labels[0, -1] == IGNORED  # nothing comes after the last token
    for length, rows in ((1, 1), (4, 0)):
        with pytest.raises(HalfpintError):
            Streams(store, length=length, batch_size=rows)
