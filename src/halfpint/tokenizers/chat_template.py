"""A bundle's chat template: messages -> the text or the ids that the model answers to, without transformers.

A template is a program in Jinja, and comes from whoever made the model: it runs in Jinja's sandbox, within limits.

Source: the environment is that of transformers 5 (`utils/chat_template_utils.py`): the same options, filters and names;
a test holds both to the same output.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from halfpint.errors import HalfpintError, need
from halfpint.tokenizers import _template_limits
from halfpint.tokenizers._template_limits import TooMuchError

_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"  # noncharacters: around what reads like a special token in a message
_PIECES = re.compile(f"{_OPEN}(.*?){_CLOSE}", re.DOTALL)

Messages = Sequence[Mapping[str, Any]]


class ChatTemplate:
    """The chat template of the bundle in `folder`.

    Attributes:
        text: the template itself.
        tokens: the names of special tokens that it may write, such as bos_token.

    Raises:
        HalfpintError: there is none, or none that Jinja reads.
    """

    def __init__(self, folder: Path) -> None:
        settings = _read_object(folder / "tokenizer_config.json")
        self._place = str(folder)
        self.text = _template(folder, settings)
        if not self.text:
            raise HalfpintError(
                self._place, wanted="a model with a chat template", got="none",
                todo="Let it continue a text instead: halfpint generate BUNDLE PROMPT --no-chat; or teach it to "
                "answer: halfpint finetune BUNDLE DATA --template chatml.",
                said=f"{self._place} has no chat template, so it cannot answer.",
            )  # fmt: skip
        named = {name: settings.get(name) for name in _TOKENS}
        self.tokens = {
            name: str(held["content"] if isinstance(held, dict) else held) for name, held in named.items() if held
        }
        added = _read_object(folder / "tokenizer.json").get("added_tokens") or []
        special = [entry["content"] for entry in added if entry.get("special")] + list(self.tokens.values())
        longest_first = sorted(set(special), key=lambda name: (-len(name), name))
        self._special = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._begins = {ord(name[0]): None for name in longest_first if name and not name[0].isalnum()}
        _ = self._compiled

    def render(self, messages: Messages, *, add_generation_prompt: bool = True, **values: Any) -> str:
        """The text of `messages`, as transformers' `apply_chat_template` gives it.

        Args:
            messages: each with `role` and `content`.
            add_generation_prompt: whether the beginning of an answer follows.
            values: what else the template may ask for, such as `tools`.

        Raises:
            HalfpintError: the template refuses them; with what it says.
        """
        names: dict[str, Any] = {"tools": None, "documents": None, **self.tokens, **values}
        try:
            return _template_limits.bounded(
                lambda: str(
                    self._compiled.render(
                        messages=[dict(message) for message in messages],
                        add_generation_prompt=add_generation_prompt, **names,
                    )
                )
            )  # fmt: skip
        except TooMuchError as error:
            raise HalfpintError(
                f"{self._place}: chat template", wanted="one that does what a conversation needs", got=str(error)
            ) from error
        except Exception as error:  # a template may fail in any way that a program can
            raise HalfpintError(
                f"{self._place}: chat template", wanted="messages that it takes",
                got=f"{type(error).__name__}: {str(error)[:200]}",
            ) from error  # fmt: skip

    def ids(
        self,
        messages: Messages,
        encode: Callable[[str, bool], list[int]],
        *,
        add_generation_prompt: bool = True,
        **values: Any,
    ) -> list[int]:
        """The ids of `messages`: the template's text alone, with no start token besides its own.

        What reads like a special token in a message or in `values` is text there: nobody ends a turn, or begins
        another's, by typing.

        Args:
            encode: gives the ids of a text, and whether names of special tokens in it are those tokens.

        Raises:
            HalfpintError: as `render`; or the template changes a message so that a special token comes of it.
        """
        given = {"messages": [dict(message) for message in messages], **values}

        def written(change: Callable[[str], str]) -> str:
            return self.render(**_changed(given, change), add_generation_prompt=add_generation_prompt)

        text = written(self._mark)
        # A template may turn letters into small ones, or take some away. Without what special tokens begin with there
        # is nothing in a message that they could come of.
        harmless = _changed(given, lambda one: one.translate(self._begins))
        if harmless != given and self._names_in(text) > self._names_in(
            written(lambda one: one.translate(self._begins))
        ):
            raise HalfpintError(
                f"{self._place}: chat template", wanted="messages without what it turns into special tokens",
                got="some in these",
            )  # fmt: skip
        ids: list[int] = []
        for place, piece in enumerate(_PIECES.split(text)):  # every second one stood between marks
            plain = piece.replace(_OPEN, "").replace(_CLOSE, "")
            if plain:
                ids += encode(plain, place % 2 == 0)
        return ids

    @cached_property
    def takes_system(self) -> bool:
        """Whether a system message comes through; some templates refuse it, others leave it out."""
        word = "xq7system"
        try:
            return word in self.render([{"role": "system", "content": word}, {"role": "user", "content": "?"}])
        except HalfpintError:
            return False

    def check_work(self) -> None:
        """Try it on a short message.

        Raises:
            HalfpintError: it goes beyond the limits even so.
        """
        try:
            self.render([{"role": "user", "content": "?"}])
        except HalfpintError as error:
            if isinstance(error.__cause__, TooMuchError):
                raise

    def _mark(self, text: str) -> str:
        return self._special.sub(rf"{_OPEN}\g<0>{_CLOSE}", text.replace(_OPEN, "").replace(_CLOSE, ""))

    def _names_in(self, text: str) -> int:
        """How many names of special tokens stand in a text outside of marks."""
        return sum(len(self._special.findall(piece)) for piece in _PIECES.split(text)[::2])

    @cached_property
    def _compiled(self) -> Any:
        try:
            return _environment().from_string(self.text)
        except Exception as error:  # Python, which it is turned into, has faults of its own, such as nesting
            got = str(error)[:200] or type(error).__name__
            raise HalfpintError(
                f"{self._place}: chat template", wanted="a template that Jinja reads", got=got
            ) from None  # fmt: skip


def _changed(value: Any, change: Callable[[str], str], name: str = "") -> Any:
    """A value with its texts changed, wherever they stand in it; the roles of messages stay."""
    if isinstance(value, str):
        return value if name == "role" else change(value)
    if isinstance(value, Mapping):
        return {
            change(key) if isinstance(key, str) else key: _changed(one, change, str(key)) for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [_changed(one, change) for one in value]
    return value


def _template(folder: Path, settings: Mapping[str, Any]) -> str:
    """The text of the template; empty where there is none. Of several by name it is the one called default."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    held = settings.get("chat_template") or _read_object(folder / "chat_template.json").get("chat_template") or ""
    if isinstance(held, list):
        named = {entry.get("name"): entry.get("template") for entry in held if isinstance(entry, dict)}
        held = named.get("default") or ""
    return str(held)


def _read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise HalfpintError(str(path), wanted="JSON", got=f"a damaged file ({error})", todo="Make it again.") from None
    return found if isinstance(found, dict) else {}


def _environment() -> Any:
    """Jinja as chat templates expect it."""
    jinja2 = need("jinja2", "a chat template")
    extension = need("jinja2.ext", "a chat template")

    class Generation(extension.Extension):  # type: ignore[misc, name-defined]
        """{% generation %} marks what the assistant says, for training; here it is but its content."""

        tags = frozenset({"generation"})

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    made = _template_limits.environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, extension.loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _raiser(jinja2.TemplateError)
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made


def _raiser(kind: type[Exception]) -> Callable[[str], None]:
    def raise_exception(message: str) -> None:
        raise kind(message)

    return raise_exception


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Jinja's own filter writes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
