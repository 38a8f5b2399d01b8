"""How fast this machine is now: matrix products by type, element by element work, memory and disk, measured briefly.

The rates are what forecasts of time are made from (`train/forecast.py`). They are means over a while, not the best of
many: a machine that does other things meanwhile is slower by just what they take, and so is the forecast.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from halfpint.errors import need
from halfpint.files import write_text
from halfpint.machine import cores, cpu_model, packages

FRESH_S = 24 * 3600.0
"""Seconds that a measurement is good for."""
SAME_LOAD = 0.15
"""Share of the processor by which others may use more, or less, than when it was measured."""
_FILE = "machine-speed.json"
_LOOK_S = 0.3  # that the processor is watched for, to see how busy others keep it
_WARM_UP = 2  # calls: memory is got and kernels are chosen in them
_ROWS, _WIDTH, _INNER = 1024, 512, 1376  # of the products: what a small model's layer multiplies
_VALUES = 1 << 18  # of element by element work: about what stays in a core's cache
_GROUP = (16, 256, 672)  # matrices that are multiplied together
_READ_VALUES, _QUICK_VALUES = 1 << 25, 1 << 23  # fp32, that memory is read in: more than caches hold; in short
_DISK_BYTES, _CHUNK = 1 << 27, 1 << 22
_PARTS_S = {"bf16": 0.5, "fp32": 0.5, "int8": 0.3, "group": 0.4, "values": 0.5, "memory": 0.6}


@dataclass(frozen=True)
class MachineSpeed:
    """What was measured; a rate is 0 where the machine, or the installation, cannot do it.

    Attributes:
        fp32_flops: floating-point operations per second of a matrix product in fp32.
        bf16_flops: the same in bf16.
        int8_ops: operations per second of a product of 8-bit numbers.
        group_flops: of products of many small matrices at once, in fp32.
        values_per_s: fp32 values per second that are added and written to new memory, as layers do it between products.
        memory_bytes_per_s: that are read from memory.
        disk_write_bytes_per_s: that reach the disk.
        disk_read_bytes_per_s: that come from it.
        busy: share of the processor that other processes used just before, from 0 to 1.
        load: processes that ran or waited in the last minute, on average; 0 where the system does not tell.
        taken: when, in seconds since 1970.
        seconds: how long measuring took.
        machine: what it was measured on: processor, cores and versions.
    """

    fp32_flops: float
    bf16_flops: float
    int8_ops: float
    group_flops: float
    values_per_s: float
    memory_bytes_per_s: float
    disk_write_bytes_per_s: float
    disk_read_bytes_per_s: float
    busy: float
    load: float
    taken: float
    seconds: float
    machine: str

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)

    def is_fresh(self, busy: float, now: float) -> bool:
        """Whether it still tells of this machine: the same one, as busy as then, on the same day."""
        return (
            self.machine == identity()
            and 0 <= now - self.taken < FRESH_S
            and abs(busy - self.busy) <= SAME_LOAD
        )  # fmt: skip


def speed_here(folder: Path, *, again: bool = False) -> MachineSpeed:
    """The machine's speed: what is kept in `folder` where that is of today and of a machine as busy, else measured.

    Args:
        folder: where it is kept, and whose disk is measured.
        again: measure in any case.

    Raises:
        HalfpintError: PyTorch is not installed.
    """
    busy = busy_share()
    kept = None if again else speed_kept(folder, busy)
    if kept is not None:
        return kept
    found = measured(folder, busy)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / _FILE, json.dumps(found.as_json(), indent=1) + "\n")
    except OSError:  # a cache that cannot be written is measured again the next time
        pass
    return found


def speed_kept(folder: Path, busy: float | None = None) -> MachineSpeed | None:
    """What is kept in `folder`, where it is of this machine, of today and as busy; else None.

    Args:
        busy: share of the processor that others use now; None has a look.
    """
    kept = _kept(folder / _FILE)
    if kept is None or not kept.is_fresh(busy_share() if busy is None else busy, time.time()):
        return None
    return kept


def measured(folder: Path, busy: float = 0.0, *, share: float = 1.0, disk: bool = True) -> MachineSpeed:
    """Measure all of it.

    Args:
        folder: whose disk is measured; nothing is left in it.
        busy: as of the result.
        share: of the usual time that each part takes.
        disk: whether the disk is measured, which takes the longest.

    Raises:
        HalfpintError: PyTorch is not installed.
    """
    torch = need("torch", "measuring this machine")
    started = time.monotonic()
    rates = matrix_rates(share)
    seconds = {name: share * part for name, part in _PARTS_S.items()}
    group = torch.ones(_GROUP)
    number, rows, columns = _GROUP
    multiplied = 2.0 * number * (2 * rows * rows * columns + rows**3)

    def turn() -> Any:  # a round of the iteration that Muon's steps go through (train/_muon)
        gram = group @ group.mT
        return group + (gram + gram @ gram) @ group

    held = torch.ones(_VALUES)
    with torch.no_grad():
        rates["group"] = multiplied / pace(turn, seconds["group"])
        rates["values"] = _VALUES / pace(lambda: held + held, seconds["values"])
    rates["memory"] = read_rate(seconds["memory"], _READ_VALUES if share >= 1 else _QUICK_VALUES)
    write, again = _disk(folder) if disk else (0.0, 0.0)
    return MachineSpeed(
        fp32_flops=rates["fp32"], bf16_flops=rates["bf16"], int8_ops=rates["int8"], group_flops=rates["group"],
        values_per_s=rates["values"], memory_bytes_per_s=rates["memory"], disk_write_bytes_per_s=write,
        disk_read_bytes_per_s=again, busy=busy, load=_load(), taken=time.time(), seconds=time.monotonic() - started,
        machine=identity(),
    )  # fmt: skip


def matrix_rates(share: float = 1.0) -> dict[str, float]:
    """Operations per second of products as a small model has them, by type: "fp32", "bf16", "int8"; 0: cannot be done.

    Args:
        share: of the usual time that each takes.
    """
    torch = need("torch", "measuring this machine")
    operations = 2.0 * _ROWS * _WIDTH * _INNER
    rates = {}
    with torch.no_grad():
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            left, right = torch.ones(_ROWS, _WIDTH, dtype=dtype), torch.ones(_WIDTH, _INNER, dtype=dtype)
            product = partial(torch.mm, left, right, out=torch.empty(_ROWS, _INNER, dtype=dtype))
            rates[name] = operations / pace(product, share * _PARTS_S[name])
        whole = torch.ones(_ROWS, _WIDTH, dtype=torch.int8), torch.ones(_WIDTH, _INNER, dtype=torch.int8)
        try:
            rates["int8"] = operations / pace(lambda: torch._int_mm(*whole), share * _PARTS_S["int8"])
        except (RuntimeError, NotImplementedError, AttributeError):
            rates["int8"] = 0.0
    return rates


def read_rate(seconds: float = _PARTS_S["memory"], values: int = _QUICK_VALUES) -> float:
    """Bytes per second that all cores together read from memory, the mean over about so many seconds.

    Args:
        values: fp32 values that are read each time: more than caches hold.
    """
    import numpy as np

    parts = np.array_split(np.ones(values, dtype=np.float32), cores())
    with ThreadPoolExecutor(len(parts)) as pool:
        return 4.0 * values / pace(lambda: list(pool.map(np.max, parts)), seconds)


def pace(work: Callable[[], object], seconds: float) -> float:
    """Seconds that one call of `work` takes, the mean over about so many seconds."""
    for _ in range(_WARM_UP):
        work()
    count, started = 0, time.perf_counter()
    while True:
        work()
        count += 1
        spent = time.perf_counter() - started
        if spent >= seconds:
            return spent / count


def busy_share() -> float:
    """Share of the processor that other processes keep busy now, from 0 to 1; 0 where the system does not tell."""
    before, mine = _processor_ticks(), time.process_time()
    if before is None:
        return 0.0
    time.sleep(_LOOK_S)
    after = _processor_ticks()
    if after is None or after[1] <= before[1]:
        return 0.0
    whole = (after[1] - before[1]) / os.sysconf("SC_CLK_TCK")
    others = (after[0] - before[0]) / os.sysconf("SC_CLK_TCK") - (time.process_time() - mine)
    return min(1.0, max(0.0, others / whole))


def identity() -> str:
    """What a measurement is of: the processor, its cores and the package that multiplies."""
    return f"{cpu_model()}, {cores()} cores, torch {packages().get('torch', 'none')}"


def _processor_ticks() -> tuple[int, int] | None:
    """Ticks in which the processor was busy, and all of them, since the system began."""
    try:
        line = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
    except (OSError, ValueError):
        return None
    ticks = [int(word) for word in line.split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4], sum(ticks)) if len(ticks) == 8 else None


def _load() -> float:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return 0.0


def _disk(folder: Path) -> tuple[float, float]:
    """Bytes per second to and from the disk that holds `folder`; 0 where nothing can be written there."""
    place = folder.absolute()
    while not place.is_dir():
        place = place.parent
    chunk = os.urandom(_CHUNK)
    try:
        with TemporaryFile(dir=place, buffering=0) as file:
            started = time.perf_counter()
            for _ in range(_DISK_BYTES // _CHUNK):
                file.write(chunk)
            os.fsync(file.fileno())
            written = time.perf_counter() - started
            if hasattr(os, "posix_fadvise"):  # else it is read from memory
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            started = time.perf_counter()
            while file.read(_CHUNK):
                pass
            read = time.perf_counter() - started
    except OSError:
        return 0.0, 0.0
    return _DISK_BYTES / max(written, 1e-9), _DISK_BYTES / max(read, 1e-9)


def _kept(file: Path) -> MachineSpeed | None:
    """What a file holds; None where it holds no such thing."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return read_speed(found) if isinstance(found, Mapping) else None


def read_speed(found: Mapping[str, Any]) -> MachineSpeed | None:
    """The speed that `as_json` gave; None where it is another thing."""
    try:
        values = {one.name: found[one.name] for one in fields(MachineSpeed)}
        numbers = {name: float(value) for name, value in values.items() if name != "machine"}
    except (KeyError, TypeError, ValueError):
        return None
    return MachineSpeed(**numbers, machine=str(values["machine"]))
