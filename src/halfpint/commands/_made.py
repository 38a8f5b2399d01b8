"""What commands give that make a language model."""

from __future__ import annotations

import json
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
