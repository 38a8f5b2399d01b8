"""Energy of this process' work: read from the processor's counters where they can be read, else modelled."""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from halfpint.errors import HalfpintError
from halfpint.machine import cpu_model, instructions, peak_memory_bytes
from halfpint.progress import Log, events_of

CARBON_VARIABLE = "HALFPINT_CARBON_G_PER_KWH"
WORLD_G_PER_KWH = 473.0
DEFAULT_WATTS_PER_THREAD = 4.0
MEMORY_WATTS_PER_BYTE = 3.0 / 8e9

_POWERCAP = Path("/sys/class/powercap")
_SAMPLE_EVERY_S = 30.0
_EVENT = "energy"

# What the model's name matches, an instruction set that the processor has besides ("": any) -> a processor of that
# family, its thermal design power in watts (the maker's figure) and its hardware threads. The first match counts.
# Virtual machines hide the model's number: then the instructions tell the generation.
_TDP = (
    (r"epyc 9", "", "EPYC 9654", 360, 192),
    (r"epyc(?! *7)", "avx512_bf16", "EPYC 9654", 360, 192),
    (r"epyc", "", "EPYC 7763", 280, 128),
    (r"threadripper", "", "Ryzen Threadripper 3970X", 280, 64),
    (r"ryzen.*\d(u|hs|h)\b", "", "Ryzen 7 7840U", 28, 16),
    (r"ryzen 9", "", "Ryzen 9 7950X", 170, 32),
    (r"ryzen", "", "Ryzen 5 5600X", 65, 12),
    (r"xeon.*(platinum|gold) [86]4", "", "Xeon Platinum 8480+", 350, 112),
    (r"xeon.*(platinum|gold) [86]3", "", "Xeon Platinum 8380", 270, 80),
    (r"xeon(?!.*\d{4})", "amx_int8", "Xeon Platinum 8480+", 350, 112),
    (r"xeon.*e[57]-", "", "Xeon E5-2680 v4", 120, 28),
    (r"xeon", "", "Xeon Platinum 8280", 205, 56),
    (r"core.*ultra", "", "Core Ultra 7 155H", 28, 22),
    (r"i\d-\d+(u|p|g\d)\b", "", "Core i7-1165G7", 28, 8),
    (r"i\d-\d+(h|hk|hx|hq)\b", "", "Core i7-12700H", 45, 20),
    (r"core.*i\d-", "", "Core i7-12700K", 125, 20),
    (r"\bn\d{2,3}\b", "", "N100", 6, 4),
)


@dataclass(frozen=True)
class Energy:
    """What a piece of work took.

    wh: watt-hours; co2e_g: grams of CO2 equivalent at `carbon_intensity()`; seconds: wall time;
    source: "measured" (hardware counters) or "modelled" (from processor seconds); method: how, in one sentence.
    """

    wh: float
    co2e_g: float
    source: Literal["measured", "modelled"]
    seconds: float
    method: str


def carbon_intensity() -> float:
    """Grams of CO2 equivalent a kWh: HALFPINT_CARBON_G_PER_KWH of the environment, else the world's average, 473.

    Raises:
        HalfpintError: the variable is not a number of 0 or more.

    Source: Ember, Global Electricity Review 2025: 473 g for the electricity generated worldwide in 2024.
    """
    text = os.environ.get(CARBON_VARIABLE, "").strip()
    try:
        value = float(text) if text else WORLD_G_PER_KWH
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise HalfpintError(
            f"the environment variable {CARBON_VARIABLE}",
            wanted="grams of CO2 equivalent a kWh, a number of 0 or more",
            got=repr(text),
            todo=f"Set it to your grid's figure, or unset it for the world's average of {WORLD_G_PER_KWH:.0f}.",
        )
    return value


class EnergyMeter:
    """Measures the energy of the block it stands around: `with EnergyMeter() as meter: ...`, then `meter.energy`.

    Where the processor's energy counters (RAPL, of Intel and AMD under Linux) can be read, they are: they count the
    whole processor and its memory, whatever else runs on it. Else energy is modelled, linear in the work done:

    - processor: its thermal design power shared out evenly over its hardware threads, times the processor seconds of
      this process and of the children it has waited for (a child still running is not counted);
    - memory: 3 W for 8 GB (CodeCarbon's constant, from a memory maker's figure) of this process' peak resident memory,
      times wall seconds. The rest of the machine's memory is not this process' work.

    A processor that the table does not know takes 4 W a thread, in the range of 3.5 to 4.3 W that the Cloud Carbon
    Footprint methodology gives for a busy virtual CPU of the large clouds. Graphics processors are not counted.
    """

    def __init__(self, powercap: Path = _POWERCAP) -> None:
        self._powercap = powercap
        self._running = False
        self._counters: _Counters | None = None
        self._energy: Energy | None = None
        self._started = self._cpu_started = 0.0

    def __enter__(self) -> Self:
        self._energy, self._running = None, True
        self._counters = _Counters.open(self._powercap)
        self._started, self._cpu_started = time.perf_counter(), _cpu_seconds()
        return self

    def __exit__(self, *error: object) -> None:
        self._energy = self._read()
        self._running = False
        if self._counters:
            self._counters.close()

    @property
    def energy(self) -> Energy:
        """Energy of the block, or of what has run of it so far."""
        if self._energy is None and not self._running:
            raise RuntimeError("EnergyMeter has measured nothing yet: use it as `with EnergyMeter() as meter:`")
        return self._energy or self._read()

    def _read(self) -> Energy:
        seconds, cpu_seconds = time.perf_counter() - self._started, _cpu_seconds() - self._cpu_started
        joules = self._counters.joules() if self._counters else None
        source: Literal["measured", "modelled"] = "modelled" if joules is None else "measured"
        if joules is None:
            watts_per_thread, basis = thread_watts(cpu_model(), instructions())
            memory_watts = MEMORY_WATTS_PER_BYTE * peak_memory_bytes()
            joules = watts_per_thread * cpu_seconds + memory_watts * seconds
            method = (
                f"{watts_per_thread:.2f} W per busy thread ({basis}) over {cpu_seconds:.2f} processor seconds, "
                f"and {memory_watts:.2f} W of memory (3 W for 8 GB of peak resident memory) over {seconds:.2f} s"
            )
        else:
            method = "energy counters (RAPL) of the whole processor and its memory, whatever else ran on it"
        wh = joules / 3600
        return Energy(wh=wh, co2e_g=wh / 1000 * carbon_intensity(), source=source, seconds=seconds, method=method)


