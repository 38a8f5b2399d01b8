"""Codes that are made to be packed: steps by what counts, bytes as asked for, every bit back."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from halfpint.bundle import Bundle
from halfpint.compress import _tune
from halfpint.compress._allocation import other_bytes
from halfpint.compress._blocks import pack
from halfpint.compress._calibration import calibration_rows
from halfpint.compress._codes import TYPES, round_to
from halfpint.compress._dependent import Paths
from halfpint.compress._gptq import gptq
from halfpint.compress._matrices import EMBEDDINGS, Matrix, matrices_of
from halfpint.compress._memory import samples_to_learn
from halfpint.compress._rates import CONTAINERS, Pace, steadily, steady
from halfpint.compress._row_scales import RowScale
from halfpint.compress._sensitivity import sensitivity_of
from halfpint.compress.lossless import Lossless
from halfpint.compress.quantize import Quantize
from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError
from halfpint.export.gguf import Gguf
from halfpint.models.block_codes import read_types
from halfpint.models.packed_gguf import PACKED_FILE, coded_bytes, unpack
from halfpint.models.packed_gguf import pack as pack_file
from halfpint.progress import SILENT
from halfpint.stage import Work

Make = Callable[..., Work]
FEW = {"samples": 6, "tokens": 48}


class Held:
    """A module with one weight."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight


