"""Stage: a student learns from texts that its teacher wrote, those that the teacher finds likeliest."""

from __future__ import annotations

import collections.abc
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from halfpint.bundle import Bundle, read_json, write_json
from halfpint.data.text_store import TextWriter
from halfpint.data.token_store import TokenStore
from halfpint.distil.teachers import WithTeacher
from halfpint.distil.token_answers import need_causal, store_for
from halfpint.engines.torch_lm import load_model
from halfpint.errors import SettingError, need
from halfpint.models.sizes import CAUSAL
from halfpint.stage import Work
from halfpint.task import Split
from halfpint.tokenizers.load import open_tokenizer
from halfpint.train.adapt import Adapt
from halfpint.train.loop import device

_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Sequence(WithTeacher, Adapt):
    """Train on texts that the teacher writes on from pieces of the documents, besides the documents themselves.

    The teacher may have another tokenizer, as only its texts are read. Source: Kim & Rush 2016, "Sequence-Level
    Knowledge Distillation", section 3.2, with samples in place of the likeliest text.

    Args:
        texts: how many the teacher writes.
        prompt_tokens: tokens of a document that it goes on from.
        new_tokens: tokens that it writes, at most.
        temperature: what its logits are divided by.
        keep: share of the texts that are learned from: those with the highest mean log-probability a token.
        with_documents: learn from the documents as well.
    """

    texts: int = 500
    prompt_tokens: int = 16
    new_tokens: int = 128
    temperature: float = 0.9
    keep: float = 0.8
    with_documents: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, fits, wanted in (
            ("texts", self.texts >= 1, "1 or more"),
            ("prompt_tokens", self.prompt_tokens >= 1, "1 or more"),
            ("new_tokens", self.new_tokens >= 1, "1 or more"),
            ("temperature", 0.05 <= self.temperature <= 100, "a number from 0.05 to 100"),
            ("keep", 0 < self.keep <= 1, "a share above 0"),
        ):
            if not fits:
                raise SettingError(f"{self.use}: {name}", wanted=wanted, got=str(getattr(self, name)))

    def fits(self, bundle: Bundle) -> None:
        """Refuse teachers that do not write texts."""
        self._teacher(bundle)

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Let the teacher write, keep the likelier texts, and train on them."""
        assert bundle is not None
        corpus = self._corpus_for(bundle, work)
        written = self._written(self._teacher(bundle), work)
        bar = np.quantile([sure for _, sure in written], 1 - self.keep)
        kept = [text for text, sure in written if sure >= bar and text.strip()]
        work.log.say(f"  {len(kept):,} of {len(written):,} texts are learned from", kind="written")
        return super().run(bundle, replace(work, split=self._mixed(corpus, kept, work.scratch / "mixed")))

    def _teacher(self, bundle: Bundle) -> Bundle:
        teachers = self.teachers(bundle, "", self.use)
        if len(teachers) != 1:
            raise SettingError(f"{self.use}: teacher", wanted="one", got=str(len(teachers)))
        need_causal(teachers[0], self.use)
        return teachers[0]

    def _mixed(self, corpus: Split[str], texts: list[str], folder: Path) -> Split[str]:
        """The corpus with the written texts in its training part."""
        folder.mkdir(parents=True, exist_ok=True)
        writer, digest = TextWriter(folder, "train"), sha256(f"{corpus.key} {self.with_documents}".encode())
        for text in texts:
            digest.update(sha256(text.encode()).digest())
        for documents in [corpus.train, texts] if self.with_documents else [texts]:
            for text in documents:
                writer.add(text.encode("utf-8"))
        return replace(corpus, key=digest.hexdigest(), train=writer.store(f"{digest.hexdigest()}-train"))

    def _written(self, teacher: Bundle, work: Work) -> list[tuple[str, float]]:
        """Texts with their mean log-probability a token; those that were written before an interruption stay."""
        torch = need("torch", "distilling")
        model = load_model(teacher.path, CAUSAL).to(device())
        tokenizer = open_tokenizer(teacher.path)
        store = store_for(teacher, model, replace(work, scratch=work.scratch / "writing"))
        prompts = self._prompts(store)
        folder = work.scratch / "written"
        name = sha256(f"{store.key} {teacher.fingerprint} {sorted(self.settings().items())}".encode()).hexdigest()
        found: list[tuple[str, float]] = []
        with work.log.bar("the teacher writes", len(prompts)) as bar, torch.random.fork_rng(devices=[]):
            for start in range(0, len(prompts), _AT_ONCE):
                path = folder / f"{start // _AT_ONCE}.json"
                told = read_json(path) if path.is_file() else {}
                if told.get("key") != name:
                    torch.manual_seed(self.seed * 1_000_003 + start)
                    pairs = self._write(model, tokenizer, prompts[start : start + _AT_ONCE])
                    told = {"key": name, "texts": pairs}
                    write_json(path, told)
                found += [(str(text), float(sure)) for text, sure in told["texts"]]
                bar.advance(len(told["texts"]))
        return found

    def _prompts(self, store: TokenStore) -> list[list[int]]:
        """Pieces of documents, all of one length, that begin where `seed` says."""
        length = np.diff(store.offsets)
        prompt = min(self.prompt_tokens, int(length.max()))
        fitting = np.flatnonzero(length >= prompt)
        room = length[fitting] - prompt + 1
        random = np.random.default_rng(self.seed)
        drawn = random.choice(len(fitting), size=self.texts, p=room / room.sum())
        begins = store.offsets[fitting[drawn]] + random.integers(0, room[drawn])
        return [store.tokens[begin : begin + prompt].tolist() for begin in begins]

    def _write(
        self, model: Any, tokenizer: Any, prompts: collections.abc.Sequence[list[int]]
    ) -> list[tuple[str, float]]:
        import torch

        given = torch.tensor(prompts, device=device())
        most = int(getattr(model.config, "max_position_embeddings", None) or 1024)
        ids, counted = continued(model, given, min(self.new_tokens, max(1, most - given.shape[1])), self.temperature)
        with torch.inference_mode():
            logs = torch.log_softmax(model(input_ids=ids).logits[:, given.shape[1] - 1 : -1].float(), -1)
        own = logs.gather(2, ids[:, given.shape[1] :, None])[:, :, 0] * counted
        mean = own.sum(1) / counted.sum(1).clamp(min=1)
        length = (given.shape[1] + counted.sum(1).long()).tolist()
        texts = [
            tokenizer.decode(row[:end], skip_special_tokens=True) for row, end in zip(ids.tolist(), length, strict=True)
        ]
        return list(zip(texts, mean.tolist(), strict=True))


def continued(model: Any, prompts: Any, new_tokens: int, temperature: float) -> tuple[Any, Any]:
    """Prompts with what the model writes after them, and which of the new tokens count (up to the end token).

    Args:
        prompts: int64 of shape (texts, tokens), on the model's device.

    Returns:
        ids, int64 (texts, tokens + new); and fp32 of shape (texts, new), 1 where a token counts.
    """
    import torch

    ends = model.config.eos_token_id
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    was = model.training
    model.eval()
    with torch.no_grad():
        ids = model.generate(
            prompts, attention_mask=torch.ones_like(prompts), do_sample=True, temperature=temperature, top_k=0,
            top_p=1.0, max_new_tokens=new_tokens, pad_token_id=model.config.pad_token_id or 0,
        )  # fmt: skip
    model.train(was)
    new = ids[:, prompts.shape[1] :]
    ended = torch.isin(new, torch.tensor(ends, device=new.device, dtype=new.dtype)) if ends else new < 0
    before = ended.long().cumsum(1) - ended.long()
    return ids, (before == 0).float()
