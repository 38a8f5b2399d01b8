"""The next word: a language model scores running text and goes on with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halfpint.bundle import Kind
from halfpint.data.corpus import CorpusData, prepare_corpus
from halfpint.progress import Log
from halfpint.task import Split, Task
from halfpint.tasks._text_figures import METRICS

_ENDINGS = (".txt", ".md", ".rst")
_LIKELY = 0.2  # a text file may hold anything


class Predict(Task[str]):
    """The task; an example is a document."""

    name = "predict"
    about = "the next word of running text"
    data = CorpusData
    routes = "language"
    commands = frozenset(
        {
            "chat", "compress", "distil", "evaluate", "export", "fill", "finetune", "generate", "import", "predict",
            "pretrain", "pull", "report", "run", "serve", "tokenizer",
        }
    )  # fmt: skip
    ends = frozenset(
        {Kind.LANGUAGE, Kind.NGRAM, Kind.MIXED, Kind.SPARSE, Kind.QUANTIZED, Kind.GGUF, Kind.PACKED,
         Kind.COMPRESSED_TENSORS}
    )  # fmt: skip
    metrics = METRICS
    of_text = True

    def recognises(self, source: str) -> float:
        """A little of files of plain text."""
        return _LIKELY if source.lower().removesuffix(".gz").endswith(_ENDINGS) else 0.0

    def read(self, settings: Any, folder: Path, log: Log) -> Split[str]:
        """A corpus, kept in `folder`."""
        return prepare_corpus(settings, folder, log)

    def primary(self, train: Sequence[str]) -> str:
        """Bits per byte, which models with other vocabularies share."""
        return "bits_per_byte"

    def documents(self, split: Split[str]) -> Split[str]:
        """The split itself."""
        return split


TASK = Predict()
