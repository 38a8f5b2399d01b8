"""Real bundles for the tests of serving."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from halfpint.bundle import new_bundle


@pytest.fixture
def bundle_path(tmp_path: Path) -> Path:
    """A bundle of the majority class: 0.7 for `a`, 0.3 for `b`."""
    target = tmp_path / "tiny"
    with new_bundle(target) as (folder, card):
        card["task"], card["engine"] = "classify", "majority"
        config = {"model_type": "majority", "id2label": {"0": "a", "1": "b"}, "shares": [0.7, 0.3]}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return target
