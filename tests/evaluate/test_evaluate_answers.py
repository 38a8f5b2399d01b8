"""Language models on the answers of conversations, what is told while they read, and what a word is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from halfpint.bundle import Bundle
from halfpint.commands.evaluate import Evaluate
from halfpint.data.conversations import Conversations
from halfpint.data.documents import count_words
from halfpint.engines import open_language_engine
from halfpint.errors import HalfpintError
from halfpint.progress import SILENT

pytest.importorskip("torch", reason="training needs torch")


@pytest.fixture
def talks(conversations: Conversations, tmp_path: Path) -> Path:
    """The validation conversations that the bundle "chat" was judged on, as a file."""
    file = tmp_path / "talks.jsonl"
    file.write_text("\n".join(json.dumps({"messages": one.as_dicts()}) for one in conversations.validation))
    return file


def test_answers_are_judged_as_in_training(bundles: Callable[[str], Bundle], talks: Path) -> None:
    bundle = bundles("chat")
    told = Evaluate(bundle=str(bundle.path), data=str(talks)).run(SILENT)
    lines = talks.read_text().splitlines()
    assert (told.kind, told.figures["conversations"], told.figures["answers"]) == ("answers", len(lines), len(lines))
    trained = bundle.card["stages"][-1]["nats_per_assistant_token"]
    assert told.figures["nats_per_token"] == pytest.approx(trained, abs=1e-4)
    said = [json.loads(line)["messages"][1]["content"] for line in lines]
    assert told.figures["bytes"] == sum(len(text.encode()) for text in said)
    assert str(told).startswith(f"answers: {len(lines)} in {len(lines)} conversations\n")


def test_conversations_want_a_template_and_a_transformer(bundles: Callable[[str], Bundle], talks: Path) -> None:
    with pytest.raises(HalfpintError, match="--reference needs running text"):
        Evaluate(bundle=str(bundles("chat").path), data=str(talks), reference="x").run(SILENT)
    for name in ("ngram", "mixed"):
        with pytest.raises(HalfpintError, match="expected a Transformer, for conversations"):
            Evaluate(bundle=str(bundles(name).path), data=str(talks)).run(SILENT)


@pytest.mark.parametrize("name", ["language", "ngram", "masked"])
def test_the_shares_that_are_told_come_to_one(name: str, bundles: Callable[[str], Bundle]) -> None:
    shares: list[float] = []
    open_language_engine(bundles(name)).score(["one two three. " * 40, "four", "five six"], shares.append)
    assert sum(shares) == pytest.approx(1.0) and len(shares) >= (2 if name == "masked" else 1)


def test_words_are_counted_as_the_model_splits_them(bundles: Callable[[str], Bundle]) -> None:
    text = "Pourquoi\u00a0? Parce que\u2009!\nOui"
    assert count_words(text) == 4 + 2
    assert open_language_engine(bundles("ngram")).score([text])[0].tokens == count_words(text)
