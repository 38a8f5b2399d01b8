"""Stage: the baseline that answers every text with the most frequent label."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from halfpint.bundle import Bundle, Kind, write_json
from halfpint.stage import Stage, Work


@dataclass(frozen=True, kw_only=True)
class Majority(Stage):
    """The share of each label in the training data, whatever the text says."""

    needs: ClassVar[tuple[Kind, ...]] = (Kind.NOTHING,)
    gives: ClassVar[Kind] = Kind.READY

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Count the labels."""
        started = time.monotonic()
        counts = np.bincount(work.labelled.targets(work.train, work.labels), minlength=len(work.labels))
        with self.new_bundle(work) as (folder, card):
            shares = (counts / counts.sum()).tolist()
            write_json(
                folder / "config.json",
                {"model_type": "majority", "id2label": dict(enumerate(work.labels)), "shares": shares},
            )
            card.update(task=work.task.name, engine="majority")
            card["stages"].append(self.entry(started))
        return Bundle(work.target)
