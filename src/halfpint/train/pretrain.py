"""Stage: pre-train a language model from scratch, causal or masked, of any architecture in transformers."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from halfpint.bundle import Bundle, Kind, read_json, write_json
from halfpint.data.packing import MODES
from halfpint.data.token_store import TokenStore, write_tokens
from halfpint.errors import HalfpintError, SettingError, nearest, need
from halfpint.files import write_text
from halfpint.lookup import text_task
from halfpint.models import sizes
from halfpint.progress import Log
from halfpint.settings import LATER
from halfpint.stage import Stage, Work
from halfpint.tokenizers.load import open_tokenizer
from halfpint.tokenizers.train import KINDS, TokenizerSettings, train_tokenizer
from halfpint.train import budget, ranks
from halfpint.train.loop import Training, check_settings, device, train, use_bf16
from halfpint.train.plan import Plan
from halfpint.train.rows import SEGMENTS, Batches, Judge, Part, part_rows
from halfpint.train.special import begin_documents, special_tokens

_READY = "ready.json"  # the tokenizer is whole
_SMALLEST_VOCABULARY = 512
_TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True, kw_only=True)
class Pretrain(Training, Stage):
    """Train a tokenizer and a language model on the documents of a corpus.

    Depth, width, heads and learning rate come from `size`; packed documents do not see each other. The loss on the
    validation documents is told in nats per token and in bits per byte of text; for a masked objective both are of
    masked tokens alone, and compare masked models with each other only.

    Args:
        arch: an architecture of transformers: llama, qwen3, gemma3, gpt2, phi3, olmo2, bert, modernbert, and others.
        objective: causal (the next token) or masked (hidden tokens); empty takes the architecture's own.
        size: parameters, embeddings included, such as 10M.
        vocabulary: tokens; 0 takes it from the size.
        tokenizer: bpe, unigram, wordpiece, word or char; empty takes bpe, and wordpiece for a masked objective.
        context: tokens of a sequence.
        packing: fit keeps documents whole where they fit into a sequence, stream cuts them wherever one is full, alone
            gives each a row of its own (what an architecture that cannot keep documents apart takes of itself),
            segments reads on from step to step (what one that remembers takes of itself).
        mem_length: tokens that an architecture with a memory remembers; 0 takes the context.
        tokens: tokens to train on in all; 0 goes by `minutes`.
        minutes: time for all of it where `tokens` is 0; with 0 too it goes by `epochs`.
        mask_share: share of the tokens that a masked objective hides.
        evaluations: how often the validation documents are looked at; less often where that would take more than a
            fifth of `minutes`.
        evaluation_tokens: how many tokens of them, at most.
        gradient_checkpointing: keep less for the backward pass and compute it again: a third slower, much less memory.
        beta1: decay of AdamW's mean of gradients.
        beta2: decay of AdamW's mean of their squares.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.NOTHING,)
    gives: ClassVar[Kind] = Kind.LANGUAGE

    arch: str = "llama"
    objective: str = ""
    size: str = "10M"
    vocabulary: int = 0
    tokenizer: str = ""
    context: int = 256
    packing: str = "fit"
    tokens: int = 0
    minutes: float = 20.0
    mask_share: float = 0.15
    evaluations: int = 20
    evaluation_tokens: int = 16_384
    gradient_checkpointing: bool = False
    beta1: float = 0.9
    beta2: float = 0.95
    mem_length: int = field(default=0, metadata=LATER)

    optimizer: str = "muon"
    learning_rate: float = 0.0
    schedule: str = "wsd"
    warmup: float = 0.02
    epochs: int = 1
    batch_size: int = 1024
    batch_tokens: int = 2048
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        check_settings(self, self.use, may_be_zero=("learning_rate",))
        modes = (*MODES, SEGMENTS)
        if self.packing not in modes:
            raise SettingError(
                f"{self.use}: packing", wanted=", ".join(modes[:-1]) + f" or {modes[-1]}", got=repr(self.packing),
                todo=nearest(self.packing, modes),
            )  # fmt: skip
        if self.tokenizer and self.tokenizer not in KINDS:
            raise SettingError(
                f"{self.use}: tokenizer", wanted=f"one of {', '.join(KINDS)}", got=repr(self.tokenizer),
                todo=nearest(self.tokenizer, KINDS),
            )  # fmt: skip
        for name, fits, wanted in (
            ("context", self.context >= 8, "8 tokens or more"),
            ("vocabulary", self.vocabulary >= 0, "0 or more"),
            ("tokens", self.tokens >= 0, "0 or more"),
            ("mem_length", self.mem_length >= 0, "0 or more"),
            ("minutes", self.minutes >= 0, "0 or more"),
            ("mask_share", 0 < self.mask_share < 1, "a share between 0 and 1"),
            ("evaluations", self.evaluations >= 1, "1 or more"),
            ("evaluation_tokens", self.evaluation_tokens >= 1, "1 or more"),
            ("beta1", 0 <= self.beta1 < 1, "a share below 1"),
            ("beta2", 0 <= self.beta2 < 1, "a share below 1"),
        ):
            if not fits:
                raise SettingError(f"{self.use}: {name}", wanted=wanted, got=str(getattr(self, name)))
        sizes.parse_parameters(self.size)

    def check(self) -> None:
        """Refuse an architecture or an objective that there is not, and a size that the memory does not hold."""
        model_type, _ = sizes.resolve(self.arch, self.objective)
        need("torch", "pre-training")
        parameters = sizes.parse_parameters(self.size)
        vocabulary = self.vocabulary or sizes.default_vocabulary(parameters)
        settings = self._shape(parameters, vocabulary)
        for name, fits in (("mem_length", not self.mem_length), ("packing", self.packing != SEGMENTS)):
            if not fits and "mem_length" not in settings:
                raise SettingError(
                    f"{self.use}: {name}", wanted="an architecture that remembers, such as transformer-xl",
                    got=f"{getattr(self, name)} with {self.arch}", todo="Leave it out.",
                )  # fmt: skip
        self._memory(sizes.new_model(model_type, settings, meta=True))

    def _shape(self, parameters: int, vocabulary: int) -> dict[str, Any]:
        """The configuration's settings by the size dial, and what is remembered."""
        settings, _ = sizes.size_dial(self.arch, parameters, vocabulary, self.context)
        if "mem_length" in settings:
            settings["mem_length"] = self.mem_length or self.context
        return settings

    def _memory(self, shape: Any, *, chunked: bool = True) -> int:
        """Bytes that training takes at its peak, about, by a model of the same shape that has no memory of its own.

        Raises:
            HalfpintError: there are not so many.
        """
        needed = budget.memory_needed(
            shape, part_rows(self.rows(), self.context), self.context, chunked=chunked,
            checkpointing=self.gradient_checkpointing, bf16=use_bf16(self.precision), optimizer=self.optimizer,
        )  # fmt: skip
        budget.check_memory(needed, device(), self.use)
        return needed

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Make the tokenizer and the tokens, then the model; keep the best evaluation on validation."""
        started = time.monotonic()
        torch = need("torch", "pre-training")
        from halfpint.models.quick_passes import quick_passes

        need("transformers", "pre-training").utils.logging.disable_progress_bar()
        rank, _ = ranks.join()
        work = replace(work, log=Log(quiet=True)) if rank else work
        model_type, objective = sizes.resolve(self.arch, self.objective)
        if sizes.family_of(self.arch) == model_type:
            work.log.say(f"  {self.arch} models have the architecture {model_type}", kind="arch", arch=model_type)
        if not len(work.documents.train):
            raise HalfpintError(
                self.use, wanted="a corpus of documents", got="none",
                todo="Give running text: `halfpint pretrain TEXT...`, or [data] with sources in a recipe.",
            )  # fmt: skip
        parameters = sizes.parse_parameters(self.size)
        with ranks.after_first():
            tokenizer = self._tokenizer(work.documents.train, work, parameters, objective)
            learn, held = self._stores(work.documents, work, tokenizer)
        special = special_tokens(tokenizer)
        vocabulary = tokenizer.get_vocab_size()
        settings = self._shape(parameters, vocabulary)
        settings = {**settings, **special.config(settings)}
        needed = self._memory(sizes.new_model(model_type, settings, meta=True))
        torch.manual_seed(self.seed)
        model = sizes.new_model(model_type, settings).to(device())
        learner = self._learner(model, objective)
        remembers = "mem_length" in settings
        packing = SEGMENTS if remembers else learner.settled(self.packing, self.use, work.log)
        packed = replace(self, packing=packing)
        needed = needed if learner.chunked else self._memory(model, chunked=False)
        rows = self.rows()
        # Muon's steps have one size whatever the noise in them, so that small batches need no smaller rate (LOG.md).
        tokens = rows * self.context * self.accumulate if self.optimizer == "adamw" else math.inf
        rate = self.learning_rate or sizes.learning_rate(parameters, tokens)
        work.log.say(
            f"{budget.shown_shape(model)}; {len(learn.tokens):,} training tokens; learning rate {rate:.3g}; "
            f"about {needed / 2**30:.1f} GiB of memory", kind="model", parameters=sizes.parameters_of(model),
        )  # fmt: skip
        batches = Batches(packed, learn, objective, special, rows)
        judge = Judge(packed, learner, held, special, tokenizer)

        def batch_loss(part: Part) -> Any:
            return learner.loss(part.arrays, "sum") * part.share

        with quick_passes(model):
            plan = self.plan(batches, judge, batch_loss, learner, work, started)
            outcome = train(
                model, plan, batch_loss, judge, self.with_rate(rate), work,
                betas=(self.beta1, self.beta2), guess=math.log(vocabulary), on_step=judge.count(plan),
            )  # fmt: skip
        if not rank:
            figures = {key: value for key, value in vars(outcome).items() if key not in ("seconds", "texts_per_s")}
            entry = self.entry(
                started, **figures, packing=packing, objective=objective,
                parameters=sizes.parameters_of(model), vocabulary=vocabulary,
                learning_rate=rate, train_tokens=len(learn.tokens),
            )  # fmt: skip
            self._write(model.to("cpu").eval(), entry, work)
        ranks.wait()
        return Bundle(work.target)

    def _write(self, model: Any, entry: dict[str, Any], work: Work) -> None:
        """The bundle; what is in scratch goes."""
        with self.new_bundle(work) as (folder, card):
            model.save_pretrained(folder)
            shutil.copyfile(work.scratch / "tokenizer" / "tokenizer.json", folder / "tokenizer.json")
            config = read_json(work.scratch / "tokenizer" / "tokenizer_config.json")
            write_json(folder / "tokenizer_config.json", {**config, "model_max_length": self.context})
            if (work.scratch / "tokenizer" / _TEMPLATE).is_file():
                shutil.copyfile(work.scratch / "tokenizer" / _TEMPLATE, folder / _TEMPLATE)
            card.update(task=text_task().name, engine="torch_lm")
            card["stages"].append(entry)
        shutil.rmtree(work.scratch, ignore_errors=True)

    def _tokenizer(self, texts: Iterable[str], work: Work, parameters: int, objective: str) -> Any:
        """The tokenizer, trained once; it stays in scratch for the bundle."""
        folder = work.scratch / "tokenizer"
        if not (folder / _READY).is_file():
            kind = self.tokenizer or ("wordpiece" if objective == sizes.MASKED else "bpe")
            size = self.vocabulary or sizes.default_vocabulary(parameters)
            while True:
                wanted = TokenizerSettings(kind=kind, vocab_size=size, purpose=objective)
                try:
                    train_tokenizer(texts, wanted, folder, work.log)
                    break
                except HalfpintError:  # the text does not have so many; what nobody asked for may be less
                    if self.vocabulary or size <= _SMALLEST_VOCABULARY:
                        raise
                    size //= 2
            tokenizer = open_tokenizer(folder)
            begin_documents(tokenizer)
            write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
            write_json(folder / _READY, {"vocab_size": tokenizer.get_vocab_size()})
        return open_tokenizer(folder)

    def _stores(self, corpus: Any, work: Work, tokenizer: Any) -> tuple[TokenStore, TokenStore]:
        """The tokens of both sides, written once."""
        found = []
        for name in ("train", "validation"):
            texts = getattr(corpus, name)
            if not len(texts):
                raise HalfpintError(
                    f"{self.use}: {name}", wanted="documents", got="none",
                    todo="Give more text, or validation text of its own.",
                )  # fmt: skip
            key = f"{corpus.key}-{name}"
            found.append(write_tokens(texts, tokenizer, work.scratch / f"tokens-{name}", key, work.log))
        tokens = len(found[0].tokens)
        if tokens < self.context:
            raise HalfpintError(
                f"{self.use}: corpus", wanted=f"at least one training sequence of {self.context} tokens",
                got=f"{tokens:,} tokens", todo="Give more text, or a smaller context.",
            )  # fmt: skip
        return found[0], found[1]

    def _learner(self, model: Any, objective: str) -> Any:
        """The model with its loss."""
        from halfpint.train.learner import Learner

        if self.gradient_checkpointing:
            if not model.supports_gradient_checkpointing:
                raise HalfpintError(
                    f"{self.use}: gradient_checkpointing", wanted="an architecture that has it", got=self.arch
                )
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return Learner(model, objective, device())

    def rows(self) -> int:
        """Sequences of a batch."""
        return max(1, min(self.batch_size, self.batch_tokens // self.context))

    def plan(
        self, batches: Batches, judge: Judge, batch_loss: Callable[[Part], Any], learner: Any, work: Work,
        started: float,
    ) -> Plan:  # fmt: skip
        """The steps: for so many tokens, in so many minutes, or in so many epochs."""
        steps = self.tokens / batches.tokens_a_step if self.tokens else self.epochs * batches.steps_per_epoch
        told = budget.speed_told(
            learner.model, learner.objective, self.context, self.precision, work.log, self.mask_share
        )
        return budget.planned(
            self, batches, learner.model, batch_loss, work, started, what="the text",
            steps=max(1, math.ceil(steps)) if self.tokens or not self.minutes else 0,
            evaluation_tokens=judge.tokens, told=told,
        )  # fmt: skip
