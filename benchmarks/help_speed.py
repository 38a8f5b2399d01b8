"""How long `halfpint --help` takes: the median of twenty starts.

python benchmarks/help_speed.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from harness import timed, write

if __name__ == "__main__":
    command = [str(Path(sys.executable).parent / "halfpint"), "--help"]
    values = [timed(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(20)]
    write("help_speed", {"unit": "s", "median": statistics.median(values), "worst": max(values)})
