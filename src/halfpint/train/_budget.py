"""What pre-training costs: memory before it starts, floating-point work a token, and steps that fit into a time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from halfpint.errors import HalfpintError
from halfpint.machine import memory_bytes
from halfpint.models.sizes import MASKED, shown_parameters

_PROBE = 1024  # rows and columns of the matrices that the peak is measured with
_PROBE_S = 0.3
_SPARE = 0.9  # of the memory that is free: the rest is for what else the process holds
_TRIED_S, _TRIED_SHARE = 2.0, 0.01  # time the speed is measured for, at least (two steps too), and of the whole at most


def flops_per_token(model: Any, objective: str, context: int, share: float) -> float:
    """Floating-point operations that training takes a token: 6 a weight of a matrix, and attention's.

    Source: Chowdhery et al. 2022, "PaLM", appendix B; causal attention counts half. The output layer of a masked model
    is computed for the masked `share` alone.
    """
    config = model.config
    head = model.get_output_embeddings().weight
    embedding = model.get_input_embeddings().weight
    everything = sum(tensor.numel() for tensor in model.parameters() if tensor.ndim >= 2)
    body = everything - embedding.numel() - (0 if head is embedding else head.numel())
    width, layers = int(config.hidden_size), int(config.num_hidden_layers)
    attention = 12 * layers * width * context * (1.0 if objective == MASKED else 0.5)
    return float(6 * (body + head.numel() * (share if objective == MASKED else 1.0)) + attention)


def measured_peak(device: Any, bf16: bool) -> float:
    """Floating-point operations a second of a large matrix product here: the most that training could use."""
    import torch

    dtype = torch.bfloat16 if bf16 else torch.float32
    size = _PROBE * (8 if device.type == "cuda" else 1)
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    out = torch.empty_like(left)
    best, until = math.inf, time.monotonic() + _PROBE_S
    while not math.isfinite(best) or time.monotonic() < until:
        started = time.perf_counter()
        torch.mm(left, right, out=out)
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def memory_needed(model: Any, rows: int, context: int, *, chunked: bool, checkpointing: bool, bf16: bool) -> int:
    """Bytes that training takes at its peak, about: weights, gradients, AdamW's two moments, and what backward needs.

    Of a layer backward needs about 14 values as wide as the hidden states and 4 of the feed-forward's inner width a
    token (Korthikanti et al. 2023, "Reducing Activation Recomputation", section 4.1, with attention that is not
    stored); with checkpointing its input alone.
    """
    config = model.config
    weights = sum(tensor.numel() for tensor in model.parameters())
    width, layers, vocabulary = int(config.hidden_size), int(config.num_hidden_layers), int(config.vocab_size)
    inner = max([width, *(t.shape[0] for n, t in model.named_parameters() if t.ndim == 2 and t.shape[0] != vocabulary)])
    inner = min(inner, 8 * width)
    value = 2 if bf16 else 4
    a_layer = (14 * width + 4 * inner) * value
    held = layers * width * value + a_layer if checkpointing else layers * a_layer
    logits = 3 * 4 * vocabulary * (1 if chunked else rows * context)
    logits = max(logits, 2 * (16 << 20)) if chunked else logits
    return int(16 * weights + rows * context * (held + 6 * width * 4) + logits)


def check_memory(needed: int, device: Any, place: str) -> None:
    """Raise a HalfpintError where the device has not so many bytes free."""
    free = free_memory_bytes(device)
    if free and needed > _SPARE * free:
        raise HalfpintError(
            f"{place}: memory", wanted=f"about {needed / 2**30:.1f} GiB for this size and these batches",
            got=f"{free / 2**30:.1f} GiB free",
            todo="Lower batch_tokens (and raise accumulate as much), set gradient_checkpointing, or lower the size.",
        )  # fmt: skip


def free_memory_bytes(device: Any) -> int:
    """Bytes that a training here may still take; 0 where nothing tells."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limit = memory_bytes()
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        available = []
    return min([limit, *available]) if limit else 0


def seconds_a_step(step: Callable[[int], None], device: Any, seconds: float) -> float:
    """Median seconds of `step(number)`, of a few of them; `seconds` is what all of training may take.

    The first is not counted: memory is got and kernels are chosen in it.
    """
    step(0)
    _wait(device)
    taken: list[float] = []
    until = time.monotonic() + min(_TRIED_S, _TRIED_SHARE * seconds)
    while len(taken) < 2 or time.monotonic() < until:
        started = time.perf_counter()
        step(len(taken) + 1)
        _wait(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def shown_shape(model: Any) -> str:
    """A model in a few words: "llama of 9.9M parameters: 10 layers of 256 with 8 heads"."""
    config = model.config
    number = shown_parameters(sum(tensor.numel() for tensor in model.parameters()))
    heads = getattr(config, "num_attention_heads", None)
    return (
        f"{config.model_type} of {number} parameters: {config.num_hidden_layers} layers of {config.hidden_size}"
        + (f" with {heads} heads" if heads else "")
        + f", {config.vocab_size:,} tokens in the vocabulary"
    )


def _wait(device: Any) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
