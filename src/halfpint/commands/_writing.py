"""Generated text: the settings that several commands share, and what is told of what a model wrote."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfpint.command import Command, option
from halfpint.errors import HalfpintError

if TYPE_CHECKING:
    from halfpint.bundle import Bundle
    from halfpint.engines import Continuation, Generation, TokenScore


CUT_OFF = "The JSON is cut off: the limit of --max-tokens came before its end."


@dataclass(frozen=True, kw_only=True)
class Writing(Command):
    """A command that generates text.

    Args:
        max_tokens: Most tokens to generate.
        temperature: Sampling temperature; 0 always takes the most likely token.
        top_k: Sample from the k most likely tokens; 0 from all.
        top_p: Sample from the most likely tokens that together have this probability.
        min_p: Skip tokens less likely than this share of the most likely one.
        repetition_penalty: Above 1 discourages repetition.
        stop: Text that ends the output; repeatable.
        seed: Random seed; the same seed gives the same text.
        json_schema: JSON schema that the output follows, as JSON or as a file; {} for any object.
        system: System message.
    """

    max_tokens: int = option(200, least=1)
    temperature: float = option(0.8, least=0)
    top_k: int = option(0, least=0)
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    json_schema: str = option("", metavar="SCHEMA")
    system: str = ""

    def generation(self, **more: Any) -> Generation:
        """The settings as engines take them.

        Raises:
            HalfpintError: one of them is out of its range, or the schema cannot be read.
        """
        from halfpint.engines import Generation

        return Generation(
            max_tokens=self.max_tokens, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p,
            min_p=self.min_p, repetition_penalty=self.repetition_penalty, seed=self.seed, stop=self.stop,
            schema=read_schema(self.json_schema), **more,
        )  # fmt: skip


@dataclass(frozen=True)
class Written:
    """What came of a prompt.

    Attributes:
        texts: one, or several with the best first.
        prompt_tokens: tokens that were read before.
        tokens: tokens that were written, of all texts.
        seconds: how long it took, the loading of the model aside.
    """

    texts: tuple[Continuation, ...]
    prompt_tokens: int
    tokens: int
    seconds: float

    def figures(self, *, scores: bool) -> dict[str, Any]:
        """All of it, as JSON can hold it; with `scores`, those of each token."""
        told = [
            {
                "text": one.text, "finish": one.finish,
                **({"mean_log_probability": round(one.mean_log_probability, 6)} if one.tokens else {}),
                **({"log_probabilities": [_score(token) for token in one.tokens]} if scores else {}),
            }
            for one in self.texts
        ]  # fmt: skip
        return {
            **(told[0] if told else {}), **({"texts": told} if len(told) > 1 else {}),
            "prompt_tokens": self.prompt_tokens, "tokens": self.tokens, "seconds": round(self.seconds, 3),
            "tokens_per_s": round(self.tokens / max(self.seconds, 1e-9), 1),
        }  # fmt: skip


def generate(
    bundle: Bundle,
    prompt: str,
    settings: Generation,
    *,
    best: int = 1,
    chat: bool | None = None,
    system: str = "",
    tell: Callable[[str], None] | None = None,
) -> Written:
    """What the model of `bundle` writes after `prompt`.

    Args:
        best: how many texts (see `Writer.best`).
        chat: whether `prompt` is a user's message, which the model answers; None asks the bundle's task.
        system: what the model is told before that message.
        tell: takes each piece of the text as it comes, where there is one text.

    Raises:
        HalfpintError: a bundle that cannot write, or not in that way; a prompt that fills the context.
    """
    from halfpint.engines import Continuation, TokenScore, open_language_engine, prompt_of

    engine = open_language_engine(bundle)
    given = prompt_of(bundle, engine, prompt, chat=chat, system=system)
    started = time.monotonic()
    if best != 1:
        found = engine.best(given, best, settings)
        tokens = sum(len(one.tokens) for one in found)
    else:
        text, scores, finish, total, tokens = "", list[TokenScore](), "", 0.0, 0
        for piece in engine.write(given, settings):
            text += piece.text
            scores += piece.tokens
            finish, total, tokens = piece.finish, piece.log_probability, piece.written
            if tell is not None and piece.text:
                tell(piece.text)
        mean = total / max(1, tokens + (finish == "stop"))
        found = [Continuation(text, tuple(scores), finish, total, mean)]
    seconds = time.monotonic() - started
    read = engine.count(given) if isinstance(given, str) else len(given)
    return Written(tuple(found), read, tokens, seconds)


def read_schema(text: str) -> Mapping[str, Any] | None:
    """A JSON schema from what was given: JSON itself, or a file of it; None where nothing was.

    Raises:
        HalfpintError: no such file, or what is no JSON object.
    """
    if not text.strip():
        return None
    place = "--json-schema"
    if not text.lstrip().startswith("{"):
        path, place = Path(text), text
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise HalfpintError(
                "--json-schema", wanted="a JSON schema, or a file of one", got=f"{place} ({error})",
            ) from None  # fmt: skip
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HalfpintError(
            place,
            wanted="a JSON schema",
            got=f"what is no JSON ({error})",
            said=f"{place} is not a JSON schema: it is not valid JSON ({error}).",
        ) from None
    if not isinstance(found, dict):
        raise HalfpintError(
            place,
            wanted="a JSON schema: an object",
            got=type(found).__name__,
            said=f"{place} is not a JSON schema: it is a {type(found).__name__}, not an object.",
        )
    return found


def scores_shown(tokens: Sequence[TokenScore]) -> list[str]:
    """A line for each token: its log-probability, itself, and the likeliest there."""
    lines = []
    for token in tokens:
        others = "  ".join(f"{json.dumps(name, ensure_ascii=False)} {value:.3f}" for name, value in token.top)
        lines.append(
            f"{token.log_probability:9.3f}  {json.dumps(token.text, ensure_ascii=False):<16}  {others}".rstrip()
        )
    return lines


def _score(token: TokenScore) -> dict[str, Any]:
    return {
        "token": token.text, "bytes": list(token.bytes), "log_probability": round(token.log_probability, 6),
        "top": [{"token": name, "log_probability": round(value, 6)} for name, value in token.top],
    }  # fmt: skip
