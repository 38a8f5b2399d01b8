"""Stage: a small network over words, an LSTM in both directions under a conditional random field."""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle, Kind, write_json
from halfpint.data.words import words
from halfpint.engines.onnx_words import OnnxWordsEngine
from halfpint.errors import HalfpintError, RefusedError, SettingError, need
from halfpint.models.crf import marginals
from halfpint.models.word_graph import write_graph
from halfpint.models.word_inputs import FIRST, PADDING, UNKNOWN, Table, WordInputs
from halfpint.models.word_vectors import check_vectors, word_vectors
from halfpint.outputs import NO_LABEL, Floats, Ints, joined
from halfpint.progress import Log
from halfpint.stage import Stage, Work
from halfpint.task import LabelTask
from halfpint.tokenizers.batching import length_batches
from halfpint.train import encoders
from halfpint.train.loop import Training, check_settings, device, train
from halfpint.train.plan import Plan, epochs

_BETAS = (0.9, 0.98)
_SCORED_WORDS = 8192  # in a batch that is only read
_LEAST_KNOWN = 0.5  # of the words in the texts: vectors that know fewer are of another language
_RARE = 100  # words at the end of a table, whose mean stands for all that are not in it
_START = 0.3  # standard deviation of new vectors, about that of GloVe's
_COMPARED, _SAME = 300, 1e-4  # texts that the export is asked, and by how much a probability may differ
_UNSEEN = 0.1  # times that a pair of tags counts as seen which was not


