"""What a compressed language model kept of the one that it was made from, on the same windows of text.

Perplexities of two models on one text go up and down together, window by window, so the logarithm of their ratio is
known far better than either: its standard error is that of the windows' differences. The divergence says more: it is
zero only where both predict the same, while a perplexity may stay by chance.

Windows are those of llama.cpp's perplexity tool: the text as one run of tokens, cut into windows of one length of
which the second half is scored, so that each scored token has at least half a window before it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.counts import Counts, Metric
from halfpint.engines.llama_cpp import LlamaCppEngine
from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError
from halfpint.evaluate.intervals import difference, intervals
from halfpint.models.packed_gguf import GGUF_FILE, PACKED_FILE, opened_gguf
from halfpint.models.sizes import CAUSAL
from halfpint.progress import SILENT, Log
from halfpint.tokenizers.load import open_tokenizer

WINDOW = 512
"""Tokens of a window."""
FEWEST_WINDOWS = 2
_VALUES_AT_ONCE = 1 << 23
_LONGEST_TOKEN = 64  # characters, on average over a thousand of them
_RESAMPLES = 2000

Logits = Callable[[list[int], int], npt.NDArray[np.float32]]
Floats = npt.NDArray[np.float64]


def kept(
    reference: Bundle,
    bundle: Bundle,
    documents: Sequence[str],
    *,
    window: int = WINDOW,
    tokens: int = 0,
    threads: int | None = None,
    until: float = math.inf,
    log: Log = SILENT,
) -> dict[str, Any]:
    """How near `bundle` is to `reference`, both causal language models with one vocabulary, each in its own engine.

    Args:
        documents: read as one text, in their order.
        window: tokens of a window, an even number; less where a model sees less.
        tokens: how many of the text are read, from the front; 0 reads all of it.
        threads: of the engines; None takes what they take by themselves.
        until: when to stop, by the monotonic clock, after the first two windows.

    Returns:
        ln_ppl_ratio: ln(perplexity / the reference's), with ln_ppl_ratio_error, its standard error over windows;
        perplexity, reference_perplexity: per token; kl: mean KL(reference || model) in nats, with kl_interval (95 %,
        bootstrap over windows) and kl_99, which one in a hundred tokens is above; same_top1: share of tokens whose
        likeliest token is the same, with same_top1_interval; window_kl: of each window in
        turn; windows, window, positions, text_tokens: what it is over,
        and how many tokens the text has; size_bytes, file_bytes, reference_size_bytes: of the folders, and of the
        weights alone; tokens_per_s: read by the engine.

    Raises:
        HalfpintError: another kind of bundle, other vocabularies, or less text than two windows.
    """
    for one in (reference, bundle):
        if one.card.get("engine") not in ("torch_lm", "llama_cpp"):
            raise HalfpintError(
                str(one.path), wanted="a Transformer language model or a GGUF export",
                got=f"a bundle of {one.card.get('engine')}",
            )  # fmt: skip
    tokenizer = open_tokenizer(reference.path)
    if open_tokenizer(bundle.path).get_vocab() != tokenizer.get_vocab():
        raise HalfpintError(
            str(bundle.path), wanted=f"the vocabulary of {reference.path}", got="another one",
            todo="Compare models of different vocabularies by bits per byte.",
        )  # fmt: skip
    ours, our_context = _logits_of(bundle, threads)
    theirs, their_context = _logits_of(reference, threads)
    window = min(window, our_context, their_context) // 2 * 2
    tokenizer.encode_special_tokens = True
    found = tokenizer.encode("\n\n".join(documents), add_special_tokens=False).ids
    whole = len(found)
    found = found[:tokens] if tokens else found
    before = tokenizer.encode("").ids[:1]  # what a text begins with
    count = len(found) // window
    if window < 4 or count < FEWEST_WINDOWS:
        raise HalfpintError(
            "kept", wanted=f"text of {FEWEST_WINDOWS} windows of {window} tokens", got=f"{len(found):,} tokens",
            todo="Give more text, let more tokens of it be read, or take a smaller window.",
        )  # fmt: skip
    rows, spent = [], [0.0, 0.0]
    divergences: list[npt.NDArray[np.float32]] = []
    with log.bar("comparing", count) as bar:
        for start in range(0, count * window, window):
            ids = [*before, *found[start + len(before) : start + window]]
            pair = []
            for number, read in enumerate((theirs, ours)):
                began = time.monotonic()
                pair.append(read(ids[:-1], window // 2))
                spent[number] += time.monotonic() - began
            reference_nats, nats, divergence, same = _compared(pair[0], pair[1], ids[window // 2 + 1 :])
            divergences.append(divergence.astype(np.float32))
            rows.append((reference_nats.mean(), nats.mean(), divergence.mean(), same.mean()))
            bar.advance()
            if time.monotonic() > until and len(rows) >= FEWEST_WINDOWS:
                break
    count = len(rows)
    return {
        **_figures(np.array(rows, dtype=np.float64), np.concatenate(divergences)),
        "windows": count, "window": window, "positions": count * (window // 2 - 1), "text_tokens": whole,
        "size_bytes": bundle.size_bytes, "file_bytes": weight_bytes(bundle),
        "reference_size_bytes": reference.size_bytes,
        "tokens_per_s": round(count * window / max(spent[1], 1e-9), 1),
    }  # fmt: skip


def need_windows(reference: Bundle, documents: Sequence[str]) -> None:
    """Refuse text that is too short for `kept`.

    Raises:
        HalfpintError: it has not as many windows as it takes.
    """
    config, joined = reference.config, ""
    most = int(config.get("max_position_embeddings") or config.get("n_positions") or WINDOW)
    wanted = FEWEST_WINDOWS * (min(WINDOW, most) // 2 * 2)
    for text in documents:
        joined += ("\n\n" if joined else "") + text
        if len(joined) > _LONGEST_TOKEN * wanted:
            break
    tokenizer = open_tokenizer(reference.path)
    tokenizer.encode_special_tokens = True
    count = len(tokenizer.encode(joined, add_special_tokens=False).ids)
    if count >= wanted:
        return
    raise HalfpintError(
        "text to judge by", wanted=f"{wanted:,} tokens or more", got=f"{count:,}", todo="Give more text.",
    )  # fmt: skip


def _logits_of(bundle: Bundle, threads: int | None) -> tuple[Logits, int]:
    """What gives the logits after each of some ids from a place on, float32 (places, vocabulary); and the context."""
    if bundle.card["engine"] == "llama_cpp":
        with opened_gguf(bundle.path) as path:
            model = LlamaCppEngine(path, threads)
        return model.model.logits, model.context
    import torch

    if threads:
        torch.set_num_threads(threads)
    held = load_model(bundle.path, CAUSAL)

    def read(ids: list[int], first: int) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            logits: npt.NDArray[np.float32] = held(
                input_ids=torch.tensor([ids]), logits_to_keep=len(ids) - first
            ).logits[0].float().numpy()  # fmt: skip
        return logits

    return read, int(getattr(held.config, "max_position_embeddings", None) or WINDOW)


def _compared(
    reference: npt.NDArray[np.float32], logits: npt.NDArray[np.float32], wanted: list[int]
) -> tuple[Floats, Floats, Floats, npt.NDArray[np.bool_]]:
    """Of each place: nats of the wanted token in both, KL divergence, and whether both hold the same likeliest."""
    parts = []
    step = max(1, _VALUES_AT_ONCE // logits.shape[1])
    targets = np.array(wanted)
    for low in range(0, len(logits), step):
        one, other = (
            values[low : low + step] - values[low : low + step].max(1)[:, None] for values in (reference, logits)
        )
        place = np.arange(len(one)), targets[low : low + step]
        chances = np.exp(one)
        sums, others = (values.sum(axis=1, dtype=np.float64) for values in (chances, np.exp(other)))
        chances *= one - other
        apart = np.log(others) - np.log(sums)
        parts.append((
            np.log(sums) - one[place], np.log(others) - other[place],
            chances.sum(axis=1, dtype=np.float64) / sums + apart, one.argmax(axis=1) == other.argmax(axis=1),
        ))  # fmt: skip
    first, second, third, fourth = (np.concatenate(column) for column in zip(*parts, strict=True))
    return first, second, third, fourth


def _figures(rows: Floats, divergences: npt.NDArray[np.float32]) -> dict[str, Any]:
    """From each window's mean nats (reference, model), divergence and share of the same likeliest token."""
    differences = rows[:, 1] - rows[:, 0]
    columns = np.column_stack([rows[:, 2:], np.ones(len(rows))])
    counts = Counts(np.arange(len(rows)), columns)
    kl_ends, same_ends = intervals(counts, [_mean(0), _mean(1)], resamples=_RESAMPLES)
    return {
        "ln_ppl_ratio": float(differences.mean()),
        "ln_ppl_ratio_error": float(differences.std(ddof=1) / math.sqrt(len(rows))),
        "perplexity": float(np.exp(rows[:, 1].mean())),
        "reference_perplexity": float(np.exp(rows[:, 0].mean())),
        "kl": float(rows[:, 2].mean()),
        "kl_interval": list(kl_ends),
        "kl_99": float(np.quantile(divergences, 0.99)),
        "same_top1": float(rows[:, 3].mean()),
        "same_top1_interval": list(same_ends),
        "window_kl": [round(float(one), 7) for one in rows[:, 2]],
    }


def kl_difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[float, float, float]:
    """Mean KL of the first model less that of the second, from what `kept` told of both on the same text, and the ends
    of its interval over the windows that both have read (paired)."""
    one, other = first["window_kl"], second["window_kl"]
    count = min(len(one), len(other))
    table = [np.column_stack([values[:count], np.ones(count)]) for values in (one, other)]
    counts = [Counts(np.arange(count), rows) for rows in table]
    return difference(counts[0], counts[1], _mean(0), resamples=_RESAMPLES)


def _mean(column: int) -> Metric:
    """The mean over windows of a column, by the last one, which counts them."""
    return Metric(lambda sums: sums[..., column] / sums[..., -1], bounded=False)


def weight_bytes(bundle: Bundle) -> int:
    """Bytes of a language model's weights alone, in whatever file they are."""
    return sum(path.stat().st_size for path in _weights(bundle))


def _weights(bundle: Bundle) -> Iterator[Any]:
    whole = [path for name in (GGUF_FILE, PACKED_FILE) if (path := bundle.path / name).is_file()]
    yield from whole or bundle.path.glob("model*.safetensors")
