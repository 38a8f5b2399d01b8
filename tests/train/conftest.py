"""What the tests of language model training share: a log that interrupts, a random Llama, and a way to run a stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from halfpint.bundle import Bundle, Kind, new_bundle, open_bundle
from halfpint.lookup import open_task
from halfpint.models import sizes
from halfpint.progress import SILENT, Log
from halfpint.stage import Stage, Work
from halfpint.task import Split
from halfpint.tokenizers.train import TokenizerSettings, train_tokenizer

CONTEXT, VOCABULARY = 96, 320
WORDS = ("one", "two", "three", "four", "five", "six", "red", "green", "blue", "north", "south", "east", "west")
NOTHING: Split[Any] = Split(train=(), validation=())
TEXTS = [f"Say {word} and {other}." for word in WORDS for other in WORDS]


class Interrupting(Log):
    """Keeps the losses of the steps, what was said and the plan, and raises KeyboardInterrupt after a step."""

    def __init__(self, after: int = 0) -> None:
        super().__init__(quiet=True)
        self.after = after
        self.losses: dict[int, float] = {}
        self.lines: list[str] = []
        self.plan: dict[str, Any] = {}

    def say(self, text: str, kind: str = "said", **fields: Any) -> None:
        self.lines.append(text)
        super().say(text, kind, **fields)

    def event(self, kind: str, **fields: Any) -> None:
        super().event(kind, **fields)
        if kind == "plan":
            self.plan = fields
        if kind == "step":
            self.losses[fields["step"]] = fields["loss"]
            if fields["step"] == self.after:
                raise KeyboardInterrupt


@pytest.fixture(scope="session")
def interrupting() -> type[Interrupting]:
    """The log itself."""
    return Interrupting


@pytest.fixture(scope="session")
def random_llama(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """Makes a bundle with random weights and a tokenizer of these texts; `use` is the stage that its card tells of."""

    def make(texts: Sequence[str] = TEXTS, *, template: bool = True, use: str = "models/pull_language") -> Bundle:
        import torch

        folder = tmp_path_factory.mktemp("bases")
        train_tokenizer(texts, TokenizerSettings(vocab_size=VOCABULARY), folder / "tokenizer", SILENT)
        if not template:
            (folder / "tokenizer" / "chat_template.jinja").unlink()
        size, _ = sizes.size_dial("llama", 60_000, VOCABULARY, CONTEXT)
        torch.manual_seed(0)
        model = sizes.new_model("llama", {**size, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1})
        with new_bundle(folder / "base", kind=Kind.LANGUAGE) as (made, card):
            model.save_pretrained(made)
            for file in (folder / "tokenizer").iterdir():
                (made / file.name).write_bytes(file.read_bytes())
            card.update(task="predict", engine="torch_lm")
            card["stages"].append({"use": use, "settings": {"base": "random"}, "seconds": 0.0})
        return open_bundle(folder / "base")

    return make


@pytest.fixture(scope="session")
def run_stage(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Bundle, Interrupting]]:
    """Runs a stage in a folder (its scratch is "unfinished" there): gives the bundle and what was logged."""

    def go(
        stage: Stage, folder: Path | None = None, after: int = 0, *, learns: Split[Any] = NOTHING,
        parent: Bundle | None = None, task: str = "predict",
    ) -> tuple[Bundle, Interrupting]:  # fmt: skip
        folder, log = folder or tmp_path_factory.mktemp("made"), Interrupting(after)
        work = Work(
            target=folder / "made", scratch=folder / "unfinished", task=open_task(task), split=learns, labels=(),
            log=log,
        )  # fmt: skip
        return open_bundle(stage.run(parent, work).path), log

    return go
