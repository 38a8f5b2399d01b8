"""Conversations: the three forms, what is refused with which rows, duplicates, and a split that contents alone give."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfpint.data.conversations import ChatData, Conversation, Conversations, Message, _split, prepare_chat
from halfpint.errors import HalfpintError
from halfpint.progress import SILENT, Log

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "instructions_small" / "instruction_data_1100.json"

PAIRS = [(f"What comes after {number}?", f"{number + 1} comes after it.") for number in range(40)]
OPENAI = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in PAIRS]
SHAREGPT = [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in PAIRS]
ALPACA = [{"instruction": q, "input": "", "output": a} for q, a in PAIRS]


class Told(Log):
    """Keeps what was said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str, kind: str = "said", **fields: Any) -> None:
        self.lines.append(text)


def write(path: Path, rows: list[Any]) -> Path:
    """By the ending: JSON, JSONL, or either gzipped."""
    text = "\n".join(map(json.dumps, rows)) if ".jsonl" in path.name else json.dumps(rows, indent=1)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def prepared(path: Path, rows: list[Any], log: Log = SILENT, **settings: Any) -> Conversations:
    return prepare_chat(ChatData(source=str(write(path, rows)), **settings), log)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz", "a.jsonl.gz"])
@pytest.mark.parametrize(("form", "rows"), [("OpenAI", OPENAI), ("ShareGPT", SHAREGPT), ("Alpaca", ALPACA)])
def test_all_forms_are_the_same_conversations(form: str, rows: list[Any], name: str, tmp_path: Path) -> None:
    log = Told()
    found = prepared(tmp_path / name, rows, log)
    wanted = {(Message("user", question), Message("assistant", answer)) for question, answer in PAIRS}
    assert {one.messages for one in (*found.train, *found.validation)} == wanted
    assert (len(found.train), len(found.validation)) == (36, 4)
    assert found.summary()["form"] == form and any(f"in the form of {form}" in line for line in log.lines)
    assert found.key == prepared(tmp_path / "other.json", OPENAI).key  # the form does not matter


def test_systems_inputs_histories_and_parts(tmp_path: Path) -> None:
    alpaca = {"instruction": "Add.", "input": "1, 2", "output": 3, "system": "Be short.", "history": [["Hi", "Hello"]]}
    found = prepared(tmp_path / "a.json", [alpaca, *ALPACA])
    one = next(one for one in (*found.train, *found.validation) if one.row == 1)
    assert one.as_dicts() == [
        {"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Add.\n\n1, 2"},
        {"role": "assistant", "content": "3"},
    ]  # fmt: skip
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b\ud800"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "c"}]
    found = prepared(tmp_path / "b.jsonl", [{"messages": messages}, *OPENAI])
    assert "ab\ufffd" in {one.messages[0].content for one in (*found.train, *found.validation)}


def said(*turns: str) -> dict[str, Any]:
    """Turns such as "user:Hello"."""
    return {"messages": [dict(zip(("role", "content"), turn.split(":"), strict=True)) for turn in turns]}


FAULTS = [
    (said("user:a"), "no assistant turn"),
    (said("user:a", "assistent:b"), "the unknown role 'assistent'"),
    (said("user:a", "assistant: "), "empty content"),
    (said("assistant:a", "user:b", "assistant:c"), "roles out of order"),
    (said("user:a", "user:b", "assistant:c"), "roles out of order"),
    (said("user:a", "system:b", "assistant:c"), "roles out of order"),
    ({"messages": []}, "no messages"),
    ({"messages": "user: a"}, "no messages"),
    ({"messages": ["a"]}, "a message that is no object"),
    ({"messages": [{"content": "a"}]}, "a message without a role"),
    ({"messages": [{"role": "user", "content": {"image": 1}}]}, "content that is no text"),
]


