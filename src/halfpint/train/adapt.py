"""Stage: go on training a causal language model on the documents of a domain; all weights, or adapters (LoRA)."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from halfpint.bundle import Bundle, Kind, copy_files
from halfpint.data.packing import MODES
from halfpint.data.token_store import TokenStore, write_tokens
from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError, SettingError, nearest, need
from halfpint.lookup import text_task
from halfpint.models.sizes import CAUSAL, resolve, shown_parameters
from halfpint.stage import Stage, Work
from halfpint.task import Split
from halfpint.tokenizers.load import open_tokenizer
from halfpint.train import budget, checkpoint, lora, ranks
from halfpint.train.loop import Training, check_settings, device, train, use_bf16
from halfpint.train.pretrain import Pretrain
from halfpint.train.rows import Batches, Judge, Part, part_rows
from halfpint.train.special import special_tokens

_LORA_RATE, _FULL_RATE = 2e-4, 5e-5
MOST_CONTEXT = 1024
"""Tokens of a sequence where nothing else is said."""
_COMPARED = 4  # documents that a merged model is compared on
Loss = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True, kw_only=True)
class Adapt(lora.LoRA, Training, Stage):
    """Train a language model further on a corpus, with the tokenizer that it has.

    Packing, loss and validation are those of `train/pretrain`; the card tells the loss before as well. Adapters are
    merged in the end. Source: Gururangan et al. 2020, "Don't Stop Pretraining", section 3.

    Args:
        context: tokens of a sequence; 0 takes the model's, at most 1,024.
        packing: fit keeps documents whole where they fit into a sequence, stream cuts them wherever one is full, alone
            gives each a row of its own (what an architecture that cannot keep documents apart takes of itself).
        tokens: tokens to train on in all; 0 goes by `minutes`.
        minutes: time for all of it where `tokens` is 0; with 0 too it goes by `epochs`.
        evaluations: how often the validation documents are looked at; less often where that would take more than a
            fifth of `minutes`.
        evaluation_tokens: how many tokens of them, at most.
        gradient_checkpointing: keep less for the backward pass and compute it again: a third slower, much less memory.
        learning_rate: peak rate of AdamW; 0 takes 2e-4 with LoRA, 5e-5 without.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.LANGUAGE,)
    gives: ClassVar[Kind] = Kind.LANGUAGE

    context: int = 0
    packing: str = "fit"
    tokens: int = 0
    minutes: float = 20.0
    evaluations: int = 10
    evaluation_tokens: int = 16_384
    gradient_checkpointing: bool = False

    learning_rate: float = 0.0
    schedule: str = "cosine"
    warmup: float = 0.05
    epochs: int = 1
    batch_size: int = 1024

    def __post_init__(self) -> None:
        check_settings(self, self.use, may_be_zero=("learning_rate",))
        self.check_lora(self.use)
        if 0 != self.context < 8:
            raise SettingError(f"{self.use}: context", wanted="8 tokens or more, or 0", got=str(self.context))
        self._rows_of(self.context or MOST_CONTEXT)  # refuses what they refuse

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Train on the documents; keep the best evaluation on its validation documents."""
        assert bundle is not None
        started = time.monotonic()
        torch = need("torch", "training a language model")
        from halfpint.models.quick_passes import quick_passes
        from halfpint.train.learner import Learner

        self.check()
        corpus = self._corpus_for(bundle, work)
        teacher = self._teacher_for(bundle, corpus)
        tokenizer = open_tokenizer(bundle.path)
        torch.manual_seed(self.seed)
        model = load_model(bundle.path, CAUSAL).to(device())
        context = self._context_of(model)
        learn, held = self._stores(corpus, tokenizer, model.config.eos_token_id, context, work)
        self._freeze(model)
        adapted = self.with_adapters(model, self.use)
        figures = self._hold(model)
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        learner = Learner(model, CAUSAL, device())
        packing = learner.settled(self.packing, self.use, work.log)
        rows = replace(self._rows_of(context), packing=packing)
        loss = self._loss_of(bundle, teacher, learner, learn, work)
        more = self._more_bytes(model, part_rows(rows.rows(), context), context)
        self._check_memory(model, learner, rows, work, more)
        began = self._begins(started)
        special = special_tokens(tokenizer)
        batches = self._batches(rows, learn, special)
        judge = self._judge(Judge(rows, learner, held, special, tokenizer), loss)

        def batch_loss(part: Part) -> Any:
            return loss(part.arrays) * part.share

        with quick_passes(model):
            before = judge.before(work, math.inf if self._is_unhurried else budget.seconds_left(self, work, began))
            plan = rows.plan(batches, judge, batch_loss, learner, work, began)
            outcome = train(
                model, plan, batch_loss, judge, rows.with_rate(rows.learning_rate), work, on_step=judge.count(plan),
                guess=self._guess(model.config.vocab_size),
            )  # fmt: skip
        figures |= {key: value for key, value in vars(outcome).items() if key not in ("seconds", "texts_per_s")}
        figures |= {
            judge.names[0]: before, judge.names[1]: -outcome.best_score, "context": context,
            "trained_parameters": sum(tensor.numel() for tensor in checkpoint.trainable(model).values()),
            "train_tokens": len(learn.tokens),
        }  # fmt: skip
        work.log.say(f"validation {before:.4f} {judge.of} before, {-outcome.best_score:.4f} after", kind="result")
        with self.new_bundle(work, bundle) as (folder, card):
            if adapted is not None:
                some = [held.document(number)[:context].tolist() for number in range(min(_COMPARED, len(held)))]
                model, figures["merge_difference"] = lora.merge(adapted, some, self.use)
            copy_files(bundle, folder, "*.safetensors", "*.index.json", "adapter", nested=True)
            self._as_written(bundle, model.to("cpu").eval()).save_pretrained(folder)
            card.update(task=card["task"] or text_task().name, engine="torch_lm")
            card["stages"].append(self.entry(started, **figures, **self._taught_by(teacher)))
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)

    # What training beside a teacher (distil/) does otherwise.

    @property
    def _is_unhurried(self) -> bool:
        """Whether looking at the validation documents before training may take any time."""
        return self.tokens > 0

    def _teacher_for(self, bundle: Bundle, corpus: Split[str]) -> Bundle | None:
        """The model to learn from besides the text."""
        return None

    def _taught_by(self, teacher: Bundle | None) -> dict[str, Any]:
        """What the card says of the teacher."""
        return {}

    def _context_of(self, model: Any) -> int:
        most = int(getattr(model.config, "max_position_embeddings", None) or MOST_CONTEXT)
        if self.context > most:
            raise SettingError(
                f"{self.use}: context", wanted=f"at most the model's {most:,} tokens", got=f"{self.context:,}"
            )
        return self.context or min(most, MOST_CONTEXT)

    def _begins(self, started: float) -> float:
        """When its minutes began (`time.monotonic()`)."""
        return started

    def _freeze(self, model: Any) -> None:
        """Leave as they are what is not to be trained; all is, if nothing is said."""

    def _hold(self, model: Any) -> dict[str, Any]:
        """Keep what has to stay zero; gives what the card says of it."""
        return {}

    def _loss_of(self, bundle: Bundle, teacher: Bundle | None, learner: Any, learn: Any, work: Work) -> Loss:
        """The loss of packed rows, summed over their labels: fp32 scalar."""
        return lambda arrays: learner.loss(arrays, "sum")

    def _more_bytes(self, model: Any, rows: int, context: int) -> int:
        """About the bytes that the loss takes besides what training takes."""
        return 0

    def _batches(self, rows: Any, learn: Any, special: Any) -> Batches:
        return Batches(rows, learn, CAUSAL, special, rows.rows())

    def _judge(self, plain: Judge, loss: Loss) -> Judge:
        """What evaluations are chosen by."""
        return plain

    def _guess(self, vocabulary: int) -> float:
        """The loss per label of a model that knows nothing."""
        return math.log(vocabulary)

    def _as_written(self, bundle: Bundle, model: Any) -> Any:
        """The model as it goes into the bundle."""
        return model

    def _corpus_for(self, bundle: Bundle, work: Work) -> Split[str]:
        corpus = work.documents
        if not len(corpus.train):
            raise HalfpintError(
                self.use, wanted="a corpus of documents", got="none", todo="Give running text, or a folder of it."
            )
        model_type, objective = resolve(str(bundle.config.get("model_type")))
        if objective != CAUSAL:
            raise HalfpintError(str(bundle.path), wanted="a causal model", got=f"a {model_type}, a masked one")
        if ranks.join()[1] > 1:
            raise HalfpintError(self.use, wanted="one process", got="several", todo="Start it without torchrun.")
        return corpus

    def _stores(
        self, corpus: Split[str], tokenizer: Any, eos: Any, context: int, work: Work
    ) -> tuple[TokenStore, TokenStore]:  # fmt: skip
        """The tokens of both sides, each document with the model's end token behind it."""
        end = int(eos[0] if isinstance(eos, list) else eos) if eos is not None else None
        found = []
        for name in ("train", "validation"):
            texts = getattr(corpus, name)
            if not len(texts):
                raise HalfpintError(f"{self.use}: {name}", wanted="documents", got="none", todo="Give more text.")
            key = f"{corpus.key}-{name}"
            found.append(write_tokens(texts, tokenizer, work.scratch / f"tokens-{name}", key, work.log, end=end))
        if len(found[0].tokens) < context:
            raise HalfpintError(
                f"{self.use}: corpus", wanted=f"at least one training sequence of {context} tokens",
                got=f"{len(found[0].tokens):,} tokens", todo="Give more text, or a smaller context.",
            )  # fmt: skip
        return found[0], found[1]

    def _rows_of(self, context: int) -> Pretrain:
        """What pre-training would do with these settings: its rows, its plan and its way to judge.

        Raises:
            SettingError: a packing that there is not, or that is for reading on from step to step.
        """
        if self.packing not in MODES:
            raise SettingError(
                f"{self.use}: packing", wanted=", ".join(MODES[:-1]) + f" or {MODES[-1]}", got=repr(self.packing),
                todo=nearest(self.packing, MODES),
            )  # fmt: skip
        rate = self.learning_rate or (_LORA_RATE if self.lora else _FULL_RATE)
        return Pretrain(
            **vars(self.with_rate(rate)), context=context, packing=self.packing, tokens=self.tokens,
            minutes=self.minutes, evaluations=self.evaluations, evaluation_tokens=self.evaluation_tokens,
        )  # fmt: skip

    def _check_memory(self, model: Any, learner: Any, rows: Pretrain, work: Work, more: int = 0) -> None:
        """Tell about the memory that it takes, with `more` bytes besides, or refuse where there is less."""
        trained = sum(tensor.numel() for tensor in checkpoint.trainable(model).values())
        needed = budget.memory_needed(
            model, part_rows(rows.rows(), rows.context), rows.context, chunked=learner.chunked,
            checkpointing=self.gradient_checkpointing, bf16=use_bf16(self.precision), optimizer=self.optimizer,
        )  # fmt: skip
        needed += more
        budget.check_memory(needed, device(), self.use)
        work.log.say(
            f"{budget.shown_shape(model)}; {shown_parameters(trained)} of them are trained; learning rate "
            f"{rows.learning_rate:.3g}; about {needed / 2**30:.1f} GiB of memory", kind="model", trained=trained,
        )  # fmt: skip
