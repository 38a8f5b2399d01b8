"""Gates of exports, each run in a process of its own, as whoever uses the files will start one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from halfpint.errors import HalfpintError, RefusedError


def run_gate(module: str, place: str, wanted: str, *arguments: str) -> dict[str, Any]:
    """What `module` finds when it is run: it prints its figures as one line of JSON, or why it refuses.

    Args:
        place, wanted: where it is and what was wanted, should the process break down.

    Raises:
        RefusedError: what was exported does not pass.
        HalfpintError: the process broke down.
    """
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError, RecursionError):
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise HalfpintError(
            place, wanted=wanted, got=f"an end with status {done.returncode} ({last})",
            todo="The export is refused; the trained bundle is kept.",
        ) from None  # fmt: skip
    if "refused" in found:
        raise RefusedError(**found["refused"])
    return found
