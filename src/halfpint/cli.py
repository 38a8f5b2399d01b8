"""The command line: words to a command of `commands/`, its result to words. No logic lives here."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from halfpint import terminal
from halfpint.command import Command, Group, Setting, about, command_class, command_names, settings_of, summary
from halfpint.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAULT,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    HalfpintError,
    is_out_of_memory,
    nearest,
)
from halfpint.progress import Log

ABOUT = "Small language models, from raw text to production, on hardware you own."
START = (
    ("halfpint fit tickets.csv", "train a classifier on a table of texts and labels"),
    ("halfpint chat smollm2-135m-instruct", "chat with a small language model"),
    ("halfpint pretrain book.txt", "train a language model from scratch"),
    ("halfpint COMMAND --help", "show all options of a command"),
)
_CONTEXT = "_context"
_FROM_CALLER = ("COMMANDLINE", "ENVIRONMENT")


class _Overview(TyperGroup):
    """The commands in groups, each with its whole description, and where to start."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        kinds = [command_class(name) for name in command_names()]
        formatter.write_usage("halfpint", "COMMAND [OPTIONS]")
        formatter.write_paragraph()
        formatter.write_text(ABOUT)
        for group in Group:
            with formatter.section(group.value):
                formatter.write_dl([(kind.word(), summary(kind)) for kind in kinds if kind.group == group])
        with formatter.section("Where to start"):
            formatter.write_dl(list(START), col_max=40)
        with formatter.section("Options"):
            formatter.write_dl([("--version", "Show the version."), ("--help", "Show this message.")])


class _Printed:
    """Pieces of a result that are printed as they come."""

    def __init__(self) -> None:
        self.text = ""

    def __call__(self, piece: str) -> None:
        terminal.show(piece, sys.stdout, end="")
        self.text += piece


class _TerminatedError(SystemExit):
    """SIGTERM came: what is being done is left as by Ctrl-C."""


@contextmanager
def _told_of_sigterm() -> Iterator[None]:
    """SIGTERM ends a command in order and with a word; a server has its own way."""

    def end(number: int, frame: Any) -> None:
        raise _TerminatedError(EXIT_TERMINATED)

    takes = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if takes:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if takes:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def program(names: Sequence[str]) -> typer.Typer:
    """The program with the commands of these names."""
    app = typer.Typer(
        name="halfpint", cls=_Overview, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )  # fmt: skip
    app.callback()(_main)
    for name in names:
        kind = command_class(name)
        app.command(name, help=about(kind))(_callback(kind))
    return app


def _version(value: bool) -> None:
    if value:
        from halfpint import __version__

        print(__version__)
        raise typer.Exit


