"""N-gram language models: counted from text, smoothed by Kneser-Ney, kept as sorted arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import read_json, write_json
from halfpint.errors import HalfpintError, SettingError, nearest, need
from halfpint.files import new_file, write_text
from halfpint.models import _arpa
from halfpint.models._ngram_columns import Storage
from halfpint.models._ngram_counts import count
from halfpint.models._ngram_estimate import kneser_ney, relative_frequencies
from halfpint.models._ngram_files import read_tables, write_tables
from halfpint.models._ngram_read import read
from halfpint.models._ngram_tables import Tables
from halfpint.models._ngram_text import BOS, EOS, SPECIALS, UNKNOWN, encode, split_lines
from halfpint.progress import SILENT, Log

MODEL_TYPE = "halfpint_ngram"
MAX_ORDER = 8
SMOOTHINGS = {"kneser-ney": kneser_ney, "none": relative_frequencies}

_CHUNK = 1 << 22  # tokens sorted at once when counting
_BATCH = 1 << 20  # tokens scored at once
_BUDGET: int | None = None  # bytes of memory to count in; None takes half of the machine's


@dataclass(frozen=True)
class Scores:
    """What a model makes of a text.

    Args:
        log10: float32 (tokens,): log10 of the probability of each word and of the </s> that ends each line.
        unknown: bool (tokens,): the tokens whose word the vocabulary has not.
        lengths: int64 (sentences,): tokens of each line, its </s> among them; their order is that of `log10`.
        size_bytes: UTF-8 bytes of the text, one for each line's end.
    """

    log10: npt.NDArray[np.float32]
    unknown: npt.NDArray[np.bool_]
    lengths: npt.NDArray[np.int64]
    size_bytes: int

    @property
    def tokens(self) -> int:
        """Words and ends of lines."""
        return len(self.log10)

    @property
    def sentences(self) -> int:
        """Lines."""
        return len(self.lengths)

    @property
    def perplexity(self) -> float:
        """Perplexity over all tokens (what KenLM calls "including OOVs"); infinite where one is impossible."""
        return _perplexity(self.log10)

    @property
    def perplexity_known(self) -> float:
        """Perplexity over the tokens that the vocabulary has ("excluding OOVs")."""
        return _perplexity(self.log10[~self.unknown])

    @property
    def bits_per_byte(self) -> float:
        """Bits for a byte of the text, to compare models with other vocabularies by."""
        return float(-self.log10.sum(dtype=np.float64) / np.log10(2) / max(self.size_bytes, 1))


def _perplexity(log10: npt.NDArray[np.float32]) -> float:
    if not len(log10):
        return float("nan")
    mean = -float(log10.sum(dtype=np.float64)) / len(log10)
    return float(10**mean) if mean < 300 else float("inf")


@dataclass(frozen=True, eq=False)
class NgramModel:
    """A back-off n-gram model.

    Args:
        tables: vocabulary, n-grams, probabilities and back-off weights.
        smoothing: how they were estimated: "kneser-ney", "none", or "arpa" for a model read from an ARPA file.
        discounts: D1, D2 and D3+ of each order, where known.
        fallback: the orders whose text was too small or odd for discounts of their own.
        prune: for each order the count up to which n-grams were dropped.
        min_count: how often a word had to occur to be in the vocabulary.
    """

    tables: Tables
    smoothing: str
    discounts: tuple[tuple[float, float, float], ...] = ()
    fallback: tuple[int, ...] = ()
    prune: tuple[int, ...] = ()
    min_count: int = 0

    @classmethod
    def fit(
        cls,
        lines: Iterable[str],
        order: int = 5,
        smoothing: str = "kneser-ney",
        prune: Sequence[int] = (),
        min_count: int = 0,
        log: Log = SILENT,
        scratch: Path | None = None,
    ) -> NgramModel:
        """The model of a text, which may be larger than memory.

        A text whose counting would take more than half of the memory is counted on disk, block by block, in the memory
        of some blocks, the vocabulary and the finished model; the same model comes of it, bit by bit.

        Each line is a sentence of its own, started by <s> and ended by </s>, which is a token like any word. `<unk>`,
        `<s>` and `</s>` in the text are ordinary words: <unk>, the model's unknown word, is another one.

        Args:
            lines: the text, read once; an item may hold several lines (see `split_lines`).
            order: the longest n-grams, 1 to 8.
            smoothing: "kneser-ney" (interpolated, modified; as lmplz) or "none" (relative frequencies).
            prune: for each order the count up to which n-grams are dropped; the last one counts for the rest.
            min_count: words that occur less often become the unknown word, which then has n-grams of its own.
            log: where progress is told.
            scratch: the folder for what goes to disk, of one count at a time; nothing stays there. None takes the
                system's own for temporary files.

        Raises:
            HalfpintError: a setting out of range, a text without a word, a binary one, one for which the device has no
                room, or a model that will not fit into memory.
        """
        thresholds = check_settings(order, smoothing, prune, min_count)
        with Storage(scratch, _BUDGET) as storage:
            words, text = read(lines, order, min_count, _CHUNK, storage)
            tokens = sum(map(len, text))
            if storage.spilled:
                log.say(
                    f"Counting {tokens:,} tokens on disk, in {storage.folder}.", "counting on disk", tokens=tokens,
                )  # fmt: skip
            with log.bar(f"counting n-grams of {tokens:,} tokens", order) as bar:
                levels = count(text, order, len(words), storage, thresholds, bar.advance)
            found = SMOOTHINGS[smoothing](levels, storage)
        if found.fallback:
            log.say(
                f"Too few n-grams for discounts of order {', '.join(map(str, found.fallback))}: 0.5, 1 and 1.5 taken.",
                "fallback discounts", orders=found.fallback,
            )  # fmt: skip
        words = [word for word, kept in zip(words, found.kept_words.tolist(), strict=True) if kept]
        tables = Tables(words, found.keys, found.log10, found.backoff)
        return cls(tables, smoothing, found.discounts, found.fallback, thresholds, min_count)

    def score(self, lines: Iterable[str]) -> Scores:
        """Score every token of a text, given the tokens before it in its line.

        Args:
            lines: the text, read once and a part at a time; an item may hold several lines.
        """
        size = 0

        def counted() -> Iterator[bytes]:
            nonlocal size
            for line in split_lines(lines):
                size += len(line) + 1
                yield line

        log10, unknown, lengths = [np.zeros(0, np.float32)], [np.zeros(0, bool)], [np.zeros(0, np.int64)]
        for ids in encode(counted(), self.tables.numbers.__getitem__, _BATCH):
            scored = ids != BOS
            tokens = ids[scored]
            log10.append(self.tables.score(ids)[scored])
            unknown.append(tokens == UNKNOWN)
            lengths.append(np.diff(np.flatnonzero(tokens == EOS), prepend=-1))
        return Scores(np.concatenate(log10), np.concatenate(unknown), np.concatenate(lengths), size)

    def next_words(self, context: str, top: int = 10) -> list[tuple[str, float]]:
        """The likeliest next words, with their probabilities, the likeliest first.

        Every word of the vocabulary is weighed, whether seen after the context or not; "</s>" among them stands for the
        end of the line. The unknown word is not, being none; neither is what has no probability at all.

        Args:
            context: a line as far as it goes (of several lines the last); "" is the start of one.
            top: how many words.

        Raises:
            HalfpintError: `top` is below 1.
        """
        if top < 1:
            raise SettingError("top", wanted="1 or more", got=str(top))
        chances = self.tables.after(self._history(context))
        chances[UNKNOWN] = 0
        top = min(top, len(chances))
        likeliest = np.argpartition(-chances, top - 1)[:top]
        likeliest = likeliest[np.lexsort((likeliest, -chances[likeliest]))]
        return [(self.tables.words[word], float(chances[word])) for word in likeliest if chances[word] > 0]

    def sample(self, context: str = "", *, seed: int = 0, tokens: int = 100, temperature: float = 1.0) -> Iterator[str]:
        """Go on with a line, word by word, until it ends.

        Args:
            context: the line so far, as for `next_words`.
            seed: the same seed gives the same words.
            tokens: most words given.
            temperature: below 1 likelier words, above 1 more surprising ones; 0 always takes the likeliest.

        Raises:
            HalfpintError: a negative temperature or number of tokens.
        """
        if temperature < 0 or tokens < 0:
            raise HalfpintError(
                "sampling", wanted="temperature and tokens of 0 or more", got=f"{temperature} and {tokens}"
            )
        return self._sample(self._history(context), np.random.default_rng(seed), tokens, temperature)

    def _sample(
        self, history: list[int], chance: np.random.Generator, tokens: int, temperature: float
    ) -> Iterator[str]:
        for _ in range(tokens):
            chances = self.tables.after(history)
            chances[UNKNOWN] = 0
            if not chances.any():
                return
            if temperature == 0:
                word = int(chances.argmax())
            else:
                if temperature != 1:
                    chances = (chances / chances.max()) ** (1 / temperature)
                bounds = chances.cumsum()
                word = int(np.searchsorted(bounds, chance.random() * bounds[-1], side="right"))
            if word == EOS:
                return
            yield self.tables.words[word]
            history = [*history, word][-self.tables.order :]

    def _history(self, context: str) -> list[int]:
        """Numbers of the last words of the last line of `context`, as many as the order uses."""
        line = context.rpartition("\n")[2].encode("utf-8", "replace")
        numbers = [BOS, *map(self.tables.numbers.__getitem__, line.split())]
        return numbers[max(len(numbers) - self.tables.order + 1, 0) :]

    def config(self) -> dict[str, Any]:
        """What config.json says: the settings, the vocabulary's size, the numbers of n-grams, the discounts."""
        return {
            "model_type": MODEL_TYPE,
            "order": self.tables.order,
            "smoothing": self.smoothing,
            "vocabulary_size": len(self.tables.words),
            "ngrams": self.tables.ngrams,
            "discounts": [list(three) for three in self.discounts],
            "fallback": list(self.fallback),
            "prune": list(self.prune),
            "min_count": self.min_count,
        }

    def save(self, folder: Path) -> None:
        """Write config.json, vocabulary.txt (one ordinary word a line) and model.safetensors to `folder`.

        For each order model.safetensors has `log10.N`, `backoff.N` (float32), `word.N` (the last words, from order 2)
        and `children.N` (how many n-grams of the next order go on from each), in the smallest unsigned integers that
        hold them.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with new_file(folder / "model.safetensors") as scratch:
            write_tables(self.tables, scratch)
        listed = self.tables.words[len(SPECIALS) :]
        write_text(folder / "vocabulary.txt", "".join(f"{word}\n" for word in listed))
        write_json(folder / "config.json", self.config())

    @classmethod
    def load(cls, folder: Path) -> NgramModel:
        """The model that `save` wrote to `folder`.

        Raises:
            HalfpintError: a file is missing or damaged, or it is another kind of model.
        """
        config = read_json(folder / "config.json")
        if config.get("model_type") != MODEL_TYPE:
            raise HalfpintError(
                str(folder), wanted="an n-gram model", got=f"a model of type {config.get('model_type')!r}"
            )
        load_file = need("safetensors.numpy", "reading an n-gram model").load_file
        try:
            tensors = load_file(folder / "model.safetensors")
            listed = (folder / "vocabulary.txt").read_bytes().decode("utf-8").split("\n")[:-1]
            model = cls(
                read_tables([*SPECIALS, *listed], tensors, int(config["order"])),
                str(config["smoothing"]),
                tuple((three[0], three[1], three[2]) for three in config["discounts"]),
                tuple(config["fallback"]),
                tuple(config["prune"]),
                int(config["min_count"]),
            )
            fault = model.tables.fault()
        except Exception as error:  # safetensors raises an error of its own
            fault = f"{type(error).__name__}: {error}"
        if fault:
            raise HalfpintError(
                str(folder), wanted="a whole n-gram model", got=f"a damaged one ({fault})", todo="Make it again."
            )
        return model

    def to_arpa(self, path: Path, *, merge_unknown: bool = False) -> None:
        """Write an ARPA file, which KenLM and others read; gzip where `path` ends in .gz.

        The format keeps `<unk>`, `<s>` and `</s>` for itself: an ordinary word spelled so is written with a backslash
        before it (and `from_arpa` takes it away again). With `merge_unknown` the ordinary word `<unk>`, which stands
        for rare words in texts like WikiText, becomes the file's <unk> instead: what reads the file then scores such
        texts as they are, and unknown words like rare ones. Without smoothing the impossible is written as 10^-99.
        """
        _arpa.write_arpa(self.tables, Path(path), merge_unknown=merge_unknown)

    @classmethod
    def from_arpa(cls, path: Path) -> NgramModel:
        """The model in an ARPA file, of lmplz or of any other origin.

        Raises:
            HalfpintError: no such file, or a damaged one; the message has the line.
        """
        return cls(_arpa.read_arpa(Path(path)), "arpa")


def check_settings(order: int, smoothing: str, prune: Sequence[int], min_count: int) -> tuple[int, ...]:
    """Thresholds of pruning for each order, once all settings are known to be possible.

    Raises:
        HalfpintError: one is out of range.
    """
    if not 1 <= order <= MAX_ORDER:
        raise SettingError("order", wanted=f"1 to {MAX_ORDER}", got=str(order))
    if smoothing not in SMOOTHINGS:
        raise SettingError("smoothing", wanted="a kind of smoothing", got=repr(smoothing),
                            todo=nearest(smoothing, SMOOTHINGS))  # fmt: skip
    if min_count < 0:
        raise SettingError("min_count", wanted="0 or more", got=str(min_count))
    prune = tuple(prune) or (0,)
    if len(prune) > order or min(prune) < 0 or list(prune) != sorted(prune):
        raise SettingError(
            "prune",
            wanted=f"at most {order} counts, each 0 or more and none below the one before it",
            got=" ".join(map(str, prune)),
            todo='For example "0 0 1" drops the 3-grams and longer ones that occur once.',
        )
    return (*prune, *prune[-1:] * (order - len(prune)))


def parse_prune(text: str) -> tuple[int, ...]:
    """The counts in a setting such as "0 0 1".

    Raises:
        HalfpintError: something in it is no whole number.
    """
    try:
        return tuple(int(part) for part in text.split())
    except ValueError:
        raise SettingError("prune", wanted='whole numbers such as "0 0 1"', got=repr(text)) from None
