"""Two processes that train together come to what one comes to. As a script it is one of them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from halfpint.progress import Log
from halfpint.stage import Work
from halfpint.tasks import predict
from halfpint.train.pretrain import Pretrain

pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("transformers", reason="training needs transformers")


class Kept(Log):
    """Keeps the losses of the steps."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.losses: list[float] = []

    def event(self, kind: str, **fields: Any) -> None:
        if kind == "step":
            self.losses.append(fields["loss"])


def train_in(folder: Path) -> tuple[list[float], float]:
    """The losses that this process tells of, and the final score."""
    texts = [f"The number {n} is followed by {n + 1}, and {n} twice is {2 * n}." for n in range(200)]
    corpus = SimpleNamespace(train=texts[20:], validation=texts[:20], key="numbers")
    log = Kept()
    work = Work(
        target=folder / "made", scratch=folder / "scratch", task=predict, train=(), validation=(), labels=(), log=log,
        corpus=corpus,
    )  # fmt: skip
    stage = Pretrain(
        size="60k", vocabulary=300, context=32, batch_tokens=256, tokens=1536, evaluations=1, evaluation_tokens=256,
        learning_rate=5e-3,
    )  # fmt: skip
    made = stage.run(None, work)
    return log.losses, made.card["stages"][-1]["best_score"]


def train_together(folder: Path, processes: int) -> list[tuple[list[float], float]]:
    """What each of so many processes gives."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    started = []
    for rank in range(processes):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        started.append(
            subprocess.Popen(
                [sys.executable, __file__, str(folder)], env={**os.environ, **place, **address},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    given = []
    for process in started:
        out, told = process.communicate(timeout=120)
        assert process.returncode == 0, told
        given.append(tuple(json.loads(out.splitlines()[-1])))
    return given


def test_two_processes_are_as_one(tmp_path: Path) -> None:
    (first, together), (second, _) = train_together(tmp_path, 2)
    alone, score = train_in(tmp_path / "alone")
    assert len(alone) == len(first) == 6
    assert second == []  # one tells
    assert first == pytest.approx(alone, abs=1e-4)
    assert together == pytest.approx(score, abs=1e-3)
    assert alone[-1] < alone[0] - 0.3


if __name__ == "__main__":
    print(json.dumps(train_in(Path(sys.argv[1]))))
