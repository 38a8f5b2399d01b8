"""Stage: an n-gram language model, the cheapest there is."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import ClassVar

from halfpint.bundle import Bundle, Kind
from halfpint.errors import HalfpintError
from halfpint.lookup import text_task
from halfpint.models.ngram import NgramModel, check_settings, parse_prune
from halfpint.stage import Stage, Work


@dataclass(frozen=True, kw_only=True)
class Ngram(Stage):
    """Counts of word sequences, smoothed: predicts the next word of a text within seconds of training.

    Args:
        order: words in the longest sequence counted, 1 to 8.
        smoothing: "kneser-ney" (interpolated, modified) or "none" (plain relative frequencies).
        prune: for each order the count up to which sequences are dropped, such as "0 0 1"; "" drops none.
        min_count: words that occur less often count as unknown.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.NOTHING,)
    gives: ClassVar[Kind] = Kind.NGRAM

    order: int = 5
    smoothing: str = "kneser-ney"
    prune: str = ""
    min_count: int = 0

    def __post_init__(self) -> None:
        check_settings(self.order, self.smoothing, parse_prune(self.prune), self.min_count)

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Count, smooth, write."""
        started = time.monotonic()
        if not len(work.documents.train):
            raise HalfpintError(
                self.use,
                wanted="training text",
                got="data that is no text corpus",
                todo="Give the recipe's [data] a text file or a folder of them, and the task predict.",
            )
        model = NgramModel.fit(
            work.documents.train, self.order, self.smoothing, parse_prune(self.prune), self.min_count, work.log,
            work.scratch,
        )  # fmt: skip
        config = model.config()
        with self.new_bundle(work) as (folder, card):
            model.save(folder)
            card.update(task=text_task().name, engine="ngram")
            card["stages"].append(
                self.entry(
                    started,
                    ngrams=config["ngrams"],
                    vocabulary=config["vocabulary_size"],
                    discounts=config["discounts"],
                    fallback=config["fallback"],
                )
            )
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)