@contextmanager
def metered(log: Log) -> Iterator[None]:
    """Tell in the events, as "energy", what the body took; also where it is interrupted.

    Where no file of events was begun nothing is told: held back, it would count for whatever the log is used for next.
    """
    with EnergyMeter() as meter:
        try:
            yield
        finally:
            if log.events is not None:
                log.event(_EVENT, **vars(meter.energy))


def modelled(seconds: float, memory_bytes: float, threads: float) -> Energy:
    """What work would take that keeps so many hardware threads busy and so much memory resident, as `EnergyMeter`
    models it where there are no counters.

    Raises:
        HalfpintError: as `carbon_intensity`.
    """
    watts_per_thread, basis = thread_watts(cpu_model(), instructions())
    watts = watts_per_thread * threads + MEMORY_WATTS_PER_BYTE * memory_bytes
    wh = watts * seconds / 3600
    method = f"{watts_per_thread:.2f} W per busy thread ({basis}), and 3 W for 8 GB of memory"
    return Energy(
        wh=wh, co2e_g=wh / 1000 * carbon_intensity(), source="modelled", seconds=seconds, method=method
    )  # fmt: skip


def energy_spent(events: Path | None) -> dict[str, Any]:
    """What a run took, all its parts between interruptions together: the sum of its events "energy".

    Gives "wh", "co2e_g", "seconds", "source" ("modelled" if a part was) and "method"; nothing where there are none. A
    part that was killed outright has told nothing.
    """
    parts = [one for one in events_of(events) if one.get("event") == _EVENT]
    if not parts:
        return {}
    sums = {name: sum(float(one[name]) for one in parts) for name in ("wh", "co2e_g", "seconds")}
    modelled = any(one["source"] == "modelled" for one in parts)
    return {**sums, "source": "modelled" if modelled else "measured", "method": parts[-1]["method"]}


def thread_watts(model: str, instruction_sets: Collection[str] = ()) -> tuple[float, str]:
    """Watts of one busy hardware thread of the processor called `model`, and in words what that rests on."""
    for pattern, needed, example, watts, threads in _TDP:
        if re.search(pattern, model, re.IGNORECASE) and (not needed or needed in instruction_sets):
            return watts / threads, f"{watts} W over {threads} threads, as of an {example}"
    return DEFAULT_WATTS_PER_THREAD, "the default, as the processor is not in the table"


def _cpu_seconds() -> float:
    """Processor seconds of this process, and of those children that have ended and been waited for."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


class _Counters:
    """RAPL's energy counters, summed; read now and then in the background, so that none wraps twice unseen."""

    def __init__(self, zones: list[tuple[Path, int]]) -> None:
        self._zones = zones
        self._last = [_integer(file) for file, _ in zones]
        self._microjoules = 0
        self._broken = None in self._last
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._sample, daemon=True, name="halfpint-energy").start()

    @classmethod
    def open(cls, powercap: Path) -> _Counters | None:
        """The counters of packages and memory under `powercap`; None where there is none that can be read."""
        zones = []
        for file in sorted(powercap.glob("intel-rapl:*/energy_uj")):
            # Zones inside a package (core, uncore) are part of its figure, and psys contains the packages.
            name = _read(file.parent / "name")
            if name.startswith("package") or name == "dram":
                if _integer(file) is None:
                    return None
                zones.append((file, _integer(file.parent / "max_energy_range_uj") or 0))
        return cls(zones) if zones else None

    def joules(self) -> float | None:
        """Joules since the counters were opened; None once one of them could not be read."""
        with self._lock:
            for index, (file, span) in enumerate(self._zones):
                value, last = _integer(file), self._last[index]
                if value is None or last is None:
                    self._broken = True
                    break
                # The counter's range is its largest value: it starts again from 0 after it.
                self._microjoules += value - last if value >= last else value - last + span
                self._last[index] = value
            return None if self._broken else self._microjoules / 1e6

    def close(self) -> None:
        self._closed.set()

    def _sample(self) -> None:
        while not self._closed.wait(_SAMPLE_EVERY_S):
            self.joules()


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _integer(file: Path) -> int | None:
    text = _read(file)
    return int(text) if text.isdigit() else None
