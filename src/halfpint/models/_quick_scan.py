"""The scan of Mamba-2 in chunks, with what heads of one group share computed once, and products as large as they get.

Source: Dao & Gu 2024, "Transformers are SSMs", section 6: within a chunk outputs are a masked product of C, B and x, as
in attention; from chunk to chunk a state is carried on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_TRIED = ("initial_states", "return_final_states", "dt_softplus", "dt_bias", "dt_limit", "D", "z")


def quick_scan(plain: Callable[..., Any]) -> Callable[..., Any]:
    """What does the same as `plain`, the scan of transformers; whatever else is asked of it, `plain` does."""

    def scan(x: Any, dt: Any, A: Any, B: Any, C: Any, chunk_size: int, **named: Any) -> Any:
        asked = {name: named.get(name) for name in _TRIED}
        if asked["initial_states"] is not None or asked["return_final_states"] or asked["z"] is not None:
            return plain(x, dt, A, B, C, chunk_size, **named)
        if asked["dt_bias"] is not None:
            dt = dt + asked["dt_bias"].to(dt.dtype)
        dt = torch.nn.functional.softplus(dt) if asked["dt_softplus"] else dt
        low, high = asked["dt_limit"] or (0.0, float("inf"))
        return chunked_scan(
            x.float(), dt.float().clamp(low, high), A.float(), B.float(), C.float(), asked["D"], chunk_size
        )

    return scan


def chunked_scan(x: Any, dt: Any, a: Any, b: Any, c: Any, skip: Any, chunk: int) -> Any:
    """Outputs of the state space h <- exp(a dt) h + dt b x, y = c h + skip x: fp32 of the shape of `x`.

    Args:
        x: (rows, length, heads, head size).
        dt: the steps, (rows, length, heads).
        a: the decay of each head, below 0: (heads,).
        b, c: (rows, length, groups, state size); a group of heads shares them.
        skip: (heads,), or None.
        chunk: tokens of a chunk.
    """
    rows, length, heads, size = x.shape
    groups, each = b.shape[2], heads // b.shape[2]
    chunk = min(chunk, length)
    pad = -length % chunk

    def chunks(tensor: Any) -> Any:
        """(rows, chunks, groups, length of a chunk, what is left of a group)."""
        if pad:
            tensor = torch.cat([tensor, tensor.new_zeros(rows, pad, *tensor.shape[2:])], dim=1)
        return tensor.reshape(rows, -1, chunk, groups, tensor[0, 0].numel() // groups).transpose(2, 3)

    given, b, c = chunks(x * dt[..., None]), chunks(b), chunks(c)
    decays = chunks(dt * a).cumsum(dim=3)  # logarithms, from the beginning of the chunk on
    within = decays.transpose(3, 4)  # (rows, chunks, groups, heads of a group, chunk)
    later = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).triu(1)
    fading = (within[..., :, None] - within[..., None, :]).masked_fill(later, -torch.inf).exp()
    by_head = given.unflatten(-1, (each, size)).transpose(3, 4)
    near = ((c @ b.mT)[:, :, :, None] * fading) @ by_head  # (rows, chunks, groups, heads of a group, chunk, size)

    ends = decays[:, :, :, -1:]
    left = given.unflatten(-1, (each, size)) * (ends - decays).exp()[..., None]
    added = b.mT @ left.flatten(-2)  # (rows, chunks, groups, state size, heads of a group times size)
    kept = ends.exp().repeat_interleave(size, dim=-1)
    state, states = torch.zeros_like(added[:, 0]), []
    for number in range(added.shape[1]):
        states.append(state)
        state = kept[:, number] * state + added[:, number]
    far = (c @ torch.stack(states, dim=1)).unflatten(-1, (each, size)) * decays.exp()[..., None]
    out = near.transpose(3, 4) + far  # (rows, chunks, groups, chunk, heads of a group, size)
    out = out.transpose(2, 3).reshape(rows, -1, heads, size)[:, :length]
    return out if skip is None else out + skip[:, None] * x
