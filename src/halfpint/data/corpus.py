"""From text on disk to what a language model trains on: read, cleaned, split by document, stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from halfpint import __version__
from halfpint.bundle import read_json, write_json
from halfpint.data.corpus_make import CorpusMaker
from halfpint.data.corpus_read import Source, find_source, fingerprint
from halfpint.data.language import KNOWN
from halfpint.data.text_store import TextPart, TextStore
from halfpint.errors import DamagedError, HalfpintError, SettingError, nearest
from halfpint.files import new_folder
from halfpint.progress import Log
from halfpint.task import Split
from halfpint.terminal import amount

_FACTS = "corpus.json"
_MEMO = "fingerprints.json"
_NAMED_BY = 12  # characters of the key that name the folder


BOTH = "by the validation documents"
"""What a summary says where text is both chosen and judged by."""
_HALVED_BYTES = 40_000  # of validation text: of less, half is too little to choose by, or to judge by


@dataclass(frozen=True, kw_only=True)
class CorpusData:
    """The [data] table of a language model's recipe.

    Args:
        sources: files (text, JSONL, Parquet, CSV, TSV, each also gzipped), folders of them, folders of `datasets`, Hub
            names (`owner/name` or `owner/name:config`), or the word python-stdlib: the source of Python's own library.
        text: the column of tables that holds the texts; empty guesses it.
        validation: text for validation; it is used unfiltered, and training texts like it are dropped.
        validation_share: share of the text, by whole documents, for validation where `validation` is empty.
        clean: drop duplicates and what is not worth learning from (the rules are in `corpus_clean.RULES`).
        language: drop documents that are surely in another language (ISO 639-1, such as en); empty keeps all.
        seed: of the split.
    """

    sources: tuple[str, ...]
    text: str = ""
    validation: str = ""
    validation_share: float = 0.05
    clean: bool = True
    language: str = ""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Corpus(Split[str]):
    """Documents for training and for validation, on disk: each side is read as it is asked for.

    Its facts are documents, bytes and words of each side, languages, and what was dropped: by reason, with examples.

    Attributes:
        path: the folder they are in.
    """

    path: Path
    train: TextStore
    validation: TextStore


def prepare_corpus(settings: CorpusData, folder: Path, log: Log) -> Corpus:
    """The corpus of `settings`, made once: it is kept in `folder` under its key, and found there the next time.

    Memory: about 600 bytes a document (its sketch, for near duplicates) and the longest document.

    Raises:
        HalfpintError: a source is not there, cannot be read or is empty, a setting is out of range, or nothing is left.
    """
    _refuse_bad(settings)
    sources = [find_source(name) for name in settings.sources]
    held = find_source(settings.validation) if settings.validation else None
    memo: dict[str, Any] = {}
    with suppress(DamagedError):
        memo = read_json(folder / _MEMO) if (folder / _MEMO).is_file() else {}
    known = dict(memo)
    key = _key(settings, sources, held, memo)
    target = folder / key[:_NAMED_BY]
    if (target / _FACTS).is_file():
        with suppress(DamagedError):  # it is made again
            corpus = open_corpus(target)
            if corpus.key == key:
                log.say(
                    f"corpus {key[:_NAMED_BY]}: made before, {amount(len(corpus.train), 'document')}", kind="cached"
                )
                return corpus
    with _new_folder(target) as made:
        facts = CorpusMaker(settings, made, log).make(sources, held)
        write_json(made / _FACTS, {"key": key, **facts})
    if memo != known:
        write_json(folder / _MEMO, memo)
    return open_corpus(target)


def choosing(corpus: Corpus, share: float) -> tuple[Corpus, TextStore]:
    """The corpus with a share of its training documents in the place of those to choose by, and these, to judge by in
    the end: what was chosen by a text looks better on it than it is.

    Of a single training document none can be spared: what is chosen is then chosen by the text that it is judged by,
    and `summary` says so.
    """
    every = np.arange(len(corpus.train))
    if len(every) < 2:
        return replace(corpus, facts={**corpus.facts, "choosing": BOTH}), corpus.validation
    step = min(max(2, round(1 / share)), len(every))
    held, rest = (TextPart(corpus.train, every[(every % step == step - 1) == is_held]) for is_held in (True, False))
    key = sha256(f"{corpus.key} {held.key}".encode()).hexdigest()
    told = {"choosing": {"documents": len(held), "bytes": held.size_bytes, "of": "train"}}
    return replace(corpus, key=key, train=rest, validation=held, facts={**corpus.facts, **told}), corpus.validation


def judging(corpus: Corpus) -> tuple[Corpus, TextStore]:
    """The corpus with every second validation document alone to choose by, and the others, to judge what was chosen.

    Of validation text that is too short for both, all is for both, and `summary` says so.
    """
    every = np.arange(len(corpus.validation))
    if len(every) < 2 or corpus.validation.size_bytes < _HALVED_BYTES:
        return replace(corpus, facts={**corpus.facts, "choosing": BOTH}), corpus.validation
    held, judged = (TextPart(corpus.validation, every[start::2]) for start in (0, 1))
    told = {"choosing": {"documents": len(held), "bytes": held.size_bytes, "of": "validation"}}
    return replace(corpus, validation=held, facts={**corpus.facts, **told}), judged


def open_corpus(path: Path) -> Corpus:
    """The corpus in a folder that `prepare_corpus` made.

    Raises:
        HalfpintError: there is none, or it is damaged.
    """
    facts = read_json(path / _FACTS)
    key = str(facts.get("key"))
    return Corpus(
        path=path, key=key, train=TextStore(path, "train", f"{key}-train"),
        validation=TextStore(path, "validation", f"{key}-val"), facts=facts,
    )  # fmt: skip


def _refuse_bad(settings: CorpusData) -> None:
    if not settings.sources:
        raise HalfpintError("data.sources", wanted="at least one source", got="none")
    share = settings.validation_share
    if not 0 <= share <= 0.5:
        raise SettingError("data.validation_share", wanted="a share between 0 and 0.5", got=str(share))
    if settings.language and settings.language not in KNOWN:
        todo = nearest(settings.language, KNOWN)
        raise SettingError("data.language", wanted="a language that is known", got=repr(settings.language), todo=todo)


def _key(settings: CorpusData, sources: list[Source], held: Source | None, memo: dict[str, list[Any]]) -> str:
    """Where a source lies does not count, only what its files are called and hold."""
    fields = {name: value for name, value in asdict(settings).items() if name not in ("sources", "validation")}
    prints = [fingerprint(source, memo) for source in sources]
    parts = [__version__, fields, prints, fingerprint(held, memo) if held else ""]
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder that takes the place of `target` once it is whole; when the body raises nothing is left."""
    try:
        with new_folder(target) as made:
            yield made
    except BaseException:
        with suppress(OSError):  # other corpora are there
            target.parent.rmdir()
        raise
