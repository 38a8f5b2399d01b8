"""What is not quantised yet makes up for what is: nearer than codes alone, taken back where it harms, resumable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halfpint.bundle import Bundle
from halfpint.compress import _adapt
from halfpint.compress._adapt import Adaptation
from halfpint.compress.quantize import Quantize
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


def test_it_comes_nearer_than_codes_alone(loud: Bundle, work: Make, tmp_path: Path) -> None:
    far, size = {}, {}
    for share in (0.0, 0.6):
        made = few(adapting=share).run(loud, work(tmp_path / str(share)))
        entry = made.card["stages"][-1]
        far[share], size[share] = entry["tuning"]["kl_before"], entry["packed_bytes"]
    facts = entry["adapting"]
    assert facts["kept"] and facts["kl_after"] < facts["kl_before"]
    assert far[0.6] < 0.95 * far[0.0], far
    assert size[0.6] == pytest.approx(size[0.0], rel=0.02)


def test_what_does_harm_is_taken_back(
    loud: Bundle, work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = few(adapting=0.0).run(loud, work(tmp_path / "plain"))
    monkeypatch.setattr(_adapt, "RATE", 1.0)
    made = few().run(loud, work(tmp_path / "made"))
    facts = made.card["stages"][-1]["adapting"]
    assert not facts["kept"] and facts["kl_after"] > facts["kl_before"]
    for name in read_types(plain.path):
        assert (read_blocks(made.path, name) == read_blocks(plain.path, name)).mean() > 0.97, name


def test_where_little_was_lost_nothing_is_trained(loud: Bundle, work: Make, tmp_path: Path) -> None:
    given = work(tmp_path / "made")
    facts = few(bits=5.0).run(loud, given).card["stages"][-1]["adapting"]
    assert facts["kl_before"] < _adapt._WORTH and not facts["kept"] and facts["steps"] == 0


def test_a_stopped_run_goes_on_with_what_was_learned(
    loud: Bundle, work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, real, seen = work(tmp_path / "made"), Adaptation._train, list[int]()

    def stopping(self: Adaptation, rest: Any, count_as: float) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(len(rest))
        real(self, rest, count_as)

    monkeypatch.setattr(Adaptation, "_train", stopping)
    with pytest.raises(KeyboardInterrupt):
        few().run(loud, given)
    assert [file.name for file in given.scratch.glob("rest-*")] == ["rest-000.safetensors"]

    def counting(self: Adaptation, rest: Any, count_as: float) -> None:
        seen.append(len(rest))
        real(self, rest, count_as)

    monkeypatch.setattr(Adaptation, "_train", counting)
    made = few().run(loud, given)
    assert seen == sorted(set(seen), reverse=True)  # each part once, and fewer weights each time
    entry = made.card["stages"][-1]
    whole = few().run(loud, work(tmp_path / "whole")).card["stages"][-1]
    assert entry["adapting"]["steps"] == whole["adapting"]["steps"]
    assert not given.scratch.exists()


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_shares_out_of_range_are_refused(share: float) -> None:
    with pytest.raises(HalfpintError, match="adapting: wanted a share"):
        Quantize(adapting=share)
