"""Stage: what language models would have written at each place of a corpus, a few draws a place, kept once for all."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle, Kind, file_sha256, read_json, write_json
from halfpint.data.token_store import TokenStore, write_tokens
from halfpint.distil._sampled import Drawn, SampledStore, draw
from halfpint.distil.teachers import WithTeacher, content_key
from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError, SettingError, need
from halfpint.files import new_file
from halfpint.models.sizes import CAUSAL, resolve
from halfpint.stage import Stage, Work
from halfpint.tokenizers.batching import length_batches, pad
from halfpint.tokenizers.load import open_tokenizer
from halfpint.train.loop import check_precision, device, use_bf16

_CHUNK_TOKENS = 1 << 15
_MOST_LOGITS = 1 << 25  # values at once
_MOST_CONTEXT = 1024
_MOST_DRAWS = 255  # a count is kept in a byte
_DONE = "chunks.json"


class Window(NamedTuple):
    """Places `first` to `end` of a store are told of here, those from `low` by a teacher that sees from `start` on."""

    first: int
    start: int
    low: int
    end: int


@dataclass(frozen=True, kw_only=True)
class TokenAnswers(WithTeacher, Stage):
    """Tokens drawn from a language model's distribution at each place of the training documents, and no model.

    ids.npy, counts.npy and starts.npy, a few bytes a token. A killed run goes on with the chunks that are whole.

    Args:
        draws: tokens drawn at each place, 255 at most; about a third of them differ.
        temperature: what the teacher's logits are divided by before.
        context: tokens that the teacher sees at most; 0 takes its own, up to 1,024; longer texts are read in windows
            that overlap by a quarter.
        precision: in which the teacher is asked: fp32, bf16 (autocast), or auto: bf16 where the machine computes it.
        seed: of the draws.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.NOTHING, Kind.LANGUAGE)
    gives: ClassVar[Kind] = Kind.ANSWERS

    draws: int = 50
    temperature: float = 1.0
    context: int = 0
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        check_precision(self.precision, self.use)
        for name, fits, wanted in (
            ("draws", 1 <= self.draws <= _MOST_DRAWS, f"a number from 1 to {_MOST_DRAWS}"),
            ("temperature", 0.05 <= self.temperature <= 100, "a number from 0.05 to 100"),
            ("context", self.context == 0 or self.context >= 8, "8 tokens or more, or 0"),
        ):
            if not fits:
                raise SettingError(f"{self.use}: {name}", wanted=wanted, got=str(getattr(self, name)))

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Ask chunk by chunk, then join the chunks; without `teacher` the parent is asked."""
        started = time.monotonic()
        need("torch", "distilling")
        asked = bundle if not self.teacher else None
        bundles = [asked] if asked else self.teachers(bundle, "", self.use)
        for one in bundles:
            need_causal(one, self.use)
        models = [load_model(one.path, CAUSAL).to(device()) for one in bundles]
        store = store_for(bundles[0], models[0], work)
        parts = self._asked(models, store, work, content_key(",".join(str(one.path) for one in bundles)))
        with self.new_bundle(work, bundle) as (folder, card):
            kept = self._join(parts, folder, store)
            write_json(folder / "config.json", {"model_type": "token_answers", "tokens": store.key, **kept})
            card.update(task=bundles[0].card["task"], engine=None)
            names = [one.fingerprint for one in bundles]
            card["stages"].append(self.entry(started, tokens=len(store.tokens), **kept, teachers=names))
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)

    def _join(self, parts: Sequence[Path], folder: Path, store: TokenStore) -> dict[str, int]:
        """Write the chunks as whole arrays into `folder`; gives what config.json has to hold."""
        load = need("safetensors.numpy", "distilling").load_file
        starts = np.cumsum(np.concatenate([[0], *(load(part)["sizes"] for part in parts)]), dtype=np.int64)
        np.save(folder / "starts.npy", starts, allow_pickle=False)
        for name, dtype in (("ids", store.dtype), ("counts", np.dtype(np.uint8))):
            joined(parts, name, folder / f"{name}.npy", (int(starts[-1]),), dtype)
        return {"draws": self.draws, "kept": int(starts[-1])}

    def _asked(self, models: Sequence[Any], store: TokenStore, work: Work, teachers: str) -> list[Path]:
        """Files with the draws of each chunk of places; those that are there and whole are not made again."""
        save = need("safetensors.numpy", "distilling").save_file
        folder = work.scratch / "chunks"
        folder.mkdir(parents=True, exist_ok=True)
        key = sha256(f"{store.key} {teachers} {sorted(self.settings().items())}".encode()).hexdigest()
        told = read_json(folder / _DONE) if (folder / _DONE).is_file() else {}
        hashes: dict[str, str] = told["sha256"] if told.get("key") == key else {}
        parts = []
        with work.log.bar("asking the teacher", len(store.tokens)) as bar:
            for number, windows in enumerate(_chunks(store, self._context(models))):
                part = folder / f"{number}.safetensors"
                if not part.is_file() or hashes.get(part.name) != file_sha256(part):
                    told_here = self._told(models, store, windows, number)
                    with new_file(part) as scratch:
                        save(told_here, scratch)
                    hashes[part.name] = file_sha256(part)
                    write_json(folder / _DONE, {"key": key, "sha256": hashes})
                parts.append(part)
                bar.advance(windows[-1].end - windows[0].first)
        return parts

    def _context(self, models: Sequence[Any]) -> int:
        """Tokens that the teachers see at once."""
        own = [int(getattr(model.config, "max_position_embeddings", None) or _MOST_CONTEXT) for model in models]
        return min([self.context or _MOST_CONTEXT, *own])

    def _told(
        self, models: Sequence[Any], store: TokenStore, windows: Sequence[Window], number: int
    ) -> dict[str, npt.NDArray[Any]]:
        """What is kept for the places of consecutive windows."""
        import torch

        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        first = windows[0].first
        sizes = np.zeros(windows[-1].end - first, dtype=np.uint8)
        found: dict[int, Drawn] = {}
        for window, answers in self._answered(models, store, windows):
            drawn = draw(answers, self.draws, generator)
            sizes[window.low - first : window.end - first] = drawn.sizes
            found[window.low] = drawn
        order = [found[low] for low in sorted(found)]
        ids = np.concatenate([np.zeros(0, store.dtype), *(one.ids.astype(store.dtype) for one in order)])
        counts = np.concatenate([np.zeros(0, np.uint8), *(one.counts.astype(np.uint8) for one in order)])
        return {"ids": ids, "counts": counts, "sizes": sizes}

    def _answered(
        self, models: Sequence[Any], store: TokenStore, windows: Sequence[Window]
    ) -> Iterator[tuple[Window, Any]]:
        """Each window that has places to tell of with their distributions: fp32 (places, vocabulary)."""
        import torch

        from halfpint.models.quick_passes import quick_passes

        asked = [window for window in windows if window.low < window.end]
        most = max(self._context(models), _MOST_LOGITS // models[0].config.vocab_size)
        low = torch.autocast(device().type, torch.bfloat16, enabled=use_bf16(self.precision))
        with ExitStack() as held:
            for model in models:
                held.enter_context(quick_passes(model))
            held.enter_context(torch.inference_mode())
            held.enter_context(low)
            for batch in length_batches([window.end - window.start for window in asked], most):
                some = [asked[index] for index in batch]
                rows = [store.tokens[window.start : window.end].tolist() for window in some]
                given = torch.from_numpy(pad(rows, 0)[0]).to(device())  # what is behind is not seen
                mean: Any = 0.0
                for model in models:
                    logits = model(input_ids=given).logits.float()
                    mean = mean + torch.softmax(logits / self.temperature, -1).cpu() / len(models)
                for row, window in enumerate(some):
                    yield window, mean[row, window.low - window.start - 1 : window.end - window.start - 1]


def joined(parts: Sequence[Path], name: str, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Write the arrays of a name in all chunks one after the other to `path`."""
    load = need("safetensors.numpy", "distilling").load_file
    whole = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    at = 0
    for part in parts:
        held = load(part)[name]
        whole[at : at + len(held)] = held
        at += len(held)
    whole.flush()


