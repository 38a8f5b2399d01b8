"""Stage: the baseline that finds again what was labelled in training."""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from halfpint.bundle import Bundle, Kind, write_json
from halfpint.data.spans import Span
from halfpint.data.words import words, words_in
from halfpint.models.dictionary import Counted, count
from halfpint.stage import Stage, Work


@dataclass(frozen=True, kw_only=True)
class DictionaryOfSpans(Stage):
    """Each labelled piece of text with the label that it mostly had, if it had it in half of the places or more.

    Source: the baseline of Tjong Kim Sang & De Meulder 2003, "Introduction to the CoNLL-2003 Shared Task", section 4.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.NOTHING,)
    gives: ClassVar[Kind] = Kind.READY

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Count the spans."""
        started = time.monotonic()
        task, labels = work.labelled, work.labels
        texts: list[Counted] = []
        pieces: list[Any] = []
        places: list[tuple[Counted, int]] = []
        for example in work.train:
            spans = words(example.text)
            starts = [start for start, _ in spans]
            texts.append(([example.text[start:end] for start, end in spans], []))
            for span in example.spans or ():
                piece = example.text[span.start : span.end]
                pieces.append(task.answered(piece, (Span(0, len(piece), span.label),), labels))
                places.append((texts[-1], bisect_left(starts, span.start)))
        ends = np.cumsum(words_in(task.texts(pieces)))
        tagged = np.split(task.targets(pieces, labels), ends[:-1]) if pieces else []
        for (text, first), tags in zip(places, tagged, strict=True):
            if len(tags) and first + len(tags) <= len(text[0]):
                text[1].append((first, tuple(tags.tolist())))
        (outside,) = task.targets([task.answered("a", (), labels)], labels).tolist()
        dictionary = count(texts, outside)
        with self.new_bundle(work) as (folder, card):
            write_json(folder / "config.json", {"model_type": "dictionary", "id2label": dict(enumerate(labels))})
            dictionary.write(folder)
            card.update(task=task.name, engine="dictionary")
            card["stages"].append(self.entry(started, entries=len(dictionary.exact)))
        return Bundle(work.target)
