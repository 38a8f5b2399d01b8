"""Low-rank adapters: what is trained of a large model is the product of two small matrices beside each of its own.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1; on all linear layers of the
blocks as in Dettmers et al. 2023, "QLoRA", section 4. The layers are those of `peft`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfpint.errors import RefusedError, SettingError, nearest, need, need_installed

_SAME = 1e-3  # share of the largest logit by which a merged model may differ in fp32


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Settings of a stage that trains adapters, or all weights.

    Args:
        lora: train low-rank adapters on a frozen model instead of all weights.
        lora_rank: rows of the first factor of an adapter, and columns of the second: more learn more.
        lora_alpha: the product of the factors counts alpha / rank times.
        lora_dropout: share of an adapter's inputs that are dropped in training.
        lora_targets: last names of the layers that get one, with commas (q_proj,v_proj); empty takes all linear layers
            of the blocks.
    """

    lora: bool = False
    lora_rank: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.05
    lora_targets: str = ""

    def check_lora(self, place: str) -> None:
        """Raise a HalfpintError for the first setting that cannot be."""
        for name, fits, wanted in (
            ("lora_rank", self.lora_rank >= 1, "1 or more"),
            ("lora_alpha", self.lora_alpha > 0, "a number above 0"),
            ("lora_dropout", 0 <= self.lora_dropout < 1, "a share below 1"),
            ("lora_targets", self.lora or not self.lora_targets, "lora = true for it"),
        ):
            if not fits:
                raise SettingError(f"{place}: {name}", wanted=wanted, got=str(getattr(self, name)))

    def check(self) -> None:
        """Refuse LoRA without `peft`."""
        if self.lora:
            need_installed("peft", "LoRA")

    def with_adapters(self, model: Any, place: str, *, embeddings: bool = False) -> Any:
        """As `add_adapters`; None, and the model as it was, where all of it is trained."""
        return add_adapters(model, self, place, embeddings=embeddings) if self.lora else None


def linear_names(model: Any) -> list[str]:
    """Last names of the model's linear layers, the output layer aside: q_proj, up_proj, and so on."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, Linear | Conv1D) and module is not head
        }
    )


def add_adapters(model: Any, settings: LoRA, place: str, *, embeddings: bool = False) -> Any:
    """The `peft` model around `model`, which has adapters in it now and trains nothing else.

    Args:
        place: what errors name.
        embeddings: also train the token embeddings.

    Raises:
        HalfpintError: a target that no layer is called, or no `peft`.
    """
    from transformers.pytorch_utils import Conv1D

    peft = need("peft", "LoRA")
    known = linear_names(model)
    names = [name.strip() for name in settings.lora_targets.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise SettingError(
                f"{place}: lora_targets",
                wanted="last names of linear layers",
                got=repr(name),
                todo=nearest(name, known),
            )
    config = peft.LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout,
        target_modules=names or known, bias="none", task_type="CAUSAL_LM",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )  # fmt: skip
    with warnings.catch_warnings():  # peft asks for a name that transformers is about to drop
        warnings.simplefilter("ignore", FutureWarning)
        adapted = peft.get_peft_model(model, config)
    if embeddings:
        model.get_input_embeddings().weight.requires_grad_(True)
    return adapted


def write_adapter(adapted: Any, folder: Path, *, embeddings: bool) -> None:
    """adapter_config.json and adapter_model.safetensors, as `peft` reads them; no path of the base is told."""
    from safetensors.torch import save_file

    peft = need("peft", "LoRA")
    config = adapted.peft_config["default"]
    held = config.base_model_name_or_path
    config.base_model_name_or_path = None
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    config.base_model_name_or_path = held
    tensors = peft.get_peft_model_state_dict(adapted, save_embedding_layers=embeddings)
    found = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    save_file(found, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def merge(adapted: Any, rows: Sequence[Sequence[int]], place: str) -> tuple[Any, float]:
    """The plain model with the adapters' products added to its weights, and the largest difference of its logits.

    Args:
        rows: token ids of texts to compare on.

    Raises:
        RefusedError: the merged model answers otherwise.
    """
    before = _logits(adapted, rows)
    merged = adapted.merge_and_unload(safe_merge=True)
    after = _logits(merged, rows)
    largest = max(float(one.abs().max()) for one in before)
    difference = max(float((one - other).abs().max()) for one, other in zip(before, after, strict=True))
    if not difference <= _SAME * max(largest, 1.0):
        raise RefusedError(
            f"{place}: merge", wanted=f"logits within {_SAME * max(largest, 1.0):.2g} of those with the adapters",
            got=f"a difference of {difference:.2g}", todo="Train with lora = false, or report this architecture.",
        )  # fmt: skip
    return merged, difference


def _logits(model: Any, rows: Sequence[Sequence[int]]) -> list[Any]:
    import torch

    model.eval()
    place = next(model.parameters()).device
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([list(row)], device=place)).logits.float().cpu() for row in rows]
