"""Conversations -> tokens by a model's own chat template, with a mark on each token that the model learns to write.

These are the assistant's tokens and the one that ends its turn. Where a turn begins is known by rendering what comes
before it with the generation prompt, as it is done when the model answers: the whole text has to begin with that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from halfpint.data.messages import ASSISTANT, USER, Conversation, Message
from halfpint.errors import HalfpintError, SettingError, nearest, need
from halfpint.tokenizers.load import open_tokenizer
from halfpint.tokenizers.train import CHAT_TEMPLATE

TEMPLATES = {"chatml": CHAT_TEMPLATE}

_CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"  # noncharacters: around what reads like a special token in a message
_MARKED = re.compile(f"{_OPEN}(.*?){_CLOSE}", re.DOTALL)
_GENERATION = re.compile(r"{%-?\s*generation\b")
_AT_ONCE = 1024  # conversations

_Span = tuple[int, int]
_Values = tuple[tuple[str, str], ...]


class _Asked(NamedTuple):
    """What a template is to render: messages, whether the generation prompt follows, other values, and the row."""

    chat: Sequence[Mapping[str, Any]]
    prompt: bool
    values: _Values
    row: int


class Rendered(NamedTuple):
    """A conversation as the model sees it.

    Attributes:
        ids: tokens, int64 of shape (tokens,).
        counted: whether the loss counts the token, bool of the same shape.
        row: where a person finds the conversation.
    """

    ids: npt.NDArray[np.int64]
    counted: npt.NDArray[np.bool_]
    row: int


class ChatTokenizer:
    """The tokenizer and chat template of a bundle.

    Args:
        folder: the bundle's folder.
        template: a name in `TEMPLATES`; empty takes the bundle's own.
        name: what errors call the bundle; empty takes its folder.

    Attributes:
        template: the text of the template.
        ends: ids of the tokens that ended an assistant's turn in what was rendered so far.

    Raises:
        HalfpintError: no template, an unknown name, or a tokenizer without the template's tokens.
    """

    def __init__(self, folder: Path, template: str = "", name: str = "") -> None:
        transformers = need("transformers", "chat templates")
        self.tokenizer = open_tokenizer(folder)
        self.tokenizer.post_processor = None  # templates write all there is; it would also move offsets
        added = self.tokenizer.get_added_tokens_decoder()
        self._special = {number for number, token in added.items() if token.special}
        names = sorted((added[number].content for number in self._special), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, names)) or "(?!)")
        self._loaded = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.template = self._template(name or str(folder), template)
        asked = [{"role": USER, "content": "?"}]
        self._prompts = self._render([_Asked(asked, True, (), 0)]) != self._render([_Asked(asked, False, (), 0)])
        self.ends: set[int] = set()

    def _template(self, place: str, name: str) -> str:
        has_chatml = all(self.tokenizer.token_to_id(token) in self._special for token in _CHATML_TOKENS)
        if name and name not in TEMPLATES:
            raise SettingError(
                "template", wanted=f"one of {', '.join(TEMPLATES)}, or nothing for the model's own", got=repr(name),
                todo=nearest(name, TEMPLATES),
            )  # fmt: skip
        if name and not has_chatml:
            raise HalfpintError(
                "template", wanted=f"a tokenizer with the special tokens {' and '.join(_CHATML_TOKENS)}",
                got="one without", todo="Take a base model with a chat template of its own.",
            )  # fmt: skip
        if name:
            return TEMPLATES[name]
        try:
            return str(self._loaded.get_chat_template())
        except ValueError:
            raise HalfpintError(
                place, wanted="a model with a chat template", got="none",
                todo="Set template to chatml: the tokenizer has its tokens."
                if has_chatml
                else "Take a base model that has one; an Instruct or Chat model mostly does.",
            ) from None  # fmt: skip

    def prompt(self, messages: Sequence[Mapping[str, Any]], values: _Values = ()) -> str:
        """The text that the model is given to answer the last of `messages`."""
        return self._render([_Asked(messages, True, values, 0)])[0]

    def texts(self, conversations: Sequence[Conversation]) -> list[str]:
        """The text of each conversation."""
        return self._render([_Asked(one.as_dicts(), False, one.values, one.row) for one in conversations])

    def tokens(self, conversations: Sequence[Conversation]) -> Iterator[Rendered]:
        """Each conversation rendered, in order.

        Raises:
            HalfpintError: the template refuses a conversation, or does not let its turns be told apart.
        """
        for start in range(0, len(conversations), _AT_ONCE):
            yield from self._some(conversations[start : start + _AT_ONCE])

    def _some(self, conversations: Sequence[Conversation]) -> Iterator[Rendered]:
        chats = [[self._marked(message) for message in one.as_dicts()] for one in conversations]
        wanted: list[_Asked] = []
        for one, chat in zip(conversations, chats, strict=True):
            values = tuple((name, self._mark(text)) for name, text in one.values)
            wanted.append(_Asked(chat, False, values, one.row))
            for place, message in enumerate(one.messages):
                if message.role == ASSISTANT and message.learn:
                    ended = chat[: place + 1] if place + 1 < len(chat) else []
                    wanted += [_Asked(chat[:place], True, values, one.row), _Asked(ended, False, values, one.row)]
        texts = iter(self._render(wanted))
        whole: list[str] = []
        spans: list[list[_Span] | None] = []
        for one, chat in zip(conversations, chats, strict=True):
            whole.append(next(texts))
            found = [
                self._span(whole[-1], written["content"].strip(), next(texts), next(texts) or whole[-1], message)
                for message, written in zip(one.messages, chat, strict=True)
                if message.role == ASSISTANT and message.learn
            ]
            sure = [span for span in found if span is not None]
            spans.append(sure if len(sure) == len(found) else None)
        encodings = self.tokenizer.encode_batch(whole, add_special_tokens=False)
        for one, chat, text, turns, encoding in zip(conversations, chats, whole, spans, encodings, strict=True):
            yield self._by_marks(one, chat) if turns is None else self._by_spans(one, text, turns, encoding)

    def _marked(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """What is written like a special token in a message is text, and becomes no token of that kind."""
        return {name: value if name == "role" else self._mark(value) for name, value in message.items()}

    def _mark(self, value: Any) -> Any:
        """A text with marks around what reads like a special token; of lists and objects each text in them."""
        if isinstance(value, Mapping):
            return {name: self._mark(held) for name, held in value.items()}
        if isinstance(value, list):
            return [self._mark(held) for held in value]
        if not isinstance(value, str) or not self._control.search(value):
            return value
        return self._control.sub(rf"{_OPEN}\g<0>{_CLOSE}", value.replace(_OPEN, "").replace(_CLOSE, ""))

    def _render(self, parts: Sequence[_Asked]) -> list[str]:
        """The text of each part."""
        texts = [""] * len(parts)
        alike: dict[tuple[bool, _Values], list[int]] = {}
        for place, part in enumerate(parts):
            if part.chat:
                alike.setdefault((part.prompt, part.values), []).append(place)
        for (prompts, values), places in alike.items():
            chats = [[dict(message) for message in parts[place].chat] for place in places]
            settings = {
                **{name: json.loads(text) for name, text in values}, "chat_template": self.template, "tokenize": False,
                "add_generation_prompt": prompts,
            }  # fmt: skip
            try:
                made = self._loaded.apply_chat_template(chats, **settings)
            except Exception:  # one of them: which one, and what the template says to it
                made = []
                for place, chat in zip(places, chats, strict=True):
                    try:
                        made.append(self._loaded.apply_chat_template(chat, **settings))
                    except Exception as error:
                        raise HalfpintError(
                            f"chat template, row {parts[place].row}", wanted="a conversation that the template takes",
                            got=f"{type(error).__name__}: {str(error)[:200]}",
                            todo="Change that conversation, or set template to chatml where the tokenizer allows it.",
                        ) from error  # fmt: skip
            for place, text in zip(places, made, strict=True):
                texts[place] = text
        return texts

    def _span(self, whole: str, content: str, prompt: str, ended: str, message: Message) -> _Span | None:
        """Characters from the end of the prompt to the end of the special token that ends the turn.

        None where the whole text does not show it: it has to begin with the prompt, and with what the turn ends with
        too, unless nothing but the content stands between the prompt and a special token.
        """
        if not whole.startswith(prompt):
            return None
        start = len(prompt)
        bounded = len(ended) > start and whole.startswith(ended)
        region = whole[start : len(ended)] if bounded else whole[start:]
        at = region.find(content)
        before = region[: max(at, 0)]
        end = self._control_after(region, max(at, 0) + (len(content) if at >= 0 else 0), last=message.has_calls)
        if end is None or (at < 0 and not bounded):
            return None
        if not bounded and (before.strip() or region[at + len(content) : end[0]].strip()):
            return None
        if before.strip() and (not self._prompts or self._control_after(before, 0)):
            start += at  # a header that the generation prompt should have had
        return start, len(prompt) + end[1]

    def _control_after(self, text: str, start: int, *, last: bool = False) -> _Span | None:
        """The first special token from `start` on that the template wrote; the last one where calls follow a text."""
        spans = (
            found.span()
            for found in self._control.finditer(text, start)
            if text[found.start() - 1 : found.start()] != _OPEN
        )
        return next(iter([*spans][-1:]), None) if last else next(spans, None)

    def _by_spans(self, one: Conversation, text: str, turns: list[_Span], encoding: Any) -> Rendered:
        ids, offsets = list(encoding.ids), list(encoding.offsets)
        astride = any(begin < start < end for start, _ in turns for begin, end in offsets)
        if astride or _OPEN in text:
            other = self._in_pieces(text, [start for start, _ in turns])
            if _OPEN in text or self._decoded(other[0]) == self._decoded(ids):
                ids, offsets = other
        counted = np.zeros(len(ids), dtype=bool)
        begins = np.array([begin for begin, _ in offsets], dtype=np.int64)
        for start, stop in turns:
            inside = (begins >= start) & (begins < stop)
            counted |= inside
            self.ends |= {int(ids[int(np.flatnonzero(inside)[-1])])} & self._special
        return Rendered(np.array(ids, dtype=np.int64), counted, one.row)

    def _in_pieces(self, text: str, cuts: Sequence[int]) -> tuple[list[int], list[_Span]]:
        """Tokens and their places in `text`, where none reaches over a cut and what is marked is plain text."""
        marked = list(_MARKED.finditer(text))
        inside = {found.start(1): found.end(1) for found in marked}
        edges = sorted({0, len(text), *cuts, *(edge for found in marked for edge in (*found.span(), *found.span(1)))})
        ids: list[int] = []
        offsets: list[_Span] = []
        for start, stop in pairwise(edges):
            piece = text[start:stop]
            if piece in (_OPEN, _CLOSE):
                continue
            self.tokenizer.encode_special_tokens = inside.get(start) == stop
            encoding = self.tokenizer.encode(piece, add_special_tokens=False)
            ids += encoding.ids
            offsets += [(start + begin, start + end) for begin, end in encoding.offsets]
        self.tokenizer.encode_special_tokens = False
        return ids, offsets

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def _by_marks(self, one: Conversation, chat: Sequence[Mapping[str, str]]) -> Rendered:
        """By the template's own {% generation %} marks; the special token right behind them ends the turn."""
        turns: list[_Span] = []
        text = ""
        if _GENERATION.search(self.template):
            from transformers.utils.chat_template_utils import render_jinja_template

            texts, places = render_jinja_template(
                conversations=[[dict(message) for message in chat]], chat_template=self.template,
                return_assistant_tokens_mask=True, **self._loaded.special_tokens_map, **one.template_values(),
            )  # fmt: skip
            text = texts[0]
            for start, stop in places[0]:
                behind = self._control.match(text, stop)
                turns += [(start, behind.end() if behind else stop)] if stop > start else []
            answers = [message.learn for message in one.messages if message.role == ASSISTANT]
            if not all(answers):  # where the marks are not one per answer nothing says which one is masked
                turns = [turn for turn, learn in zip(turns, answers, strict=False) if learn] * (
                    len(turns) == len(answers)
                )
        if not turns:
            raise HalfpintError(
                f"chat template, row {one.row}",
                wanted="a template that writes a turn as it does when the model answers, and ends it with a special "
                "token, or that has {% generation %} marks",
                got="one whose assistant turns cannot be told from the rest",
                todo="Give conversations with one answer each, put the marks into the template, or set template to "
                "chatml where the tokenizer allows it.",
            )
        return self._by_spans(one, text, turns, self.tokenizer.encode(text, add_special_tokens=False))
