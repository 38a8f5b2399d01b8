"""The core alone: what an installation without the extra `train` does, and what it says of the rest."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TICKETS = ROOT / "examples" / "tickets.csv"
PATIENCE_S = 300

# As if nothing of the extra were installed: no import, and no trace of it to find.
BLOCK = """
import sys

GONE = {"accelerate", "cleanlab", "datasets", "huggingface_hub", "onnx", "onnxscript", "pandas", "pyarrow", "scipy",
        "sklearn", "torch", "transformers"}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in GONE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(scope="session")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `best` of `halfpint fit examples/tickets.csv --base none`, made once for this file and test_cli.py."""
    out = tmp_path_factory.getbasetemp() / "fitted"
    if not (out / "report.json").is_file():
        command = [sys.executable, "-m", "halfpint", "fit", str(TICKETS), "--base", "none", "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return out / "best"


@pytest.fixture
def core(tmp_path: Path) -> dict[str, str]:
    """An environment whose Python has the core's packages alone."""
    (tmp_path / "sitecustomize.py").write_text(BLOCK, encoding="utf-8")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src")]), "PYTHONUNBUFFERED": "1"}


def halfpint(core: dict[str, str], *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "halfpint", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=core, check=False, timeout=PATIENCE_S)


def test_the_packages_are_gone(core: dict[str, str]) -> None:
    for package in ("torch", "sklearn"):
        done = subprocess.run([sys.executable, "-c", f"import {package}"], env=core, capture_output=True, check=False)
        assert done.returncode == 1 and b"ModuleNotFoundError" in done.stderr


def test_check(core: dict[str, str]) -> None:
    done = halfpint(core, "check", TICKETS)
    assert done.returncode == 0, done.stderr
    assert "404 rows" in done.stdout
    assert "labels were not checked for mistakes" in done.stdout and "pip install 'halfpint[train]'" in done.stdout


def test_predict(core: dict[str, str], best: Path, tmp_path: Path) -> None:
    done = halfpint(core, "predict", best, "I was charged twice this month", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["label"] == "billing"
    labelled = tmp_path / "labelled.csv"
    assert halfpint(core, "predict", best, "--file", TICKETS, "--out", labelled).returncode == 0
    assert labelled.read_text(encoding="utf-8").startswith("text,category,category_predicted,category_probability\n")


def test_evaluate(core: dict[str, str], best: Path) -> None:
    done = halfpint(core, "evaluate", best, TICKETS, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"] > 0.8


def test_report(core: dict[str, str], best: Path) -> None:
    done = halfpint(core, "report", best.parent)
    assert done.returncode == 0, done.stderr
    assert "tfidf-small-int8" in done.stdout and f"halfpint predict {best}" in done.stdout


def test_serve_answers_and_ends_when_told(core: dict[str, str], best: Path) -> None:
    command = [sys.executable, "-m", "halfpint", "serve", str(best), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=core) as server:
        assert server.stderr is not None
        try:
            told = ""
            while not told.startswith("Ready: "):
                told = server.stderr.readline()
                assert told, "it ended before it was ready"
            found = re.search(r"http://[\w.]+:\d+", told)
            assert found is not None, told
            request = urllib.request.Request(
                f"{found[0]}/v1/classify",
                data=json.dumps({"text": "the app crashes when I open it"}).encode(),
                headers={"Content-Type": "application/json"},
            )
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(request, timeout=PATIENCE_S) as response:
                assert json.load(response)["results"][0]["label"] == "bug"
            server.send_signal(signal.SIGTERM)
            assert server.wait(PATIENCE_S) == 0
        finally:
            server.kill()


def test_fit_says_what_to_install_and_writes_nothing(core: dict[str, str], tmp_path: Path) -> None:
    done = halfpint(core, "fit", TICKETS, "--out", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: The package scikit-learn is not installed")
    assert "pip install 'halfpint[train]'" in done.stderr
    assert not (tmp_path / "out").exists()
