"""A small network that tags words: word vectors, case and characters, an LSTM in both directions, scores of tags.

Source: Ma & Hovy 2016, "End-to-end Sequence Labeling via Bi-directional LSTM-CNNs-CRF", sections 2.1 to 2.4; the
features of case are those of Chiu & Nichols 2016, "Named Entity Recognition with Bidirectional LSTM-CNNs", section 2.3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from halfpint.data.words import SHAPES
from halfpint.models.word_inputs import CHARACTERS, LINES, PADDING
from halfpint.outputs import NO_LABEL

_SHAPE, _LINE, _CHARACTER = 24, 12, 24
"""Values of a shape, of a line and of a character."""
_KERNEL = 3


class WordTagger(nn.Module):
    """Vectors of words to the scores of their tags.

    Both LSTMs read from the first step on; the second is given each text turned round by its own length, so that no
    padding comes before a word, and a text gets the same scores in any batch.

    Args:
        vectors: the table of word vectors, float32 of shape (rows, width).
        labels: tags.
        hidden: width of each LSTM, and of the layer that joins them.
        filters: of the convolution over characters.
        dropout: of characters, of what both LSTMs read, of what they give, and before the last layer.
        learn_vectors: whether the table is trained too.
    """

    def __init__(
        self, vectors: torch.Tensor, labels: int, hidden: int, filters: int, dropout: float, learn_vectors: bool
    ) -> None:
        super().__init__()
        self.vectors = nn.Embedding(len(vectors), vectors.shape[1], padding_idx=PADDING, _weight=vectors.clone())
        self.vectors.weight.requires_grad_(learn_vectors)
        self.shapes, self.lines = nn.Embedding(SHAPES, _SHAPE), nn.Embedding(LINES, _LINE)
        self.characters = nn.Embedding(CHARACTERS, _CHARACTER, padding_idx=0)
        self.filters = nn.Conv1d(_CHARACTER, filters, _KERNEL, padding=_KERNEL // 2)
        width = vectors.shape[1] + _SHAPE + _LINE + filters
        self.ahead, self.behind = (nn.LSTM(width, hidden, batch_first=True) for _ in range(2))
        self.between, self.classifier = nn.Linear(2 * hidden, hidden), nn.Linear(hidden, labels)
        self.dropout = nn.Dropout(dropout)
        self.transitions = nn.Parameter(torch.zeros(labels, labels))

    def forward(
        self,
        rows: torch.Tensor,
        shapes: torch.Tensor,
        lines: torch.Tensor,
        spelled: torch.Tensor,
        characters: torch.Tensor,
        sizes: torch.Tensor,
    ) -> torch.Tensor:
        """Scores (texts, words, tags) of a batch of `models.word_inputs.WordInputs`; those of padding mean nothing."""
        seen = torch.cat(
            [self.vectors(rows), self.shapes(shapes), self.lines(lines), self._spelled(characters)[spelled]], -1
        )
        seen = self.dropout(seen)
        places = torch.arange(rows.shape[1], device=rows.device)
        turned = sizes.long()[:, None] - 1 - places
        turned = torch.where(turned >= 0, turned, places)[..., None]  # padding stays where it is
        ahead = self.ahead(seen)[0]
        behind = self.behind(seen.gather(1, turned.expand(-1, -1, seen.shape[-1])))[0]
        behind = behind.gather(1, turned.expand(-1, -1, behind.shape[-1]))
        states = self.between(self.dropout(torch.cat([ahead, behind], -1))).tanh()
        scores: torch.Tensor = self.classifier(self.dropout(states))
        return scores

    def _spelled(self, characters: torch.Tensor) -> torch.Tensor:
        """What the convolution sees in words: (words, filters) from (words, characters)."""
        found = self.filters(self.dropout(self.characters(characters)).transpose(1, 2)).relu()
        most: torch.Tensor = (found * (characters > 0).unsqueeze(1)).amax(-1)
        return most


def crf_loss(scores: torch.Tensor, targets: torch.Tensor, transitions: torch.Tensor) -> Any:
    """The mean negative log likelihood, nats per word, of tags in a linear-chain conditional random field.

    Args:
        scores: (texts, words, tags).
        targets: tags (texts, words); NO_LABEL is padding, behind the words of a text.
        transitions: of [tag, next tag].

    Source: Lafferty, McCallum & Pereira 2001, "Conditional Random Fields", section 4.
    """
    counts = targets != NO_LABEL
    tags = targets.clamp(min=0)
    gold = scores.gather(2, tags[..., None])[..., 0] * counts
    pairs = transitions[tags[:, :-1], tags[:, 1:]] * counts[:, 1:]
    ahead = scores[:, 0]
    for place in range(1, scores.shape[1]):
        following = torch.logsumexp(ahead[:, :, None] + transitions, 1) + scores[:, place]
        ahead = torch.where(counts[:, place, None], following, ahead)
    return (ahead.logsumexp(1).sum() - gold.sum() - pairs.sum()) / counts.sum()
