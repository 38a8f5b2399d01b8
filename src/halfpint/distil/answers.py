"""Stage: what teachers answer to the training texts, written once, so that training students costs no teacher time."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle, Kind, file_sha256, read_json, write_json
from halfpint.distil.teachers import Ensemble, WithTeacher, unlabelled_texts
from halfpint.errors import HalfpintError
from halfpint.files import written
from halfpint.outputs import joined
from halfpint.stage import Stage, Work

FILE = "answers.npy"
LEAST = 1e-9
"""The least probability that is kept."""
_CHUNK = 1024
_DONE = "chunks.json"
_DROPPED, _PIECES, _LONGEST_PIECE = 0.1, 0.25, 5  # of changed copies: words that go, and pieces of so many words


@dataclass(frozen=True, kw_only=True)
class Answers(WithTeacher, Stage):
    """Log-probabilities of one or several classifiers (their mean), and no model: answers.npy, float32 (units, labels).

    A killed run goes on with the chunks that are whole: each is checked by its hash.

    Args:
        unlabelled: a table of further texts without labels.
        train_texts: of the training texts so many, drawn with `seed`; 0 takes all.
        copies: changed copies of each training text (`changed_copies`), which have no label.
        seed: of that draw, and of the copies.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.NOTHING, Kind.CLASSIFIER, Kind.LINEAR, Kind.ONNX, Kind.READY)
    gives: ClassVar[Kind] = Kind.ANSWERS

    unlabelled: str = ""
    train_texts: int = 0
    copies: int = 0
    seed: int = 0

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Ask chunk by chunk, then join the chunks; without `teacher` the parent is asked."""
        started = time.monotonic()
        asked = bundle if not self.teacher else None
        bundles = [asked] if asked else self.teachers(bundle, work.task.name, self.use)
        examples, _ = training_examples(work, self.train_texts, self.seed, self.unlabelled, self.copies)
        texts = work.labelled.texts(examples)
        teachers = Ensemble(bundles, work.labels, self.use)
        name = texts_key(texts)
        parts = _asked(teachers, texts, work, sha256(f"{name} {[b.fingerprint for b in bundles]}".encode()).hexdigest())
        with self.new_bundle(work, bundle) as (folder, card):
            shape = (sum(len(np.load(part, mmap_mode="r", allow_pickle=False)) for part in parts), len(work.labels))
            whole = np.lib.format.open_memmap(folder / FILE, mode="w+", dtype=np.float32, shape=shape)
            done = 0
            for part in parts:
                values = np.load(part, allow_pickle=False)
                whole[done : done + len(values)] = values
                done += len(values)
            whole.flush()
            config = {"model_type": "answers", "id2label": dict(enumerate(work.labels)), "texts": name}
            write_json(folder / "config.json", config)
            card.update(task=work.task.name, engine=None)
            names = [one.fingerprint for one in bundles]
            card["stages"].append(self.entry(started, texts=len(texts), teachers=names))
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)


def training_examples(
    work: Work, train_texts: int, seed: int, unlabelled: str, copies: int = 0
) -> tuple[list[Any], int]:
    """What a student learns from: so many of the training examples (0: all), then texts without a label; and how many
    those are."""
    chosen: Sequence[Any] = work.train
    task = work.labelled
    if 0 < train_texts < len(chosen):
        drawn = np.sort(np.random.default_rng(seed).permutation(len(chosen))[:train_texts])
        chosen = [work.train[index] for index in drawn]
    more = unlabelled_texts(unlabelled, work)
    if copies:
        known = {text for examples in (work.train, work.validation) for text in task.texts(examples)} | set(more)
        more += changed_copies(task.texts(chosen), copies, seed, known)
    return [*chosen, *map(task.unlabelled, more)], len(more)


def changed_copies(texts: Sequence[str], copies: int, seed: int, known: set[str]) -> list[str]:
    """Copies of texts, each changed, for a teacher to tell of: so it says more than it said of the texts themselves.

    Each word goes with a probability of 0.1, and with 0.25 only a run of one to five words is left. Texts that come out
    as another, or as one that is known, are left out. Source: Tang et al. 2019, "Distilling Task-Specific Knowledge
    from BERT into Simple Neural Networks", section 3.3, without replacing words by others of their kind.
    """
    random = np.random.default_rng([seed, 7])
    found: dict[str, None] = {}
    for _ in range(copies):
        for text in texts:
            words = np.array(text.split(), dtype=object)
            kept = words[random.random(len(words)) >= _DROPPED]
            if random.random() < _PIECES and len(kept):
                size = int(random.integers(1, _LONGEST_PIECE + 1))
                start = int(random.integers(0, max(1, len(kept) - size + 1)))
                kept = kept[start : start + size]
            changed = " ".join(kept)
            if changed and changed not in known:
                found.setdefault(changed)
    return list(found)


def answers_for(stage: Answers, texts: Sequence[str], work: Work) -> npt.NDArray[np.float32]:
    """The answers that `stage` writes, from the cache where the pipeline has one: log-probabilities (units, labels).

    Raises:
        HalfpintError: they are of other texts.
    """
    if work.make is not None:
        bundle = work.make([stage])
    else:
        target = work.scratch / "answers"
        inner = replace(work, target=target, scratch=work.scratch / "asking")
        bundle = stage.run(None, inner)
    if bundle.config["texts"] != texts_key(texts):
        raise HalfpintError(
            str(bundle.path), wanted="the teacher's answers to these texts", got="answers to others",
            todo="Remove that folder: they are written again.",
        )  # fmt: skip
    found: npt.NDArray[np.float32] = np.load(bundle.path / FILE, allow_pickle=False)
    return found


def texts_key(texts: Sequence[str]) -> str:
    """A hash of texts in their order."""
    digest = sha256()
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def _asked(teachers: Ensemble, texts: Sequence[str], work: Work, key: str) -> list[Path]:
    """Files with the answers to each chunk of texts; those that are there and whole are not made again."""
    folder = work.scratch / "chunks"
    folder.mkdir(parents=True, exist_ok=True)
    told = read_json(folder / _DONE) if (folder / _DONE).is_file() else {}
    hashes: dict[str, str] = told["sha256"] if told.get("key") == key else {}
    parts = []
    with work.log.bar("asking the teacher", len(texts)) as bar:
        for start in range(0, len(texts), _CHUNK):
            some = texts[start : start + _CHUNK]
            part = folder / f"{start // _CHUNK}.npy"
            if not part.is_file() or hashes.get(part.name) != file_sha256(part):
                logs = np.log(np.maximum(joined(teachers.probabilities(some), len(work.labels)), LEAST))
                with written(part) as file:
                    np.save(file, logs.astype(np.float32), allow_pickle=False)
                hashes[part.name] = file_sha256(part)
                write_json(folder / _DONE, {"key": key, "sha256": hashes})
            parts.append(part)
            bar.advance(len(some))
    return parts
