"""Bundles of others that would fail on each request, or end the process: refused as they are loaded."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from halfpint.bundle import CARD, Bundle, new_bundle, open_bundle
from halfpint.engines import open_engine, open_language_engine
from halfpint.errors import HalfpintError
from halfpint.models.gguf_header import check_gguf


def gguf(*tokens: bytes) -> bytes:
    """The beginning of a file with these tokens."""

    def text(raw: bytes) -> bytes:
        return struct.pack("<Q", len(raw)) + raw

    numbers = text(b"numbers") + struct.pack("<IIQ", 9, 5, 2) + struct.pack("<ii", 1, 2)
    flag = text(b"flag") + struct.pack("<I?", 7, True)
    named = text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, len(tokens)) + b"".join(map(text, tokens))
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 3) + numbers + flag + named


def test_a_label_for_each_output(tmp_path: Path) -> None:
    for labels, right in (({"0": "a", "1": "b"}, True), ({"0": "a"}, False)):
        target = tmp_path / str(len(labels))
        with new_bundle(target) as (folder, card):
            card["task"], card["engine"] = "classify", "majority"
            config = {"model_type": "majority", "id2label": labels, "shares": [0.7, 0.3]}
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        if right:
            assert open_engine(open_bundle(target)).labels == ("a", "b")
        else:
            with pytest.raises(HalfpintError, match=r"id2label: expected 2 labels, one for each output.*got 1"):
                open_engine(open_bundle(target))


def test_the_beginning_of_a_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    sound = gguf(b"a", "größe".encode())
    path.write_bytes(sound)
    check_gguf(path)
    endless = sound.replace(struct.pack("<IIQ", 9, 5, 2), struct.pack("<IIQ", 9, 5, 1 << 62))
    for content, said in (
        (gguf(b"a", b"b\0c"), "a zero in the token b'b.x00c'"),
        (sound[:-3], "ends early"),
        (sound[:40], "damaged|ends early"),
        (endless, "ends early"),
        (b"", "damaged"),
        (b"PK" + sound, "magic"),
    ):
        path.write_bytes(content)
        with pytest.raises(HalfpintError, match=said):
            check_gguf(path)


@pytest.mark.slow
def test_a_gguf_file_that_llama_cpp_would_end_over(bundles: Callable[[str], Bundle], tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    target = tmp_path / "zeros"
    with new_bundle(target, bundles("gguf")) as (folder, _):
        for file in bundles("gguf").path.iterdir():
            if file.name != CARD:
                shutil.copyfile(file, folder / file.name)
        held = (folder / "model.gguf").read_bytes()
        place = held.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 16 + 8
        (folder / "model.gguf").write_bytes(held[:place] + b"\0" + held[place + 1 :])
    with pytest.raises(HalfpintError, match="a zero in the token"):
        open_language_engine(open_bundle(target), threads=1)
