"""Some of a store's texts are those texts, however they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from halfpint.data.text_store import TextPart, TextWriter


def test_a_part_is_what_it_was_made_of(tmp_path: Path) -> None:
    texts, places = [f"täxt {number}" * (number % 3) for number in range(9)], np.array([7, 0, 4])
    writer = TextWriter(tmp_path, "train")
    for text in texts:
        writer.add(text.encode())
    store = writer.store("key")
    part, wanted = TextPart(store, places), [texts[place] for place in places]
    assert list(part) == wanted == part[:] == [part[number] for number in range(3)]
    assert (len(part), part[-1], part[1:]) == (3, wanted[-1], wanted[1:])
    assert part.size_bytes == sum(len(text.encode()) for text in wanted)
    assert part.key not in (store.key, TextPart(store, places[::-1]).key)
    with pytest.raises(IndexError):
        part[3]
    assert list(store) == texts
