"""The short form of `make faults`: the quickest command, a few moments."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from harness import lives, try_all


@pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")
def test_accidents_lose_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    try_all("ngram", lives(tmp_path, ["ngram"])["ngram"](), 3, 1, ("file size", "open files"), said.append)
    assert len(said) == 9 and any("disk full, and finished" in one or "no full disk was tried: " in one for one in said)
