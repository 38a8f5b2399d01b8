"""What commands give that make a language model."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halfpint.command import Result
from halfpint.progress import plain


@dataclass(frozen=True)
class Made(Result):
    """A language model that was made.

    Attributes:
        bundle: its folder.
        size_bytes: bytes of its files.
        seconds: how long it took.
        validation: its figures on validation documents; None where there are none.
        figures: all that is known of it, as in the JSON.
        is_shown: whether another process prints it.
    """

    bundle: Path
    size_bytes: int
    seconds: float
    validation: Mapping[str, Any] | None
    figures: Mapping[str, Any] = field(repr=False)
    is_shown: bool = field(default=False, repr=False)

    @classmethod
    def of(cls, figures: Mapping[str, Any], *, is_shown: bool = False) -> Made:
        """From the figures that the work gave."""
        return cls(
            Path(figures["bundle"]), figures["size_bytes"], figures["seconds"], figures["validation"] or None, figures,
            is_shown,
        )  # fmt: skip

    def as_json(self) -> str:
        """All figures in one object."""
        return json.dumps(plain(dict(self.figures)), ensure_ascii=False)

    def __str__(self) -> str:
        from halfpint.report.terminal import pretrained

        return pretrained(self.figures)


def figures_of(out: Path, started: float, **figures: Any) -> dict[str, Any]:
    """What was made, as `Made.of` takes it.

    Args:
        started: when, by the monotonic clock.
        figures: what else is known of it.
    """
    from halfpint.bundle import Bundle

    bundle = Bundle(out)
    seconds = round(time.monotonic() - started, 1)
    return {
        "bundle": str(out), "size_bytes": bundle.size_bytes, "seconds": seconds, "stages": bundle.card["stages"],
        "task": bundle.card.get("task", ""), **figures,
    }  # fmt: skip