def need_causal(bundle: Bundle, place: str) -> None:
    """Refuse what is no Transformer that writes from left to right.

    Raises:
        HalfpintError: with what it is.
    """
    engine = bundle.card.get("engine")
    if engine != "torch_lm" or resolve(str(bundle.config.get("model_type")))[1] != CAUSAL:
        raise HalfpintError(
            f"{place}: {bundle.path}", wanted="a causal Transformer language model",
            got=f"one of {engine or bundle.card.get('task')}", todo="Give another bundle.",
        )  # fmt: skip


def store_for(bundle: Bundle, model: Any, work: Work) -> TokenStore:
    """The tokens of the training documents, each with the model's end token behind it.

    Raises:
        HalfpintError: there are no documents.
    """
    documents = work.documents.train
    if not len(documents) or not hasattr(documents, "key"):
        raise HalfpintError(
            "distil", wanted="a corpus of documents", got="other data or none", todo="Give running text."
        )
    eos = model.config.eos_token_id
    end = int(eos[0] if isinstance(eos, list) else eos) if eos is not None else None
    tokenizer = open_tokenizer(bundle.path)
    folder = work.scratch / "tokens-train"
    return write_tokens(documents, tokenizer, folder, f"{work.documents.key}-train", work.log, end=end)


def kept_answers(stage: TokenAnswers, store: TokenStore, work: Work) -> Bundle:
    """What `stage` keeps for the tokens of `store`, from the cache where the pipeline has one.

    Raises:
        HalfpintError: it is of other tokens.
    """
    if work.make is not None:
        bundle = work.make([stage])
    else:
        target = work.scratch / "answers"
        bundle = stage.run(None, replace(work, target=target, scratch=work.scratch / "asking"))
    if bundle.config["tokens"] != store.key:
        raise HalfpintError(
            str(bundle.path), wanted="the teacher's answers to these tokens", got="answers to others",
            todo="Give a student with the teacher's tokenizer, or take the method uld.",
        )  # fmt: skip
    return bundle


def draws_for(stage: TokenAnswers, store: TokenStore, work: Work) -> SampledStore:
    """The draws that `stage` keeps for the tokens of `store`.

    Raises:
        HalfpintError: they are of other tokens.
    """
    bundle = kept_answers(stage, store, work)
    ids, counts, starts = (
        np.load(bundle.path / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("ids", "counts", "starts")
    )
    return SampledStore(ids, counts, np.asarray(starts), int(bundle.config["draws"]))


def _chunks(store: TokenStore, context: int) -> Iterator[list[Window]]:
    """Consecutive windows that cover about so many places, one at least."""
    held: list[Window] = []
    for window in _windows(store, context):
        held.append(window)
        if window.end - held[0].first >= _CHUNK_TOKENS:
            yield held
            held = []
    if held:
        yield held


def _windows(store: TokenStore, context: int) -> Iterator[Window]:
    """Windows over all documents; each but a document's first sees a quarter of a context before what it answers."""
    stride = max(1, context - context // 4)
    for begin, last in zip(store.offsets[:-1].tolist(), store.offsets[1:].tolist(), strict=True):
        end = min(begin + context, last)
        if begin < last:
            yield Window(begin, begin, min(begin + 1, end), end)
        while end < last:
            low, end = end, min(end + stride, last)
            yield Window(low, max(begin, end - context), low, end)
