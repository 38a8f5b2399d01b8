"""What the inputs are tried on."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

listening = runpy.run_path(str(Path(__file__).parents[1] / "serve" / "conftest.py"))["listening"]
