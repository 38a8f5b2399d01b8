"""Stage: an encoder distilled into a table of token vectors, tuned on the task: a few MB, and very fast."""

from __future__ import annotations

import json
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
from halfpint.compress.vocab import choose_tokens, reindex_tokenizer
from halfpint.distil import _student
from halfpint.distil._divergence import Softened
from halfpint.distil.answers import Answers, answers_for, training_examples
from halfpint.distil.teachers import WithTeacher
from halfpint.engines.static import Ints, Pieces, pair_keys
from halfpint.engines.torch_classifier import run_batches
from halfpint.errors import HalfpintError, SettingError, need
from halfpint.outputs import NO_LABEL, Encoded
from halfpint.stage import Stage, Work
from halfpint.tokenizers.load import open_tokenizer
from halfpint.train.loop import Training, check_settings, train

_MOST_TOKENS = 512
_FEWEST_PAIRS = 3  # times that a pair occurs in the training texts before it gets a row
_CHUNK = 4096
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Static(Softened, WithTeacher, Training, Stage):
    """A table with a vector for each token and for frequent pairs of neighbours; a text is the mean of its rows.

    Each token (and pair) goes through the encoder once, alone; the vectors' first principal directions stay, and
    frequent tokens weigh less: a / (a + share of the token), Arora et al. 2017, "A Simple but Tough-to-Beat Baseline
    for Sentence Embeddings", section 3. Then table and head are trained together. A classifier's own answers are
    learned as well, an encoder without a head gives the vectors alone. The table is written in 8 bits.

    Args:
        width: values of a vector; 0 takes the encoder's.
        tokens: of a WordPiece vocabulary so many stay, or all that the training texts use where those are more.
        pairs: pairs of tokens that get a row, at most; those that occur most.
        hidden: units between the mean and the head; 0 has none.
        frequency: a of the weight; 0 weighs all alike.
        label_share: share of the labels' loss beside the teacher's; 1 asks no teacher.
        unlabelled: a table of further texts, which only the teacher tells of.
        dropout: of the mean and of the hidden units.
        train_texts: learn from so many of the labelled texts, drawn with `seed`; 0 takes all.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.ENCODER, Kind.CLASSIFIER)
    gives: ClassVar[Kind] = Kind.READY

    width: int = 256
    tokens: int = 12_000
    pairs: int = 8_000
    hidden: int = 0
    frequency: float = 1e-3
    label_share: float = 0.3
    unlabelled: str = ""
    dropout: float = 0.2
    train_texts: int = 0

    learning_rate: float = 5e-3
    head_learning_rate: float = 1e-2
    schedule: str = "cosine"
    epochs: int = 10
    batch_size: int = 64
    batch_tokens: int = 65_536
    patience: int = 3

    def __post_init__(self) -> None:
        check_settings(self, self.use)
        self.check_softened(self.use)
        for name, fits, wanted in (
            ("width", self.width >= 0, "0 or more"),
            ("tokens", self.tokens >= 1, "1 or more"),
            ("pairs", self.pairs >= 0, "0 or more"),
            ("hidden", self.hidden >= 0, "0 or more"),
            ("frequency", self.frequency >= 0, "0 or more"),
            ("label_share", 0 <= self.label_share <= 1, "a share from 0 to 1"),
            ("dropout", 0 <= self.dropout < 1, "a share below 1"),
        ):
            if not fits:
                raise SettingError(f"{self.use}: {name}", wanted=wanted, got=str(getattr(self, name)))

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Make the table, train it with its head, write both."""
        assert bundle is not None
        started = time.monotonic()
        torch = need("torch", "distilling")
        task = work.labelled
        examples, _ = training_examples(work, self.train_texts, self.seed, self.unlabelled)
        texts = task.texts(examples)
        answers = self._answers(bundle, texts, work)
        work.scratch.mkdir(parents=True, exist_ok=True)
        kept = _write_tokenizer(bundle, work.scratch, texts, self.tokens)
        tokenizer = open_tokenizer(work.scratch)
        counts, pairs = _counted(Pieces(tokenizer, np.zeros(0, np.int64), _MOST_TOKENS), texts, self.pairs)
        pieces = Pieces(tokenizer, pairs, _MOST_TOKENS)
        table = self._table(bundle, kept, counts, pairs, work)
        rows, held = pieces.rows(texts), pieces.rows(task.texts(work.validation))
        torch.manual_seed(self.seed)
        model = self._model(table, _means(table, rows), len(work.labels))
        targets, judge = task.targets(examples, work.labels), _student.Judge.of(work)
        told = torch.from_numpy(answers) if answers is not None else None

        def logits_of(some: Sequence[Ints]) -> Any:
            starts = np.cumsum([0, *(len(part) for part in some[:-1])])
            found = model["table"](torch.from_numpy(np.concatenate(some)), torch.from_numpy(starts))
            return model["classifier"](found).float()

        def batch_loss(batch: Ints) -> Any:
            found, wanted = logits_of([rows[index] for index in batch]), torch.from_numpy(targets[batch])
            share = (self.label_share if told is not None else 1.0) * (wanted != NO_LABEL)
            loss = share * torch.nn.functional.cross_entropy(found, wanted, ignore_index=NO_LABEL, reduction="none")
            if told is not None:
                loss = loss + (1 - share) * self.distance(found, told[batch])
            return loss.mean()

        def score() -> float:
            with torch.inference_mode():
                parts = [logits_of(held[start : start + _CHUNK]) for start in range(0, len(held), _CHUNK)]
            return judge(torch.cat(parts).numpy())

        outcome = train(
            model, [len(row) for row in rows], batch_loss, score, self, work,
            guess=float(np.log(len(work.labels))) * max(1.0, self.temperature**2),
        )  # fmt: skip
        with self.new_bundle(work, bundle) as (folder, card):
            for name in ("tokenizer.json", "tokenizer_config.json"):
                if (work.scratch / name).is_file():
                    shutil.copyfile(work.scratch / name, folder / name)
            self._write(model, pairs, work, folder)
            card.update(task=task.name, engine="static")
            figures = {key: value for key, value in vars(outcome).items() if key != "seconds"}
            figures |= {"texts": len(texts), "kept_tokens": len(kept), "kept_pairs": len(pairs)}
            card["stages"].append(self.entry(started, **figures))
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)

    def _answers(self, bundle: Bundle, texts: list[str], work: Work) -> Floats | None:
        """What the teachers answer; None where there is none (an encoder without a head), or none is asked."""
        teacher = self.teacher or (str(bundle.path) if bundle.card.get("engine") else "")
        if self.label_share >= 1 or not teacher:
            if self.unlabelled:
                raise HalfpintError(f"{self.use}: unlabelled", wanted="a teacher for these texts", got="none")
            return None
        seed = self.seed if self.train_texts else 0
        asked = Answers(teacher=teacher, unlabelled=self.unlabelled, train_texts=self.train_texts, seed=seed)
        return answers_for(asked, texts, work)

    def _table(self, bundle: Bundle, kept: Sequence[int], counts: Ints, pairs: Ints, work: Work) -> Floats:
        """A vector for each token and pair: float32 of shape (tokens + pairs, width)."""
        model, _ = _student.classifier(bundle, work, _MOST_TOKENS, 0.0)
        around = open_tokenizer(bundle.path).encode("").ids
        before, after = around[: len(around) // 2], around[len(around) // 2 :]
        old = np.asarray(kept)
        inner = [[number] for number in old] + [[int(old[key >> 32]), int(old[key & 0xFFFFFFFF])] for key in pairs]
        found = []
        with work.log.bar("asking the encoder for tokens", len(inner)) as bar:
            for start in range(0, len(inner), _CHUNK):
                ids = [[*before, *middle, *after] for middle in inner[start : start + _CHUNK]]
                rows = Encoded([{"input_ids": row} for row in ids])
                found.append(run_batches(model, rows, model.pooled, model.classifier.in_features))
                bar.advance(len(ids))
        vectors = np.concatenate(found)
        vectors -= vectors[: len(old)].mean(0)
        width = min(self.width or vectors.shape[1], vectors.shape[1])
        if width < vectors.shape[1]:
            _, directions = np.linalg.eigh(np.cov(vectors[: len(old)].T))  # rising
            vectors = vectors @ directions[:, ::-1][:, :width]
        if self.frequency:
            share = counts / max(1, counts[: len(old)].sum())
            vectors = vectors * (self.frequency / (self.frequency + share))[:, None]
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def _model(self, table: Floats, means: Floats, labels: int) -> Any:
        """Table and head in PyTorch; the table is scaled so that the means of texts have a spread of 1."""
        import torch
        from torch.nn import Dropout, EmbeddingBag, Linear, ModuleDict, ReLU, Sequential

        scaled = torch.from_numpy(table / max(float(means.std()), 1e-6))
        parts: list[Any] = [Dropout(self.dropout)]
        if self.hidden:
            parts += [Linear(table.shape[1], self.hidden), ReLU(), Dropout(self.dropout)]
        head = Linear(self.hidden or table.shape[1], labels)
        with torch.no_grad():
            head.weight.zero_()
            head.bias.zero_()
        return ModuleDict(
            {"table": EmbeddingBag.from_pretrained(scaled, freeze=False), "classifier": Sequential(*parts, head)}
        )

    def _write(self, model: Any, pairs: Ints, work: Work, folder: Path) -> None:
        table = model["table"].weight.detach().numpy()
        scale = np.maximum(np.abs(table).max(axis=1), 1e-12).astype(np.float32) / np.float32(127)
        tensors = {"codes": np.rint(table / scale[:, None]).astype(np.int8), "scale": scale, "pairs": pairs}
        linear = [part for part in model["classifier"] if hasattr(part, "weight")]
        names = [("weight", "bias")] if len(linear) == 1 else [("hidden_weight", "hidden_bias"), ("weight", "bias")]
        for part, (weight, bias) in zip(linear, names, strict=True):
            tensors |= {weight: part.weight.detach().numpy(), bias: part.bias.detach().numpy()}
        need("safetensors.numpy", "distilling").save_file(tensors, folder / "model.safetensors")
        labels = dict(enumerate(work.labels))
        write_json(
            folder / "config.json", {"model_type": "static", "id2label": labels, "max_tokens": _MOST_TOKENS}
        )  # fmt: skip


def _write_tokenizer(bundle: Bundle, folder: Path, texts: Sequence[str], size: int) -> list[int]:
    """The tokenizer in `folder`, with fewer tokens where it is WordPiece; gives the old id of each token."""
    tokenizer = json.loads((bundle.path / "tokenizer.json").read_text(encoding="utf-8"))
    if (bundle.path / "tokenizer_config.json").is_file():
        shutil.copyfile(bundle.path / "tokenizer_config.json", folder / "tokenizer_config.json")
    reader = open_tokenizer(bundle.path)
    if tokenizer["model"].get("type") != "WordPiece":
        shutil.copyfile(bundle.path / "tokenizer.json", folder / "tokenizer.json")
        return list(range(reader.get_vocab_size()))
    used: Counter[str] = Counter()
    for start in range(0, len(texts), _CHUNK):
        for encoding in reader.encode_batch_fast(list(texts[start : start + _CHUNK])):
            used.update(encoding.tokens)
    old = tokenizer["model"]["vocab"]
    kept = choose_tokens(old, used, {token["content"] for token in tokenizer["added_tokens"]}, size)
    reindex_tokenizer(tokenizer, {token: number for number, token in enumerate(kept)})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    return [old[token] for token in kept]


def _counted(pieces: Pieces, texts: Sequence[str], most: int) -> tuple[Ints, Ints]:
    """How often each token and each of the most frequent pairs occurs, and the keys of those pairs, rising."""
    ids = pieces.ids(texts)
    flat = np.concatenate([*ids, np.zeros(0, np.int64)])
    counts = np.bincount(flat, minlength=pieces.tokens)
    keys, times = np.unique(
        np.concatenate([*(pair_keys(row) for row in ids), np.zeros(0, np.int64)]), return_counts=True
    )
    order = np.lexsort((keys, -times))[:most]
    chosen = np.sort(order[times[order] >= _FEWEST_PAIRS])
    return np.concatenate([counts, times[chosen]]), keys[chosen]


def _means(table: Floats, rows: Sequence[Ints]) -> Floats:
    """Means of rows for some of the texts: float32 (texts, width)."""
    some = [row for row in rows[:_CHUNK] if len(row)]
    return np.stack([table[row].mean(0) for row in some]) if some else table
