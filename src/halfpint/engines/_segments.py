"""Scores of texts by a model that reads segment by segment, and remembers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.engines._prefix_cache import states_of
from halfpint.engines._reading import Reading
from halfpint.engines._scored import Done
from halfpint.tokenizers.batching import pad

_TOKENS_AT_ONCE = 1024

Floats = npt.NDArray[np.float32]


def score_segments(
    model: Any, whole: Sequence[list[int]], reading: Reading, states: list[Floats] | None, done: Done
) -> list[Floats]:
    """Log-probabilities (nats) of each of a row's ids but the first, given those that the model sees or remembers.

    Texts of about one length are read side by side, each token once.

    Args:
        whole: rows of ids, each with what stands before a document.
        reading: `context` tokens are a segment, `mem_length` are remembered.
        states: gets those that the output layer is given before each scored token: float32 (tokens, width) a row.
        done: told each share of the work.
    """
    import torch

    out = [np.zeros(max(len(ids) - 1, 0), dtype=np.float32) for ids in whole]
    longest_first = sorted((row for row, ids in enumerate(whole) if len(ids) > 1), key=lambda row: -len(whole[row]))
    at_once = max(1, _TOKENS_AT_ONCE // reading.context)
    total = max(1, sum(len(one) for one in out))
    with torch.inference_mode(), states_of(model.get_output_embeddings()) as caught:
        for begin in range(0, len(longest_first), at_once):
            rows = longest_first[begin : begin + at_once]
            cache = None
            for start in range(0, len(out[rows[0]]), reading.context):
                rows = [row for row in rows if len(out[row]) > start]  # those that ended are the last ones
                if cache is not None and cache.layers[0].keys.shape[0] > len(rows):
                    cache.batch_select_indices(torch.arange(len(rows)))
                ids, _ = pad([whole[row][start : start + reading.context] for row in rows], 0)
                found = model(input_ids=torch.from_numpy(ids), past_key_values=cache, use_cache=True)
                cache = found.past_key_values
                for place, row in enumerate(rows):
                    following = torch.tensor(whole[row][start + 1 : start + reading.context + 1])
                    logits = found.logits[place, : len(following)].float()
                    scores = logits.gather(1, following[:, None])[:, 0] - logits.logsumexp(-1)
                    out[row][start : start + len(following)] = scores.numpy()
                    if states is not None:
                        before = caught[-1][place, : len(following)].float().numpy()
                        if not states:
                            states += [np.zeros((len(one), before.shape[-1]), dtype=np.float32) for one in out]
                        states[row][start : start + len(following)] = before
                caught.clear()
                done(sum(min(len(out[row]) - start, reading.context) for row in rows) / total)
    return out
