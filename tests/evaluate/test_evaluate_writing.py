"""How fast a language model writes is measured in a process of its own, in each engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from halfpint.bundle import Bundle
from halfpint.errors import HalfpintError
from halfpint.evaluate.writing import writing

Get = Callable[[str], Bundle]


@pytest.mark.from_scratch
@pytest.mark.parametrize("kind", ["language", "gguf", "packed"])
def test_speed_and_memory_are_those_of_another_process(kind: str, bundles: Get) -> None:
    pytest.importorskip("xllamacpp")
    bundle = bundles(kind)
    ballast = np.ones(250_000_000)  # 2 GB here must not weigh in what is measured there
    found = writing(bundle)
    assert ballast[-1] == 1.0
    assert found["written_tokens_per_s"] > 0 and found["cold_start_ms"] > found["first_token_ms"] > 0
    assert 0 < found["peak_memory_bytes"] < 1.5e9


def test_what_does_not_run_is_told(bundles: Get, tmp_path: Path) -> None:
    with pytest.raises(HalfpintError, match="language model"):
        writing(bundles("majority"))
    broken = shutil.copytree(bundles("language").path, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(HalfpintError, match=r"model\.safetensors"):
        writing(Bundle(broken))