def _main(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    pass


def _callback(kind: type[Command]) -> Callable[..., None]:
    """The function that typer makes flags from: one parameter for each field of a command."""

    def call(**values: Any) -> None:
        context = values.pop(_CONTEXT)
        sources = {name: context.get_parameter_source(name) for name in values}
        given = frozenset(name for name, source in sources.items() if source and source.name in _FROM_CALLER)
        for one in settings_of(kind):
            values[one.name] = tuple(values[one.name] or ()) if one.many else values[one.name]
        _show(kind(given=given, **values))

    context = Parameter(_CONTEXT, Parameter.KEYWORD_ONLY, annotation=typer.Context)
    call.__signature__ = Signature([context, *map(_parameter, settings_of(kind))])  # type: ignore[attr-defined]
    call.__annotations__ = {}
    return call


def _parameter(one: Setting) -> Parameter:
    """A field of a command as typer takes it."""
    info: Any
    if one.positional:
        info = typer.Argument(metavar=one.metavar, help=one.help)
    elif one.kind is bool:
        info = typer.Option(one.flags, help=one.help)
    else:
        info = typer.Option(
            one.flag, metavar=one.metavar, help=one.help, min=one.least, max=one.most, envvar=one.env or None
        )
    kind: Any = list[one.kind] if one.many else one.kind  # type: ignore[name-defined]
    default: Any = Parameter.empty
    if not one.required:
        default = (one.default or None) if one.many else one.default
        kind = kind | None if one.optional or one.many else kind
    return Parameter(one.name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _show(command: Command) -> None:
    """Run a command and print its result."""
    printed = _Printed()
    result = command.execute(Log(quiet=command.is_quiet, pieces=printed))
    if not result.is_shown:
        if getattr(command, "json", False) or result.is_styled:
            print(result.as_json() if getattr(command, "json", False) else result)
        else:
            terminal.show(str(result).removeprefix(printed.text), sys.stdout)
    if result.exit_code:
        raise typer.Exit(result.exit_code)


def main() -> None:
    """Run the command line; errors are one message and an exit code."""
    terminal.prepare()
    # Threads that spin for long while they wait make training many times slower as soon as another program wants a
    # core; threads that never spin make it a third slower without one.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    words = sys.argv[1:]
    words = [*words[1:], "--help"] if words[:1] in ([], ["help"]) else words
    words = ["--version"] if words == ["version"] else words
    known = command_names()
    typed = [word for word in words[:1] if word in known]
    try:
        if not typed and not words[0].startswith("-"):
            raise _no_command(words[0])
        with _told_of_sigterm():
            code = program(typed or known)(words, standalone_mode=False) or 0
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except _TerminatedError:
        code = EXIT_TERMINATED
    except (BrokenPipeError, SystemExit):  # the latter is how click says the same, and nothing else
        code = _nobody_reads()
    except Exception as error:
        code = _failed(error)
    if code in (EXIT_INTERRUPTED, EXIT_TERMINATED):
        what = "interrupted" if code == EXIT_INTERRUPTED else "terminated"
        print(f"\n{what}{''.join(_how_to_go_on(command_class(word), words) for word in typed)}", file=sys.stderr)
    with suppress(OSError):  # nobody takes what standard output still holds: the message says why
        sys.stdout.flush()
    sys.exit(code)


def _failed(error: Exception) -> int:
    """Say in one message what went wrong; gives the exit code."""
    code, message = EXIT_BAD_INPUT, str(error)
    # Words that typer does not understand: its exceptions have no public name, but each can say itself.
    say, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
    if isinstance(error, HalfpintError):
        code = error.exit_code
    elif say is not None:
        message, command = str(say()), context.command_path if context else "halfpint"
        message += f"{'' if message[-1:] in '.?' else '.'} See: {command} --help"
    elif isinstance(error, OSError) and error.errno:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF, errno.EIO):
            # What standard output does not take must not fail again when the process ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        place, why = "standard output" if error.filename is None else os.fsdecode(error.filename), error.strerror or ""
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        message = f"There is no room left for {place}" if is_full else f"{place} cannot be read or written"
        message += f": {why[:1].lower()}{why[1:]}."
    elif is_out_of_memory(error):
        message = "not enough memory. Free some, or give less data, a smaller model or a shorter context."
    else:
        code, kept = EXIT_FAULT, terminal.keep_traceback(error)
        what = traceback.format_exception_only(error)[-1].strip()[:300]
        where = f"The traceback is in {kept}; please report it." if kept else "There was no room for its traceback."
        message = f"a fault in halfpint itself, not in what you gave: {what}. {where}"
    terminal.show(f"error: {message}", sys.stderr)
    return code


def _nobody_reads() -> int:
    """End as other programs do when the one that reads their output has ended: by the signal, without a word."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    return 0


def _no_command(word: str) -> HalfpintError:
    """What to say to a first word that is no command."""
    if Path(word).exists():
        from halfpint.lookup import command_for

        todo, said = f"Try: {command_for(word)}", f"{word!r} is a file or folder, not a command."
    elif Path(word).suffix or "/" in word:
        todo, said = "Give a command first; see: halfpint --help", f"There is no file {word!r}."
    else:
        todo, said = f"{_meant(word)}See: halfpint --help", f"There is no command {word!r}."
    return HalfpintError("halfpint", wanted="a command", got=repr(word), todo=todo, said=said)


def _meant(word: str) -> str:
    """The commands that a word may stand for: those that name it, else those that are spelled like it."""
    start = word.lower() if len(word) > 2 else f"{word}!"
    names = [name for name in command_names() if any(other.startswith(start) for other in command_class(name).synonyms)]
    if names:
        return f"Did you mean {', '.join(names[:-1])}{' or ' if names[1:] else ''}{names[-1]}? "
    found = nearest(word.lower(), command_names())
    return f"{found} " if found.startswith("Did") else ""


def _how_to_go_on(kind: type[Command], words: Sequence[str]) -> str:
    again = " without --force" if kind.starts_over and "--force" in words else ""
    return f"; give the same command again{again} to go on where it stopped" if kind.resumes else ""


if __name__ == "__main__":
    main()
