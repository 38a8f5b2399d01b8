"""What a language model is asked to write, and what it gives: settings, pieces of a text, scores of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from halfpint.engines._sampling import Sampling
from halfpint.errors import HalfpintError, SettingError, nearest


@dataclass(frozen=True, kw_only=True)
class Generation(Sampling):
    """The settings of one generation; those of `Sampling` too.

    Args:
        max_tokens: most tokens written.
        seed: the same seed writes the same text.
        stop: texts at which it ends; they are not given.
        schema: a JSON schema that the text is a value of; {} stands for any object.
        logprobs: None tells no log-probabilities; a number tells each token's, and so many of the likeliest others.

    Raises:
        HalfpintError: one of them is out of its range.
    """

    max_tokens: int = 128
    seed: int = 0
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        for name, fits, wanted in (
            ("max_tokens", self.max_tokens >= 1, "1 or more"),
            ("seed", self.seed >= 0, "0 or more"),
            ("stop", all(isinstance(text, str) and text for text in stop), "texts that are not empty"),
            ("schema", self.schema is None or isinstance(self.schema, Mapping), "a JSON schema: an object"),
            ("logprobs", self.logprobs is None or self.logprobs >= 0, "0 or more"),
        ):
            if not fits:
                raise SettingError(name, wanted=wanted, got=repr(getattr(self, name))[:80])

    @classmethod
    def of(cls, **settings: Any) -> Generation:
        """Settings by their names.

        Raises:
            HalfpintError: there is no such setting, or a value is out of its range.
        """
        names = [item.name for item in fields(cls)]
        for name in settings:
            if name not in names:
                raise HalfpintError(
                    name,
                    wanted="a setting of generation",
                    got="none",
                    todo=nearest(name, names),
                    said=f"There is no setting {name!r} of generation.",
                )
        return cls(**settings)


@dataclass(frozen=True)
class TokenScore:
    """How likely a token was to the model itself, at temperature 1 and before anything was cut off.

    Attributes:
        text: what the token stands for; U+FFFD for a part of a character.
        log_probability: in nats.
        top: the likeliest tokens there with their log-probabilities, the likeliest first.
        bytes: what the token stands for.
    """

    text: str
    log_probability: float
    top: tuple[tuple[str, float], ...]
    bytes: bytes


@dataclass(frozen=True)
class Piece:
    """What one token more gives of a text.

    Attributes:
        text: what is new; empty where a character is not whole yet, or where a stop text may have begun.
        tokens: scores of the tokens that `text` is of, where `Generation.logprobs` asks for them.
        finish: "" while it goes on; the last piece has "stop" (the model, a stop text or the schema ended it) or
            "length".
        written: tokens written so far, without one that ends a text.
        log_probability: nats of all of them and of the one that ended it; 0 where scores are not asked for.
    """

    text: str
    tokens: tuple[TokenScore, ...]
    finish: str
    written: int
    log_probability: float = 0.0


@dataclass(frozen=True)
class Continuation:
    """One of several texts that go on from a prompt.

    Attributes:
        text: what was written.
        tokens: scores of its tokens.
        finish: "stop" or "length".
        log_probability: nats of all its tokens, the one that ended it too.
        mean_log_probability: that by their number.
    """

    text: str
    tokens: tuple[TokenScore, ...]
    finish: str
    log_probability: float
    mean_log_probability: float
