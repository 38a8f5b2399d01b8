"""Two processes that torchrun starts make the model that one makes, and one of them tells. As a script it is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from halfpint.bundle import open_bundle
from halfpint.commands._learning import pretrain
from halfpint.data.corpus import CorpusData
from halfpint.progress import Log
from halfpint.train.pretrain import Pretrain

pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("transformers", reason="training needs transformers")


class Kept(Log):
    """Keeps the losses of the steps and what is told."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.kinds: list[str] = []

    def write(self, text: str) -> None:
        """Nothing on the terminal."""

    def event(self, kind: str, **fields: Any) -> None:
        super().event(kind, **fields)
        self.kinds.append(kind)
        if kind == "step":
            self.losses.append(fields["loss"])


def train_in(folder: Path, rank: str = "0") -> None:
    """Write what this process told of, and what it was given, to a file of its own."""
    source = folder.parent / "numbers.jsonl"
    stage = Pretrain(
        size="60k", vocabulary=300, context=32, batch_tokens=256, tokens=1536, evaluations=2, evaluation_tokens=256,
        learning_rate=5e-3, precision="fp32",
    )  # fmt: skip
    log = Kept()
    data = CorpusData(sources=(str(source),), clean=False, validation_share=0.1)
    result = pretrain(data, [stage], folder / "made", log)
    told = {"losses": log.losses, "kinds": log.kinds, "result": result}
    folder.joinpath(f"{rank}.json").write_text(json.dumps(told), encoding="utf-8")


def started(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Two processes of this file, or of what `words` say, to their end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, *(words or (__file__, str(folder)))], capture_output=True, text=True, timeout=900, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """A folder with a text beside it."""
    texts = [f"The number {n} is followed by {n + 1}, and {n} twice is {2 * n}." for n in range(400)]
    rows = [json.dumps({"text": text}) for text in texts]
    (tmp_path / "numbers.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "together").mkdir()
    return tmp_path / "together"


def test_two_processes_are_as_one(numbers: Path) -> None:
    done = started(numbers)
    assert done.returncode == 0, done.stderr[:3000]
    first, second = (json.loads((numbers / f"{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1))
    alone_in = numbers.parent / "alone"
    alone_in.mkdir()
    train_in(alone_in)
    alone = json.loads((alone_in / "0.json").read_text(encoding="utf-8"))
    assert len(alone["losses"]) == len(first["losses"]) == 6
    assert first["losses"] == pytest.approx(alone["losses"], abs=1e-4)
    assert alone["losses"][-1] < alone["losses"][0] - 0.3
    assert first["kinds"] == alone["kinds"] and second["kinds"] == []  # one tells
    assert open_bundle(numbers / "made").card["figures"]["validation"]["tokens"] > 100
    for name in ("perplexity", "bits_per_byte"):
        assert first["result"]["validation"][name] == pytest.approx(alone["result"]["validation"][name], rel=1e-3)
    entries = [told["result"]["stages"][-1] for told in (first, second, alone)]
    assert entries[0] == entries[1]  # all read what the first one wrote
    assert entries[0]["best_score"] == pytest.approx(entries[2]["best_score"], abs=1e-3)
    assert sorted(path.name for path in numbers.iterdir()) == ["0.json", "1.json", "made"]


if __name__ == "__main__":
    train_in(Path(sys.argv[1]), os.environ["RANK"])
