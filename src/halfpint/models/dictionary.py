"""A dictionary of word sequences, each with the tags that it mostly had in training."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from halfpint.bundle import Bundle, read_json
from halfpint.files import write_text

FILE = "dictionary.json"
_LEAST = 0.5
Entry = tuple[tuple[int, ...], float]
Counted = tuple[list[str], list[tuple[int, tuple[int, ...]]]]
"""The words of a text and its spans: first word, tags."""


@dataclass(frozen=True)
class Dictionary:
    """Entries as written and in lower case.

    Attributes:
        exact, folded: words joined by a space -> the tag of each word, and the share of their occurrences in training
            that had these tags.
        outside_tag, outside: the tag of all other words, and how sure it is.
    """

    exact: Mapping[str, Entry]
    folded: Mapping[str, Entry]
    outside_tag: int
    outside: float

    @cached_property
    def _sizes(self) -> dict[str, list[int]]:
        return _sizes(word for table in (self.exact, self.folded) for word in table)

    def matches(self, words: Sequence[str]) -> list[tuple[int, tuple[int, ...], float]]:
        """First word, tags and share of each entry that is found: from left to right, the longest at each word.

        Of two readings of the same words that as written goes before that in lower case.
        """
        found, at = [], 0
        low = [word.lower() for word in words]
        while at < len(words):
            for size in self._sizes.get(low[at], ()):
                entry = self.exact.get(" ".join(words[at : at + size]))
                entry = entry or self.folded.get(" ".join(low[at : at + size]))
                if entry is not None:
                    found.append((at, *entry))
                    at += size
                    break
            else:
                at += 1
        return found

    def write(self, folder: Path) -> None:
        """Write it into a folder."""
        entries = {
            name: [[words, list(tags), round(share, 4)] for words, (tags, share) in table.items()]
            for name, table in (("exact", self.exact), ("folded", self.folded))
        }
        content = {**entries, "outside_tag": self.outside_tag, "outside": self.outside}
        write_text(folder / FILE, json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")


def read_dictionary(bundle: Bundle) -> Dictionary:
    """The dictionary of a bundle."""
    found = read_json(bundle.path / FILE)
    exact, folded = (
        {words: (tuple(tags), float(share)) for words, tags, share in found[name]} for name in ("exact", "folded")
    )
    return Dictionary(exact, folded, int(found["outside_tag"]), float(found["outside"]))


def count(texts: Sequence[Counted], outside_tag: int) -> Dictionary:
    """The dictionary of texts.

    An entry is what had its tags in half of its occurrences or more; its share is that of its occurrences and one
    more without them.
    """
    tables: list[dict[str, Entry]] = []
    for fold in (False, True):
        labelled: dict[str, Counter[tuple[int, ...]]] = defaultdict(Counter)
        total: Counter[str] = Counter()
        cased = [([word.lower() for word in words] if fold else words, spans) for words, spans in texts]
        for words, spans in cased:
            for first, tags in spans:
                labelled[" ".join(words[first : first + len(tags)])][tags] += 1
        sizes = _sizes(labelled)
        for words, _ in cased:
            for at, word in enumerate(words):
                for size in sizes.get(word.lower(), ()):
                    key = " ".join(words[at : at + size])
                    if at + size <= len(words) and key in labelled:
                        total[key] += 1
        table = {}
        for key, tagged in labelled.items():
            tags, times = min(tagged.items(), key=lambda one: (-one[1], one[0]))
            if times >= _LEAST * total[key]:
                table[key] = (tags, times / (total[key] + 1))
        tables.append(dict(sorted(table.items())))
    exact, folded = tables
    folded = {key: entry for key, entry in folded.items() if exact.get(key, (None,))[0] != entry[0]}
    known = Dictionary(exact, folded, outside_tag, 1.0)
    return Dictionary(exact, folded, outside_tag, _outside_share(texts, known))


def _sizes(entries: Iterable[str]) -> dict[str, list[int]]:
    """How many words the entries have that begin with a word (in lower case), the longest first."""
    found: dict[str, set[int]] = defaultdict(set)
    for entry in entries:
        words = entry.split(" ")
        found[words[0].lower()].add(len(words))
    return {word: sorted(sizes, reverse=True) for word, sizes in found.items()}


def _outside_share(texts: Sequence[Counted], known: Dictionary) -> float:
    """Of the words that no entry covers, the share that is outside in truth too; one more counts as not."""
    covered = inside = words_in_all = 0
    for words, spans in texts:
        hit = {at for first, tags, _ in known.matches(words) for at in range(first, first + len(tags))}
        true = {at for first, tags in spans for at in range(first, first + len(tags))}
        covered += len(hit)
        inside += len(true - hit)
        words_in_all += len(words)
    left = words_in_all - covered
    return (left - inside + 1) / (left + 2)
