"""How a causal model reads a text that is longer than it sees at once: by windows that slide, or with a memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from halfpint.errors import SettingError


@dataclass(frozen=True)
class Reading:
    """How long texts are read.

    Args:
        context: tokens that are read at once; 0 takes those of the model's training.
        stride: tokens that a window slides by; 0 takes half of the context. Each scored token but those of the first
            window sees at least `context - stride` tokens before it.
        mem_length: tokens that a model with a memory remembers; None takes its own number.
    """

    context: int = 0
    stride: int = 0
    mem_length: int | None = None


def remembers(config: Any) -> bool:
    """Whether a model of `config` reads segment by segment, with a memory of those before."""
    return getattr(config, "mem_length", None) is not None


def longest(config: Any) -> int:
    """Tokens that a model of `config` is made to read at once."""
    skipped = int(config.pad_token_id or 0) + 1 if "roberta" in config.model_type else 0
    return int(getattr(config, "max_position_embeddings", None) or 1024) - skipped


def checked(reading: Reading, config: Any) -> Reading:
    """`reading` with the numbers that it leaves open.

    Raises:
        SettingError: a number that cannot be, or one of the other kind of model.
    """
    own, memory = longest(config), remembers(config)
    for name in ("context", "stride"):
        if getattr(reading, name) < 0:
            raise SettingError(name, wanted="0 or more tokens", got=str(getattr(reading, name)))
    if reading.mem_length is not None and (not memory or reading.mem_length < 0):
        raise SettingError(
            "mem_length", wanted="a model with a memory, such as transformer-xl" if not memory else "0 or more tokens",
            got=config.model_type if not memory else str(reading.mem_length),
            todo="Give --context and --stride: a window slides over the text." if not memory else "",
        )  # fmt: skip
    if memory and reading.stride:
        raise SettingError(
            "stride", wanted="a model without a memory", got=config.model_type,
            todo="Leave it out: segments follow each other, and the memory is what --mem-length says.",
        )  # fmt: skip
    context = reading.context or own
    if not memory and not 2 <= context <= own:
        raise SettingError(
            "context", wanted=f"2 to {own} tokens, the most that the model reads", got=str(context),
            todo="Give fewer, or train a model with a longer context.",
        )  # fmt: skip
    stride = reading.stride or max(1, context // 2)
    if stride >= context and not memory:
        raise SettingError("stride", wanted=f"fewer tokens than the context, {context}", got=str(stride))
    held = config.mem_length if memory else None
    return Reading(context, stride, held if reading.mem_length is None else reading.mem_length)


def windows(length: int, reading: Reading) -> Iterator[tuple[int, int, int]]:
    """Start, end and first scored token of the windows over a text of so many tokens."""
    end, first = min(reading.context, length), 1
    while first < end:
        yield max(0, end - reading.context), end, first
        end, first = min(end + reading.stride, length), end
