"""Adaptive embeddings and the adaptive softmax: frequent tokens cost much, rare ones little, and both share tables.

Token ids are taken to be in order of falling frequency, as the trainers of vocabularies give them. Sources: Grave et
al. 2017, "Efficient softmax approximation for GPUs", section 4 (the softmax in clusters); Baevski and Auli 2019,
"Adaptive Input Representations for Neural Language Modeling", section 3 (narrower tables for rarer tokens, tied).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear

IGNORED = -100


class AdaptiveEmbedding(nn.Module):
    """A table for each cluster of tokens, the rarer the narrower, and a projection of each to the model's width.

    Args:
        vocabulary: tokens; cutoffs: the first token of each cluster but the first, rising.
        width: of the model; narrowing: the table of cluster i is `width // narrowing**i` wide.
    """

    def __init__(self, vocabulary: int, width: int, cutoffs: Sequence[int], narrowing: int) -> None:
        super().__init__()
        self.ends = (0, *cutoffs, vocabulary)
        widths = [max(1, width // narrowing**number) for number in range(len(cutoffs) + 1)]
        spans = zip(pairwise(self.ends), widths, strict=True)
        self.tables = nn.ModuleList(nn.Embedding(end - first, each) for (first, end), each in spans)
        self.projections = nn.ModuleList(
            nn.Identity() if each == width else nn.Linear(each, width, bias=False) for each in widths
        )
        self.width = width

    @property
    def weight(self) -> torch.Tensor:
        """The table of the most frequent tokens."""
        return self.tables[0].weight  # type: ignore[return-value]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Of ids (…) the embeddings (…, width)."""
        flat = ids.reshape(-1)
        found = self.weight.new_zeros(len(flat), self.width)
        for (first, end), table, projection in zip(pairwise(self.ends), self.tables, self.projections, strict=True):
            places = ((flat >= first) & (flat < end)).nonzero()[:, 0]
            if len(places):
                rows = projection(table(flat[places] - first))
                found = found.index_copy(0, places, rows.to(found.dtype))
        return found.view(*ids.shape, self.width)


class AdaptiveSoftmax(nn.Module):
    """Log-probabilities over the vocabulary of an `AdaptiveEmbedding`, whose tables and projections are its weights.

    The first cluster's softmax has an entry for each other cluster; a token of one of those has the probability of its
    cluster times that inside it.
    """

    def __init__(self, embedding: AdaptiveEmbedding) -> None:
        super().__init__()
        self.__dict__["_embedding"] = embedding  # not a part of this module: its weights belong to the other
        clusters = len(embedding.tables) - 1
        self.clusters = nn.Embedding(clusters, embedding.weight.shape[1])  # an entry of the table for each
        self.cluster_bias = nn.Parameter(torch.zeros(clusters))
        sizes = [end - first for first, end in pairwise(embedding.ends)]
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(size)) for size in sizes)

    @property
    def embedding(self) -> AdaptiveEmbedding:
        """Whose tables these are."""
        found: AdaptiveEmbedding = self.__dict__["_embedding"]
        return found

    @property
    def weight(self) -> torch.Tensor:
        """The table of the most frequent tokens."""
        return self.embedding.weight

    def _logits(self, states: torch.Tensor, number: int) -> torch.Tensor:
        projection, table = self.embedding.projections[number], self.embedding.tables[number]
        weight: torch.Tensor = table.weight  # type: ignore[assignment]
        bias: torch.Tensor = self.biases[number]
        if isinstance(projection, nn.Linear):
            states = linear(states, projection.weight.t())
        if number == 0:
            weight, bias = torch.cat([weight, self.clusters.weight]), torch.cat([bias, self.cluster_bias])
        return linear(states, weight, bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Of states (…, width) the log-probabilities of every token, fp32 (…, vocabulary)."""
        first = self._logits(states, 0).float().log_softmax(-1)
        frequent = self.embedding.ends[1]
        parts = [first[..., :frequent]]
        for number in range(1, len(self.biases)):
            inside = self._logits(states, number).float().log_softmax(-1)
            parts.append(inside + first[..., frequent + number - 1, None])
        return torch.cat(parts, -1)

    def loss(self, states: torch.Tensor, labels: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        """Cross-entropy in nats (fp32 scalar): of the labels' own clusters alone is the softmax computed.

        Args:
            states: (tokens, width); labels: int64 (tokens,), -100 counts for nothing.
            reduction: "mean" of the labels that count, or "sum".
        """
        known = labels != IGNORED
        states, labels = states[known], labels[known]
        ends, frequent = self.embedding.ends, self.embedding.ends[1]
        cluster = torch.bucketize(labels, torch.tensor(ends[1:-1], device=labels.device), right=True)
        entry = torch.where(cluster == 0, labels, frequent + cluster - 1)
        total = cross_entropy(self._logits(states, 0).float(), entry, reduction="sum")
        for number in range(1, len(self.biases)):
            places = (cluster == number).nonzero()[:, 0]
            if len(places):
                logits = self._logits(states[places], number).float()
                total = total + cross_entropy(logits, labels[places] - ends[number], reduction="sum")
        return total if reduction == "sum" else total / max(len(labels), 1)
