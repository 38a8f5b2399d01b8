"""What is not quantised yet makes up for what is: nearer than codes alone, taken back where it harms, resumable."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from halfpint.bundle import Bundle
from halfpint.compress import _adapt, _tune, quantize
from halfpint.compress._adapt import Adaptation, as_made_up_for
from halfpint.compress._matrices import matrices_of
from halfpint.compress._rates import Pace
from halfpint.compress.quantize import Quantize
from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError
from halfpint.models.block_codes import read_blocks, read_types
from halfpint.stage import Work

Make = Callable[..., Work]


def few(**settings: Any) -> Quantize:
    """About 2 bits a weight, learned from few texts."""
    usual = {"samples": 64, "tokens": 48, "tuning_tokens": 20_000, "tuning_batch": 192, "bits": 2.2}
    return Quantize(packed=True, **(usual | settings))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_adapt, "STEP_TOKENS", 192)


@pytest.mark.slow
def test_it_comes_nearer_than_codes_alone(loud: Bundle, text_work: Make, tmp_path: Path) -> None:
    far, size = {}, {}
    for share in (0.0, 0.6):
        stage = few(adapting=share, tuning_tokens=60_000, tuning_samples=400)  # of few rows it learns them by heart
        made = stage.run(loud, text_work(tmp_path / str(share)))
        entry = made.card["stages"][-1]
        far[share], size[share] = entry["tuning"]["kl_before"], entry["packed_bytes"]
    facts = entry["adapting"]
    assert facts["kept"] and facts["kl_after"] < facts["kl_before"]
    assert far[0.6] < 0.95 * far[0.0], far
    assert size[0.6] == pytest.approx(size[0.0], rel=0.02)


@pytest.mark.slow
def test_what_does_harm_is_taken_back(
    loud: Bundle, text_work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = few(adapting=0.0).run(loud, text_work(tmp_path / "plain"))
    monkeypatch.setattr(_adapt, "RATE", 1.0)
    monkeypatch.setattr(quantize, "as_made_up_for", lambda _, sensitivity: sensitivity)
    made = few().run(loud, text_work(tmp_path / "made"))
    facts = made.card["stages"][-1]["adapting"]
    assert not facts["kept"] and facts["kl_after"] > facts["kl_before"]
    for name in read_types(plain.path):
        assert (read_blocks(made.path, name) == read_blocks(plain.path, name)).mean() > 0.97, name


@pytest.mark.slow
def test_a_loss_that_is_no_number_is_harm(
    loud: Bundle, text_work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_adapt, "RATE", 1e30)
    made = few().run(loud, text_work(tmp_path / "made"))
    entry = made.card["stages"][-1]
    json.dumps(entry, allow_nan=False)
    assert not entry["adapting"]["kept"] and entry["tuning"]["kl_after"] < 1.0


def test_without_room_it_goes_on_without(
    loud: Bundle, text_work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, given = load_model(loud.path, "causal"), text_work(tmp_path / "made")
    matrices = matrices_of(model)
    alone, adapts = few(adapting=0.0)._check_memory(model, matrices, given.log)
    with_it, wanted = few()._check_memory(model, matrices, given.log)
    assert wanted and not adapts
    assert with_it - alone == 16 * sum(one.size for one in matrices if one.block is not None)
    monkeypatch.setattr(quantize, "memory_bytes", lambda: (alone + with_it) / 2 / quantize._SPARE)
    assert few()._check_memory(model, matrices, given.log) == (alone, False)
    monkeypatch.setattr(quantize, "memory_bytes", lambda: 0.5 * alone)
    with pytest.raises(HalfpintError, match="GiB of memory"):
        few()._check_memory(model, matrices, given.log)


def test_where_little_was_lost_nothing_is_trained(loud: Bundle, text_work: Make, tmp_path: Path) -> None:
    given = text_work(tmp_path / "made")
    entry = few(bits=5.0).run(loud, given).card["stages"][-1]
    assert "adapting" not in entry and entry["tuning"]["kl_before"] < _adapt.WORTH


def test_no_more_steps_than_there_is_time_for(loud: Bundle, text_work: Make, tmp_path: Path) -> None:
    made = few(tuning_tokens=0, minutes=1e-6).run(loud, text_work(tmp_path / "made"))
    assert made.card["stages"][-1]["adapting"]["steps"] == 1


@pytest.mark.parametrize("when", [pytest.param("behind the embeddings", marks=pytest.mark.slow), "before tuning"])
def test_a_stopped_run_goes_on_with_what_was_learned(
    when: str, loud: Bundle, text_work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part is learned once; where all of it was, norms and codes are those of a run that nobody stopped."""
    given, real, seen = text_work(tmp_path / "made"), Adaptation._train, list[int]()

    def train(self: Adaptation, rest: Any, done: int) -> None:
        if stops and done:
            raise KeyboardInterrupt
        seen.append(done)
        real(self, rest, done)

    def tune(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Adaptation, "_train", train)
    stops = when == "behind the embeddings"
    with monkeypatch.context() as patched:
        patched.setattr(_tune.Distiller, "run", tune)
        with pytest.raises(KeyboardInterrupt):
            few().run(loud, given)
    assert len(list(given.scratch.glob("rest-*.safetensors"))) == 1
    stops = False
    made = few().run(loud, given)
    whole = few().run(loud, text_work(tmp_path / "whole"))
    assert seen == [0, 1, 0, 1] and not given.scratch.exists()
    assert made.card["stages"][-1]["adapting"]["steps"] == whole.card["stages"][-1]["adapting"]["steps"]
    if when == "behind the embeddings":  # what is learned afterwards is drawn anew
        return
    first, second, before = (load_model(one.path, "causal").state_dict() for one in (made, whole, loud))
    for name, values in first.items():
        if values.ndim == 1:
            moved = (second[name] - before[name]).norm()
            assert moved > 0 and (values - second[name]).norm() < 0.1 * moved, name
    for name in read_types(made.path):
        assert (read_blocks(made.path, name) == read_blocks(whole.path, name)).mean() > 0.9, name


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_shares_out_of_range_are_refused(share: float) -> None:
    with pytest.raises(HalfpintError, match="adapting must be a share"):
        Quantize(adapting=share)


def test_bits_go_to_what_comes_last(loud: Bundle, work: Make, tmp_path: Path) -> None:
    """As many in all: fewer where the blocks behind make up for it, more in the last block and outside of all."""
    matrices = matrices_of(load_model(loud.path, "causal"))
    even = {one.name: torch.ones(one.rows) for one in matrices}
    limit = sum(one.size for one in matrices) * 2 // 8
    paces = [Pace(matrices, given, limit, {}, "here") for given in (even, as_made_up_for(matrices, even))]
    wider = {one.name: float((paces[1].steps[one.name] / paces[0].steps[one.name]).mean()) for one in matrices}
    last = max(one.block or 0 for one in matrices)
    first, ends, outside = (
        [wider[one.name] for one in matrices if one.block == number] for number in (0, last, None)
    )  # fmt: skip
    assert min(first) > 1.0 > max(*ends, *outside)
    assert first[0] / ends[0] == pytest.approx((1 - _adapt._MADE_UP) ** (-last / 2), rel=1e-3)
    assert sum(paces[0]._planned.values()) == pytest.approx(sum(paces[1]._planned.values()), rel=1e-3)
