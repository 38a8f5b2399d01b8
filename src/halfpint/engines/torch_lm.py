"""The engine of language models as they left training: PyTorch, through transformers.

Causal models score text, foretell words and write on; masked models score text and fill gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.data.documents import count_words
from halfpint.engines._sampling import Sampling, choose
from halfpint.errors import HalfpintError, need
from halfpint.models.sizes import CAUSAL, MASKED, resolve
from halfpint.tokenizers.batching import length_batches, pad
from halfpint.tokenizers.load import open_tokenizer

MASK = "[MASK]"
"""What stands for a gap in the texts of `fill`, whatever the model's own token is called."""

_MOST_LOGITS = 1 << 25  # values at once
_TEXTS_AT_ONCE = 512
_WORD_PIECES = 6


@dataclass(frozen=True)
class ScoredText:
    """A text's scores: one log-probability a token (nats), and what to divide by."""

    log_probabilities: npt.NDArray[np.float32]
    tokens: int
    words: int
    bytes: int


def load_model(folder: Path, objective: str) -> Any:
    """The language model in `folder` in evaluation mode, fp32, on the CPU."""
    need("torch", "a language model that was not exported yet")
    transformers = need("transformers", "a language model that was not exported yet")
    transformers.utils.logging.disable_progress_bar()
    kind = transformers.AutoModelForMaskedLM if objective == MASKED else transformers.AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype="float32", local_files_only=True).eval()


