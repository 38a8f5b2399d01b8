"""Conversations -> tokens by a model's own chat template, with a mark on each token that the model learns to write.

These are the assistant's tokens and the one that ends its turn. Where a turn begins is known by rendering what comes
before it with the generation prompt, as it is done when the model answers: the whole text has to begin with that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from halfpint.data.conversations import ASSISTANT, USER, Conversation
from halfpint.errors import HalfpintError, nearest, need
from halfpint.tokenizers.load import open_tokenizer
from halfpint.tokenizers.train import CHAT_TEMPLATE

TEMPLATES = {"chatml": CHAT_TEMPLATE}

_CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"  # noncharacters: around what reads like a special token in a message
_MARKED = re.compile(f"{_OPEN}(.*?){_CLOSE}", re.DOTALL)
_GENERATION = re.compile(r"{%-?\s*generation\b")
_AT_ONCE = 1024  # conversations

_Span = tuple[int, int]


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
        self._prompts = self._render([(asked, True)], [0]) != self._render([(asked, False)], [0])
        self.ends: set[int] = set()

    def _template(self, place: str, name: str) -> str:
        has_chatml = all(self.tokenizer.token_to_id(token) in self._special for token in _CHATML_TOKENS)
        if name and name not in TEMPLATES:
            raise HalfpintError(
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

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text that the model is given to answer the last of `messages`."""
        return self._render([(messages, True)], [0])[0]

    def tokens(self, conversations: Sequence[Conversation]) -> Iterator[Rendered]:
        """Each conversation rendered, in order.

        Raises:
            HalfpintError: the template refuses a conversation, or does not let its turns be told apart.
        """
        for start in range(0, len(conversations), _AT_ONCE):
            yield from self._some(conversations[start : start + _AT_ONCE])

    def _some(self, conversations: Sequence[Conversation]) -> Iterator[Rendered]:
        chats = [[self._marked(message) for message in one.as_dicts()] for one in conversations]
        wanted: list[tuple[Sequence[Mapping[str, str]], bool]] = []
        rows: list[int] = []
        for one, chat in zip(conversations, chats, strict=True):
            parts = [(chat, False)]
            for place, message in enumerate(chat):
                if message["role"] == ASSISTANT:
                    parts += [(chat[:place], True), (chat[: place + 1] if place + 1 < len(chat) else [], False)]
            wanted += parts
            rows += [one.row] * len(parts)
        texts = iter(self._render(wanted, rows))
        whole: list[str] = []
        spans: list[list[_Span] | None] = []
        for chat in chats:
            whole.append(next(texts))
            found = [
                self._span(whole[-1], message["content"].strip(), next(texts), next(texts) or whole[-1])
                for message in chat
                if message["role"] == ASSISTANT
            ]
            sure = [span for span in found if span is not None]
            spans.append(sure if len(sure) == len(found) else None)
        encodings = self.tokenizer.encode_batch(whole, add_special_tokens=False)
        for one, chat, text, turns, encoding in zip(conversations, chats, whole, spans, encodings, strict=True):
            yield self._by_marks(one, chat) if turns is None else self._by_spans(one, text, turns, encoding)

    def _marked(self, message: dict[str, str]) -> dict[str, str]:
        """What is written like a special token in a message is text, and becomes no token of that kind."""
        content = message["content"]
        if self._control.search(content):
            content = content.replace(_OPEN, "").replace(_CLOSE, "")
            content = self._control.sub(rf"{_OPEN}\g<0>{_CLOSE}", content)
        return {"role": message["role"], "content": content}

    def _render(self, parts: Sequence[tuple[Sequence[Mapping[str, str]], bool]], rows: Sequence[int]) -> list[str]:
        """The text of each part: messages, and whether the generation prompt follows them."""
        texts = [""] * len(parts)
        for prompts in (True, False):
            places = [place for place, (chat, prompt) in enumerate(parts) if prompt == prompts and chat]
            chats = [[dict(message) for message in parts[place][0]] for place in places]
            settings = {"chat_template": self.template, "tokenize": False, "add_generation_prompt": prompts}
            try:
                made = self._loaded.apply_chat_template(chats, **settings) if chats else []
            except Exception:  # one of them: which one, and what the template says to it
                made = []
                for place, chat in zip(places, chats, strict=True):
                    try:
                        made.append(self._loaded.apply_chat_template(chat, **settings))
                    except Exception as error:
                        raise HalfpintError(
                            f"chat template, row {rows[place]}", wanted="a conversation that the template takes",
                            got=f"{type(error).__name__}: {str(error)[:200]}",
                            todo="Change that conversation, or set template to chatml where the tokenizer allows it.",
                        ) from error  # fmt: skip
            for place, text in zip(places, made, strict=True):
                texts[place] = text
        return texts

    def _span(self, whole: str, content: str, prompt: str, ended: str) -> _Span | None:
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
        end = self._control_after(region, max(at, 0) + (len(content) if at >= 0 else 0))
        if end is None or (at < 0 and not bounded):
            return None
        if not bounded and (before.strip() or region[at + len(content) : end[0]].strip()):
            return None
        if before.strip() and (not self._prompts or self._control_after(before, 0)):
            start += at  # a header that the generation prompt should have had
        return start, len(prompt) + end[1]

    def _control_after(self, text: str, start: int) -> _Span | None:
        """The first special token from `start` on that the template wrote."""
        for found in self._control.finditer(text, start):
            if text[found.start() - 1 : found.start()] != _OPEN:
                return found.span()
        return None

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
                return_assistant_tokens_mask=True, **self._loaded.special_tokens_map,
            )  # fmt: skip
            text = texts[0]
            for start, stop in places[0]:
                behind = self._control.match(text, stop)
                turns += [(start, behind.end() if behind else stop)] if stop > start else []
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
