"""The contract of every command: the same fields from the command line and from Python, and a line that repeats it."""

from __future__ import annotations

import inspect
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

import halfpint as hp
from halfpint import functions
from halfpint.command import (
    Command,
    Result,
    command_class,
    command_names,
    named_after,
    option,
    positional,
    settings_of,
    summary,
)
from halfpint.errors import HalfpintError
from halfpint.progress import Log

Typed = Callable[..., tuple[int, str, str]]
# A value that is not the default, for a field of each type.
VALUES: dict[type, Any] = {str: "some words", int: 7, float: 0.5, bool: True, Path: Path("a folder")}


@dataclass(frozen=True)
class Ended(Result):
    """A result with nothing in it."""

    def __str__(self) -> str:
        return "done"

    def as_json(self) -> str:
        return "{}"


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Command, Log]]:
    """The commands that would have run, each with its log."""
    seen: list[tuple[Command, Log]] = []

    def run(self: Command, log: Log) -> Result:
        seen.append((self, log))
        return Ended()

    for name in command_names():
        monkeypatch.setattr(command_class(name), "run", run)
    return seen


def full(kind: type[Command]) -> dict[str, Any]:
    """A value for every field, none of them its default."""
    found = {}
    for one in settings_of(kind):
        value = VALUES[one.kind]
        if one.kind is bool and one.default is True:
            value = False
        found[one.name] = (value, value) if one.many else value
    return found


def required(kind: type[Command]) -> dict[str, Any]:
    return {name: value for name, value in full(kind).items() if _of(kind, name).required}


def _of(kind: type[Command], name: str) -> Any:
    return next(one for one in settings_of(kind) if one.name == name)


@pytest.mark.parametrize("name", command_names())
@pytest.mark.parametrize("fill", [required, full], ids=["required", "full"])
def test_a_line_a_function_and_a_dataclass_are_the_same(
    name: str, fill: Callable[[type[Command]], dict[str, Any]], typed: Typed, ran: list[tuple[Command, Log]]
) -> None:
    kind = command_class(name)
    wanted = kind(**fill(kind))
    words = shlex.split(wanted.line())[1:]
    code, out, errors = typed(*words)
    assert (code, errors) == (0, "") and out == ("{}\n" if getattr(wanted, "json", False) else "done\n")
    command, log = ran.pop()
    assert command == wanted and command.line() == wanted.line() and log.quiet == wanted.is_quiet
    keywords = {key: value for key, value in fill(kind).items() if key not in functions.SHOWN_BY_RESULT}
    assert str(getattr(hp, "import_" if name == "import" else name)(**keywords, quiet=True)) == "done"
    command, log = ran.pop()
    shown = {key: _of(kind, key).default for key in functions.SHOWN_BY_RESULT if hasattr(command, key)}
    assert command == replace(wanted, **shown) and log.quiet


@pytest.mark.parametrize("name", command_names())
def test_help_shows_every_flag_with_its_text(name: str, typed: Typed) -> None:
    code, out, errors = typed(name, "--help")
    words = " ".join(out.split())
    assert (code, errors) == (0, "") and words.startswith("Usage: ")
    for one in settings_of(command_class(name)):
        assert (one.metavar if one.positional else one.flag) in words, one.name
        broken = " ".join(one.help.split())
        assert broken.replace(" ", "")[:40] in words.replace(" ", ""), one.name


def test_the_list_of_commands_is_whole(typed: Typed) -> None:
    code, out, errors = typed()
    assert (code, errors) == (0, "") and out == typed("--help")[1] == typed("help")[1]
    text = " ".join(out.split())
    for name in command_names():
        kind = command_class(name)
        assert kind.group.value in text and summary(kind) in text
    assert "..." not in text and "Where to start" in text
    assert typed("help", "fit")[1] == typed("fit", "--help")[1]


def test_a_file_is_no_command(typed: Typed, tmp_path: Path) -> None:
    file = tmp_path / "tickets.csv"
    file.touch()
    code, out, errors = typed(file)
    assert (code, out) == (2, "") and f"halfpint fit {file}" in errors
    code, _, errors = typed("fitt", "tickets.csv")
    assert code == 2 and "'fitt'" in errors and "'fit'" in errors


def test_what_was_given_is_known_even_where_it_is_the_default(typed: Typed, ran: list[tuple[Command, Log]]) -> None:
    typed("pretrain", "text.txt", "--out", "out", "--minutes", "20", "--size=10M")
    command, _ = ran.pop()
    assert command == command_class("pretrain")(texts=("text.txt",), out=Path("out"))
    assert command.has("minutes") and command.has("size") and not command.has("seed")
    assert command.line() == "halfpint pretrain text.txt --out out --size 10M --minutes 20"
    with pytest.raises(HalfpintError, match="--minutes needs a Transformer"):
        command.refuse("seed", "minutes", wanted="a Transformer", got="none")
    fresh = command_class("finetune")(base="a", data="b", merge=False)
    assert fresh.has("merge") and not fresh.has("lora") and fresh.line() == "halfpint finetune a b --no-merge"


