"""Stage: a language model learns from what its teacher says to the student's own texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from halfpint.data.packing import IGNORED
from halfpint.distil._divergence import JS
from halfpint.distil.sequence import continued
from halfpint.distil.token_logits import TokenLogits
from halfpint.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class OnPolicy(TokenLogits):
    """For a share of the steps the student writes on from pieces of the text, and the teacher judges every token.

    So it learns where it goes wrong itself, which texts of others do not show. The other steps are those of
    distil/token_logits with whole distributions. Source: Agarwal et al. 2024, "On-Policy Distillation of Language
    Models: Learning from Self-Generated Mistakes", section 3 (GKD); no gradient flows through the drawing.

    Args:
        student_share: share of the parts of steps that are the student's own texts.
        prompt_tokens: tokens of the text that it goes on from.
        new_tokens: tokens that it writes, at most.
    """

    cached: bool = False
    divergence: str = JS
    student_share: float = 0.5
    prompt_tokens: int = 16
    new_tokens: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, fits, wanted in (
            ("cached", not self.cached, "false: whole distributions are needed"),
            ("student_share", 0 <= self.student_share <= 1, "a share from 0 to 1"),
            ("prompt_tokens", self.prompt_tokens >= 1, "1 or more"),
            ("new_tokens", self.new_tokens >= 1, "1 or more"),
        ):
            if not fits:
                raise SettingError(f"{self.use}: {name}", wanted=wanted, got=str(getattr(self, name)))

    def _loss(self, learner: Any, large: Any, draws: Any, arrays: dict[str, Any]) -> Any:
        """As of `TokenLogits`, or of the student's own texts: their mean distance, once for each label of the part."""
        import torch

        own = bool(torch.rand(()) < self.student_share)
        whole = (np.asarray(arrays["sequence_ids"])[:, : self.prompt_tokens] == 0).all(1)  # rows of one piece there
        if not own or not whole.any():
            return super()._loss(learner, large, draws, arrays)
        prompts = torch.from_numpy(np.asarray(arrays["input_ids"])[whole, : self.prompt_tokens]).to(learner.device)
        most = int(getattr(learner.model.config, "max_position_embeddings", None) or 1024)
        room = max(1, min(self.new_tokens, most - prompts.shape[1]))
        ids, counted = continued(learner.model, prompts, room, 1.0)
        with torch.no_grad():
            theirs = large(input_ids=ids).logits[:, prompts.shape[1] - 1 : -1]
        ours = learner.model(input_ids=ids, use_cache=False).logits[:, prompts.shape[1] - 1 : -1]
        mean = (self.distance(ours, theirs) * counted).sum() / counted.sum().clamp(min=1)
        return mean * int((np.asarray(arrays["labels"])[:, 1:] != IGNORED).sum())
