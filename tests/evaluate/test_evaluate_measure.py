from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import halfpint
from halfpint.bundle import Bundle, new_bundle, open_bundle, write_json
from halfpint.data.examples import Example
from halfpint.errors import DeadlineError, HalfpintError
from halfpint.evaluate import probe
from halfpint.evaluate.evaluate import evaluate
from halfpint.evaluate.measure import Measurement, measure
from halfpint.lookup import open_task
from halfpint.outputs import Outputs
from halfpint.progress import Log

PATIENCE_S = 300
pytestmark = pytest.mark.from_scratch
TEXTS = [f"text {index}" for index in range(50)]


def _bundle(folder: Path, **config: Any) -> Bundle:
    with new_bundle(folder) as (inside, card):
        card["task"], card["engine"] = "classify", "majority"
        whole = {"model_type": "majority", "id2label": {"0": "a", "1": "b"}, "shares": [0.7, 0.3], **config}
        write_json(inside / "config.json", whole)
    return open_bundle(folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return _bundle(tmp_path_factory.mktemp("measure") / "bundle")


@pytest.fixture(scope="module")
def measured(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Measurement, dict[str, Any]]:
    events = tmp_path_factory.mktemp("log") / "events.jsonl"
    ballast = np.ones(25_000_000)  # 200 MB here must not weigh in what is measured there
    found = measure(bundle, TEXTS, threads=1, log=Log(events, quiet=True))
    assert ballast[-1] == 1.0
    return found, json.loads(events.read_text(encoding="utf-8").splitlines()[-1])


def test_measure_gives_every_figure(bundle: Bundle, measured: tuple[Measurement, dict[str, Any]]) -> None:
    found, event = measured
    assert np.asarray(found.outputs).dtype == np.float32
    assert found.outputs == pytest.approx(np.tile([0.7, 0.3], (50, 1)))
    assert found.size_bytes == bundle.size_bytes > 0
    assert 0 < found.latency_p50_low_ms <= found.latency_p50_ms <= found.latency_p50_high_ms
    assert found.latency_p50_ms <= found.latency_p95_ms < found.cold_start_ms
    assert found.throughput_per_s > 0
    assert found.energy_wh_per_1000 > 0
    assert found.co2e_g_per_1000 > 0
    assert found.energy_source in ("measured", "modelled")
    assert event["event"] == "measured"
    assert event["latency_p50_ms"] == found.latency_p50_ms
    assert not {"outputs", "probabilities"} & set(event)


def test_memory_is_that_of_the_fresh_process_alone(measured: tuple[Measurement, dict[str, Any]]) -> None:
    assert 5_000_000 < measured[0].peak_memory_bytes < 150_000_000


def test_the_probe_needs_no_torch(bundle: Bundle, tmp_path: Path) -> None:
    write_json(tmp_path / "texts.json", ["a text"])
    code = (
        "import sys\n"
        "from halfpint.evaluate import evaluate, measure, probe\n"
        "code = probe.main(sys.argv[1:])\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'scipy', 'pyarrow', 'datasets', 'onnx'} & set(sys.modules)\n"
        "sys.exit(code or ', '.join(heavy) or 0)\n"
    )
    arguments = [str(bundle.path), str(tmp_path / "texts.json"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(halfpint.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    assert np.load(tmp_path / probe.PROBABILITIES, allow_pickle=False).shape == (1, 2)


def test_a_damaged_bundle_gives_its_own_error(tmp_path: Path) -> None:
    damaged = _bundle(tmp_path / "bundle")
    (damaged.path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(HalfpintError, match=r"config\.json.*damaged or was changed") as caught:
        measure(damaged, TEXTS)
    assert caught.value.place == str(damaged.path / "config.json")


@pytest.mark.parametrize(
    ("config", "told"),
    [({"shares": ["many", "few"]}, "could not convert"), ({"shares": [0.5, 0.3, 0.2]}, r"some of shape \(3,\)")],
    ids=["a crash", "another shape"],
)
def test_a_bundle_that_does_not_run_is_told(tmp_path: Path, config: dict[str, Any], told: str) -> None:
    with pytest.raises(HalfpintError, match=told):
        measure(_bundle(tmp_path / "bundle", **config), TEXTS)


def test_a_measurement_that_takes_too_long_is_ended(bundle: Bundle) -> None:
    with pytest.raises(DeadlineError, match=r"within 0\.05 s"):
        measure(bundle, TEXTS, timeout_s=0.05)


def test_no_text_is_an_error(bundle: Bundle) -> None:
    with pytest.raises(HalfpintError, match="at least one text"):
        measure(bundle, [])


@pytest.mark.skipif(not Path("/proc/thread-self/children").exists(), reason="needs /proc with a list of children")
def test_an_interrupt_ends_the_probe(tmp_path: Path) -> None:
    # The probe waits for ever for its texts: they come from a pipe that nobody writes to.
    folder = _bundle(tmp_path / "bundle").path
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from halfpint.bundle import open_bundle\n"
        "from halfpint.evaluate.measure import measure\n"
        "Path.write_text = lambda self, *rest, **named: os.mkfifo(self)\n"
        "measure(open_bundle(sys.argv[1]), ['a text'])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(halfpint.__file__).parents[1]), "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", code, str(folder)], env=environment, stderr=subprocess.PIPE)
    try:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        _wait(lambda: bool(children.read_text().split()))
        child = int(children.read_text().split()[0])
        _wait(lambda: b"halfpint.evaluate.probe" in Path(f"/proc/{child}/cmdline").read_bytes())
        parent.send_signal(signal.SIGINT)
        _, told = parent.communicate(timeout=PATIENCE_S)
    finally:
        parent.kill()
    assert parent.returncode != 0
    assert b"KeyboardInterrupt" in told
    _wait(lambda: _ended(child))  # it was killed; who reaps it then may take a moment
    assert not list(tmp_path.glob("halfpint-measure-*"))


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _wait(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


class _Counting:
    """An engine that answers at once and keeps what it was asked."""

    labels: tuple[str, ...] = ("a", "b")

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def probabilities(self, texts: Any) -> Outputs:
        self.calls.append(list(texts))
        numbers = np.array([int(text) for text in texts], dtype=np.float32)
        return np.stack([numbers, 1 - numbers], axis=1)


def test_latency_asks_one_text_at_a_time_in_a_fixed_shuffled_order() -> None:
    engine, again, texts = _Counting(), _Counting(), [str(number) for number in range(30)]
    found = probe.latencies(engine, texts)
    probe.latencies(again, texts)
    assert len(found) == 350
    assert len(engine.calls) == 360
    assert all(len(call) == 1 for call in engine.calls)
    order = [call[0] for call in engine.calls[10:40]]
    assert order != texts
    assert sorted(order, key=int) == texts
    assert engine.calls == again.calls


def test_a_pass_on_a_busy_machine_is_seen_in_the_range_alone() -> None:
    found = probe.latency_figures([[0.002, 0.003, 0.004], [0.002, 0.003, 0.004], [0.008, 0.009, 0.010]])
    assert found["latency_p50_ms"] == pytest.approx(4.0)
    assert (found["latency_p50_low_ms"], found["latency_p50_high_ms"]) == (pytest.approx(3.0), pytest.approx(9.0))


def test_latency_is_repeated_over_the_same_texts(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = _Counting()
    monkeypatch.setattr(probe, "open_engine", lambda *rest, **named: engine)
    probe.probe(bundle, [str(number) for number in range(30)], None, 0.0)
    singles = [call[0] for call in engine.calls[1:] if len(call) == 1]
    assert len(singles) == 3 * 360
    assert singles[:360] == singles[360:720] == singles[720:]


def test_throughput_keeps_the_order_of_the_texts() -> None:
    engine, texts = _Counting(), [str(number) for number in range(2500)]
    seconds, probabilities = probe.throughput(engine, texts)
    assert probabilities[:, 0].tolist() == list(range(2500))
    assert [len(call) for call in engine.calls[:3]] == [1024, 1024, 452]
    assert len(engine.calls) == 3 * len(seconds)


def test_outputs_of_several_units_a_text_come_back(tmp_path: Path) -> None:
    several = [np.full((units, 2), units / 4, np.float32) for units in (1, 0, 3)]
    for outputs in (several, np.concatenate(several)):
        folder = tmp_path / str(isinstance(outputs, np.ndarray))
        folder.mkdir()
        probe.write_outputs(outputs, 2, folder)
        found = probe.read_outputs(folder)
        assert len(found) == len(outputs)
        assert [one.tolist() for one in found] == [one.tolist() for one in outputs]
    probe.write_outputs([], 2, tmp_path)
    assert len(probe.read_outputs(tmp_path)) == 0


def test_evaluate_gives_figures_that_json_can_hold(bundle: Bundle) -> None:
    examples = [Example(text=f"text {row}", label="a" if row % 4 else "b", row=row) for row in range(2, 42)]
    found = json.loads(json.dumps(evaluate(bundle, examples, primary="f1_weighted"), allow_nan=False))
    assert found["accuracy"] == 0.75
    assert found["f1_macro"] == pytest.approx(0.75 * 2 / 1.75 / 2)
    assert found["primary"] == "f1_weighted"
    assert found["interval"] == found["intervals"]["f1_weighted"]
    assert set(found["intervals"]) == set(open_task("classify").metrics)
    low, high = found["intervals"]["accuracy"]
    assert low < 0.75 < high
    assert found["rows"] == 40
    assert found["confusion"] == {"labels": ["a", "b"], "matrix": [[30, 0], [10, 0]]}
    assert [row["support"] for row in found["per_class"]] == [30, 10]
    assert [row["row"] for row in found["worst"]] == list(range(4, 42, 4))
    for key in ("size_bytes", "latency_p50_ms", "latency_p95_ms", "texts_per_s", "cold_start_ms", "peak_memory_bytes"):
        assert found[key] > 0
    for key in ("energy_wh_per_1000", "co2e_g_per_1000", "calibration_error", "log_loss"):
        assert found[key] > 0
    assert not {"outputs", "probabilities", "answers"} & set(found)


def test_labels_that_the_bundle_does_not_know_are_told_with_their_rows(bundle: Bundle) -> None:
    examples = [Example("x", "a", 2), Example("x", "c", 3), Example("x", "", 4), Example("x", "c", 9)]
    with pytest.raises(HalfpintError) as caught:
        evaluate(bundle, examples)
    assert caught.value.got == "'c' (rows 3, 9), no label (row 4)"


def test_an_unknown_primary_metric_is_told_before_anything_is_measured(bundle: Bundle) -> None:
    with pytest.raises(HalfpintError, match="Did you mean 'accuracy'"):
        evaluate(bundle, [], primary="acuracy")