@pytest.mark.parametrize(("row", "fault"), FAULTS)
def test_a_fault_is_told_with_its_row(row: dict[str, Any], fault: str, tmp_path: Path) -> None:
    with pytest.raises(HalfpintError) as caught:
        prepared(tmp_path / "a.jsonl", [*OPENAI[:2], row, *OPENAI[2:]])
    assert fault in caught.value.got and "(row 3)" in caught.value.got
    found = prepared(tmp_path / "a.jsonl", [*OPENAI[:2], row, *OPENAI[2:]], drop_faulty=True)
    assert [drop["rows"] for drop in found.summary()["dropped"]] == [[3]]
    assert len(found.train) + len(found.validation) == len(OPENAI)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(HalfpintError) as caught:
        prepared(tmp_path / "a.json", [*(row for row, _ in FAULTS), *OPENAI])
    assert all(fault in caught.value.got for _, fault in FAULTS)
    with pytest.raises(HalfpintError, match="at least one sound conversation, got none"):
        prepared(tmp_path / "a.json", [row for row, _ in FAULTS], drop_faulty=True)


def test_other_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HalfpintError, match=r"conversations \(ShareGPT\).*got prompt, answer"):
        prepared(tmp_path / "a.json", [{"prompt": "a", "answer": "b"}])
    with pytest.raises(HalfpintError, match="Did you mean 'messages'"):
        prepared(tmp_path / "a.json", [{"mesages": []}])
    with pytest.raises(HalfpintError, match="conversations to learn from and some to choose by, got 1 and 0"):
        prepared(tmp_path / "a.json", OPENAI[:1])
    with pytest.raises(HalfpintError, match="validation_share"):
        prepared(tmp_path / "a.json", OPENAI, validation_share=0.9)


def test_duplicates_and_unanswered_questions_are_told(tmp_path: Path) -> None:
    log = Told()
    longer = said("user:a", "assistant:b", "user:c")
    found = prepared(tmp_path / "a.json", [*OPENAI, OPENAI[0], longer, OPENAI[7]], log)
    assert found.summary()["dropped"][0]["rows"] == [41, 43]
    assert any("2 conversations that are there already" in line and "rows 41, 43" in line for line in log.lines)
    assert any("a user's turn that nobody answers" in line and "row 42" in line for line in log.lines)
    one = next(one for one in (*found.train, *found.validation) if one.row == 42)
    assert [message.role for message in one.messages] == ["user", "assistant"]


def test_validation_of_its_own(tmp_path: Path) -> None:
    held = write(tmp_path / "held.json", OPENAI[:5])
    found = prepared(tmp_path / "a.json", OPENAI, validation=str(held))
    assert (len(found.train), len(found.validation)) == (35, 5)
    assert found.summary()["dropped"][0]["rows"] == [1, 2, 3, 4, 5]


@given(st.permutations(range(30)), st.integers(0, 5), st.sampled_from([0.05, 0.1, 0.3]))
def test_the_split_is_by_content(order: list[int], seed: int, share: float) -> None:
    """The order of the file changes nothing, and no question is on both sides."""
    rows = [
        Conversation((Message("user", f"question {number % 20}"), Message("assistant", f"answer {number}")), number)
        for number in range(30)
    ]
    train, held = _split(rows, share, seed)
    again, held_again = _split([rows[number] for number in order], share, seed)
    assert {one.row for one in again} == {one.row for one in train}
    assert {one.row for one in held_again} == {one.row for one in held}
    assert len(train) + len(held) == 30 and held and train
    assert not {one.question_key for one in train} & {one.question_key for one in held}


def test_another_seed_is_another_split(tmp_path: Path) -> None:
    one, same, other = (prepared(tmp_path / "a.json", OPENAI, seed=seed) for seed in (0, 0, 1))
    assert one == same and one.key != other.key


def test_real_instructions() -> None:
    if not REAL.is_file():
        pytest.skip("the shared data is not here")
    found = prepare_chat(ChatData(source=str(REAL)), SILENT)
    assert found.summary()["form"] == "Alpaca"
    assert (len(found.train), len(found.validation)) == (989, 111)
    assert found.summary()["dropped"] == []
