"""The machine this process runs on: processor, cores, memory and disk, within what its container lets it use."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from halfpint import __version__

_PR_SET_PDEATHSIG = 1

# Instruction sets that change how fast a small model runs: x86 names first, then ARM's as Linux writes them.
_INSTRUCTIONS = ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")
_PACKAGES = (
    "numpy",
    "onnxruntime",
    "tokenizers",
    "torch",
    "transformers",
    "scikit-learn",
    "scipy",
    "onnx",
    "safetensors",
    "pyarrow",
    "cleanlab",
    "xllamacpp",
)


def describe() -> dict[str, Any]:
    """What a figure was measured on, as JSON can hold it; packages that are not installed are left out."""
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "instructions": list(instructions()),
        "packages": packages(),
    }


def cores() -> int:
    """Logical CPUs that this process may use: its affinity, where the system has one, and its cgroup's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    for text in _cgroup("cpu.max"):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            allowed = min(allowed, math.ceil(int(quota) / int(period)))
    return max(allowed, 1)


def memory_bytes() -> int:
    """Bytes of memory that this process may use: the machine's, or its cgroup's limit (v2); 0 where nothing tells."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        total = 0
    limits = [int(text) for text in _cgroup("memory.max") if text.isdigit()]
    return min([total, *limits]) if total else min(limits, default=0)


def available_disk_bytes(path: Path | str) -> int:
    """Free bytes on the disk that holds `path`, or would hold it once its folders are made."""
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def peak_memory_bytes() -> int:
    """The most memory this process has held resident so far, in bytes; 0 where the system does not tell.

    On Linux this is VmHWM: ru_maxrss there starts from the size of the process that launched this one.
    """
    for line in _text(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@cache
def cpu_model() -> str:
    """The processor's name as it gives it itself, or its architecture."""
    name = _cpuinfo().get("model name", "")
    if not name and sys.platform == "darwin":
        name = _sysctl("machdep.cpu.brand_string")
    return name or platform.processor() or platform.machine()


@cache
def instructions() -> tuple[str, ...]:
    """Those of the instruction sets that matter for small models which the processor has; empty where nothing tells."""
    info = _cpuinfo()
    flags = set(f"{info.get('flags', '')} {info.get('Features', '')}".split())
    if not flags and sys.platform == "darwin":
        found = f"{_sysctl('machdep.cpu.features')} {_sysctl('machdep.cpu.leaf7_features')}".lower().split()
        arm = {"asimddp": "hw.optional.arm.FEAT_DotProd", "i8mm": "hw.optional.arm.FEAT_I8MM"}
        flags = set(found) | {name for name, key in arm.items() if _sysctl(key) == "1"}
    return tuple(name for name in _INSTRUCTIONS if name in flags)


def packages() -> dict[str, str]:
    """Versions of halfpint and of the installed packages that figures depend on; nothing is imported."""
    found = {"halfpint": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def _cpuinfo() -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo; empty elsewhere than on Linux."""
    found: dict[str, str] = {}
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    return found


def _cgroup(name: str) -> Iterator[str]:
    """What the file `name` says in this process' cgroup (v2) and in each one above it."""
    root = Path("/sys/fs/cgroup")
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        if line.startswith("0::"):
            own = root / line[3:].strip().lstrip("/")
            for folder in (own, *own.parents):
                if folder.is_relative_to(root) and (text := _text(folder / name).strip()):
                    yield text


def _sysctl(key: str) -> str:
    try:
        done = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def end_with_parent() -> None:
    """Have this process end as soon as the one that started it does, however that ends; on Linux alone.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that was heeded
        os._exit(1)
