"""How long parts of quantising take on this machine as it is now, told by doing a little of each."""

from __future__ import annotations

import time

from halfpint.bundle import Bundle
from halfpint.compress._in_time import Rounding, seconds_a_token
from halfpint.compress._matrices import fitting, matrices_of
from halfpint.engines.torch_lm import load_model
from halfpint.models.sizes import CAUSAL

_TRIED = 64  # tokens


def seconds_of(bundle: Bundle, window: int) -> tuple[float, float, float]:
    """Seconds that a causal model is loaded in, reads a window of so many tokens in, and is rounded in with a short
    search of scales."""
    began = time.monotonic()
    model = load_model(bundle.path, CAUSAL)
    loading = time.monotonic() - began
    window = min(window, int(getattr(model.config, "max_position_embeddings", None) or window))
    matrices = matrices_of(model)
    kinds = {one.name: fitting(one.columns)[-1] for one in matrices if fitting(one.columns)}
    rounding = Rounding(matrices, kinds, time.monotonic())
    return loading, window * seconds_a_token(model, min(window, _TRIED)), rounding.seconds()
