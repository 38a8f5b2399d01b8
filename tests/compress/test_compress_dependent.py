"""Paths of dependent codes: the best there is, better than single codes at as many bytes, and found by the packer."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("constriction")

from halfpint.bundle import Bundle
from halfpint.compress._balance import balanced
from halfpint.compress._blocks import pack
from halfpint.compress._calibration import calibration_rows
from halfpint.compress._codes import TYPES, Coded, Scales
from halfpint.compress._dependent import Paths, most_of, steps_for
from halfpint.compress._gptq import gptq
from halfpint.compress._matrices import Matrix, matrices_of
from halfpint.compress._rates import Pace, steadily, steady
from halfpint.compress._sensitivity import Lookups, sensitivity_of, shares_of
from halfpint.compress.lossless import Lossless
from halfpint.compress.quantize import Quantize
from halfpint.engines.torch_lm import load_model
from halfpint.export.gguf import Gguf
from halfpint.models import packed_gguf
from halfpint.models.packed_gguf import PACKED_FILE, coded_bytes
from halfpint.models.trellis import NEXT, places
from halfpint.progress import SILENT
from halfpint.stage import Work

Make = Callable[..., Work]


def normal(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def scales(kind: str, values: torch.Tensor, step: float) -> Scales:
    steps = torch.full((values.numel() // 32, 1), step)
    return steady(TYPES[kind], values.reshape(-1, 32), steps, dependent=True)


def numbers(coded: Coded) -> np.ndarray:  # type: ignore[type-arg]
    found: np.ndarray = coded.codes.numpy().astype(np.int16) + np.int16(coded.kind.table[0])  # type: ignore[type-arg]
    return found


@pytest.mark.parametrize("step", [0.25, 0.6, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_no_path_costs_less(step: float, seed: int) -> None:
    """All paths of four rows are tried: by squared error alone, and with what bits are worth."""
    kind, values = TYPES["q4_0"], normal(4, 32, seed)
    found = scales("q4_0", values, step)
    paths = Paths(kind, values, found)
    allowed = [[one for one in range(-7, 8) if (one % 2 == odd) or (odd and one == 0)] for odd in (0, 1)]
    routes: list[tuple[list[int], list[int]]] = []
    for steps in product(range(9), repeat=4):
        state, route, odds = 0, [], []
        for place in steps:
            if place >= len(allowed[state & 1]):
                break
            value = allowed[state & 1][place]
            route.append(value)
            odds.append(state & 1)
            state = int(NEXT[state, (value + np.sign(value) * (state & 1)) // 2 & 1])
        if len(route) == 4:
            routes.append((route, odds))
    every, odd = np.array([one for one, _ in routes]), np.array([one for _, one in routes])
    scale = found.scale.reshape(4, 1)
    for column in range(0, 32, 8):
        x = (values[:, column] / scale[:, 0]).numpy()
        counts = (scale[:, 0].numpy() / paths._least) ** 2
        for worth in (0.0, 1.0):
            bits = paths._cost[paths._class[None, :], odd, np.abs(every)]
            costs = (counts * (every - x) ** 2 + worth * bits).sum(axis=1)
            codes, read = paths.column(values[:, column], scale, worth)
            chosen = codes.numpy().astype(int) - 8
            place = int(np.flatnonzero((every == chosen).all(axis=1))[0])
            assert costs[place] == pytest.approx(costs.min(), rel=1e-4, abs=1e-5)
            np.testing.assert_allclose(read.numpy(), chosen * scale[:, 0].numpy(), rtol=1e-6)


def test_runs_are_found_apart() -> None:
    """68 rows are a run of 64 and one of 4, whose path is that of four rows alone."""
    kind, values = TYPES["q4_0"], normal(68, 32)
    found = scales("q4_0", values, 0.4)
    paths = Paths(kind, values, found)
    scale = found.scale.reshape(68, 1)
    codes, _ = paths.column(values[:, 5], scale, 0.0)
    last = values[64:].contiguous()
    alone = Paths(kind, last, Scales(found.scale[64:], found.offset[64:]))
    counts = torch.from_numpy(paths._least[64:])[:, None]
    assert torch.equal(counts, scale[64:])  # no block is wider here, so errors count alike
    assert torch.equal(codes[64:], alone.column(last[:, 5], scale[64:], 0.0)[0])


@pytest.mark.parametrize(("kind", "bits", "share"), [("q4_0", 1.5, 0.8), ("q4_0", 2.0, 0.82), ("q5_0", 3.0, 0.84)])
def test_less_error_at_as_many_bytes(kind: str, bits: float, share: float) -> None:
    """Rows of several spreads; bytes are those of the packed file."""
    values = normal(512, 512) * (0.3 * normal(512, 1, 1)).exp()
    step = 2.0 ** (0.5 * np.log2(2 * np.pi * np.e) - bits)
    alone = steadily(TYPES["q5_0"], values, torch.full((512, 1), step))
    found = scales(kind, values, step * steps_for(bits))
    path = Paths(TYPES[kind], values, found).whole(values, found)
    costs = []
    for coded in (alone, path):
        took = 8 * coded_bytes(coded.kind.name, pack(coded)) / values.numel()
        costs.append(float((coded.values() - values).square().mean()) * 4.0 ** (took - bits))
    assert costs[1] < share * costs[0]


@pytest.mark.parametrize("name", ["q4_0", "q5_0", "q8_0"])
def test_gptq_gives_a_path(name: str) -> None:
    """Rows that fill no whole run, blocks that need wider steps, columns in any order."""
    kind, values = TYPES[name], normal(100, 96)
    values[3, 40] = 30.0
    inputs = normal(1000, 96, 1) * torch.linspace(0.3, 3, 96)
    steps = torch.full((100, 1), 2.5 / most_of(kind))
    coded, before = gptq(
        kind, values, inputs.T @ inputs, 0.01, lambda block: steady(kind, block, steps, dependent=True), dependent=True
    )
    assert places(numbers(coded)) is not None and np.abs(numbers(coded)).max() <= most_of(kind)
    away = coded.values() - values
    plain = steadily(kind, values, 2 * steps).values() - values
    assert float((away @ inputs.T).square().sum()) < float((plain @ inputs.T).square().sum())
    assert before.shape == values.shape


@pytest.mark.parametrize("head", [0, 8, 48])
def test_the_packer_finds_paths_in_llama_cpp_s_order(head: int) -> None:
    values = normal(96, 64)
    found = scales("q5_0", values, 0.2)
    coded = Paths(TYPES["q5_0"], values, found).whole(values, found)
    rows = pack(coded)
    order = packed_gguf._order(96, head)
    turned = np.empty_like(rows)
    turned[order] = rows
    told, streams = packed_gguf._shortest("Q5_0", turned)
    assert told["heads"] == head
    part = told | {"size": turned.size, "streams": [[len(one), how] for one, how in streams]}
    assert packed_gguf._joined(b"".join(one for one, _ in streams), part) == turned.tobytes()
    with pytest.raises(ValueError, match="heads of 7 rows"):
        packed_gguf._joined(b"".join(one for one, _ in streams), part | {"heads": 7})


@pytest.mark.parametrize("head", [0, 96])
def test_a_tensor_of_several_pieces_keeps_its_path(head: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = pytest.importorskip("gguf")
    values = normal(2880, 32)
    found = scales("q4_0", values, 0.5)
    rows = pack(Paths(TYPES["q4_0"], values, found).whole(values, found))
    turned = np.empty_like(rows)
    turned[packed_gguf._order(2880, head)] = rows
    monkeypatch.setattr(packed_gguf, "_PIECE", 1000 * rows.shape[1])
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_tensor("matrix", turned, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    packed_gguf.pack(tmp_path / "a.gguf", tmp_path / "a.packed")
    with (tmp_path / "a.packed").open("rb") as held:
        heads = [part["heads"] for part in packed_gguf._header(held)["parts"] if part.get("type") == "Q4_0"]
    assert heads == [head] * 3
    packed_gguf.unpack(tmp_path / "a.packed", out := io.BytesIO())
    assert out.getvalue() == (tmp_path / "a.gguf").read_bytes()


def test_where_there_is_no_room_codes_stand_alone() -> None:
    """Steps so fine that a type holds single codes but not those of a path, which are twice as many."""
    held = Matrix("held", "held", SimpleNamespace(weight=normal(128, 64)), 0, 128, 64, is_turned=False)
    counts = {"held": torch.ones(128)}
    for bits, fits in ((2.0, True), (3.4, False)):
        pace = Pace([held], counts, int(bits * 128 * 64 / 8), {"held": TYPES["q4_0"]}, "here", dependent=True)
        assert pace.is_dependent("held") == fits and pace.kinds["held"].name == "q4_0"
        assert (places(numbers(pace.alone("held", held.read()))) is not None) == fits


def test_more_bytes_than_the_widest_type_needs_cut_nothing_off() -> None:
    """However much one row counts, its steps are no finer than its largest weight allows."""
    values = normal(64, 96)
    held = Matrix("held", "held", SimpleNamespace(weight=values), 0, 64, 96, is_turned=False)
    counts = torch.ones(64)
    counts[5] = 1e9
    for bits in (7.0, 12.0):
        pace = Pace([held], {"held": counts}, int(bits * 64 * 96 / 8), {}, "here", dependent=True)
        assert pace.kinds["held"].name == "q8_0" and not pace.is_dependent("held")
        away = (pace.alone("held", values).values() - values).abs().amax(1)
        assert float(away[5]) <= 0.51 * float(values[5].abs().max()) / 127
        assert bool((away <= values.abs().amax(1) / 2).all())


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_lookups_are_told_from_the_output_layer(scale: float, bundles: Callable[[str], Bundle]) -> None:
    """Of tied embeddings: what is left of the gradient is that of the model whose lookups are held."""
    model = load_model(bundles("language").path, "causal")
    embeddings, ids = model.get_input_embeddings(), torch.tensor([[5, 9, 5, 30, 7, 41, 9, 2]])
    scaled = embeddings.register_forward_hook(lambda module, inputs, out: out * scale)
    assert model.get_output_embeddings().weight is embeddings.weight
    wanted = torch.autograd.grad(
        model(inputs_embeds=embeddings(ids).detach()).logits.square().mean(), embeddings.weight
    )
    lookups = Lookups(embeddings)
    model(input_ids=ids).logits.square().mean().backward()
    found = lookups.taken_from(embeddings.weight.grad)
    torch.testing.assert_close(found, wanted[0], rtol=1e-3, atol=1e-6)
    assert float((embeddings.weight.grad - wanted[0]).abs().max()) > 1e-4 and lookups.mean > 0
    for handle in (scaled, lookups.handle):
        handle.remove()


def test_tokens_that_were_never_seen_are_as_likely_as_those_seen_once_say() -> None:
    shares = shares_of(torch.tensor([7.0, 1.0, 0.0, 1.0, 1.0, 0.0]))
    assert float(shares.sum()) == pytest.approx(1.0)
    assert float(shares[2] + shares[5]) == pytest.approx(0.3)
    assert float(shares[0] / shares[1]) == pytest.approx(7.0)
    assert shares_of(torch.tensor([3.0, 1.0])).tolist() == [0.75, 0.25]


def test_what_is_often_counts_more(bundles: Callable[[str], Bundle], text_work: Make, tmp_path: Path) -> None:
    """Tokens that the rows have not, but the text has."""
    model = load_model(bundles("language").path, "causal")
    matrices = matrices_of(model)
    rows = calibration_rows(bundles("language"), text_work(tmp_path), 4, 48, 0)
    often = torch.zeros(matrices[0].rows, dtype=torch.float64)
    for row in rows:
        often += torch.bincount(torch.from_numpy(row), minlength=len(often))
    more = often.clone()
    unseen = int((often == 0).nonzero()[0])
    more[unseen] = 50.0
    few, _ = sensitivity_of(model, matrices, rows, 0, 0.01, SILENT, often)
    many, _ = sensitivity_of(model, matrices, rows, 0, 0.01, SILENT, more)
    name = matrices[0].name
    assert float(many[name][unseen]) > 2 * float(few[name][unseen])
    assert all(torch.equal(few[one.name], many[one.name]) for one in matrices[1:])


def test_what_embeddings_count_is_measured(bundles: Callable[[str], Bundle], text_work: Make, tmp_path: Path) -> None:
    """However wrong it is to begin with, the measured ratio makes up for it; and the model is left as it was."""
    model = load_model(bundles("language").path, "causal")
    matrices = matrices_of(model)
    rows = calibration_rows(bundles("language"), text_work(tmp_path), 12, 48, 0)
    first, left = sensitivity_of(model, matrices, rows[:6], 0, 0.01, SILENT)
    before = {one.name: one.read() for one in matrices}
    limit = sum(one.size for one in matrices) * 3 // 16
    found = []
    for wrong in (1.0, 10.0):
        given = {one.name: first[one.name] * (wrong if one.block is None else 1.0) for one in matrices}
        made, cost = balanced(
            model, matrices, given, left, lambda s: Pace(matrices, s, limit, {}, "here"), rows[6:], SILENT
        )
        assert cost > 0
        found.append([float(made[one.name].sum() / first[one.name].sum()) for one in matrices])
        assert all(torch.equal(one.read(), before[one.name]) for one in matrices)
    outside = [one.block is None for one in matrices]
    for one, other, is_outside in zip(*found, outside, strict=True):
        assert one == pytest.approx(other, rel=0.5) if is_outside else one == other == 1.0


def test_a_packed_model_has_them(
    bundles: Callable[[str], Bundle], text_work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All matrices of a language model, through llama.cpp's file; rounded ones stand alone."""
    monkeypatch.setattr("halfpint.export.gguf._gate", lambda *_: {})
    counts = {}
    for method, bits in (("gptq", 2.0), ("round", 3.0)):
        stage = Quantize(method=method, packed=True, bits=bits, samples=6, tokens=48)
        made = stage.run(bundles("language"), text_work(tmp_path / method))
        plain = Gguf(type="codes").run(made, text_work(tmp_path / f"{method}-file"))
        packed = Lossless().run(plain, text_work(tmp_path / f"{method}-packed"))
        with (packed.path / PACKED_FILE).open("rb") as held:
            parts = packed_gguf._header(held)["parts"]
        counts[method] = sum("heads" in part for part in parts), sum("Q" in part.get("type", "") for part in parts)
    assert counts["gptq"][0] == counts["gptq"][1] > 0
    assert counts["round"][0] < 0.2 * counts["round"][1]  # all zero is a path too
