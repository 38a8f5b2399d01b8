"""Stage: the baseline that answers every text with the most frequent label."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from halfpint.bundle import Bundle, new_bundle, write_json
from halfpint.stage import Stage, Work


@dataclass(frozen=True, kw_only=True)
class Majority(Stage):
    """The share of each label in the training data, whatever the text says."""

    needs: ClassVar[tuple[str, ...]] = ("nothing",)
    gives: ClassVar[str] = "ready"

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Count the labels."""
        started = time.monotonic()
        counts = np.bincount(work.task.targets(work.train, work.labels), minlength=len(work.labels))
        with new_bundle(work.target) as (folder, card):
            shares = (counts / counts.sum()).tolist()
            write_json(
                folder / "config.json",
                {"model_type": "majority", "id2label": dict(enumerate(work.labels)), "shares": shares},
            )
            card.update(task=work.task.NAME, engine="majority")
            card["stages"].append(self.entry(started))
        return Bundle(work.target)
