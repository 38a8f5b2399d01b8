from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from halfpint import machine
from halfpint.energy import (
    CARBON_VARIABLE,
    DEFAULT_WATTS_PER_THREAD,
    EnergyMeter,
    carbon_intensity,
    thread_watts,
)
from halfpint.errors import HalfpintError


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that holds little: what it takes is what its processor does, however long it is kept waiting."""
    monkeypatch.setattr("halfpint.energy.peak_memory_bytes", lambda: 10_000_000)


def _work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1000))


def _zone(folder: Path, name: str, microjoules: int, span: int = 1_000_000) -> Path:
    folder.mkdir(parents=True)
    (folder / "name").write_text(name + "\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{span}\n")
    return folder / "energy_uj"


def test_a_block_takes_energy() -> None:
    with EnergyMeter() as meter:
        _work(0.02)
        so_far = meter.energy.wh
    found = meter.energy
    assert found.wh >= so_far >= 0
    assert found.wh > 0
    assert found.source in ("measured", "modelled")
    assert found.seconds > 0.01
    assert found.method
    assert found.co2e_g == pytest.approx(found.wh / 1000 * carbon_intensity())
    assert meter.energy == found


@pytest.mark.usefixtures("_small")
def test_more_work_takes_more(tmp_path: Path) -> None:
    with EnergyMeter(tmp_path) as little:
        _work(0.02)
    with EnergyMeter(tmp_path) as much:
        _work(0.3)
    assert (little.energy.source, much.energy.source) == ("modelled", "modelled")
    assert much.energy.wh > 2 * little.energy.wh


@pytest.mark.usefixtures("_small")
def test_waiting_takes_less_than_working(tmp_path: Path) -> None:
    with EnergyMeter(tmp_path) as waiting:
        time.sleep(0.2)
    with EnergyMeter(tmp_path) as working:
        _work(0.2)
    assert working.energy.wh > 2 * waiting.energy.wh > 0


def test_children_that_were_waited_for_count(tmp_path: Path) -> None:
    code = "import time\nwhile time.process_time() < 0.3: pass"
    with EnergyMeter(tmp_path) as meter:
        subprocess.run([sys.executable, "-c", code], check=True)
    watts, _ = thread_watts(machine.cpu_model(), machine.instructions())
    assert meter.energy.wh >= 0.25 * watts / 3600


def test_the_model_is_the_stated_one(tmp_path: Path) -> None:
    with EnergyMeter(tmp_path) as meter:
        _work(0.1)
    watts, basis = thread_watts(machine.cpu_model(), machine.instructions())
    memory = 3 / 8e9 * machine.peak_memory_bytes()
    joules = meter.energy.wh * 3600
    assert joules == pytest.approx(0.1 * watts + meter.energy.seconds * memory, rel=0.25)
    assert basis in meter.energy.method


def test_counters_are_read_where_they_are(tmp_path: Path) -> None:
    package = _zone(tmp_path / "intel-rapl:0", "package-0", 400_000)
    memory = _zone(tmp_path / "intel-rapl:0:1", "dram", 900_000)
    inner = _zone(tmp_path / "intel-rapl:0:0", "core", 0)
    whole = _zone(tmp_path / "intel-rapl:1", "psys", 0)
    with EnergyMeter(tmp_path) as meter:
        package.write_text("500000")
        inner.write_text("90000")
        whole.write_text("900000")
        assert meter.energy.wh == pytest.approx(0.1 / 3600)
        memory.write_text("100000")  # it wrapped: 100,000 to its largest value, then 100,000 more
    assert meter.energy.wh == pytest.approx((0.1 + 0.2) / 3600)
    assert meter.energy.source == "measured"


def test_counters_that_cannot_be_read_are_not_relied_on(tmp_path: Path) -> None:
    package = _zone(tmp_path / "intel-rapl:0", "package-0", 400_000)
    with EnergyMeter(tmp_path) as meter:
        package.unlink()
    assert meter.energy.source == "modelled"
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("")
    with EnergyMeter(tmp_path) as meter:
        _work(0.01)
    assert meter.energy.source == "modelled"
    assert meter.energy.wh > 0


def test_a_meter_that_measured_nothing_says_so() -> None:
    with pytest.raises(RuntimeError, match="nothing yet"):
        _ = EnergyMeter().energy


@pytest.mark.parametrize(
    ("model", "watts"),
    [
        ("AMD EPYC 9R14", 360 / 192),
        ("AMD EPYC 7R13 Processor", 280 / 128),
        ("AMD EPYC", 280 / 128),
        ("AMD Ryzen 9 7950X 16-Core Processor", 170 / 32),
        ("AMD Ryzen 7 PRO 6850U with Radeon Graphics", 28 / 16),
        ("AMD Ryzen 5 5600X 6-Core Processor", 65 / 12),
        ("Intel(R) Xeon(R) Platinum 8488C", 350 / 112),
        ("Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz", 270 / 80),
        ("Intel(R) Xeon(R) CPU E5-2686 v4 @ 2.30GHz", 120 / 28),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", 205 / 56),
        ("11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz", 28 / 8),
        ("Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz", 28 / 8),
        ("12th Gen Intel(R) Core(TM) i7-12700H", 45 / 20),
        ("13th Gen Intel(R) Core(TM) i9-13900K", 125 / 20),
        ("Intel(R) Core(TM) Ultra 7 155H", 28 / 22),
        ("Intel(R) N100", 6 / 4),
        ("aarch64", DEFAULT_WATTS_PER_THREAD),
        ("Apple M2", DEFAULT_WATTS_PER_THREAD),
    ],
)
def test_processors_are_found_by_their_names(model: str, watts: float) -> None:
    assert thread_watts(model)[0] == watts


def test_a_processor_that_hides_its_number_is_known_by_its_instructions() -> None:
    bf16, amx = ("avx2", "avx512_vnni", "avx512_bf16"), ("avx512_bf16", "amx_int8")
    assert thread_watts("AMD EPYC", bf16)[0] == thread_watts("AMD EPYC 9R14")[0] == 360 / 192
    assert "EPYC 7763" in thread_watts("AMD EPYC", ("avx2",))[1]  # Zen 3 has no bfloat16
    assert thread_watts("AMD EPYC-Milan Processor 7R13", ("avx2",))[0] == 280 / 128
    assert thread_watts("Intel(R) Xeon(R) Processor", amx)[0] == 350 / 112
    assert thread_watts("Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz", amx)[0] == 270 / 80


def test_the_carbon_intensity_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(CARBON_VARIABLE, raising=False)
    assert carbon_intensity() == 473.0
    monkeypatch.setenv(CARBON_VARIABLE, "50")
    with EnergyMeter(tmp_path) as meter:
        _work(0.01)
    assert meter.energy.co2e_g == pytest.approx(meter.energy.wh * 0.05)


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_carbon_intensity_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(CARBON_VARIABLE, text)
    with pytest.raises(HalfpintError, match=CARBON_VARIABLE):
        carbon_intensity()


def test_the_machine_is_described() -> None:
    found = json.loads(json.dumps(machine.describe()))
    assert found["cpu"]
    assert found["cores"] == machine.cores() >= 1
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["packages"]["numpy"]
    assert set(found) == {"cpu", "cores", "memory_bytes", "os", "python", "instructions", "packages"}


def test_a_system_without_affinity_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    assert machine.cores() >= 1


def test_a_container_has_what_its_cgroup_lets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/self/cgroup": "0::/box/job\n",
        "/sys/fs/cgroup/box/job/memory.max": "max\n",
        "/sys/fs/cgroup/box/memory.max": "104857600\n",
        "/sys/fs/cgroup/box/job/cpu.max": "50000 100000\n",
    }
    monkeypatch.setattr(machine, "_text", lambda path: files.get(path.as_posix(), ""))
    assert machine.memory_bytes() == 104857600
    assert machine.cores() == 1


def test_memory_and_disk_are_positive_and_peak_memory_grows(tmp_path: Path) -> None:
    before = machine.peak_memory_bytes()
    assert 0 < before < machine.memory_bytes()
    ballast = bytearray(before + 50_000_000)
    assert machine.peak_memory_bytes() > before + 40_000_000
    assert len(ballast) > before
    assert machine.available_disk_bytes(tmp_path / "not" / "yet" / "there") > 0
