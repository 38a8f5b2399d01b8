"""A teacher's distributions kept as a few draws each, and the loss on them.

Keeping the k likeliest tokens alone is biased: renormalised, they tell the student that nothing else ever comes, and it
becomes too sure. Tokens drawn from the distribution are right in the mean, however few: a token's share of the draws
has the token's probability as its expectation, so the gradient of the loss has that of the whole distribution.
Source: Anshumann et al. 2025, "Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs", section 3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


class Drawn(NamedTuple):
    """Draws at several places.

    Attributes:
        ids: the different tokens that were drawn at each place, one place after the other.
        counts: how often each was; they add up to the number of draws at a place.
        sizes: how many different tokens each place has, shape (places,).
    """

    ids: Ints
    counts: Ints
    sizes: Ints


def draw(probabilities: Any, draws: int, generator: Any) -> Drawn:
    """So many tokens at each place, with replacement, each as likely as it is.

    Args:
        probabilities: a tensor of shape (places, vocabulary); rows need not add up to 1.
        generator: a torch.Generator on the tensor's device.
    """
    import torch

    found = torch.multinomial(probabilities, draws, replacement=True, generator=generator).sort(1).values.cpu().numpy()
    first = np.ones(found.shape, dtype=bool)
    first[:, 1:] = found[:, 1:] != found[:, :-1]
    starts = np.flatnonzero(first)
    return Drawn(found.ravel()[starts], np.diff([*starts, found.size]), first.sum(1))


def sampled_loss(logits: Any, ids: Ints, counts: Ints, sizes: Ints, draws: int) -> Any:
    """Cross-entropy of a student with the drawn distributions, summed over the places (fp32 scalar, nats).

    It is the forward divergence but for the teacher's entropy, which the student cannot change.

    Args:
        logits: the student's, shape (places, vocabulary), divided by the temperature the teacher's were divided by.
        ids, counts, sizes: as in `Drawn`.
    """
    import torch

    rows = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)).to(logits.device)
    logs = torch.log_softmax(logits.float(), -1)[rows, torch.from_numpy(ids).to(logits.device)]
    return -(logs * torch.from_numpy(counts / draws).to(logs)).sum()


class SampledStore:
    """Draws for every token of a token store: those at place t tell what may come there after all before it.

    Args:
        ids, counts: of all places; starts: where each place begins, int64 of shape (places + 1,).
        draws: at each place that has any.
    """

    def __init__(self, ids: npt.NDArray[Any], counts: npt.NDArray[Any], starts: Ints, draws: int) -> None:
        self._ids, self._counts, self._starts, self.draws = ids, counts, starts, draws

    def __len__(self) -> int:
        return len(self._starts) - 1

    def at(self, places: Ints) -> Drawn:
        """The draws at these places."""
        sizes = self._starts[places + 1] - self._starts[places]
        before = np.cumsum(sizes) - sizes
        index = np.repeat(self._starts[places] - before, sizes) + np.arange(int(sizes.sum()))
        return Drawn(self._ids[index].astype(np.int64), self._counts[index].astype(np.int64), sizes)
