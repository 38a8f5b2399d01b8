"""Several processes that train one model together, started by `torchrun`; alone all of this does nothing.

Each process (rank) takes its part of every batch; gradients and losses are averaged, so that all keep the same weights.
The first one writes, and decides what depends on the time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from halfpint.errors import HalfpintError

if TYPE_CHECKING:
    import torch

_BUCKET = 1 << 24  # values that are sent at once
_PATIENCE = timedelta(days=1)  # the others wait as long as the first one reads and cleans text


def join() -> tuple[int, int]:
    """This process' rank and how many there are, as `torchrun` tells; the first call waits for the others."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return 0, 1
    import torch

    if not torch.distributed.is_initialized():
        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        torch.distributed.init_process_group("nccl" if gpu else "gloo", timeout=_PATIENCE)
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def processes_here() -> int:
    """How many of them run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process writes and tells."""
    return _rank() == 0


@contextmanager
def after_first() -> Iterator[bool]:
    """Let the first process do the body alone, then the others: they find made what it made. Gives `is_first()`."""
    if not is_first():
        wait()
    yield is_first()
    if is_first():
        wait()


def wait() -> None:
    """Until all have come here.

    Raises:
        HalfpintError: another one has ended.
    """
    if _world() > 1:
        import torch

        try:
            torch.distributed.barrier()
        except RuntimeError as error:
            raise HalfpintError(
                f"process {_rank()} of torchrun", wanted="all processes to go on", got="one that has ended",
                todo="It says why.",
            ) from error  # fmt: skip


def decided(value: Any) -> Any:
    """What the first process has here (a number, a text, or a list or dictionary of such)."""
    if _world() == 1:
        return value
    import torch

    held = [value]
    torch.distributed.broadcast_object_list(held)
    return held[0]


def average(tensors: Iterable[torch.Tensor]) -> None:
    """Replace the gradients of `tensors` by their mean over the processes; a missing one counts as 0."""
    world = _world()
    if world == 1:
        return
    import torch

    bucket: list[Any] = []
    size = 0
    for tensor in tensors:
        if tensor.grad is None:
            tensor.grad = torch.zeros_like(tensor)
        bucket.append(tensor.grad)
        size += tensor.grad.numel()
        if size >= _BUCKET:
            _average(bucket, world)
            bucket, size = [], 0
    if bucket:
        _average(bucket, world)


def mean(value: float, device: Any) -> float:
    """The mean of a number over the processes."""
    world = _world()
    if world == 1:
        return value
    import torch

    held = torch.tensor(value, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(held)
    return float(held) / world


def _average(gradients: list[Any], world: int) -> None:
    import torch

    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= world
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def _started() -> bool:
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return False
    import torch

    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _rank() -> int:
    if not _started():
        return 0
    import torch

    return torch.distributed.get_rank()


def _world() -> int:
    if not _started():
        return 1
    import torch

    return torch.distributed.get_world_size()
