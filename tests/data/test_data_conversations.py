"""Conversations: the three forms, what is refused with which rows, duplicates, and a split that contents alone give."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfpint.data.conversations import ChatData, Conversations, _split, prepare_chat
from halfpint.data.messages import Conversation, Message
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
    with pytest.raises(HalfpintError, match="has no sound conversation"):
        prepared(tmp_path / "a.json", [row for row, _ in FAULTS], drop_faulty=True)


def test_other_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HalfpintError, match=r"conversations \(ShareGPT\).*only prompt, answer"):
        prepared(tmp_path / "a.json", [{"prompt": "a", "answer": "b"}])
    with pytest.raises(HalfpintError, match="Did you mean 'messages'"):
        prepared(tmp_path / "a.json", [{"mesages": []}])
    with pytest.raises(HalfpintError, match="too few conversations: 1 for training and 0 for validation"):
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


def first(found: Conversations) -> Conversation:
    """The conversation of row 1, whichever side it is on."""
    return next(one for one in (*found.train, *found.validation) if one.row == 1)


MARKED = [
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0},
                  {"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "weight": 1}]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "train": False},
                       {"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}]},
    {"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c"}],
     "completion": [{"role": "assistant", "content": "d"}]},
]  # fmt: skip
PROMPTS = [{"prompt": q, "completion": a} for q, a in PAIRS]


@pytest.mark.parametrize(("row", "others"), zip(MARKED, (OPENAI, SHAREGPT, PROMPTS), strict=True))
def test_marked_answers_are_masked(row: dict[str, Any], others: list[Any], tmp_path: Path) -> None:
    log = Told()
    found = prepared(tmp_path / "a.jsonl", [row, *others], log)
    assert [message.learn for message in first(found).messages] == [True, False, True, True]
    assert found.summary()["masked_answers"] == 1 and found.summary()["answers"] == len(others) + 2
    assert any("masked" in line and "1 answer (row 1)" in line for line in log.lines)


def test_a_conversation_that_is_all_masked_is_dropped_and_a_share_is_refused(tmp_path: Path) -> None:
    masked = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}
    found = prepared(tmp_path / "a.jsonl", [masked, *OPENAI])
    assert found.summary()["dropped"][0]["rows"] == [1] and "no answer" in found.summary()["dropped"][0]["why"]
    half = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0.5}]}
    with pytest.raises(HalfpintError, match=r"weight 0\.5: .*\(row 1\)"):
        prepared(tmp_path / "a.jsonl", [half, *OPENAI])


def test_prompts_and_completions_are_questions_and_answers(tmp_path: Path) -> None:
    found = prepared(tmp_path / "a.jsonl", [{"prompt": "[1, 2]", "completion": '{"sum": 3}'}, *PROMPTS])
    assert first(found).messages == (Message("user", "[1, 2]"), Message("assistant", '{"sum": 3}'))
    assert found.summary()["form"] == "TRL"


CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def test_tool_calls_come_in_the_form_of_templates(tmp_path: Path) -> None:
    openai = {"tools": TOOLS, "parallel_tool_calls": False, "messages": [
        {"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "4 degrees"}, {"role": "assistant", "content": "Cold."},
    ]}  # fmt: skip
    found = first(prepared(tmp_path / "a.jsonl", [openai, *OPENAI]))
    dicts = found.as_dicts()
    assert [one["role"] for one in dicts] == ["system", "user", "assistant", "tool", "assistant"]
    assert dicts[2]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Oslo"}}
    assert dicts[3]["tool_call_id"] == "call_1" and found.template_values() == {
        "tools": TOOLS,
        "parallel_tool_calls": False,
    }
    sharegpt = {"tools": json.dumps(TOOLS), "parallel_tool_calls": False, "system": "Be brief.", "conversations": [
        {"from": "human", "value": "Weather?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
        {"from": "observation", "value": "4 degrees"}, {"from": "gpt", "value": "Cold."},
    ]}  # fmt: skip
    other = first(prepared(tmp_path / "b.jsonl", [sharegpt, *SHAREGPT]))
    assert [one["role"] for one in other.as_dicts()] == [one["role"] for one in dicts]
    assert other.as_dicts()[2]["tool_calls"][0]["function"] == dicts[2]["tool_calls"][0]["function"]
    assert other.template_values() == found.template_values()


def test_the_field_that_is_not_null_counts(tmp_path: Path) -> None:
    turns = [{"role": None, "from": "human", "content": None, "value": "a", "weight": None},
             {"role": None, "from": "gpt", "content": None, "value": "b", "weight": None}]  # fmt: skip
    found = prepared(tmp_path / "a.jsonl", [{"conversations": turns}, *SHAREGPT])
    assert first(found).messages == (Message("user", "a"), Message("assistant", "b"))


@pytest.mark.parametrize("name", ["image", "images", "videos", "audio"])
def test_what_is_seen_or_heard_is_refused(name: str, tmp_path: Path) -> None:
    row = {"conversations": [{"from": "human", "value": "<image>\na"}, {"from": "gpt", "value": "b"}], name: ["0.jpg"]}
    with pytest.raises(HalfpintError, match=rf"{name}: a language model of text .*\(row 1\)"):
        prepared(tmp_path / "a.jsonl", [row, *SHAREGPT])
    part = [{"type": "image_url", "image_url": {"url": "a"}}]
    with pytest.raises(HalfpintError, match="content of the type 'image_url'"):
        prepared(tmp_path / "a.jsonl", [{"messages": [{"role": "user", "content": part}]}, *OPENAI])


def test_fields_that_nothing_reads_are_named(tmp_path: Path) -> None:
    log = Told()
    rows = [{**row, "score": 1, "weight": 0 if place else None} for place, row in enumerate(OPENAI)]
    found = prepared(tmp_path / "a.jsonl", rows, log)
    assert found.summary()["unread"] == {"score": 40, "weight": 39}
    assert "  not used: score (all rows), weight (39 rows)" in log.lines


PREFERENCES = [
    ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preferences: .*chosen, rejected.*DPO"),
    ({"conversations": [], "chosen": {}, "rejected": {}}, "preferences"),
    ({"input": {}, "preferred_output": [], "non_preferred_output": []}, "preferences"),
    ({"prompt": "a", "completion": "b", "label": True}, "preferences: .*label.*KTO"),
    ({"custom_id": "1", "method": "POST", "url": "/", "body": {}}, "requests or answers of a batch"),
]


@pytest.mark.parametrize(("row", "said"), PREFERENCES)
def test_what_is_no_conversation_is_called_by_its_name(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(HalfpintError, match=said):
        prepared(tmp_path / "a.jsonl", [row] * 3)


def test_a_dataset_info_names_file_columns_and_roles(tmp_path: Path) -> None:
    rows = [{"q": f"Add 1 to {number}.", "a": f"{number + 1}", "instruction": "x"} for number in range(10)]
    write(tmp_path / "sums.json", rows)
    entry = {"file_name": "sums.json", "columns": {"prompt": "q", "response": "a"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"sums": entry}), encoding="utf-8")
    found = prepare_chat(ChatData(source=str(tmp_path)), SILENT)
    assert first(found).messages == (Message("user", "Add 1 to 0."), Message("assistant", "1"))
    assert list(found.summary()["unread"].values()) == [10]  # the column that has a name of the form, and is not named
    chats = [{"dialog": [{"who": "customer", "said": f"{n}?"}, {"who": "agent", "said": "b"}]} for n in range(10)]
    write(tmp_path / "chats.json", chats)
    tags = {"role_tag": "who", "content_tag": "said", "user_tag": "customer", "assistant_tag": "agent"}
    other = {"file_name": "chats.json", "formatting": "sharegpt", "columns": {"messages": "dialog"}, "tags": tags}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"sums": entry, "chats": other}), encoding="utf-8")
    found = prepare_chat(ChatData(source=str(tmp_path / "chats.json")), SILENT)
    assert first(found).messages == (Message("user", "0?"), Message("assistant", "b"))
    with pytest.raises(HalfpintError, match=r"one of its data sets, got 2 of them: sums\.json, chats\.json"):
        prepare_chat(ChatData(source=str(tmp_path)), SILENT)
    gone = {"gone": {**entry, "columns": {"prompt": "question"}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(gone), encoding="utf-8")
    with pytest.raises(HalfpintError, match=r"what dataset_info\.json says: question"):
        prepare_chat(ChatData(source=str(tmp_path)), SILENT)
