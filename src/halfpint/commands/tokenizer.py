"""`halfpint tokenizer`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar

from halfpint.command import Command, Group, Result, option, positional, stem_of
from halfpint.errors import HalfpintError, SettingError, nearest
from halfpint.progress import Log

if TYPE_CHECKING:
    from halfpint.tokenizers.train import TokenizerReport, TokenizerSettings

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Trained(Result):
    """A tokenizer that was trained.

    Attributes:
        folder: where it is.
        report: its size, and how many tokens texts become.
    """

    folder: Path
    report: TokenizerReport

    def as_json(self) -> str:
        """The report in one object."""
        return json.dumps(self.report.as_dict(), ensure_ascii=False)

    def __str__(self) -> str:
        one = self.report
        lossless = "any text comes back exactly" if one.lossless else "spaces and unknown words do not come back"
        line = (
            f"{self.folder}: {one.kind}, {one.vocab_size:,} tokens; {one.bytes_per_token:.2f} bytes per token, "
            f"{one.tokens_per_word:.2f} tokens per word on {one.measured_on}; {lossless}"
        )
        return "\n".join([line, *(f"  {note}" for note in one.notes)])


@dataclass(frozen=True, kw_only=True)
class Tokenizer(Command):
    """Train a tokenizer on text and measure how many bytes a token covers.

    Args:
        texts: Text files, JSONL, Parquet or CSV, each also .gz; folders; Hub names; or python-stdlib.
        out: Output folder (default: TEXT-tokenizer).
        kind: bpe, unigram, wordpiece, word or char.
        vocab: Vocabulary size.
        masked: Add [CLS], [SEP] and [MASK], for masked language models.
        lowercase: Convert to lower case (wordpiece and word).
        text: Column with the texts, in tables (default: guessed).
        force: Replace an earlier tokenizer in the output folder.
        json: Print JSON and nothing else.
    """

    group: ClassVar[Group] = Group.LANGUAGE
    synonyms: ClassVar[tuple[str, ...]] = ("tokenize", "tokeniser", "vocab")

    texts: tuple[str, ...] = positional(metavar="TEXT...")
    out: Path | None = option(None, metavar="FOLDER")
    kind: str = "bpe"
    vocab: int = 8192
    masked: bool = False
    lowercase: bool = False
    text: str = option("", metavar="COLUMN")
    force: bool = False
    json: bool = False

    @property
    def target(self) -> Path:
        """Where the tokenizer is written."""
        return self.out or Path(f"{stem_of(self.texts[0])}-tokenizer")

    def writes(self) -> tuple[Path, ...]:
        """The folder of the tokenizer."""
        return (self.target,)

    def run(self, log: Log) -> Trained:
        """Train it and write it."""
        from halfpint.tokenizers.train import TokenizerSettings

        settings = TokenizerSettings(
            kind=self.kind, vocab_size=self.vocab, purpose="masked" if self.masked else "causal",
            lowercase=self.lowercase,
        )  # fmt: skip
        return Trained(self.target, make_tokenizer(self.texts, self.text, settings, self.target, log, force=self.force))


def make_tokenizer(
    sources: tuple[str, ...], text: str, settings: TokenizerSettings, out: Path, log: Log, *, force: bool = False
) -> TokenizerReport:
    """Train a tokenizer on text as it is, and write it to `out` whole.

    Args:
        text: the column of tables that holds the texts; empty guesses it.

    Raises:
        HalfpintError: no text, settings that do not fit, or an `out` that holds something else.
    """
    from halfpint.data.corpus import CorpusData, prepare_corpus
    from halfpint.files import replace_folder
    from halfpint.tokenizers.train import KINDS, train_tokenizer
    from halfpint.workspace import disk_errors

    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (force and (out / TOKENIZER).is_file()))):
        raise HalfpintError(
            f"--out {out}", wanted="a new or empty folder", got="files that are there",
            todo="Give another --out, or --force to replace a tokenizer.", said=f"The folder {out} is not empty.",
        )  # fmt: skip
    if settings.kind not in KINDS:
        raise SettingError(
            "kind", wanted="a kind of tokenizer", got=repr(settings.kind), todo=nearest(settings.kind, KINDS)
        )
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(out), TemporaryDirectory(prefix=".halfpint-", dir=out.parent) as folder:
        data = CorpusData(sources=sources, text=text, validation_share=0.0, clean=False)
        corpus = prepare_corpus(data, Path(folder) / "corpus", log)
        report = train_tokenizer(corpus.train, settings, Path(folder) / "made", log)
        replace_folder(Path(folder) / "made", out)
    return report