class TorchLanguageEngine:
    """A language model in PyTorch.

    Attributes:
        objective: "causal" or "masked".
        context: tokens that it sees at once.
    """

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        _, self.objective = resolve(str(bundle.config.get("model_type")))
        self._model = load_model(bundle.path, self.objective)
        if threads:
            import torch

            torch.set_num_threads(threads)
        self._tokenizer = open_tokenizer(bundle.path)
        config = self._model.config
        skipped = int(config.pad_token_id or 0) + 1 if "roberta" in config.model_type else 0
        self.context = int(getattr(config, "max_position_embeddings", None) or 1024) - skipped
        first = config.bos_token_id if config.bos_token_id is not None else config.eos_token_id
        self._first = first[0] if isinstance(first, list) else first
        ends = config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [] if ends is None else [ends])
        self._mask_id = _mask_id(bundle.path, self._tokenizer) if self.objective == MASKED else None

    def score(self, texts: Sequence[str]) -> list[ScoredText]:
        """Each text's log-probabilities, token by token.

        Causal: of each token given all before it and the start of a document. A text longer than the context is read
        in windows that overlap by half, so that each token but the first ones has at least half a context before it.
        Masked: of each token when it alone is masked, given all others in its window (the pseudo-log-likelihood of
        Salazar et al. 2020, "Masked Language Model Scoring", section 2): no likelihood of the text, so its perplexity
        compares masked models with each other alone.
        """
        found: list[ScoredText] = []
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            some = texts[start : start + _TEXTS_AT_ONCE]
            rows = [
                encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(some), add_special_tokens=False)
            ]
            logs = self._causal_scores(rows) if self.objective == CAUSAL else [self._masked_scores(ids) for ids in rows]
            found += [
                ScoredText(scores, len(scores), count_words(text), len(text.encode("utf-8", "surrogatepass")))
                for text, scores in zip(some, logs, strict=True)
            ]
        return found

    def next_words(self, context: str, top: int = 5) -> list[tuple[str, float]]:
        """The likeliest next words after `context`, each with its probability, likeliest first.

        Each of the likeliest next tokens is carried on greedily to the end of its word; the probability is the product
        of the tokens'.
        """
        self._must_be(CAUSAL, "next_words")
        torch = need("torch", "a language model")
        start = self._start(context)
        best = self._next_logs(start).topk(min(4 * top, self._model.config.vocab_size))
        words: dict[str, float] = {}
        for log, first in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            if first in self._ends:
                continue
            pieces, total = [first], log
            for _ in range(_WORD_PIECES):
                logs = self._next_logs([*start, *pieces][-self.context :])
                following = int(torch.argmax(logs))
                longer = self._tokenizer.decode([*pieces, following])
                if following in self._ends or len(longer.split()) > 1 or longer != longer.rstrip():
                    break
                if longer.strip() and not longer.strip()[-1].isalnum():
                    break
                pieces, total = [*pieces, following], total + float(logs[following])
            word = self._tokenizer.decode(pieces).strip()
            if word and word not in words:
                words[word] = math.exp(total)
            if len(words) >= 2 * top:
                break
        return sorted(words.items(), key=lambda item: -item[1])[:top]

    def generate(
        self,
        prompt: str,
        max_tokens: int = 128,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """What the model writes after `prompt`, piece by piece as it comes; it ends at a document's end.

        Args:
            prompt: the text to go on from; empty starts a document.
            max_tokens: most tokens written.
            temperature, top_k, top_p, min_p, repetition_penalty: as in `_sampling.Sampling`.
            seed: the same seed writes the same text.
            stop: texts at which it ends; they are not given.

        Once the context is full, the older half of it is forgotten.
        """
        self._must_be(CAUSAL, "generate")
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
        return self._written(prompt, max_tokens, sampling, seed, tuple(stop))

    def fill(self, text: str, top: int = 5) -> list[list[tuple[str, float]]]:
        """For each [MASK] in `text`, the likeliest tokens with their probabilities, likeliest first.

        Raises:
            HalfpintError: there is no [MASK] in it, or it is longer than the context.
        """
        self._must_be(MASKED, "fill")
        torch = need("torch", "a language model")
        own = self._tokenizer.id_to_token(self._mask_id)
        ids = self._tokenizer.encode(text.replace(MASK, own)).ids
        places = [place for place, token in enumerate(ids) if token == self._mask_id]
        if not places:
            raise HalfpintError("text", wanted=f"a text with {MASK}", got=repr(text[:80]), todo="Mark a gap with it.")
        if len(ids) > self.context:
            raise HalfpintError("text", wanted=f"at most {self.context} tokens", got=str(len(ids)), todo="Shorten it.")
        with torch.inference_mode():
            found = torch.softmax(self._model(input_ids=torch.tensor([ids])).logits[0, places].float(), -1).topk(top)
        return [
            [(self._tokenizer.decode([token]), probability) for token, probability in zip(tokens, values, strict=True)]
            for tokens, values in zip(found.indices.tolist(), found.values.tolist(), strict=True)
        ]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _start(self, text: str) -> list[int]:
        ids = [] if self._first is None else [int(self._first)]
        return [*ids, *self._ids(text)][-self.context :] or [0]

    def _must_be(self, objective: str, what: str) -> None:
        if self.objective != objective:
            raise HalfpintError(
                what, wanted=f"a {objective} language model", got=f"a {self.objective} one",
                todo="Use `fill` with it." if self.objective == MASKED else "Use `generate` with it.",
            )  # fmt: skip

    def _next_logs(self, ids: list[int]) -> Any:
        """Log-probabilities of the token after `ids`: (vocabulary,)."""
        import torch

        with torch.inference_mode():
            return torch.log_softmax(self._model(input_ids=torch.tensor([ids])).logits[0, -1].float(), -1)

    def _causal_scores(self, rows: Sequence[list[int]]) -> list[npt.NDArray[np.float32]]:
        """Scores of tokenised texts; without a token to start from, a text's first has no condition and is left out."""
        import torch

        before = [] if self._first is None else [int(self._first)]
        whole = [[*before, *ids] for ids in rows]
        out = [np.zeros(max(len(ids) - 1, 0), dtype=np.float32) for ids in whole]
        windows = [(row, *window) for row, ids in enumerate(whole) for window in self._windows(len(ids))]
        most = max(self.context, _MOST_LOGITS // self._model.config.vocab_size)
        with torch.inference_mode():
            for batch in length_batches([end - start for _, start, end, _ in windows], most):
                some = [windows[index] for index in batch]
                ids, _ = pad([whole[row][start:end] for row, start, end, _ in some], 0)  # what is behind is not seen
                logits = self._model(input_ids=torch.from_numpy(ids)).logits
                for place, (row, start, end, first) in enumerate(some):
                    part = logits[place, first - start - 1 : end - start - 1].float()
                    wanted = torch.from_numpy(ids[place, first - start : end - start, None])
                    scores = part.gather(1, wanted)[:, 0] - part.logsumexp(-1)
                    out[row][first - 1 : end - 1] = scores.numpy()
        return out

    def _windows(self, length: int) -> Iterator[tuple[int, int, int]]:
        """Start, end and first scored token of the windows over a text of so many tokens."""
        stride = max(1, self.context // 2)
        end, first = min(self.context, length), 1
        while first < end:
            yield max(0, end - self.context), end, first
            end, first = min(end + stride, length), end

    def _masked_scores(self, ids: list[int]) -> npt.NDArray[np.float32]:
        import torch

        out = np.zeros(len(ids), dtype=np.float32)
        frame = self._tokenizer.post_processor
        around = self._tokenizer.encode("").ids if frame is not None else []
        before, after = around[: len(around) // 2], around[len(around) // 2 :]
        room = self.context - len(around)
        with torch.inference_mode():
            for start in range(0, len(ids), room):
                part = ids[start : start + room]
                whole = torch.tensor([*before, *part, *after])
                places = torch.arange(len(part)) + len(before)
                rows = max(1, _MOST_LOGITS // (len(whole) * self._model.config.vocab_size))
                for low in range(0, len(part), rows):
                    chosen = places[low : low + rows]
                    copies = whole.repeat(len(chosen), 1)
                    each = torch.arange(len(chosen))
                    copies[each, chosen] = int(self._mask_id or 0)
                    logits = self._model(input_ids=copies).logits[each, chosen].float()
                    logs = torch.log_softmax(logits, -1)[each, whole[chosen]]
                    out[start + low : start + low + len(chosen)] = logs.numpy()
        return out

    def _written(
        self, prompt: str, max_tokens: int, sampling: Sampling, seed: int, stop: tuple[str, ...]
    ) -> Iterator[str]:
        torch = need("torch", "a language model")
        random = np.random.default_rng(seed)
        ids = self._start(prompt)
        cache: Any = None
        fresh = ids
        made: list[int] = []
        told = ""
        longest = max((len(text) for text in stop), default=1) - 1
        for _ in range(max_tokens):
            if len(ids) >= self.context:
                ids = ids[-max(1, self.context // 2) :]
                fresh, cache = ids, None
            with torch.inference_mode():
                out = self._model(input_ids=torch.tensor([fresh]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            token = choose(out.logits[0, -1].float().numpy(), sampling, ids, random)
            if token in self._ends:
                break
            made.append(token)
            ids, fresh = [*ids, token], [token]
            text = self._tokenizer.decode(made)
            ends = [text.find(one) for one in stop if one in text]
            if ends:
                yield text[len(told) : max(len(told), min(ends))]
                return
            # An unfinished character, or what may become a stop text, is held back.
            ready = text[: len(text) - longest] if longest else text
            if not text.endswith("\ufffd") and len(ready) > len(told):
                yield ready[len(told) :]
                told = ready
        text = self._tokenizer.decode(made)
        if len(text) > len(told):
            yield text[len(told) :]


def load(bundle: Bundle, threads: int | None = None) -> TorchLanguageEngine:
    """Load a language model."""
    return TorchLanguageEngine(bundle, threads)


def _mask_id(folder: Path, tokenizer: Any) -> int:
    path = folder / "tokenizer_config.json"
    held = json.loads(path.read_text(encoding="utf-8")).get("mask_token") if path.is_file() else None
    name = held.get("content") if isinstance(held, dict) else held
    found = tokenizer.token_to_id(name or MASK)
    if found is None:
        raise HalfpintError(str(folder), wanted="a tokenizer with a mask token", got="none", todo="Make it again.")
    return int(found)
