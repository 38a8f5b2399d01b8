"""Stage: teach a language model to answer, on conversations; all of its weights, or low-rank adapters (LoRA)."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle, Kind, read_json, write_json
from halfpint.data.conversations import Conversations
from halfpint.data.messages import ASSISTANT, Conversation
from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError, SettingError, need
from halfpint.files import write_text
from halfpint.models.pull_language import PullLanguage
from halfpint.models.sizes import CAUSAL, parameters_of, resolve, shown_parameters
from halfpint.progress import Log
from halfpint.stage import Stage, Work
from halfpint.train import budget, checkpoint, lora, ranks
from halfpint.train._chat_fields import readable
from halfpint.train._chat_rows import ChatJudge, ChatRows, within
from halfpint.train._chat_tokens import ChatTokenizer, Rendered
from halfpint.train.loop import Training, check_settings, device, train, use_bf16
from halfpint.train.rows import Part, part_rows

_LORA_RATE, _FULL_RATE = 2e-4, 2e-5
_CONTEXT_STEP = 8
_COMPARED, _COMPARED_TOKENS = 4, 256  # texts, and tokens of each, that a merged model is compared on
_ANSWER = (Kind.LANGUAGE, Kind.SPARSE, Kind.GGUF, Kind.PACKED, Kind.COMPRESSED_TENSORS)  # what scores given tokens
_TEMPLATE = "chat_template.jinja"
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "merges.txt", "vocab.txt", _TEMPLATE, "chat_template.json",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Chat(lora.LoRA, Training, Stage):
    """Train a causal language model on conversations, rendered by its own chat template.

    The loss counts what the assistant says and the token that ends its turn, and nothing else. The result is a plain
    model with the chat template, which stops at the end of a turn; validation is in nats per assistant token.

    Args:
        template: empty takes the model's own chat template; chatml is for models without one whose tokenizer has
            `<|im_start|>` and `<|im_end|>`. Where these tokens mean nothing yet, as with chatml and after
            `train/pretrain`, the token embeddings are trained with LoRA too.
        merge: the bundle holds the model with the adapters merged into its weights, checked to answer as before;
            without `merge` it holds the adapters apart as well, in adapter/, as `peft` reads them.
        context: tokens of a sequence; 0 takes those of the longest conversation, at most the model's.
        packing: several conversations in a sequence, which do not see each other; without it one each, padded.
        minutes: time for all of it; 0 goes by `epochs`.
        evaluations: how often validation is looked at; 0 once an epoch, or 8 times where it goes by `minutes`, and less
            often where that would take more than a fifth of them.
        evaluation_tokens: how many tokens of it, at most, about.
        gradient_checkpointing: keep less for the backward pass and compute it again: a third slower, much less memory.
        learning_rate: peak rate of AdamW; 0 takes 2e-4 with LoRA, 2e-5 without.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.LANGUAGE,)
    gives: ClassVar[Kind] = Kind.LANGUAGE

    template: str = ""
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
        self.check_lora(self.use)
        for name, fits, wanted in (
            ("merge", self.lora or self.merge, "lora = true for adapters of their own"),
            ("context", self.context == 0 or self.context >= 8, "8 tokens or more, or 0"),
            ("minutes", self.minutes >= 0, "0 or more"),
            ("evaluations", self.evaluations >= 0, "0 or more"),
            ("evaluation_tokens", self.evaluation_tokens >= 1, "1 or more"),
        ):
            if not fits:
                raise SettingError(f"{self.use}: {name}", wanted=wanted, got=str(getattr(self, name)))

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Train on the conversations of the task's data; keep the best evaluation on validation."""
        assert bundle is not None
        started = time.monotonic()
        torch = need("torch", "training on conversations")
        from halfpint.models.quick_passes import quick_passes
        from halfpint.train.learner import Learner

        self.check()
        data: Any = work.split
        self._refuse_others(bundle, data)
        tokenizer = ChatTokenizer(bundle.path, self.template, _name(bundle))
        data = replace(data, train=readable(tokenizer, data.train, "train", work.log), validation=readable(
            tokenizer, data.validation, "validation", work.log))  # fmt: skip
        learn, held, context = self._rendered(tokenizer, data, bundle, work)
        torch.manual_seed(self.seed)
        model = load_model(bundle.path, CAUSAL).to(device())
        ends = _ends(model, tokenizer)
        untaught = bool(self.template) or _untaught(bundle)
        adapted = self.with_adapters(model, self.use, embeddings=untaught)
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
            tokenizer.tokenizer, tokenizer.prompt(*_question(data.validation[0])),
        )  # fmt: skip

        def batch_loss(part: Part) -> Any:
            return learner.loss(part.arrays, "sum") * part.share

        with quick_passes(model):
            before = judge.before(work, budget.seconds_left(self, work, started))
            plan = budget.planned(
                self, rows, model, batch_loss, work, started, what="the conversations",
                steps=0 if self.minutes else self.epochs * rows.steps_per_epoch, evaluation_tokens=judge.tokens,
                told=budget.speed_told(model, CAUSAL, context, self.precision, work.log),
            )  # fmt: skip
            outcome = train(
                model, plan, batch_loss, judge, self.with_rate(self._rate()), work,
                guess=math.log(model.config.vocab_size),
            )  # fmt: skip
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
            work.log.say("  it got worse: lower learning_rate, or train for a shorter time", kind="finding")
        with self.new_bundle(work, bundle) as (folder, card):
            if adapted is not None:
                if not self.merge:
                    lora.write_adapter(adapted, folder / "adapter", embeddings=untaught)
                some = [one.ids[:_COMPARED_TOKENS].tolist() for one in held[:_COMPARED]]
                model, figures["merge_difference"] = lora.merge(adapted, some, self.use)
            self._write(model.to("cpu").eval(), folder, bundle.path, tokenizer.template, ends)
            card.update(task=work.task.name, engine="torch_lm")
            card["stages"].append(self.entry(started, **figures))
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)

    def _refuse_others(self, bundle: Bundle, data: Any) -> None:
        if not data.train or not isinstance(data.train[0], Conversation):
            raise HalfpintError(
                self.use, wanted="conversations", got="other data",
                todo="Give a file of conversations: `halfpint finetune BASE FILE --task chat`.",
            )  # fmt: skip
        model_type, objective = resolve(str(bundle.config.get("model_type")))
        if objective != CAUSAL:
            raise HalfpintError(str(bundle.path), wanted="a causal model", got=f"a {model_type}, a masked one")
        if ranks.join()[1] > 1:
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
            raise SettingError(
                f"{self.use}: context", wanted=f"at most the model's {most:,} tokens", got=f"{self.context:,}"
            )
        context = self.context or min(most, -(-longest // _CONTEXT_STEP) * _CONTEXT_STEP)
        kept = [
            within(side, context, name, work.log) for side, name in zip(sides, ("train", "validation"), strict=True)
        ]
        if not kept[0] or not kept[1]:
            raise HalfpintError(
                f"{self.use}: context", wanted="conversations of which a question and its answer fit",
                got=f"{len(kept[0])} for training and {len(kept[1])} for validation within {context:,} tokens",
                todo="Raise context, take a base model with a longer one, or give shorter conversations.",
            )  # fmt: skip
        return kept[0], kept[1], context

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
        needed = budget.memory_needed(
            model, part_rows(rows.rows, context), context, chunked=learner.chunked,
            checkpointing=self.gradient_checkpointing, bf16=use_bf16(self.precision), optimizer=self.optimizer,
        )  # fmt: skip
        budget.check_memory(needed, device(), self.use)
        work.log.say(
            f"{budget.shown_shape(model)}; {shown_parameters(trained)} of them are trained; {rows.tokens:,} tokens, "
            f"{rows.counted:,} of them count; learning rate {self._rate():.3g}; "
            f"about {needed / 2**30:.1f} GiB of memory",
            kind="model", parameters=parameters_of(model), trained=trained,
        )  # fmt: skip

    def _rate(self) -> float:
        return self.learning_rate or (_LORA_RATE if self.lora else _FULL_RATE)

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


def masked_tokens(
    bundle: Bundle, conversations: Sequence[Conversation], template: str, log: Log
) -> tuple[list[str], list[bool]]:
    """The text of each token of the first conversation that is learned, and whether the loss of `Chat` counts it.

    A character that takes several tokens is told at the last of them; the others are empty.
    """
    from tokenizers.decoders import DecodeStream

    tokenizer = ChatTokenizer(bundle.path, template, _name(bundle))
    rendered = next(iter(tokenizer.tokens(readable(tokenizer, conversations, "train", log)[:1])))
    stream = DecodeStream(skip_special_tokens=False)
    pieces = [stream.step(tokenizer.tokenizer, int(token)) or "" for token in rendered.ids]
    return pieces, rendered.counted.tolist()


def answers_of(
    bundle: Bundle, conversations: Sequence[Conversation], context: int, log: Log
) -> list[tuple[list[int], npt.NDArray[np.bool_]]]:
    """Of each conversation the ids in at most `context` tokens, and which of them the loss counts.

    Raises:
        HalfpintError: a model that does not answer, no chat template, or one that refuses a conversation.
    """
    if bundle.kind not in _ANSWER:
        raise HalfpintError(
            str(bundle.path), wanted="a Transformer, for conversations", got=f"a bundle of {bundle.card.get('engine')}",
            todo="Give a text file.",
        )  # fmt: skip
    tokenizer = ChatTokenizer(bundle.path, "", _name(bundle))
    kept = within(list(tokenizer.tokens(readable(tokenizer, conversations, "data", log))), context, "data", log)
    if not kept:
        raise HalfpintError("data", wanted=f"conversations of at most {context:,} tokens", got="none")
    return [(one.ids.tolist(), one.counted) for one in kept]


def _name(bundle: Bundle) -> str:
    """What a person calls the bundle: the base model that it is, as it was given, or its folder."""
    last = (bundle.card.get("stages") or [{"use": ""}])[-1]
    return str(last["settings"]["base"] if last["use"] == PullLanguage().use else bundle.path)


def _untaught(bundle: Bundle) -> bool:
    """Whether the model has the tokens of a chat template and has not seen them in training: it knows text alone."""
    uses = [entry["use"] for entry in bundle.card.get("stages", [])]
    return "train/pretrain" in uses and "train/chat" not in uses


def _question(conversation: Conversation) -> tuple[Sequence[dict[str, Any]], tuple[tuple[str, str], ...]]:
    """What comes before the first answer, and the values of the template."""
    messages = conversation.as_dicts()
    first = next(place for place, one in enumerate(messages) if one["role"] == ASSISTANT)
    return messages[:first], conversation.values


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
