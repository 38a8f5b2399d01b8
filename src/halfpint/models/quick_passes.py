"""Quicker passes through modules of transformers while they are trained on a CPU: less traffic to memory, same results.

Weights, their names and what is saved stay as they are. A norm or rotation is tried against what it replaces first, in
fp32, and left out where the results differ; attention is PyTorch's, but for what `_quick_attention` says.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from halfpint.models._quick_attention import quick_attention
from halfpint.models._quick_scan import quick_scan

_ATTENTION, _SCAN = "sdpa", "mamba2_chunk_scan"
_CLOSE = 1e-5  # relative difference that rounding alone explains
_KINDS = (torch.float32, torch.bfloat16)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_USUAL_THRESHOLD = 128 << 10


@contextmanager
def quick_passes(model: torch.nn.Module) -> Iterator[list[str]]:
    """The model with quicker passes, as long as it lasts; gives the names of what was replaced.

    Elsewhere than on a CPU nothing is: there are kernels for all of it.
    """
    names: set[str] = set()
    undo: list[Callable[[], None]] = []
    try:
        if next(model.parameters()).device.type == "cpu":
            for module in model.modules():
                if _replace_norm(module):
                    names.add(type(module).__name__)
                    undo.append(partial(delattr, module, "forward"))
            for place in {type(module).__module__ for module in model.modules()}:
                namespace = vars(sys.modules[place])
                plain = namespace.get("apply_rotary_pos_emb")
                if plain is not None and _same_rotation(plain):
                    namespace["apply_rotary_pos_emb"] = _quick_rotation(plain)
                    names.add("apply_rotary_pos_emb")
                    undo.append(partial(namespace.__setitem__, "apply_rotary_pos_emb", plain))
                plain = namespace.get(_SCAN)
                if plain is not None and _same_scan(plain):
                    namespace[_SCAN] = quick_scan(plain)
                    names.add("scan")
                    undo.append(partial(namespace.__setitem__, _SCAN, plain))
            if getattr(model.config, "_attn_implementation", "") == _ATTENTION:
                plain = AttentionInterface().get_interface(_ATTENTION, sdpa_attention_forward)
                AttentionInterface.register(_ATTENTION, quick_attention(plain))
                names.add("attention")
                undo.append(partial(AttentionInterface.register, _ATTENTION, plain))
        with _kept_memory():
            yield sorted(names)
    finally:
        for step in undo:
            step()


class _RMSNorm(torch.autograd.Function):
    """`x / rms(x) * (weight + offset)` over the last axis, computed in fp32, given in the type `low`.

    Its gradient is that of a layer norm about a mean of 0, plus what a layer norm takes off for the mean's own
    derivative: so PyTorch's one pass over memory does most of it. Under autocast what comes next is a product in
    bfloat16: it is given that, instead of fp32 that each product would turn again.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float, low: torch.dtype
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1]).float()
        scale = torch.linalg.vector_norm(rows, dim=1, keepdim=True).square_().div_(rows.shape[1]).add_(eps).rsqrt_()
        gain = weight + offset if offset else weight
        ctx.save_for_backward(rows, gain, scale)
        ctx.given = x.dtype
        return torch.mul(rows, scale).mul_(gain).view(x.shape).to(low)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[Any, ...]:
        rows, gain, scale = ctx.saved_tensors
        slope = slopes[0].reshape(rows.shape).float()
        width = rows.shape[1]
        centre = torch.zeros_like(scale)
        d_rows, d_weight, _ = torch.ops.aten.native_layer_norm_backward(
            slope, rows, [width], centre, scale, gain, None, [True, True, False]
        )
        d_rows.add_((slope @ gain)[:, None].mul_(scale).div_(width))
        return d_rows.view(slopes[0].shape).to(ctx.given), d_weight, None, None, None


