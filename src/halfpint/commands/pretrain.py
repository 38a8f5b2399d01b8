"""`halfpint pretrain`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from halfpint.command import Command, Group, option, positional, stem_of
from halfpint.commands._made import Made
from halfpint.errors import HalfpintError
from halfpint.progress import Log

if TYPE_CHECKING:
    from halfpint.data.corpus import CorpusData
    from halfpint.stage import Stage

_COUNTED = "ngram"
_OF_COUNTED = ("smoothing", "prune")


def _of_trained() -> tuple[str, ...]:
    """The fields that make no sense for counting."""
    words = "objective size minutes tokens vocab tokenizer context counts language as_it_is set"
    return tuple(words.split())


@dataclass(frozen=True, kw_only=True)
class Pretrain(Command):
    """Train a language model from scratch: a Transformer, or an n-gram model.

    Args:
        texts: Text files, JSONL, Parquet or CSV, each also .gz; folders; Hub names; or python-stdlib.
        out: Output folder (default: TEXT-ARCH).
        arch: Architecture: llama, qwen3, gemma3, gpt2, bert and others, or ngram.
        objective: causal or masked (default: as the architecture).
        size: Number of parameters, such as 10M; depth, width and learning rate follow from it.
        minutes: Time limit: training gets what judging and the report leave.
        tokens: Number of tokens to train on, such as 50M, instead of --minutes.
        vocab: Vocabulary size; 0 takes it from the size.
        tokenizer: bpe, unigram, wordpiece, word or char (default: bpe; wordpiece for masked models).
        context: Context length in tokens.
        order: Order of the n-gram model, for --arch ngram and --counts.
        smoothing: kneser-ney, or none for plain counts, for --arch ngram.
        prune: Drop n-grams with at most this count, per order, such as "0 0 1", for --arch ngram.
        counts: Mix in an n-gram model and a cache: lower perplexity, runs only in halfpint.
        validation: Validation text (default: a part of TEXT).
        text: Column with the texts, in tables (default: guessed).
        language: Keep only documents in this language, such as en.
        as_it_is: Use the text unfiltered, with its duplicates.
        seed: Random seed of the split and the training.
        set: Any other setting of the training (see docs/stages.md), such as batch_tokens=1024; repeatable.
        force: Replace an earlier model in the output folder.
        quiet: Hide progress.
        json: Print JSON and nothing else.
    """

    group: ClassVar[Group] = Group.LANGUAGE
    synonyms: ClassVar[tuple[str, ...]] = ("train", "ngram")
    resumes: ClassVar[bool] = True

    texts: tuple[str, ...] = positional(metavar="TEXT...")
    out: Path | None = option(None, metavar="FOLDER")
    arch: str = "llama"
    objective: str = ""
    size: str = option("10M", metavar="SIZE")
    minutes: float = 20.0
    tokens: str = option("", metavar="NUMBER")
    vocab: int = 0
    tokenizer: str = ""
    context: int = 256
    order: int = 5
    smoothing: str = "kneser-ney"
    prune: str = ""
    counts: bool = False
    validation: str = option("", metavar="DATA")
    text: str = option("", metavar="COLUMN")
    language: str = ""
    as_it_is: bool = False
    seed: int = option(0, least=0)
    set: tuple[str, ...] = option((), metavar="KEY=VALUE")
    force: bool = False
    quiet: bool = False
    json: bool = False

    @property
    def target(self) -> Path:
        """Where the model is written."""
        return self.out or Path(f"{stem_of(self.texts[0])}-{self.arch}")

    def writes(self) -> tuple[Path, ...]:
        """The folder of the model."""
        return (self.target,)

    def run(self, log: Log) -> Made:
        """Count or train; one process of several gives the result."""
        from halfpint.commands._learning import pretrain
        from halfpint.train import ranks

        data, stages = self._counted() if self.arch == _COUNTED else self._trained()
        result = pretrain(data, stages, self.target, log, force=self.force, command=self.line())
        return Made.of(result, is_shown=not ranks.is_first())

    def _counted(self) -> tuple[CorpusData, list[Stage]]:
        from halfpint.data.corpus import CorpusData
        from halfpint.train.ngram import Ngram

        self.refuse(*_of_trained(), wanted="a Transformer", got=f"--arch {self.arch}", todo="Leave it out.")
        data = CorpusData(  # counts want every line, as it is
            sources=self.texts, text=self.text, validation=self.validation, validation_share=0.0, clean=False,
            seed=self.seed,
        )  # fmt: skip
        return data, [Ngram(order=self.order, smoothing=self.smoothing, prune=self.prune)]

    def _trained(self) -> tuple[CorpusData, list[Stage]]:
        from halfpint.data.corpus import CorpusData
        from halfpint.models.sizes import CAUSAL, parse_parameters, resolve
        from halfpint.recipe import changed
        from halfpint.train.mix import Mix
        from halfpint.train.pretrain import Pretrain as Training

        unused = _OF_COUNTED if self.counts else (*_OF_COUNTED, "order")
        self.refuse(*unused, wanted=f"--arch {_COUNTED}", got=f"--arch {self.arch}", todo="Leave it out.")
        data = CorpusData(
            sources=self.texts, text=self.text, validation=self.validation, clean=not self.as_it_is,
            language=self.language, seed=self.seed,
        )  # fmt: skip
        trained = Training(
            arch=self.arch, objective=self.objective, size=self.size, minutes=self.minutes,
            tokens=parse_parameters(self.tokens, "--tokens") if self.tokens else 0, vocabulary=self.vocab,
            context=self.context, tokenizer=self.tokenizer, seed=self.seed,
        )  # fmt: skip
        trained = changed(trained, self.set)
        if not self.counts:
            return data, [trained]
        if resolve(trained.arch, trained.objective)[1] != CAUSAL:
            raise HalfpintError("--counts", wanted="a causal model", got=f"--arch {self.arch}, which is masked")
        return data, [trained, Mix(order=self.order)]
