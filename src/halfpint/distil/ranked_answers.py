"""Stage: how a language model's probabilities are spread at each place of a corpus, without the tokens they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.data.token_store import TokenStore
from halfpint.distil.token_answers import TokenAnswers, Window, joined


@dataclass(frozen=True, kw_only=True)
class RankedAnswers(TokenAnswers):
    """The largest probabilities at each place, falling: ranked.npy, float16 of shape (places, draws), and no model.

    Another tokenizer's student can learn from them (distil/universal). A first token of a document has zeros.
    """

    def _told(
        self, models: Sequence[Any], store: TokenStore, windows: Sequence[Window], number: int
    ) -> dict[str, npt.NDArray[Any]]:
        first = windows[0].first
        found = np.zeros((windows[-1].end - first, self.draws), dtype=np.float16)
        for window, answers in self._answered(models, store, windows):
            kept = min(self.draws, answers.shape[-1])
            found[window.low - first : window.end - first, :kept] = answers.topk(kept).values.numpy()
        return {"ranked": found}

    def _join(self, parts: Sequence[Path], folder: Path, store: TokenStore) -> dict[str, int]:
        joined(parts, "ranked", folder / "ranked.npy", (len(store.tokens), self.draws), np.dtype(np.float16))
        return {"draws": self.draws}