@dataclass(frozen=True, kw_only=True)
class WordTaggerTraining(Training, Stage):
    """Word vectors, case and characters through an LSTM in both directions to a linear-chain conditional random field.

    It is exported for ONNX Runtime, with its vectors in 8 bits. `batch_tokens` counts words.
    Source: Ma & Hovy 2016, "End-to-end Sequence Labeling via Bi-directional LSTM-CNNs-CRF".

    Args:
        vectors: word vectors by their name in the catalogue, or a folder with words.txt and values.npy; empty trains
            its own, as it does where they cannot be downloaded or know less than half of the words.
        rows: words of the vectors that are kept, the most frequent first.
        train_vectors: train the vectors too, from what they are: those of words that the texts have change.
        width: values of a word vector that is trained here.
        hidden: width of the LSTM in each direction.
        filters: of the convolution over the characters of a word.
        dropout: of characters, of what the LSTM reads and gives, and before the last layer.
        unknown: share of the words that are read as unknown in training.
        train_texts: learn from so many texts, drawn with `seed`; 0 takes all.
        time_share: share of the time that is left which training may take: it makes fewer epochs where there is less.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.NOTHING,)
    gives: ClassVar[Kind] = Kind.READY

    learning_rate: float = 3e-3
    warmup: float = 0.05
    epochs: int = 10
    batch_tokens: int = 2048
    precision: str = "fp32"
    vectors: str = "glove-6b-50d"
    rows: int = 100_000
    train_vectors: bool = True
    width: int = 50
    hidden: int = 128
    filters: int = 48
    dropout: float = 0.4
    unknown: float = 0.02
    train_texts: int = 0
    time_share: float = 1.0

    def __post_init__(self) -> None:
        check_settings(self, self.use)
        for name, fits, wanted in (
            *((name, getattr(self, name) >= 1, "1 or more") for name in ("rows", "width", "hidden", "filters")),
            ("dropout", 0 <= self.dropout < 1, "a share from 0, below 1"),
            ("unknown", 0 <= self.unknown < 1, "a share from 0, below 1"),
            ("train_texts", self.train_texts >= 0, "0 or more"),
            ("time_share", 0 < self.time_share <= 1, "a share above 0, at most 1"),
        ):
            if not fits:
                raise SettingError(f"{self.use}: {name}", wanted=wanted, got=str(getattr(self, name)))

    def check(self) -> None:
        """Refuse to begin without what trains and exports it, or with vectors that nobody knows."""
        need("torch", "training a tagger of words")
        need("onnx", "exporting to ONNX")
        if self.vectors:
            check_vectors(self.vectors, f"{self.use}: vectors")

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Train, keep the best evaluation on validation, export it and compare."""
        started = time.monotonic()
        torch = need("torch", "training a tagger of words")
        task, texts, targets = self._labelled(work)
        table, used = self._table(texts, work.log)
        learn = self.train_vectors or not used
        torch.manual_seed(self.seed)
        model = self._model(table, targets, len(work.labels), learn=learn).to(device())
        inputs = WordInputs.of(texts, table.rows)
        held = WordInputs.of(task.texts(work.validation), table.rows)

        def batch_loss(batch: npt.NDArray[np.int64]) -> Any:
            from halfpint.models.word_tagger import crf_loss

            given = _tensors(inputs, batch)
            hidden = (torch.rand(given["rows"].shape) < self.unknown).to(device()) & (given["rows"] != PADDING)
            given["rows"] = given["rows"].masked_fill(hidden, UNKNOWN)
            wanted = np.full(given["rows"].shape, NO_LABEL, dtype=np.int64)
            for place, number in enumerate(batch):
                wanted[place, : len(targets[number])] = targets[number]
            return crf_loss(model(**given).float(), torch.from_numpy(wanted).to(device()), model.transitions)

        def score() -> float:
            found = probabilities(model, held)
            return task.score(work.primary, work.validation, found, work.labels)

        plan = _plan(inputs.sizes.tolist(), self, work.seconds_left() * self.time_share)
        outcome = train(model, plan, batch_loss, score, self, work, betas=_BETAS, guess=math.log(len(work.labels)))
        model.to("cpu").eval()
        table = _store(model, table, learn)
        stored = score()
        with self.new_bundle(work) as (folder, card):
            weights = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
            table.write(folder, weights["transitions"])
            write_graph(folder / "model.onnx", weights)
            write_json(folder / "config.json", {"model_type": "word_tagger", "id2label": dict(enumerate(work.labels))})
            difference = self._compare(model, table, folder, task, (work.validation or work.train)[:_COMPARED])
            card.update(task=task.name, engine="onnx_words")
            figures = {key: value for key, value in vars(outcome).items() if key != "seconds"}
            figures |= {"vectors": self.vectors if used else "", "stored_score": stored, "difference": difference}
            card["stages"].append(self.entry(started, **figures))
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)

    def _labelled(self, work: Work) -> tuple[LabelTask[Any], list[str], list[Ints]]:
        """The task, the texts all words of which are labelled, and their tags.

        Raises:
            HalfpintError: the task labels no words, or there is no such text.
        """
        task = work.labelled
        examples = encoders.drawn(work.train, self.train_texts, self.seed)
        texts = task.texts(examples)
        sizes = task.units(texts)
        if sizes is None:
            raise HalfpintError(
                self.use, wanted="a task that labels words", got=f"the task {task.name!r}: {task.about}"
            )
        targets = np.split(task.targets(examples, work.labels), np.cumsum(sizes)[:-1])
        kept = [number for number, tags in enumerate(targets) if len(tags) and (tags != NO_LABEL).all()]
        if not kept:
            raise HalfpintError(self.use, wanted="texts with labelled words", got="none")
        return task, [texts[number] for number in kept], [targets[number] for number in kept]

    def _table(self, texts: Sequence[str], log: Log) -> tuple[Table, bool]:
        """The table of vectors, and whether they are those of the settings: else they are new."""
        counts = Counter(text[start:end].lower() for text in texts for start, end in words(text))
        found = word_vectors(self.vectors, self.rows, log) if self.vectors else None
        if found is not None:
            known, total = set(found.words), sum(counts.values())
            share = sum(count for word, count in counts.items() if word in known) / total
            log.say(f"{self.vectors}: {len(found.words):,} words, {share:.1%} of those in the texts", kind="vectors")
            if share >= _LEAST_KNOWN:
                first = np.zeros((FIRST, found.values.shape[1]), dtype=np.float32)
                first[UNKNOWN] = found.values[-_RARE:].mean(axis=0)
                return Table.of(found.words, np.concatenate([first, found.values])), True
        if self.vectors:
            log.say("  training word vectors of its own instead", kind="vectors")
        several = [word for word, count in counts.items() if count > 1 and word.isprintable()]
        several.sort(key=lambda word: (-counts[word], word))
        random = np.random.default_rng(self.seed)
        values = random.normal(scale=_START, size=(len(several) + FIRST, self.width)).astype(np.float32)
        values[PADDING] = 0
        return Table.of(several, values), False

    def _model(self, table: Table, targets: Sequence[Ints], labels: int, *, learn: bool) -> Any:
        """A new network, whose scores of tags that follow each other are those of independence in the data."""
        import torch

        from halfpint.models.word_tagger import WordTagger

        values = torch.from_numpy(table.vectors(np.arange(len(table.codes))))
        model = WordTagger(values, labels, self.hidden, self.filters, self.dropout, learn)
        with torch.no_grad():
            model.transitions.copy_(torch.from_numpy(association(targets, labels)))
        return model

    def _compare(self, model: Any, table: Table, folder: Path, task: LabelTask[Any], examples: Sequence[Any]) -> float:
        """The largest difference of a probability between PyTorch and the bundle in `folder`.

        Raises:
            RefusedError: it is too large.
        """
        texts = task.texts(examples)
        engine = OnnxWordsEngine(Bundle(folder), 1)
        n = len(engine.labels)
        ours = joined(probabilities(model, WordInputs.of(texts, table.rows)), n)
        difference = float(np.abs(joined(engine.probabilities(texts), n) - ours).max(initial=0))
        if not difference <= _SAME:
            raise RefusedError(
                self.use, wanted=f"an export that says the same as PyTorch of {len(texts)} texts, to {_SAME:g}",
                got=f"a probability that differs by {difference:.2g}", todo="The export is refused.",
            )  # fmt: skip
        return difference


