"""What all training of a language model beside a teacher has in common: text, rows, plan, judging, what is written."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from halfpint.bundle import Bundle, Kind
from halfpint.distil._zeros import hold_zeros
from halfpint.distil.teachers import Taught, content_key, need_same_tokenizer
from halfpint.distil.token_answers import need_causal
from halfpint.engines.torch_lm import load_model
from halfpint.errors import need
from halfpint.models.sizes import CAUSAL
from halfpint.models.weights import as_held
from halfpint.stage import Work
from halfpint.task import text_task
from halfpint.tokenizers.load import open_tokenizer
from halfpint.train import budget, checkpoint, lora
from halfpint.train.adapt import Adapt
from halfpint.train.loop import device, train
from halfpint.train.rows import Batches, Judge, Part, part_rows
from halfpint.train.special import special_tokens

_MOST_CONTEXT = 1024
_COMPARED = 4  # documents that a merged model, and two tokenizers, are compared on
_SHOWN = 4000  # characters of these

Loss = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True, kw_only=True)
class TokenTaught(Taught, Adapt):
    """A language model that learns beside its teacher; a subclass says from what."""

    needs: ClassVar[tuple[Kind, ...]] = (Kind.LANGUAGE,)
    gives: ClassVar[Kind] = Kind.LANGUAGE

    def check(self) -> None:
        """Refuse a teacher that is not there, and LoRA without `peft`."""
        super().check()
        self.check_teacher()

    def fits(self, bundle: Bundle) -> None:
        """Refuse a student that its teacher cannot teach like this."""
        if self._asks():
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
        from halfpint.train.learner import Learner

        corpus = self._corpus_for(bundle, work)
        first = [text[:_SHOWN] for text in islice(corpus.train, _COMPARED)]
        teacher = self._teacher(bundle, first) if self._asks() else None
        tokenizer = open_tokenizer(bundle.path)
        torch.manual_seed(self.seed)
        model = load_model(bundle.path, CAUSAL).to(device())
        most = int(getattr(model.config, "max_position_embeddings", None) or _MOST_CONTEXT)
        context = min(self.context or _MOST_CONTEXT, most)
        learn, held = self._stores(corpus, tokenizer, model.config.eos_token_id, context, work)
        self._freeze(model)
        adapted = self.with_adapters(model, self.use)
        zeros = hold_zeros(model, self.use, lora=self.lora)
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        learner = Learner(model, CAUSAL, device())
        learner.check_apart(self.use)
        rows = self._rows_of(context)
        loss = self._loss_of(bundle, teacher, learner, learn, work)
        self._check_memory(
            model, learner, rows, work, self._more_bytes(model, part_rows(rows.rows(), context), context)
        )
        began = time.monotonic()  # what a teacher was asked before, and is kept, is not the student's time
        special = special_tokens(tokenizer)
        batches = self._batches(rows, learn, special)
        judge = self._judge(Judge(rows, learner, held, special, tokenizer), loss)

        def batch_loss(part: Part) -> Any:
            return loss(part.arrays) * part.share

        with quick_passes(model):
            before = judge.before(work, budget.seconds_left(self, work, began))
            plan = rows.plan(batches, judge, batch_loss, learner, work, began)
            outcome = train(
                model, plan, batch_loss, judge, rows.with_rate(rows.learning_rate), work, on_step=judge.count(plan),
                guess=self._guess(model.config.vocab_size),
            )  # fmt: skip
        figures = {key: value for key, value in vars(outcome).items() if key not in ("seconds", "texts_per_s")}
        figures |= {
            judge.names[0]: before, judge.names[1]: -outcome.best_score, "context": context, "zeros_held": zeros,
            "trained_parameters": sum(tensor.numel() for tensor in checkpoint.trainable(model).values()),
            "train_tokens": len(learn.tokens), "teacher": teacher.fingerprint if teacher else None,
        }  # fmt: skip
        work.log.say(f"validation {before:.4f} {judge.of} before, {-outcome.best_score:.4f} after", kind="result")
        with self.new_bundle(work, bundle) as (folder, card):
            if adapted is not None:
                some = [held.document(number)[:context].tolist() for number in range(min(_COMPARED, len(held)))]
                model, figures["merge_difference"] = lora.merge(adapted, some, self.use)
            for file in bundle.path.iterdir():
                if file.is_file() and file.suffix != ".safetensors" and file.name != "card.json":
                    shutil.copyfile(file, folder / file.name)
            as_held(bundle, model.to("cpu").eval()).save_pretrained(folder)
            card.update(task=card["task"] or text_task().name, engine="torch_lm")
            card["stages"].append(self.entry(started, **figures))
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)

    def _asks(self) -> bool:
        """Whether there is a teacher at all."""
        return True

    def _more_bytes(self, model: Any, rows: int, context: int) -> int:
        """About the bytes that the loss takes besides what training takes."""
        return 0

    def _sees(self, model: Any, work: Work) -> float:
        """About the tokens that training goes through; infinity where it goes by passes over the text."""
        if self.tokens or not self.minutes:
            return self.tokens or math.inf
        seconds = min(self.minutes * 60, work.seconds_left())
        return budget.tokens_in(model, self.context or _MOST_CONTEXT, self.precision, seconds)

    def _freeze(self, model: Any) -> None:
        """Leave as they are what is not to be trained; all is, if nothing is said."""

    def _loss_of(self, bundle: Bundle, teacher: Bundle | None, learner: Any, learn: Any, work: Work) -> Loss:
        """The loss of packed rows, summed over their labels: fp32 scalar."""
        raise TypeError(f"{type(self).__name__} does not say what it learns")

    def _batches(self, rows: Any, learn: Any, special: Any) -> Batches:
        return Batches(rows, learn, CAUSAL, special, rows.rows())

    def _judge(self, plain: Judge, loss: Loss) -> Judge:
        """What evaluations are chosen by."""
        return plain

    def _guess(self, vocabulary: int) -> float:
        """The loss a label of one that knows nothing."""
        return math.log(vocabulary)

    def _teacher(self, bundle: Bundle, some: Sequence[str]) -> Bundle:
        """The one teacher, of the student's tokenizer, on some texts too."""
        found = self.teachers(bundle, "", self.use)
        for one in found:
            need_causal(one, self.use)
            need_same_tokenizer(one, bundle, some, self.use)
        return found[0]