class _Rotation(torch.autograd.Function):
    """Rotary position embedding of one tensor, with cosines and sines that broadcast to it (both halves alike)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[Any, ...]:
        cos, sin = ctx.saved_tensors
        return _rotated(slopes[0], cos, sin, -1.0), None, None


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, sign: float) -> torch.Tensor:
    half = x.shape[-1] // 2
    out = torch.empty_like(x)
    cos, sin = cos[..., :half], sin[..., :half]
    torch.mul(x[..., :half], cos, out=out[..., :half]).addcmul_(x[..., half:], sin, value=-sign)
    torch.mul(x[..., half:], cos, out=out[..., half:]).addcmul_(x[..., :half], sin, value=sign)
    return out


def _quick_rotation(plain: Callable[..., Any]) -> Callable[..., Any]:
    def rotate(q: Any, k: Any, cos: Any, sin: Any, *more: Any, **named: Any) -> Any:
        if more or named or q.dtype not in _KINDS or cos.shape[-1] != q.shape[-1] or cos.dtype not in _KINDS:
            return plain(q, k, cos, sin, *more, **named)
        cos, sin = cos.unsqueeze(1).to(q.dtype), sin.unsqueeze(1).to(q.dtype)
        return _Rotation.apply(q, cos, sin), _Rotation.apply(k, cos, sin)  # type: ignore[no-untyped-call]

    return rotate


def _same_rotation(plain: Callable[..., Any]) -> bool:
    random = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 3, 5, 8, generator=random) for _ in range(2))
    angle = torch.randn(2, 5, 4, generator=random).repeat(1, 1, 2)
    try:
        wanted = plain(q, k, angle.cos(), angle.sin())
        found = _quick_rotation(plain)(q, k, angle.cos(), angle.sin())
        return all(_close(one, other) for one, other in zip(found, wanted, strict=True))
    except (TypeError, ValueError, RuntimeError):  # one with other arguments: left as it is
        return False


def _same_scan(plain: Callable[..., Any]) -> bool:
    random = torch.Generator().manual_seed(0)
    x, dt, a, skip = (torch.randn(shape, generator=random) for shape in ((2, 7, 4, 3), (2, 7, 4), (4,), (4,)))
    b, c = (torch.randn(2, 7, 2, 5, generator=random) for _ in range(2))
    more = {"chunk_size": 3, "D": skip, "dt_bias": a, "dt_softplus": True, "dt_limit": (0.0, 2.0)}
    try:
        return _close(quick_scan(plain)(x, dt, -a.exp(), b, c, **more), plain(x, dt, -a.exp(), b, c, **more))
    except (TypeError, ValueError, RuntimeError):  # one with other arguments: left as it is
        return False


def _replace_norm(module: torch.nn.Module) -> bool:
    """Give an RMS norm its quick pass, whichever way its class multiplies by the weight."""
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    is_norm = type(module).__name__.endswith("RMSNorm") and isinstance(weight, torch.nn.Parameter)
    if not is_norm or weight is None or weight.ndim != 1 or weight.dtype != torch.float32 or not isinstance(eps, float):
        return False
    plain = module.forward
    random = torch.Generator().manual_seed(0)
    x = torch.randn(3, len(weight), generator=random)
    for offset in (0.0, 1.0):

        def forward(x: torch.Tensor, offset: float = offset) -> Any:
            if x.dtype not in _KINDS:
                return plain(x)
            low = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
            return _RMSNorm.apply(x, weight, eps, offset, low)  # type: ignore[no-untyped-call]

        with torch.no_grad():
            changed = torch.randn(len(weight), generator=random)
            kept = weight.clone()
            try:
                weight.copy_(changed)
                same = _close(forward(x), plain(x))
            finally:
                weight.copy_(kept)
        if same:
            module.forward = forward  # type: ignore[method-assign]
            return True
    return False


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool(torch.allclose(one, other, rtol=_CLOSE, atol=_CLOSE))


@contextmanager
def _kept_memory() -> Iterator[None]:
    """Let the C library keep the memory that is freed: the next step needs as much, and fresh pages cost time.

    With glibc alone; by its default each large tensor is given back to the system and got again, page by page.
    """
    mallopt, trim = _mallopt()
    if mallopt is None:
        yield
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        mallopt(_M_MMAP_THRESHOLD, _USUAL_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _USUAL_THRESHOLD)
        trim(0)


def _mallopt() -> tuple[Any, Any]:
    if not sys.platform.startswith("linux"):
        return None, None
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  (glibc alone has it)
        return library.mallopt, library.malloc_trim
    except (OSError, AttributeError):
        return None, None
