"""A packed GGUF file is the file that it was made from, to the bit, or is refused."""

from __future__ import annotations

import io
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle
from halfpint.compress.lossless import Lossless
from halfpint.compress.quantize import Quantize
from halfpint.engines import open_language_engine
from halfpint.errors import HalfpintError, RefusedError
from halfpint.models._ans import encoded
from halfpint.models.packed_gguf import GGUF_FILE, PACKED_FILE, opened_gguf, pack, unpack
from halfpint.stage import Work

gguf = pytest.importorskip("gguf")
Get = Callable[[str], Bundle]
NOISE = ["IQ4_NL", "MXFP4", "Q6_K", "Q3_K", "Q2_K", "IQ4_XS", "IQ3_S"]


def write_gguf(path: Path, values: np.ndarray, types: list[str]) -> None:  # type: ignore[type-arg]
    """A file with the same matrix in each type, and tensors that no block divides."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_description("numbers " * 50)
    for name in types:
        kind = gguf.GGMLQuantizationType[name]
        if name in NOISE:  # any bytes are blocks
            block, size = gguf.GGML_QUANT_SIZES[kind]
            shape = (len(values), values.shape[1] // block * size)
            data = np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)
        else:
            data = values.astype("<f4") if name == "F32" else gguf.quants.quantize(values, kind)
        writer.add_tensor(f"matrix.{name}", data, raw_dtype=kind)
    writer.add_tensor("odd", np.arange(7, dtype=np.float32))
    writer.add_tensor("none", np.zeros((0, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("piece", [1 << 24, 1000])
def test_every_bit_comes_back(piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from halfpint.models import packed_gguf

    monkeypatch.setattr(packed_gguf, "_PIECE", piece)
    values = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    write_gguf(tmp_path / "a.gguf", values, ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", *NOISE])
    before, after = pack(tmp_path / "a.gguf", tmp_path / "a.packed")
    assert (before, after) == tuple((tmp_path / name).stat().st_size for name in ("a.gguf", "a.packed"))
    out = io.BytesIO()
    unpack(tmp_path / "a.packed", out)
    assert out.getvalue() == (tmp_path / "a.gguf").read_bytes()
    assert after < 0.95 * before or piece == 1000


def test_normal_weights_in_four_bits_have_redundancy(tmp_path: Path) -> None:
    """Codes between the least and the largest of 32 values fall mostly into the middle: about 3.8 of 4 bits."""
    values = np.random.default_rng(1).normal(size=(512, 1024)).astype(np.float32)
    write_gguf(tmp_path / "a.gguf", values, ["Q4_1"])
    before, after = pack(tmp_path / "a.gguf", tmp_path / "a.packed")
    assert 0.85 < after / before < 0.95


def test_the_engine_says_the_same(bundles: Get) -> None:
    pytest.importorskip("xllamacpp")
    plain, packed = bundles("gguf"), bundles("packed")
    assert packed.size_bytes < plain.size_bytes and not (packed.path / GGUF_FILE).exists()
    one, other = (open_language_engine(bundle, threads=1) for bundle in (plain, packed))
    texts = ["My order has not arrived.", "x " * 100]
    for left, right in zip(one.score(texts), other.score(texts), strict=True):
        np.testing.assert_array_equal(left.log_probabilities, right.log_probabilities)
    with opened_gguf(packed.path) as path:
        assert path.read_bytes() == (plain.path / GGUF_FILE).read_bytes()


def test_damage_is_told(bundles: Get, tmp_path: Path) -> None:
    whole = (bundles("packed").path / PACKED_FILE).read_bytes()
    place = len(whole) // 2
    for name, content in (
        ("flipped", whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]),
        ("short", whole[:place]),
        ("other", b"GGUF" + whole),
        ("empty", b""),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(HalfpintError, match="expected a whole packed GGUF file"):
            unpack(tmp_path / name, io.BytesIO())
    (tmp_path / "text.gguf").write_text("no such file")
    with pytest.raises(HalfpintError, match="expected a GGUF file"):
        pack(tmp_path / "text.gguf", tmp_path / "out")


def lying(path: Path, change: Callable[[dict[str, Any]], object], streams: bytes = b"") -> None:
    """A packed file of one small tensor whose header says something else."""
    write_gguf(path.with_suffix(".gguf"), np.zeros((1, 32), dtype=np.float32), ["Q4_0"])
    pack(path.with_suffix(".gguf"), path)
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    at = int.from_bytes(whole[start : start + 8], "little")
    header = json.loads(zlib.decompress(whole[at:]))
    change(header)
    told = zlib.compress(json.dumps(header).encode())
    place = (at + len(streams)).to_bytes(8, "little") + len(told).to_bytes(8, "little")
    path.write_bytes(whole[:start] + place + whole[start + 16 : at] + streams + told)


def grown(size: int, parts: int = 1) -> Callable[[dict[str, Any]], object]:
    """A header with parts that make much of next to nothing."""
    one = encoded(np.zeros((1, 2), dtype=np.uint8), np.zeros(1, dtype=np.uint8))

    def change(header: dict[str, Any]) -> None:
        at = max(part["at"] + sum(length for length, _ in part["streams"]) for part in header["parts"])
        told = {"type": "", "rows": size, "at": at, "size": size, "streams": [[len(one), 2]]}
        header |= {"parts": [told] * parts, "size": size * parts}

    return change


def rowed(rows: int) -> Callable[[dict[str, Any]], object]:
    """A header in which a matrix has other rows than its bytes."""

    def change(header: dict[str, Any]) -> None:
        next(part for part in header["parts"] if part.get("type") == "Q4_0").update(rows=rows, heads=0)

    return change


@pytest.mark.parametrize(
    "change",
    [
        rowed(0),
        rowed(-1),
        rowed(7),
        rowed(1 << 31),
        grown(1 << 30),
        grown(1 << 45),
        grown(1 << 24, 1000),
        lambda header: header.pop("sha256"),
        lambda header: header.update(size=0),
        lambda header: header["parts"][0].update(at=1 << 60),
        lambda header: header["parts"][0].update(size=-5),
        lambda header: header["parts"][-1]["streams"].__setitem__(0, [1 << 50, 0]),
        lambda header: header["parts"].__setitem__(0, None),
    ],
)
def test_a_header_that_lies_is_told(change: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
    """Nor does it take memory, or the process with it."""
    streams = encoded(np.zeros((1, 2), dtype=np.uint8), np.zeros(1, dtype=np.uint8))
    lying(tmp_path / "a.packed", lambda header: None, streams)
    unpack(tmp_path / "a.packed", io.BytesIO())
    lying(tmp_path / "a.packed", change, streams)
    with pytest.raises(HalfpintError, match="expected a whole packed GGUF file"):
        unpack(tmp_path / "a.packed", io.BytesIO())


def test_without_the_coder_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for stage in (Lossless(), Quantize(packed=True, method="round")):
        with pytest.raises(HalfpintError, match=r"halfpint\[gguf\]"):
            stage.check()


def test_what_saves_nothing_is_refused(
    bundles: Get, text_work: Callable[..., Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halfpint.compress.lossless._LEAST", 0.9)
    with pytest.raises(RefusedError, match="fewer bytes or more"):
        Lossless().run(bundles("gguf"), text_work(tmp_path / "made"))
    assert not (tmp_path / "made").exists()
