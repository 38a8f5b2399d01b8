"""How a corpus is made: documents one by one through the rules, then near duplicates, the split, and the two stores."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from halfpint.data.corpus_clean import RULES, fault, looks_like_code, tidy
from halfpint.data.corpus_read import Document, Source, read_source
from halfpint.data.dedup import normalise
from halfpint.data.language import language_of
from halfpint.data.near_duplicates import NearDuplicates
from halfpint.data.text_store import TextStore, TextWriter
from halfpint.errors import HalfpintError
from halfpint.progress import Bar, Log
from halfpint.terminal import amount

if TYPE_CHECKING:
    from halfpint.data.corpus import CorpusData

_EXAMPLES = 3
_SHOWN_CHARS = 100
_DIGEST_BYTES = 16
_TRAIN, _VALIDATION, _DROPPED = range(3)


class CorpusMaker:
    """Makes one corpus in `folder`. Documents of the validation source come first, then those of the others."""

    def __init__(self, settings: CorpusData, folder: Path, log: Log) -> None:
        self.settings, self.folder, self.log = settings, folder, log
        self.names = ", ".join(settings.sources)
        self.splits = settings.validation_share > 0 and not settings.validation
        self.compares = settings.clean or self.splits
        self.near = NearDuplicates()
        self.seen: dict[bytes, bool] = {}  # digest of a text's normal form -> whether the validation source has it
        self.digests = bytearray()
        self.words, self.language = array("q"), array("b")
        self.languages: dict[str, int] = {}
        self.dropped: Counter[str] = Counter()
        self.examples: dict[str, list[dict[str, str]]] = {}
        self.left_out: Counter[str] = Counter()
        self.read = 0

    def make(self, sources: list[Source], held: Source | None) -> dict[str, Any]:
        """Write both stores; gives the facts that `Corpus.summary` tells."""
        held_writer, writer = TextWriter(self.folder, "validation"), TextWriter(self.folder, "draft")
        both = [*([held] if held else []), *sources]
        with self.log.bar("reading", sum(source.size_bytes for source in both)) as bar:
            for document in self._documents(both[: len(both) - len(sources)], bar):
                self._take(document.text, held_writer, language_of(document.text), is_held=True)
            read_held = self.read
            for document in self._documents(sources, bar):
                self._consider(document, writer)
        held_texts, texts = held_writer.store(), writer.store()
        if held and not len(held_texts):
            raise HalfpintError(held.name, wanted="validation documents", got="none")
        self._refuse_nothing(texts, self.read - read_held)
        count = len(held_texts)
        groups = np.arange(len(self.words), dtype=np.int64)
        if self.compares:
            groups = self.near.groups(lambda number: held_texts[number] if number < count else texts[number - count])
        sides = self._sides(groups, texts, count)
        self._write(texts, sides)
        facts = self._facts(sides, held_texts, texts)
        self._say(facts)
        return facts

    def _documents(self, sources: list[Source], bar: Bar) -> Iterator[Document]:
        for source in sources:
            for document, done in read_source(source, self.settings.text, self.left_out):
                self.read += 1
                yield document
                bar.advance(done, f"{self.read:,} documents")

    def _consider(self, document: Document, writer: TextWriter) -> None:
        """Take a document of the sources, or drop it."""
        if not self.settings.clean:
            self._take(document.text, writer, language_of(document.text), is_held=False)
            return
        text = tidy(document.text)
        code = looks_like_code(text) if document.code is None else document.code
        language = "code" if code else language_of(text)
        reason = fault(text, code=code)
        if not reason and self.settings.language and language not in (self.settings.language, "code", "unknown"):
            reason = "other language"
        reason = reason or self._take(text, writer, language, is_held=False)
        if reason:
            self._drop(reason, document.place, text)

    def _take(self, text: str, writer: TextWriter, language: str, *, is_held: bool) -> str:
        """Write a text, unless it is an exact duplicate: then why not."""
        if self.compares:
            normal = normalise(text)
            digest = blake2b(normal.encode("utf-8"), digest_size=_DIGEST_BYTES).digest()
            if self.settings.clean:
                if not is_held and digest in self.seen:
                    return "in validation" if self.seen[digest] else "exact duplicate"
                self.seen.setdefault(digest, is_held)
            self.near.add(normal)
            self.digests += digest
        writer.add(text.encode("utf-8"))
        self.language.append(self.languages.setdefault(language, len(self.languages)))
        self.words.append(len(text.split()))
        return ""

    def _drop(self, reason: str, place: str, text: str) -> None:
        self.dropped[reason] += 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < _EXAMPLES:
            shown.append({"place": place, "start": " ".join(text[: 2 * _SHOWN_CHARS].split())[:_SHOWN_CHARS]})

    def _refuse_nothing(self, texts: TextStore, read: int) -> None:
        if not read:
            reasons = "; ".join(f"{count} × {reason}" for reason, count in self.left_out.most_common(3))
            raise HalfpintError(
                self.names, wanted="text files, or tables with a text column", got=f"none ({reasons or 'nothing'})",
                todo="Give a file or a folder with text.",
                said=f"There is no text in {self.names} ({reasons or 'nothing at all'}).",
            )  # fmt: skip
        if not len(texts):
            reasons = ", ".join(f"{count:,} × {reason}" for reason, count in self.dropped.most_common())
            first = self.dropped.most_common(1)[0][0]
            raise HalfpintError(
                self.names, wanted="documents worth learning from", got=f"all {read:,} dropped: {reasons}",
                todo=f"The rule {first!r}: {RULES[first]}. Give other text, or keep all of it with --as-it-is (in a "
                "recipe, clean = false).",
                said=f"{self.names} has no text worth learning from: {reasons}, of {amount(read, 'document')}.",
            )  # fmt: skip

    def _sides(self, groups: NDArray[np.int64], texts: TextStore, held: int) -> NDArray[np.int8]:
        """For each text of the draft where it goes: int8, shape (texts,).

        `groups` has, for each text, those of the validation source first, the number of its first near duplicate.
        """
        sides = np.full(len(texts), _TRAIN, dtype=np.int8)
        own = groups[held:]
        if self.settings.clean:
            for number in np.flatnonzero(own != np.arange(held, held + len(texts))).tolist():
                sides[number] = _DROPPED
                like = int(own[number])
                reason = "in validation" if like < held else "near duplicate"
                self._drop(reason, f"text {number + 1} of the {len(texts)} that were left", texts[number])
            if (sides == _DROPPED).all():
                raise HalfpintError(
                    self.names, wanted="documents that the validation source does not have", got="none of them",
                    todo="Give other text, or another validation source.",
                )  # fmt: skip
        if self.splits:
            self._split(sides, own, np.diff(texts.offsets))
        return sides

    def _split(self, sides: NDArray[np.int8], own: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
        """Whole groups to validation, in the order of a hash of content and seed, until their bytes are the share."""
        kept = np.flatnonzero(sides == _TRAIN)
        _, member = np.unique(own[kept], return_inverse=True)
        groups = int(member.max()) + 1
        if groups < 2:
            raise HalfpintError(
                self.names, wanted="at least two documents, to keep one for validation", got="one",
                todo="Give more text, a validation source, or validation_share = 0.",
                said=f"There is only one document in {self.names}; two are needed, to keep one for validation.",
            )  # fmt: skip
        key, digests, size = str(self.settings.seed).encode()[:64], bytes(self.digests), _DIGEST_BYTES
        draws = (
            int.from_bytes(blake2b(digests[size * n : size * (n + 1)], digest_size=8, key=key).digest(), "big")
            for n in kept.tolist()
        )
        lowest = np.full(groups, np.iinfo(np.uint64).max, dtype=np.uint64)
        np.minimum.at(lowest, member, np.fromiter(draws, dtype=np.uint64, count=len(kept)))
        order = np.argsort(lowest, kind="stable")
        filled = np.cumsum(np.bincount(member, weights=sizes[kept], minlength=groups)[order])
        # As near to the share as whole groups come, and none of the sides empty.
        most = int(np.argmin(np.abs(filled[:-1] - self.settings.validation_share * filled[-1]))) + 1
        chosen = np.zeros(groups, dtype=bool)
        chosen[order[:most]] = True
        sides[kept[chosen[member]]] = _VALIDATION

    def _write(self, texts: TextStore, sides: NDArray[np.int8]) -> None:
        endings = ("bin", "npy")
        if not sides.any():
            for ending in endings:
                (self.folder / f"draft.{ending}").rename(self.folder / f"train.{ending}")
            return
        writers = {_TRAIN: TextWriter(self.folder, "train")}
        if self.splits:
            writers[_VALIDATION] = TextWriter(self.folder, "validation")
        for side, text in zip(sides.tolist(), texts, strict=True):
            if side in writers:
                writers[side].add(text.encode("utf-8"))
        for writer in writers.values():
            writer.close()
        for ending in endings:
            (self.folder / f"draft.{ending}").unlink()

    def _facts(self, sides: NDArray[np.int8], held_texts: TextStore, texts: TextStore) -> dict[str, Any]:
        sides = np.concatenate([np.full(len(held_texts), _VALIDATION, dtype=np.int8), sides])
        sizes = np.concatenate([np.diff(held_texts.offsets), np.diff(texts.offsets)])
        words = np.frombuffer(self.words, dtype=np.int64)
        language = np.frombuffer(self.language, dtype=np.int8)
        facts: dict[str, Any] = {"sources": list(self.settings.sources), "documents_read": self.read}
        for name, side in (("train", _TRAIN), ("validation", _VALIDATION)):
            on = sides == side
            facts[name] = {"documents": int(on.sum()), "bytes": int(sizes[on].sum()), "words": int(words[on].sum())}
        counts = np.bincount(language[sides == _TRAIN], minlength=len(self.languages)).tolist()
        counted = zip(self.languages, counts, strict=True)
        facts["languages"] = dict(sorted((item for item in counted if item[1]), key=lambda item: (-item[1], item[0])))
        facts["dropped"] = [
            {"reason": reason, "rule": RULES[reason], "count": count, "examples": self.examples[reason]}
            for reason, count in sorted(self.dropped.items(), key=lambda item: (-item[1], item[0]))
        ]
        facts["left_out"] = dict(sorted(self.left_out.items()))
        return facts

    def _say(self, facts: dict[str, Any]) -> None:
        train, validation = facts["train"], facts["validation"]
        self.log.say(
            f"{self.names}: {amount(train['documents'], 'document')}, {train['bytes']:,} bytes, {train['words']:,} "
            f"words for training; {amount(validation['documents'], 'document')}, {validation['bytes']:,} bytes for "
            "validation",
            kind="data", **facts,
        )  # fmt: skip
        for reason, count in facts["left_out"].items():
            self.log.say(f"  left out: {count:,} × {reason}", kind="left_out")
        for item in facts["dropped"]:
            first = item["examples"][0]
            self.log.say(
                f"  dropped: {item['count']:,} × {item['reason']}, such as {first['place']}: {first['start'][:60]!r}",
                kind="dropped",
            )
        total = max(train["documents"], 1)
        shares = [f"{name} {count / total:.0%}" for name, count in list(facts["languages"].items())[:5]]
        self.log.say(f"  language: {', '.join(shares)}", kind="languages")
