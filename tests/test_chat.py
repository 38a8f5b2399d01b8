"""`halfpint generate` and `halfpint chat` as they are typed, with a model that was taught to answer for a moment."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halfpint.bundle import Bundle
from halfpint.commands._conversation import COMMANDS, Talk, Terminal
from halfpint.commands._writing import read_schema
from halfpint.data.chat_forms import conversations_of, form_of
from halfpint.data.read import read_table
from halfpint.engines import Generation, open_language_engine
from halfpint.errors import HalfpintError
from halfpint.tokenizers.chat_template import ChatTemplate

pytest.importorskip("transformers")
SHORT = Generation(max_tokens=8, temperature=1.0)


@pytest.fixture(scope="module")
def taught(bundles: Callable[[str], Bundle]) -> Bundle:
    pytest.importorskip("peft")
    return bundles("chat")


def said(talk: Talk, text: str) -> str:
    return "".join(piece.text for piece in talk.ask(text))


def test_generate_answers_where_the_model_was_taught_to(taught: Bundle, typed: Any) -> None:
    engine = open_language_engine(taught, threads=1)
    ids = ChatTemplate(taught.path).ids([{"role": "user", "content": "What is 2 plus one?"}], engine.encode)
    wanted = "".join(engine.generate(ids, max_tokens=6, temperature=0.0))
    words = ("generate", taught.path, "What is 2 plus one?", "--max-tokens", 6, "--temperature", 0)
    assert typed(*words) == (0, wanted + "\n", "")
    code, told, _ = typed(*words, "--json")
    found = json.loads(told)
    assert code == 0 and (found["text"], found["tokens"], found["prompt_tokens"]) == (wanted, 6, len(ids))
    assert {"prompt", "finish", "seconds", "tokens_per_s"} <= set(found)
    plain = "".join(engine.generate("What is 2", max_tokens=6, temperature=0.0))
    words = ("generate", taught.path, "-", "--no-chat", "--max-tokens", 6, "--temperature", 0)
    assert typed(*words, given="What is 2\n") == (0, f"What is 2{plain}\n", "")
    code, _, errors = typed("generate", taught.path, "x", "--no-chat", "--system", "Be brief.")
    assert code == 2 and "--system needs a model that answers" in errors
    code, _, errors = typed("generate", taught.path)
    assert code == 2 and "There is no message to answer" in errors


def test_generate_tells_scores_and_the_best(bundles: Callable[[str], Bundle], typed: Any) -> None:
    words = ("generate", bundles("language").path, "My order", "--max-tokens", 5, "--logprobs", 2)
    code, told, errors = typed(*words)
    lines = told.splitlines()
    assert code == 0, errors
    assert told.startswith("My order") and len(lines) >= 5
    assert all(float(line.split()[0]) < 0 for line in lines[-4:])
    code, told, _ = typed(*words, "--json")
    found = json.loads(told)
    assert [len(token["top"]) for token in found["log_probabilities"]] == [2] * found["tokens"]
    code, told, _ = typed(*words[:5], "--n-best", 3)
    means = [float(line.split()[0]) for line in told.splitlines() if line[:2] == "  "]
    assert code == 0 and means == sorted(means, reverse=True)
    code, told, _ = typed(*words[:5], "--n-best", 3, "--temperature", 0, "--json")
    found = json.loads(told)
    assert found["text"] == found["texts"][0]["text"] and len(found["texts"]) == 3


def test_generate_keeps_to_a_schema(bundles: Callable[[str], Bundle], typed: Any, tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    file = tmp_path / "schema.json"
    file.write_text('{"type": "integer", "minimum": 10, "maximum": 99}', encoding="utf-8")
    code, told, errors = typed("generate", bundles("language").path, "A number: ", "--json-schema", file)
    assert code == 0, errors
    assert 10 <= json.loads(told) <= 99  # the prompt is not there
    code, told, _ = typed("generate", bundles("language").path, "x", "--json-schema", '{"enum": ["a"]}', "--json")
    assert json.loads(json.loads(told)["text"]) == "a"
    for given, message in (("{", "not valid JSON"), ("[1]", r"\[1\]"), (str(tmp_path / "no"), "no such file")):
        with pytest.raises(HalfpintError, match=f"(?i){message}"):
            read_schema(given)
    assert read_schema("{}") == {} and read_schema("") is None


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_json_that_ends_at_the_limit_is_said(bundles: Callable[[str], Bundle], typed: Any, command: str) -> None:
    pytest.importorskip("llguidance")
    schema = '{"type": "string", "minLength": 60}'
    prompt = ["x"] if command == "generate" else []
    words = [command, bundles("chat").path, *prompt, "--json-schema", schema, "--max-tokens", 3]
    code, told, errors = typed(*words, given="x\n" if command == "chat" else "")
    assert code == 1 and told.startswith('"')
    assert "The JSON is cut off: the limit of --max-tokens came before its end.\n" in errors


def test_a_pipe_is_a_conversation(taught: Bundle, typed: Any, tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    lines = ["/system Be brief.", "What is 2 plus one?", "", "And 3?", f"/save {file}", "/quit", "never asked"]
    words = ("chat", taught.path, "--max-tokens", 6, "--temperature", 0)
    code, told, errors = typed(*words, given="\n".join(lines))
    assert code == 0, errors
    (line,) = file.read_text(encoding="utf-8").splitlines()
    messages = json.loads(line)["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert told == "".join(f"{message['content']}\n" for message in messages if message["role"] == "assistant")
    left_out = "(the first 2 messages no longer fit and are left out)"  # the context is 64 tokens
    assert errors.splitlines() == ["system: Be brief.", left_out, f"saved as conversation 1 of {file}"]
    # What was saved goes on, and is what `finetune` reads.
    code, _, _ = typed(*words, given=f"/load {file}\nAnd 4?\n/save {file}\n")
    first, second = file.read_text(encoding="utf-8").splitlines()
    assert code == 0 and first == line and json.loads(second)["messages"][:5] == messages
    table = read_table(str(file))
    assert [len(one.messages) for one in conversations_of(table, form_of(table)).conversations] == [5, 7]
    for faulty, message in (("/nothing", "no command /nothing"), ("/set temprature 1", "Did you mean 'temperature'?"),
                            ("/retry", "no answered message to retry"), ("/undo", "nothing to undo"),
                            (f"/load {tmp_path / 'no'}", "no")):  # fmt: skip
        code, told, errors = typed(*words, given=f"{faulty}\nHello\n")
        assert (code, told) == (2, "") and message in errors


def test_a_talk_keeps_what_was_said(taught: Bundle) -> None:
    talk = Talk(taught, SHORT)
    first = said(talk, "What is 2 plus one?")
    roles = [message["role"] for message in talk.messages]
    assert roles == ["user", "assistant"] and talk.messages[1]["content"] == first
    again = "".join(piece.text for piece in talk.retry())
    assert talk.messages[1]["content"] == again != first and len(talk.messages) == 2
    pieces = talk.ask("And then?")
    while not next(pieces).text:  # the first tokens may be parts of a character
        pass
    pieces.close()  # as Ctrl-C does
    assert [message["role"] for message in talk.messages] == ["user", "assistant"] * 2
    assert talk.messages[3]["content"]
    talk.undo()
    assert talk.messages == [
        {"role": "user", "content": "What is 2 plus one?"},
        {"role": "assistant", "content": again},
    ]
    talk.reset()
    assert talk.messages == [] and said(talk, "What is 2 plus one?") == first
    with pytest.raises(HalfpintError, match="message is empty"):
        talk.ask("  ")
    talk.set("schema", '{"type": "nothing"}')
    for refused in (lambda: talk.ask("More?"), talk.retry):
        with pytest.raises(HalfpintError, match="schema: expected a JSON schema"):
            refused()
    assert [message["content"] for message in talk.messages] == ["What is 2 plus one?", first]


def test_the_oldest_turns_make_room(taught: Bundle) -> None:
    """The context is 64 tokens: what was said first is left out, and no message is lost by it."""
    talk = Talk(taught, replace(SHORT, max_tokens=4))
    for number in range(6):
        said(talk, f"What is {number}?")
    assert len(talk.messages) == 12 and talk.left_out > 0 and talk.left_out % 2 == 0
    with pytest.raises(HalfpintError, match=r"too long: \d+ tokens with what is around it, where 60 fit"):
        said(talk, "word " * 200)
    assert len(talk.messages) == 12


def test_a_loaded_conversation_keeps_its_tools(taught: Bundle, tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    values = {"tools": tools, "parallel_tool_calls": False, "chat_template_kwargs": {"mood": "calm"}}
    turns = [{"role": "user", "content": "2 plus 2?"}, {"role": "assistant", "content": "4"}]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": turns, **values}), encoding="utf-8")
    talk = Talk(taught, SHORT)
    talk.load(tmp_path / "talk.jsonl")
    assert talk.values == {"tools": tools, "parallel_tool_calls": False, "mood": "calm"}
    talk._template = Written(taught.path)
    said(talk, "And 3?")
    assert talk._template.given == talk.values
    talk.save(tmp_path / "again.jsonl")
    saved = json.loads((tmp_path / "again.jsonl").read_text(encoding="utf-8"))
    assert {name: saved[name] for name in values} == values and len(saved["messages"]) == 4
    talk.reset()
    assert talk.values == {}


class Written(ChatTemplate):
    """A template that keeps what it was given besides messages."""

    def ids(self, messages: Any, encode: Any, **values: Any) -> list[int]:
        self.given = values
        return super().ids(messages, encode, **values)


def test_settings_are_set_by_name(taught: Bundle) -> None:
    talk = Talk(taught, SHORT)
    talk.set("temperature", "0")
    talk.set("max_tokens", "5")
    talk.set("stop", '["a", "b"]')
    talk.set("stop", "end")
    assert (talk.settings.temperature, talk.settings.max_tokens, talk.settings.stop) == (0.0, 5, ("end",))
    for name, value, message in (("max_tokens", "few", "a number such as 128"), ("top_p", "2", "a share above 0"),
                                 ("seed", "1.5", "a number"), ("schema", "[1]", "a JSON schema")):  # fmt: skip
        with pytest.raises(HalfpintError, match=message):
            talk.set(name, value)


def test_a_model_without_a_template_is_refused(bundles: Callable[[str], Bundle], typed: Any) -> None:
    code, _, errors = typed("chat", bundles("ngram").path)
    assert code == 2 and "has no chat template" in errors and "halfpint generate" in errors


class Keyboard(io.StringIO):
    """Lines that a person types."""

    def isatty(self) -> bool:
        return True


def test_a_person_is_told_and_goes_on(taught: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["/help", "/nothing", "What is 2 plus one?", KeyboardInterrupt, "/set", "//help", "stop me", EOFError])

    def line(prompt: str) -> str:
        found = next(lines)
        if not isinstance(found, str):
            raise found
        return found

    monkeypatch.setattr("builtins.input", line)
    talk, shown = Talk(taught, SHORT), io.StringIO()
    ask = talk.ask

    def interrupted(text: str) -> Any:
        pieces = ask(text)
        if text != "stop me":
            return pieces
        return stopped(pieces)

    def stopped(pieces: Any) -> Any:
        try:
            yield next(pieces)
            raise KeyboardInterrupt
        finally:
            pieces.close()

    monkeypatch.setattr(talk, "ask", interrupted)
    Terminal(talk, Keyboard(), shown, shown).run()
    told = shown.getvalue()
    assert all(f"/{name}" in told for name in COMMANDS)
    assert "error: There is no command /nothing" in told and "tokens/s, cut off at max_tokens" in told
    assert "Ctrl-D or /quit ends." in told and "temperature 1.0" in told and "tokens/s, stopped" in told
    users = [message["content"] for message in talk.messages if message["role"] == "user"]
    assert users[:2] == ["What is 2 plus one?", "/help"]


def test_a_turn_goes_on_from_what_was_read(taught: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Talk(taught, replace(SHORT, max_tokens=3, temperature=0.0))
    read: list[int] = []
    engine: Any = talk._engine
    model = engine._read._model

    def counted(**given: Any) -> Any:
        read.append(given["input_ids"].shape[1])
        return model(**given)

    monkeypatch.setattr(engine._read, "_model", counted)
    said(talk, "What is 2 plus one?")
    first, read[:] = read[0], []
    said(talk, "And 3?")
    assert read[0] < first


def test_a_light_installation_can_chat(bundles: Callable[[str], Bundle]) -> None:
    """A GGUF file answers, by a schema too, without PyTorch and transformers."""
    pytest.importorskip("xllamacpp")
    pytest.importorskip("llguidance")
    code = "import sys\nsys.modules.update(torch=None, transformers=None)\nfrom halfpint import cli\ncli.main()\n"
    words = ["generate", str(bundles("gguf").path), "Hello", "--chat", "--json-schema", '{"enum": ["yes", "no"]}']
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) in ("yes", "no")