def test_an_environment_variable_gives_a_value(
    typed: Typed, ran: list[tuple[Command, Log]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALFPINT_API_KEY", "secret")
    typed("serve", "out/best")
    assert ran.pop()[0].api_key == "secret"  # type: ignore[attr-defined]
    hp.serve("out/best")
    assert ran.pop()[0].api_key == "secret"  # type: ignore[attr-defined]
    hp.serve("out/best", api_key="other")
    assert ran.pop()[0].api_key == "other"  # type: ignore[attr-defined]


def test_arguments_from_python_are_made_to_fit(ran: list[tuple[Command, Log]], tmp_path: Path) -> None:
    hp.fit(tmp_path, floor={"f1_macro": 0.8, "accuracy": 1}, minutes=3, out=str(tmp_path), keep=None)
    command: Any = ran.pop()[0]
    assert (command.data, command.out, command.minutes) == (str(tmp_path), tmp_path, 3.0)
    assert command.floor == ("f1_macro=0.8", "accuracy=1") and command.keep is None
    hp.run("a.toml", set={"stage.1.lora": True})
    assert ran.pop()[0].set == ("stage.1.lora=true",)  # type: ignore[attr-defined]
    hp.predict("best", "one text")
    assert ran.pop()[0].texts == ("one text",)  # type: ignore[attr-defined]
    hp.predict("best", ["one", "two"])
    assert ran.pop()[0].texts == ("one", "two")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (hp.fit, TypeError, r"fit\(\): missing a required argument: 'data'"),
        (lambda: hp.fit("a", max_sise="1MB"), TypeError, "Did you mean 'max_size'"),
        (lambda: hp.fit("a", "text"), TypeError, "too many positional"),
        (lambda: hp.fit("a", json=True), TypeError, "json"),
        (lambda: hp.fit("a", minutes="3"), HalfpintError, "minutes must be a number, not '3'"),
        (lambda: hp.fit("a", seed=True), HalfpintError, "seed must be a whole number"),
        (lambda: hp.fit("a", text=None), HalfpintError, "text must be a text"),
        (lambda: hp.predict("a", ["b", 3]), HalfpintError, "texts must be a text, not 3"),
        (lambda: hp.predict("a", "b", top=0), HalfpintError, "top must be a number from 1, not 0"),
        (lambda: hp.compress("a", data="b", out="c", low_rank=1), HalfpintError, "a number from 0 to 0.99"),
        (lambda: hp.nothing, AttributeError, "has no attribute 'nothing'"),
    ],
)
def test_arguments_that_do_not_fit(call: Callable[[], object], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        call()


def test_a_room_with_the_name_of_a_command_is_that_command(ran: list[tuple[Command, Log]]) -> None:
    import halfpint.compress.vocab as file
    import halfpint.evaluate.evaluate

    for name in ("evaluate", "compress"):
        room = getattr(hp, name)
        assert inspect.ismodule(room) and inspect.signature(room) == inspect.signature(functions.function(name))
        assert inspect.getdoc(room) == functions.function(name).__doc__
    assert hp.compress.vocab is file and callable(halfpint.evaluate.evaluate.evaluate)
    hp.evaluate("best", "data.csv")
    assert ran.pop()[0].word() == "evaluate"
    assert not callable(sys.modules["halfpint.data"])


def test_importing_loads_nothing() -> None:
    code = "import sys; before = set(sys.modules); import halfpint; dir(halfpint); print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"halfpint", "__future__", "types"}


def test_a_command_says_what_it_lacks() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Lacking(Command):
        """Do nothing. Not at all.

        Args:
            place: Where.
            name: What to
                call it.
        """

        resumes: ClassVar[bool] = True
        place: str = positional(metavar="PLACE")
        name: str | None = option(None, metavar="NAME")

    place, name = settings_of(Lacking)
    assert (place.default, place.positional, name.help, name.optional) == (MISSING, True, "What to call it.", True)
    assert summary(Lacking) == "Do nothing."
    with pytest.raises(TypeError, match="does not say how it runs"):
        Lacking(place="here").run(Log())


def test_every_result_has_json() -> None:
    from halfpint.commands.finetune import Mask

    assert json.loads(Mask("a line").as_json()) == {"text": "a line"}


@pytest.mark.parametrize(
    ("model", "folder"), [("tickets/best", "tickets-small"), ("best", "best-small"), ("a/model", "model-small")]
)
def test_what_has_no_name_is_named_after_the_model(model: str, folder: str) -> None:
    assert named_after(model, "small") == Path(folder)
