"""Stage: a language model learns to go on as its teacher would."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np

from halfpint.bundle import Bundle, new_bundle
from halfpint.data.packing import IGNORED
from halfpint.distil._divergence import FORWARD, Softened
from halfpint.distil._sampled import sampled_loss
from halfpint.distil._zeros import hold_zeros
from halfpint.distil.teachers import Taught, content_key, need_same_tokenizer
from halfpint.distil.token_answers import TokenAnswers, draws_for, need_causal
from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError, need
from halfpint.models.sizes import CAUSAL
from halfpint.models.weights import as_held
from halfpint.stage import Work
from halfpint.tokenizers.load import open_tokenizer
from halfpint.train import _budget, _lora, checkpoint
from halfpint.train._language_tokens import special_tokens
from halfpint.train._rows import Batches, Judge, Part
from halfpint.train.adapt import Adapt
from halfpint.train.loop import check_settings, device, train

_MOST_CONTEXT = 1024
_COMPARED = 4  # documents that a merged model, and two tokenizers, are compared on
_SHOWN = 4000  # characters of these
_RATE, _LORA_RATE = 2e-4, 3e-4


@dataclass(frozen=True, kw_only=True)
class TokenLogits(Softened, Taught, Adapt):
    """Train a student on a mix of its teacher's distributions and the text itself, token by token.

    The teacher's distributions are drawn from once (distil/token_answers); with `cached = false` it is asked at every
    step instead, whole distributions and all. Packing, plan and validation are those of train/adapt.

    Args:
        label_share: share of the text's own cross-entropy in the loss; 1 asks no teacher.
        cached: learn from draws that are kept; divergences but forward need whole distributions, so false.
        draws: tokens drawn at each place.
    """

    needs: ClassVar[tuple[str, ...]] = ("language",)
    gives: ClassVar[str] = "language"

    temperature: float = 1.0
    label_share: float = 0.3
    cached: bool = True
    draws: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self, self.use, may_be_zero=("learning_rate",))
        self.check_softened(self.use)
        TokenAnswers(draws=self.draws, temperature=self.temperature)
        if not 0 <= self.label_share <= 1:
            raise HalfpintError(f"{self.use}: label_share", wanted="a share from 0 to 1", got=str(self.label_share))
        if self.cached and self.divergence != FORWARD:
            raise HalfpintError(
                f"{self.use}: divergence", wanted=f"{FORWARD} with cached = true", got=self.divergence,
                todo="Set cached = false: whole distributions are asked for at every step.",
            )  # fmt: skip

    def check(self) -> None:
        """Refuse a teacher that is not there, and LoRA without `peft`."""
        super().check()
        self.check_teacher()

    def fits(self, bundle: Bundle) -> None:
        """Refuse a student that its teacher cannot teach like this."""
        if self.label_share < 1:
            self._teacher(bundle, ())

    def key(self, parent: str, data: str) -> str:
        """As of every stage, and of what is in the teacher's folder."""
        return super().key(parent + content_key(self.teacher), data)

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Ask the teacher, train, keep the best evaluation on the validation documents."""
        assert bundle is not None
        started = time.monotonic()
        torch = need("torch", "distilling")
        from halfpint.models.quick_passes import quick_passes
        from halfpint.train._language import Learner

        corpus = self._corpus_for(bundle, work)
        first = [text[:_SHOWN] for text in islice(corpus.train, _COMPARED)]
        teacher = self._teacher(bundle, first) if self.label_share < 1 else None
        tokenizer = open_tokenizer(bundle.path)
        torch.manual_seed(self.seed)
        model = load_model(bundle.path, CAUSAL).to(device())
        most = int(getattr(model.config, "max_position_embeddings", None) or _MOST_CONTEXT)
        context = min(self.context or _MOST_CONTEXT, most)
        learn, held = self._stores(corpus, tokenizer, model.config.eos_token_id, context, work)
        draws = self._kept(bundle, teacher, learn, work)
        large = load_model(teacher.path, CAUSAL).to(device()) if teacher and not self.cached else None
        adapted = self.with_adapters(model, self.use)
        zeros = hold_zeros(model, self.use, lora=self.lora)
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        learner = Learner(model, CAUSAL, device())
        learner.check_apart(self.use)
        rows = self._rows_of(context)
        self._check_memory(model, learner, rows, work)
        special = special_tokens(tokenizer)
        batches = _Batches(rows, learn, CAUSAL, special, rows.rows())
        judge = Judge(rows, learner, held, special, tokenizer)

        def batch_loss(part: Part) -> Any:
            if teacher is None:
                return learner.loss(part.arrays, "sum") * part.share
            return self._loss(learner, large, draws, part.arrays) * part.share

        with quick_passes(model):
            before = judge.before(work, _budget.seconds_left(self, work, started))
            plan = rows.plan(batches, judge, batch_loss, learner, work, started)
            outcome = train(
                model, plan, batch_loss, judge, rows.with_rate(rows.learning_rate), work, on_step=judge.count(plan),
                guess=math.log(model.config.vocab_size) * max(1.0, self.temperature**2),
            )  # fmt: skip
        figures = {key: value for key, value in vars(outcome).items() if key not in ("seconds", "texts_per_s")}
        figures |= {
            "nats_before": before, "nats_per_token": -outcome.best_score, "context": context, "zeros_held": zeros,
            "trained_parameters": sum(tensor.numel() for tensor in checkpoint.trainable(model).values()),
            "train_tokens": len(learn.tokens), "teacher": teacher.fingerprint if teacher else None,
        }  # fmt: skip
        work.log.say(f"validation {before:.4f} nats per token before, {-outcome.best_score:.4f} after", kind="result")
        with new_bundle(work.target, bundle) as (folder, card):
            if adapted is not None:
                some = [held.document(number)[:context].tolist() for number in range(min(_COMPARED, len(held)))]
                model, figures["merge_difference"] = _lora.merge(adapted, some, self.use)
            for file in bundle.path.iterdir():
                if file.is_file() and file.suffix != ".safetensors" and file.name != "card.json":
                    shutil.copyfile(file, folder / file.name)
            as_held(bundle, model.to("cpu").eval()).save_pretrained(folder)
            card.update(task=card["task"] or "predict", engine="torch_lm")
            card["stages"].append(self.entry(started, **figures))
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)

    def _teacher(self, bundle: Bundle, some: Sequence[str]) -> Bundle:
        """The one teacher, of the student's tokenizer, on some texts too."""
        found = self.teachers(bundle, "", self.use)
        for one in found:
            need_causal(one, self.use)
            need_same_tokenizer(one, bundle, some, self.use)
        if len(found) > 1 and not self.cached:
            raise HalfpintError(f"{self.use}: teacher", wanted="one, with cached = false", got=str(len(found)))
        return found[0]

    def _kept(self, bundle: Bundle, teacher: Bundle | None, learn: Any, work: Work) -> Any:
        """What is kept of the teacher's answers to the tokens of `learn`; None where it is asked at every step."""
        if teacher is None or not self.cached:
            return None
        asked = TokenAnswers(teacher=self.teacher or str(teacher.path), draws=self.draws, temperature=self.temperature)
        return draws_for(asked, learn, work)

    def _loss(self, learner: Any, large: Any, draws: Any, arrays: dict[str, Any]) -> Any:
        """The mixed loss of a part, summed over its labels."""
        import torch

        inputs = learner.inputs(arrays)
        labels = np.asarray(arrays["labels"][:, 1:])
        counted = labels != IGNORED
        index = torch.from_numpy(np.flatnonzero(counted)).to(learner.device)

        def chosen(model: Any) -> Any:
            found = model(**inputs).logits[:, :-1]
            return found.reshape(-1, found.shape[-1]).index_select(0, index)

        ours = chosen(learner.model).float()
        wanted = torch.from_numpy(labels[counted]).to(learner.device)
        told = torch.nn.functional.cross_entropy(ours, wanted, reduction="sum") if self.label_share else 0.0
        if draws is not None:
            theirs = self._from_kept(ours, draws, arrays["places"][:, 1:][counted])
        else:
            with torch.no_grad():
                logits = chosen(large)
            theirs = self.distance(ours, logits).sum()
        return self.label_share * told + (1 - self.label_share) * theirs

    def _from_kept(self, logits: Any, draws: Any, places: Any) -> Any:
        """The distance of the student's logits (labels, vocabulary) to what is kept for these places, summed."""
        ids, counts, sizes = draws.at(places)
        return sampled_loss(logits / self.temperature, ids, counts, sizes, draws.draws) * self.temperature**2


class _Same:
    """An array that holds its own indices."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        return np.asarray(index)


@dataclass(frozen=True)
class _Places:
    """A token store whose tokens are their own places, for packing them as the tokens are packed."""

    tokens: _Same
    offsets: Any
    folder: Any


class _Batches(Batches):
    """Batches that also tell under "places" where in the store each label stands."""

    def __init__(self, rows: Any, store: Any, objective: str, special: Any, count: int) -> None:
        super().__init__(rows, store, objective, special, count)
        places: Any = _Places(_Same(len(store.tokens)), store.offsets, store.folder)
        self._places = Batches(rows, places, objective, special, count)

    def step(self, step: int) -> tuple[int, list[Part]]:
        """As of `Batches`."""
        epoch, parts = super().step(step)
        _, others = self._places.step(step)
        both = zip(parts, others, strict=True)
        return epoch, [Part({**one.arrays, "places": other.arrays["labels"]}, one.share) for one, other in both]
