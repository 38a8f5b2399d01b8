"""Stage: teach a language model to answer, on conversations; all of its weights, or low-rank adapters (LoRA)."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from halfpint.bundle import Bundle, new_bundle, read_json, write_json, write_text
from halfpint.data.conversations import ASSISTANT, Conversation, Conversations
from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError, need, need_installed
from halfpint.models.sizes import CAUSAL, parameters_of, resolve, shown_parameters
from halfpint.stage import Stage, Work
from halfpint.train import _budget, _lora, _ranks, checkpoint
from halfpint.train._chat_rows import ChatJudge, ChatRows, within
from halfpint.train._chat_tokens import ChatTokenizer, Rendered
from halfpint.train._rows import Part, part_rows
from halfpint.train.loop import Training, check_settings, device, train, use_bf16
from halfpint.train.plan import Plan

_PLAN = "plan.json"
_BEFORE = "before.json"  # the score of the base
_LORA_RATE, _FULL_RATE = 2e-4, 2e-5
_EVALUATIONS = 8  # of a run that goes by time
_CONTEXT_STEP = 8
_COMPARED, _COMPARED_TOKENS = 4, 256  # texts, and tokens of each, that a merged model is compared on
_TEMPLATE = "chat_template.jinja"
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "merges.txt", "vocab.txt", _TEMPLATE, "chat_template.json",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Chat(Training, Stage):
    """Train a causal language model on conversations, rendered by its own chat template.

    The loss counts what the assistant says and the token that ends its turn, and nothing else. The result is a plain
    model with the chat template, which stops at the end of a turn; validation is in nats per assistant token.

    Args:
        template: empty takes the model's own chat template; chatml is for models without one whose tokenizer has
            `<|im_start|>` and `<|im_end|>`, as those of `train/pretrain` have (with LoRA the token embeddings are then
            trained too, as these tokens mean nothing yet).
        lora: train low-rank adapters on a frozen model instead of all weights.
        lora_rank, lora_alpha, lora_dropout: of the adapters; their product counts alpha / rank times.
        lora_targets: last names of the layers that get one, with commas (q_proj,v_proj); empty takes all linear layers
            of the blocks.
        merge: the bundle holds the model with the adapters merged into its weights, checked to answer as before;
            without `merge` it holds the adapters apart as well, in adapter/, as `peft` reads them.
        context: tokens of a sequence; 0 takes those of the longest conversation, at most the model's.
        packing: several conversations in a sequence, which do not see each other; without it one each, padded.
        minutes: time for all of it; 0 goes by `epochs`.
        evaluations: how often validation is looked at; 0 once an epoch, or 8 times where it goes by `minutes`.
        evaluation_tokens: how many tokens of it, at most, about.
        gradient_checkpointing: keep less for the backward pass and compute it again: a third slower, much less memory.
        learning_rate: peak rate of AdamW; 0 takes 2e-4 with LoRA, 2e-5 without.
    """

    needs: ClassVar[tuple[str, ...]] = ("language",)
    gives: ClassVar[str] = "language"

    template: str = ""
    lora: bool = False
    lora_rank: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.05
    lora_targets: str = ""
    merge: bool = True
    context: int = 0
    packing: bool = True
    minutes: float = 0.0
    evaluations: int = 0
    evaluation_tokens: int = 32_768
    gradient_checkpointing: bool = False

    learning_rate: float = 0.0
    schedule: str = "cosine"
    warmup: float = 0.05
    epochs: int = 3
    batch_tokens: int = 1024
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_settings(self, self.use, may_be_zero=("learning_rate",))
        for name, fits, wanted in (
            ("lora_rank", self.lora_rank >= 1, "1 or more"),
            ("lora_alpha", self.lora_alpha > 0, "a number above 0"),
            ("lora_dropout", 0 <= self.lora_dropout < 1, "a share below 1"),
            ("lora_targets", self.lora or not self.lora_targets, "lora = true for it"),
            ("merge", self.lora or self.merge, "lora = true for adapters of their own"),
            ("context", self.context == 0 or self.context >= 8, "8 tokens or more, or 0"),
            ("minutes", self.minutes >= 0, "0 or more"),
            ("evaluations", self.evaluations >= 0, "0 or more"),
            ("evaluation_tokens", self.evaluation_tokens >= 1, "1 or more"),
        ):
            if not fits:
                raise HalfpintError(f"{self.use}: {name}", wanted=wanted, got=str(getattr(self, name)))

    def check(self) -> None:
        """Refuse LoRA without `peft`."""
        if self.lora:
            need_installed("peft", "LoRA")

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Train on the conversations of `work.corpus`; keep the best evaluation on validation."""
        assert bundle is not None
        started = time.monotonic()
        torch = need("torch", "training on conversations")
        from halfpint.train._fused import quick_passes
        from halfpint.train._language import Learner

        self.check()
        data: Any = work.corpus
        self._refuse_others(bundle, data)
        tokenizer = ChatTokenizer(bundle.path, self.template)
        learn, held, context = self._rendered(tokenizer, data, bundle, work)
        torch.manual_seed(self.seed)
        model = load_model(bundle.path, CAUSAL).to(device())
        ends = _ends(model, tokenizer)
        adapted = self._adapted(model)
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        pad = int(model.config.pad_token_id or 0)
        rows = ChatRows(self, learn, context, pad, shuffle=True)
        learner = Learner(model, CAUSAL, device())
        if self.packing:
            self._check_apart(learner)
        self._check_memory(model, learner, rows, context, work)
        judge = ChatJudge(
            self, learner, ChatRows(self, held, context, pad, shuffle=sum(map(_length, held)) > self.evaluation_tokens),
            tokenizer.tokenizer, tokenizer.prompt(_question(data.validation[0])),
        )  # fmt: skip

        def batch_loss(part: Part) -> Any:
            return learner.loss(part.arrays, "sum") * part.share

        with quick_passes(model):
            before = self._before(judge, work)
            plan = self._plan(rows, batch_loss, model, work, started)
            outcome = train(
                model, plan, batch_loss, judge, self._with_rate(), work, guess=math.log(model.config.vocab_size)
            )
        figures = {key: value for key, value in vars(outcome).items() if key not in ("seconds", "texts_per_s")}
        figures |= {
            "nats_before": before, "nats_per_assistant_token": -outcome.best_score, "score_of": "assistant tokens",
            "context": context, "train_tokens": rows.tokens, "train_tokens_counted": rows.counted,
            "trained_parameters": sum(tensor.numel() for tensor in checkpoint.trainable(model).values()),
            "end_of_turn": sorted(tokenizer.ends),
        }  # fmt: skip
        work.log.say(
            f"validation {before:.4f} nats per assistant token before, {-outcome.best_score:.4f} after", kind="result"
        )
        if -outcome.best_score > before:
            work.log.say("  it got worse: lower learning_rate, or train for less long", kind="finding")
        with new_bundle(work.target, bundle) as (folder, card):
            if adapted is not None:
                if not self.merge:
                    _lora.write_adapter(adapted, folder / "adapter", embeddings=bool(self.template))
                some = [one.ids[:_COMPARED_TOKENS].tolist() for one in held[:_COMPARED]]
                model, figures["merge_difference"] = _lora.merge(adapted, some, self.use)
            self._write(model.to("cpu").eval(), folder, bundle.path, tokenizer.template, ends)
            card.update(task="chat", engine="torch_lm")
            card["stages"].append(self.entry(started, **figures))
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)

    def _refuse_others(self, bundle: Bundle, data: Any) -> None:
        if not isinstance(data, Conversations):
            raise HalfpintError(
                self.use, wanted="conversations", got="other data",
                todo="Give a file of conversations: `halfpint finetune BASE FILE --task chat`.",
            )  # fmt: skip
        model_type, objective = resolve(str(bundle.config.get("model_type")))
        if objective != CAUSAL:
            raise HalfpintError(
                str(bundle.path), wanted="a model that writes from left to right", got=f"a {model_type}, which does not"
            )
        if _ranks.join()[1] > 1:
            raise HalfpintError(self.use, wanted="one process", got="several", todo="Start it without torchrun.")

    def _rendered(
        self, tokenizer: ChatTokenizer, data: Conversations, bundle: Bundle, work: Work
    ) -> tuple[list[Rendered], list[Rendered], int]:
        """Both sides as tokens that fit into the context, and the context."""
        with work.log.bar("tokens", len(data.train) + len(data.validation)) as bar:
            sides: list[list[Rendered]] = [[], []]
            for side, conversations in zip(sides, (data.train, data.validation), strict=True):
                for one in tokenizer.tokens(conversations):
                    side.append(one)
                    bar.advance()
        longest = max(_length(one) for side in sides for one in side)
        most = int(bundle.config.get("max_position_embeddings") or bundle.config.get("n_positions") or longest)
        if self.context > most:
            raise HalfpintError(
                f"{self.use}: context", wanted=f"at most the model's {most:,} tokens", got=f"{self.context:,}"
            )
        context = self.context or min(most, -(-longest // _CONTEXT_STEP) * _CONTEXT_STEP)
        kept = [
            within(side, context, name, work.log) for side, name in zip(sides, ("train", "validation"), strict=True)
        ]
        if not kept[0] or not kept[1]:
            raise HalfpintError(
                f"{self.use}: context", wanted="conversations of which a question and its answer fit",
                got=f"{len(kept[0])} to learn from and {len(kept[1])} to choose by within {context:,} tokens",
                todo="Raise context, take a base model with a longer one, or give shorter conversations.",
            )  # fmt: skip
        return kept[0], kept[1], context

    def _adapted(self, model: Any) -> Any:
        """The model with adapters, which alone are trained; None where all of it is."""
        if not self.lora:
            return None
        return _lora.add_adapters(
            model, self.use, rank=self.lora_rank, alpha=self.lora_alpha, dropout=self.lora_dropout,
            targets=self.lora_targets, embeddings=bool(self.template),
        )  # fmt: skip

    def _check_apart(self, learner: Any) -> None:
        try:
            learner.check_apart(self.use)
        except HalfpintError as error:
            raise HalfpintError(
                f"{self.use}: packing", wanted="a model that can keep the conversations of a sequence apart",
                got=error.got, todo="Set packing to false: one conversation a sequence.",
            ) from None  # fmt: skip

    def _check_memory(self, model: Any, learner: Any, rows: ChatRows, context: int, work: Work) -> None:
        trained = sum(tensor.numel() for tensor in checkpoint.trainable(model).values())
        everything = parameters_of(model)
        needed = _budget.memory_needed(
            model, part_rows(rows.rows, context), context, chunked=learner.chunked,
            checkpointing=self.gradient_checkpointing, bf16=use_bf16(self.precision),
        ) - 12 * (everything - trained)  # fmt: skip  # what is frozen has no gradient and no moments
        _budget.check_memory(needed, device(), self.use)
        work.log.say(
            f"{_budget.shown_shape(model)}; {shown_parameters(trained)} of them are trained; {rows.tokens:,} tokens, "
            f"{rows.counted:,} of them count; learning rate {self._rate():.3g}; "
            f"about {needed / 2**30:.1f} GiB of memory",
            kind="model", parameters=everything, trained=trained,
        )  # fmt: skip

    def _rate(self) -> float:
        return self.learning_rate or (_LORA_RATE if self.lora else _FULL_RATE)

    def _with_rate(self) -> Training:
        held = {item.name: getattr(self, item.name) for item in fields(Training)}
        return Training(**{**held, "learning_rate": self._rate()})

    def _before(self, judge: ChatJudge, work: Work) -> float:
        """The base's score, kept in scratch."""
        path = work.scratch / _BEFORE
        if not path.is_file():
            nats = judge.nats()
            write_json(path, {"nats": nats})
            work.log.say(f"  before: validation {nats:.4f} nats per assistant token", kind="before", nats=nats)
        return float(read_json(path)["nats"])

    def _plan(
        self, rows: ChatRows, batch_loss: Callable[[Part], Any], model: Any, work: Work, started: float
    ) -> Plan:  # fmt: skip
        """How many steps there are, kept in scratch: an interrupted run goes on with its own plan."""
        path = work.scratch / _PLAN
        if path.is_file():
            found = read_json(path)
        elif not self.minutes:
            found = {"total": self.epochs * rows.steps_per_epoch, "seconds": None}
        else:
            seconds = min(self.minutes * 60 - (time.monotonic() - started), work.seconds_left())
            pace = self._pace(rows, batch_loss, model, seconds)
            seconds -= 3 * pace  # about what was spent on measuring
            found = {"total": max(1, int(seconds / (1.05 * pace))), "seconds": seconds}  # evaluations take their part
        write_json(path, found)
        total, seconds = int(found["total"]), found["seconds"]
        often = self.evaluations or (_EVALUATIONS if self.minutes else 0)
        length = f"in {seconds / 60:.1f} minutes" if seconds else "in all"
        passes = total / rows.steps_per_epoch
        work.log.say(
            f"plan: {total:,} steps of about {rows.tokens // rows.steps_per_epoch:,} tokens {length}, {passes:.2g} "
            "times the conversations", kind="plan", **found, passes=passes,
        )  # fmt: skip
        return Plan(
            total=total, step=rows.step, size=rows.size, evaluate_every=max(1, total // often) if often else 0,
            seconds=math.inf if seconds is None else float(seconds), told=lambda speed: f"{speed:,.0f} tokens/s",
        )  # fmt: skip

    def _pace(self, rows: ChatRows, batch_loss: Callable[[Part], Any], model: Any, seconds: float) -> float:
        """Seconds of a step, measured with a learning rate of 0: the weights stay as they are."""
        import torch

        model.train()
        weights = list(checkpoint.trainable(model).values())
        optimiser = torch.optim.AdamW(weights, lr=0.0, weight_decay=0.0, fused=True)

        def step(number: int) -> None:
            for part in rows.step(number)[1]:
                with torch.autocast(device().type, torch.bfloat16, enabled=use_bf16(self.precision)):
                    loss = batch_loss(part)
                loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        return _budget.seconds_a_step(step, device(), seconds)

    def _write(self, model: Any, folder: Path, base: Path, template: str, ends: int | list[int]) -> None:
        """The model, its tokenizer as it was, and the chat template; generation stops at the end of a turn."""
        model.config.eos_token_id = ends
        _make_writable(model, ends)
        model.save_pretrained(folder)
        for name in _TOKENIZER_FILES:
            if (base / name).is_file():
                shutil.copyfile(base / name, folder / name)
        if self.template:
            config = read_json(folder / "tokenizer_config.json")
            config.pop("chat_template", None)
            write_json(folder / "tokenizer_config.json", config)
            (folder / "chat_template.json").unlink(missing_ok=True)
            write_text(folder / _TEMPLATE, template)


def _make_writable(model: Any, ends: int | list[int]) -> None:
    """Let generation stop at `ends`; what a base says of sampling may be such that transformers would not write it."""
    held = model.generation_config
    held.eos_token_id = ends
    try:
        held.validate(strict=True)
        return
    except ValueError:
        held.do_sample = True  # it tells a temperature, say
    try:
        held.validate(strict=True)
    except ValueError:
        model.generation_config = type(held)(
            bos_token_id=held.bos_token_id, eos_token_id=ends, pad_token_id=held.pad_token_id
        )


def masked_tokens(bundle: Bundle, conversation: Conversation, template: str = "") -> tuple[list[str], list[bool]]:
    """The text of each token of a conversation, and whether the loss of `Chat` counts it.

    A character that takes several tokens is told at the last of them; the others are empty.
    """
    from tokenizers.decoders import DecodeStream

    tokenizer = ChatTokenizer(bundle.path, template)
    rendered = next(iter(tokenizer.tokens([conversation])))
    stream = DecodeStream(skip_special_tokens=False)
    pieces = [stream.step(tokenizer.tokenizer, int(token)) or "" for token in rendered.ids]
    return pieces, rendered.counted.tolist()


def _question(conversation: Conversation) -> Sequence[dict[str, str]]:
    """What comes before the first answer."""
    messages = conversation.as_dicts()
    return messages[: next(place for place, one in enumerate(messages) if one["role"] == ASSISTANT)]


def _length(one: Rendered) -> int:
    return len(one.ids)


def _ends(model: Any, tokenizer: ChatTokenizer) -> int | list[int]:
    """Tokens at which generation stops: those that end a turn, then the model's own; the model's samples do too."""
    held = model.generation_config.eos_token_id
    held = model.config.eos_token_id if held is None else held
    own = held if isinstance(held, list) else [] if held is None else [held]
    ends = list(dict.fromkeys([*sorted(tokenizer.ends), *own]))
    model.generation_config.eos_token_id = ends
    return ends if len(ends) > 1 else ends[0]