def normal(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def matrix(name: str, weight: torch.Tensor) -> Matrix:
    return Matrix(name, name, Held(weight), 0, *weight.shape, is_turned=False)


@pytest.mark.parametrize("name", CONTAINERS)
def test_no_weight_is_further_than_half_a_step(name: str) -> None:
    """A block whose weights the table's ends would cut has wider steps, the others their row's."""
    kind, values = TYPES[name], normal(32, 96)
    values[3, 40] = 30.0
    values[4, 70] = -30.0
    steps = torch.full((32, 1), 2.0 * float(values.abs().quantile(0.99)) / len(kind.table))
    coded = steadily(kind, values, steps)
    scales = coded.scales.scale.reshape(32, 3)
    assert bool(((coded.values() - values).abs() <= 0.501 * scales.repeat_interleave(32, 1)).all())
    assert scales[3, 1] > 2 * steps[0] and scales[4, 2] > 2 * steps[0]
    alike = scales == steps.half().float()
    assert float(alike.float().mean()) > 0.6


@pytest.mark.parametrize("name", CONTAINERS)
def test_bytes_are_those_of_the_entropy(name: str) -> None:
    """Packed codes of normal weights take what theory says: the entropy of the weights less the logarithm of a step."""
    kind, values = TYPES[name], normal(512, 1024)
    step = {"q4_0": 0.6, "q5_0": 0.3, "q8_0": 0.04}[name]
    coded = steadily(kind, values, torch.full((512, 1), step))
    bits = 8 * coded_bytes(name, pack(coded)) / values.numel()
    assert bits == pytest.approx(0.5 * np.log2(2 * np.pi * np.e) - np.log2(step), abs=0.08)


def test_steady_steps_beat_scales_by_peak_at_equal_bytes() -> None:
    values = normal(512, 1024)
    peaks = round_to(TYPES["q4_0"], values)
    bytes_of_peaks = coded_bytes("q4_0", pack(peaks))
    by_peak = float((peaks.values() - values).square().mean())
    coded = steadily(TYPES["q5_0"], values, torch.full((512, 1), 0.245))
    assert coded_bytes("q5_0", pack(coded)) <= bytes_of_peaks
    assert float((coded.values() - values).square().mean()) < 0.8 * by_peak


def test_steps_go_by_what_an_error_counts() -> None:
    """Equal weights, one matrix four times as dear: its steps are half as wide; bytes are as asked for."""
    matrices = [matrix("dear", normal(256, 512)), matrix("cheap", normal(256, 512, 1))]
    counts = {"dear": torch.full((256,), 4.0), "cheap": torch.full((256,), 1.0)}
    limit = 2 * 256 * 512 * 4 // 8
    pace = Pace(matrices, counts, limit, {}, "here")
    dear, cheap = (pace.steps_of(name) for name in ("dear", "cheap"))
    torch.testing.assert_close(2 * dear, cheap)
    used = 0
    for one in matrices:
        coded = steadily(pace.kinds[one.name], one.read(), pace.steps_of(one.name))
        used += coded_bytes(coded.kind.name, pack(coded))
        pace.used({one.name: coded})
    assert used == pytest.approx(limit, rel=0.02)
    assert {pace.kinds["dear"].name, pace.kinds["cheap"].name} <= set(CONTAINERS)
    with pytest.raises(HalfpintError, match="here: expected 3,604 bytes"):
        Pace(matrices, counts, 1000, {}, "here")


def test_what_was_used_too_much_is_made_up_for() -> None:
    matrices = [matrix(str(number), normal(128, 256, number)) for number in range(6)]
    counts = {one.name: torch.ones(128) for one in matrices}
    limit = 6 * 128 * 256 * 3 // 8
    pace = Pace(matrices, counts, limit, {one.name: TYPES["q8_0"] for one in matrices}, "here")
    used = 0
    for one in matrices:
        values = one.read() * (1.3 if one.name == "0" else 1.0)  # wider than it was when steps were chosen
        coded = steadily(TYPES["q8_0"], values, pace.steps_of(one.name))
        used += coded_bytes("q8_0", pack(coded))
        pace.used({one.name: coded})
    assert used == pytest.approx(limit, rel=0.02)


def test_gptq_makes_up_for_errors_under_given_scales() -> None:
    kind, values = TYPES["q4_0"], normal(64, 128)
    inputs = normal(4000, 8, 1) @ normal(8, 128, 2) + 0.3 * normal(4000, 128, 3)
    square = inputs.T @ inputs
    steps = torch.full((64, 1), 0.7)
    plain = steadily(kind, values, steps)
    better, _ = gptq(kind, values, square, 0.01, lambda block: steady(kind, block, steps))

    def error(found: torch.Tensor) -> float:
        away = found - values
        return float(((away @ square) * away).sum())

    assert error(better.values()) < 0.5 * error(plain.values())
    assert set(better.scales.scale.unique().tolist()) == set(plain.scales.scale.unique().tolist())


def test_rows_that_count_are_told_apart(bundles: Callable[[str], Bundle], text_work: Make, tmp_path: Path) -> None:
    """An output whose weights nothing reads counts least."""
    bundle = bundles("language")
    model = load_model(bundle.path, "causal")
    matrices = matrices_of(model)
    value = next(one for one in matrices if one.role == "v_proj")
    output = next(one for one in matrices if one.role == "o_proj")
    with torch.no_grad():
        output.module.weight[:, : output.columns // 4] = 0.0
    found, _ = sensitivity_of(model, matrices, calibration_rows(bundle, text_work(tmp_path), 8, 48, 0), 0, 0.01, SILENT)
    assert {name: len(one) for name, one in found.items()} == {one.name: one.rows for one in matrices}
    assert all(bool((one > 0).all()) for one in found.values())
    rows = found[value.name]
    assert float(rows.min()) < 0.2 * float(rows.mean())


def test_rows_learn_their_steps_by_what_they_put_out(bundles: Callable[[str], Bundle]) -> None:
    """The whole model follows the gradient, and what is put into the matrices, tied embeddings too, says the same."""
    model = load_model(bundles("language").path, "causal")
    matrices, coded = matrices_of(model), {}
    for one in matrices:
        values = one.read()
        coded[one.name] = steadily(TYPES["q4_0"], values, values.abs().amax(1, keepdim=True) / 7)
        one.write(coded[one.name].values())
    ids = torch.arange(24)[None] % 50

    def answers() -> torch.Tensor:
        logits: torch.Tensor = model(input_ids=ids).logits
        return logits

    before = answers().detach()
    scales = [RowScale(one, coded[one.name], model.get_output_embeddings()) for one in matrices]
    assert torch.equal(answers(), before)
    for count in (1, 2):
        answers().square().mean().backward()
        assert all(one.step(0.02, count) == 0 for one in scales)
    learned = answers().detach()
    assert float(learned.square().mean()) < 0.99 * float(before.square().mean())
    for one in scales:
        one.settle()
        assert torch.equal(one.codes, coded[one.matrix.name].codes)
    apart = (answers() - learned).detach().square().mean()
    assert float(apart) < 1e-2 * float((learned - before).square().mean())  # steps are held in fp16


def test_factors_near_one_are_felt_in_bfloat16(bundles: Callable[[str], Bundle]) -> None:
    """What is learned in the end is smaller than what bfloat16 tells apart."""
    model = load_model(bundles("language").path, "causal")
    matrices = [one for one in matrices_of(model) if one.role != EMBEDDINGS]
    coded = {}
    for one in matrices:
        coded[one.name] = steadily(TYPES["q8_0"], one.read(), one.read().abs().amax(1, keepdim=True) / 127)
        one.write(coded[one.name].values())
    ids = torch.arange(24)[None] % 50
    scales = [RowScale(one, coded[one.name]) for one in matrices]

    def answers(factor: float, low: bool) -> torch.Tensor:
        for one in scales:
            one._factor.data.fill_(factor)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=low):
            found: torch.Tensor = model(input_ids=ids).logits.float()
        return found

    wanted = answers(1.001, low=False) - answers(1.0, low=False)
    found = answers(1.001, low=True) - answers(1.0, low=True)
    assert 0.3 < float((found * wanted).sum() / wanted.square().sum()) < 3


@pytest.mark.parametrize(("at_once", "head"), [(2048, 512), (48, 7), (1, 10_000)])
def test_rows_of_any_length_count_alike(
    at_once: int, head: int, bundles: Callable[[str], Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is the mean over rows of their mean divergence, and its gradient that of plain autograd, however rows
    go through together."""
    monkeypatch.setattr(_tune, "ROW_TOKENS", at_once)
    monkeypatch.setattr(_tune, "TOKENS_AT_ONCE", head)
    monkeypatch.setattr(_tune, "fast", contextlib.nullcontext)
    model = load_model(bundles("language").path, "causal")
    output = model.get_output_embeddings()
    random = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, 50, (2, 24), generator=random), torch.randint(0, 50, (3, 16), generator=random)]
    kept = [None, torch.arange(16) < torch.tensor([[16], [5], [16]])]
    final = [torch.randn(*one.shape, output.weight.shape[1], generator=random) for one in ids]
    rows = [(0, 1), (1, 0), (1, 1), (1, 2), (0, 0)]
    for one in model.parameters():
        one.requires_grad_(one.ndim == 1)
    norms = [one for one in model.parameters() if one.ndim == 1]
    head_weight = output.weight.detach().clone()
    total = torch.zeros(())
    for batch, row in rows:
        length = 24 if batch == 0 else int(kept[1][row].sum())  # type: ignore[index]
        found = model(input_ids=ids[batch][row : row + 1, :length]).logits[0].log_softmax(-1)
        wanted = torch.log_softmax(final[batch][row, :length] @ head_weight.T, -1)
        total = total + (wanted.exp() * (wanted - found)).sum(1).mean() / len(rows)
    gradients = torch.autograd.grad(total, norms)
    learner = _tune.Distiller(model, ids, kept, final, head_weight, 64, 0.01, 0, SILENT)
    assert learner.mean(rows) == pytest.approx(float(total.detach()), rel=1e-4)
    for one, gradient in zip(norms, gradients, strict=True):
        torch.testing.assert_close(one.grad, gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["round", "gptq", "tuned"])
def test_a_packed_file_takes_the_bytes_that_were_asked_for(
    method: str, bundles: Callable[[str], Bundle], text_work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halfpint.export.gguf._gate", lambda *_: {})
    parent = bundles("language")
    model = load_model(parent.path, "causal")
    matrices = matrices_of(model)
    other = other_bytes(parent.path, model, matrices, packed=True)
    target = other + sum(one.size for one in matrices) * 5 // 8
    stage = Quantize(method=method, packed=True, target_bytes=target, tuning_tokens=600, tuning_batch=96, **FEW)
    made = stage.run(parent, text_work(tmp_path / "made"))
    assert set(read_types(made.path).values()) <= {name.upper() for name in CONTAINERS} | set(CONTAINERS)
    plain = Gguf(type="codes").run(made, text_work(tmp_path / "file"))
    packed = Lossless().run(plain, text_work(tmp_path / "packed"))
    size = (packed.path / PACKED_FILE).stat().st_size
    assert 0.8 * target < size <= 1.03 * target
    entry = made.card["stages"][-1]
    assert entry["packed_bytes"] + entry["other_bytes"] == pytest.approx(size, rel=0.1)


@pytest.mark.parametrize(("samples", "more"), [(1, 2), (1, 1), (2, 1), (6, 3), (16, 500)])
def test_what_tuning_is_judged_by_nothing_else_sees(
    samples: int, more: int, bundles: Callable[[str], Bundle], text_work: Make, tmp_path: Path
) -> None:
    stage = Quantize(method="tuned", packed=True, samples=samples, tuning_samples=more, tokens=48)
    matrices = matrices_of(load_model(bundles("language").path, "causal"))
    fitted, learned, apart = stage._rows(bundles("language"), matrices, text_work(tmp_path))
    assert fitted and apart
    assert len(fitted) + len(apart) <= max(samples, 2) and len(learned) <= more
    seen = {row.tobytes() for rows in (fitted, learned) for row in rows}
    assert not any(row.tobytes() in seen for row in apart)


def test_longer_tuning_learns_from_more_text(bundles: Callable[[str], Bundle]) -> None:
    """As much as its time is enough for, within bounds; of a larger model less."""
    matrices = matrices_of(load_model(bundles("language").path, "causal"))
    many = matrices * (135_000_000 // sum(one.size for one in matrices))

    def rows(minutes: float, of: list[Matrix] = many, **settings: Any) -> int:
        return samples_to_learn(Quantize(minutes=minutes, **settings), of)

    assert rows(2) == rows(1) == rows(90, many * 20) == rows(90, tuning_tokens=8000)
    assert rows(90) == pytest.approx(2 * rows(45), abs=1) and rows(45) > 4 * rows(1)
    assert rows(90, tuning_samples=7) == 7
    assert rows(90, matrices) == rows(900)


def test_rows_of_a_long_document_lie_apart(bundles: Callable[[str], Bundle], text_work: Make, tmp_path: Path) -> None:
    """However much is drawn, codes are not fitted on the first documents alone."""
    stage = Quantize(method="tuned", samples=16, tuning_samples=64, tokens=48)
    drawn = [row.tobytes() for row in calibration_rows(bundles("language"), text_work(tmp_path), 80, 48, 0)]
    fitted, *_ = stage._rows(
        bundles("language"), matrices_of(load_model(bundles("language").path, "causal")), text_work(tmp_path)
    )
    places = [drawn.index(row.tobytes()) for row in fitted]
    assert len(drawn) > 60 and max(places) > 0.6 * len(drawn) and min(places) < 0.3 * len(drawn)


@pytest.mark.parametrize("dependent", [False, True])
def test_damage_of_steady_rows_is_told(dependent: bool, tmp_path: Path) -> None:
    """Whatever byte is wrong, the file is refused, and with one clear error."""
    gguf = pytest.importorskip("gguf")
    coded = steadily(TYPES["q5_0"], values := normal(64, 96), torch.full((64, 1), 0.18))
    if dependent:
        coded = Paths(coded.kind, values, coded.scales).whole(values, coded.scales)
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_tensor("matrix", pack(coded), raw_dtype=gguf.GGMLQuantizationType.Q5_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    pack_file(tmp_path / "a.gguf", tmp_path / "a.packed")
    whole = (tmp_path / "a.packed").read_bytes()
    out = io.BytesIO()
    unpack(tmp_path / "a.packed", out)
    assert out.getvalue() == (tmp_path / "a.gguf").read_bytes()
    for place in range(30, len(whole), 7):
        (tmp_path / "b.packed").write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            unpack(tmp_path / "b.packed", out := io.BytesIO())
        except HalfpintError as error:
            assert "expected a whole packed GGUF file" in str(error)
        else:  # bits after a stream's end are not read
            assert out.getvalue() == (tmp_path / "a.gguf").read_bytes()


def test_types_that_cannot_be_packed_are_refused(
    bundles: Callable[[str], Bundle], text_work: Make, tmp_path: Path
) -> None:
    stage = Quantize(method="round", packed=True, types="mxfp4", **FEW)
    with pytest.raises(HalfpintError, match="types: expected of q4_0, q5_0, q8_0, got mxfp4"):
        stage.run(bundles("language"), text_work(tmp_path / "made"))