class _AtMost(Plan):
    """A plan that makes fewer steps where there is less time, and never more."""

    def refitted(self, schedule: str, done: int, total: int, spent: float) -> int:
        return min(super().refitted(schedule, done, total, spent), self.total)


def _plan(lengths: Sequence[int], settings: Training, seconds: float) -> Plan:
    """The epochs of the settings, or as many steps as fit into so many seconds."""
    whole = epochs(lengths, settings)
    return _AtMost(total=whole.total, step=whole.step, size=whole.size, seconds=max(seconds, 0.0))


def _tensors(inputs: WordInputs, texts: npt.NDArray[np.int64]) -> dict[str, Any]:
    """A batch as tensors on the device."""
    import torch

    return {name: torch.from_numpy(values).to(device()) for name, values in inputs.batch(texts).items()}


def probabilities(model: Any, inputs: WordInputs) -> list[Floats]:
    """What a network in evaluation mode says of texts: for each the probabilities (words, tags)."""
    import torch

    where = next(model.parameters()).device
    transitions = model.transitions.detach().cpu().numpy()
    scores: list[npt.NDArray[Any]] = [transitions[:0]] * len(inputs.sizes)
    full = np.flatnonzero(inputs.sizes)
    with torch.inference_mode():
        for batch in length_batches(inputs.sizes[full].tolist(), _SCORED_WORDS):
            numbers = full[batch]
            given = {name: torch.from_numpy(values).to(where) for name, values in inputs.batch(numbers).items()}
            for number, row in zip(numbers.tolist(), model(**given).float().cpu().numpy(), strict=True):
                scores[number] = row[: inputs.sizes[number]]
    return marginals(scores, transitions)


def association(targets: Sequence[Ints], labels: int) -> Floats:
    """How much likelier than by chance a tag follows another in the data, as a logarithm: (tags, tags).

    It is the pointwise mutual information; pairs that do not occur count a tenth of a time.
    """
    pairs = np.full((labels, labels), _UNSEEN)
    for tags in targets:
        np.add.at(pairs, (tags[:-1], tags[1:]), 1.0)
    chance = pairs.sum(axis=1, keepdims=True) * pairs.sum(axis=0, keepdims=True) / pairs.sum()
    found: Floats = np.log(pairs / chance).astype(np.float32)
    return found


def _store(model: Any, table: Table, learn: bool) -> Table:
    """Round the weights of a network as they are stored, its vectors too where they were trained; gives the table."""
    import torch

    if learn:
        table = Table.of(table.words, model.vectors.weight.detach().numpy())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name not in ("vectors.weight", "transitions"):
                weight.copy_(weight.half().float())
        model.vectors.weight.copy_(torch.from_numpy(table.vectors(np.arange(len(table.codes)))))
    return table
