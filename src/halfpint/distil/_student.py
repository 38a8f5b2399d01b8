"""Student classifiers: made, cut into tokens, scored and written as the room train does it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halfpint.bundle import CARD, Bundle, Kind
from halfpint.errors import HalfpintError, SettingError, nearest, need
from halfpint.stage import Work
from halfpint.tokenizers.load import open_tokenizer
from halfpint.train import encoders
from halfpint.train.lora import LoRA, linear_names

encoded = encoders.encoded
Judge = encoders.Judge
write_classifier = encoders.write_classifier


def classifier(bundle: Bundle, work: Work, max_tokens: int, dropout: float) -> tuple[Any, int]:
    """The classifier in `bundle`, or a new one on its encoder, with `dropout` throughout; and where texts are cut."""
    torch = need("torch", "distilling")
    max_tokens = max_tokens or int(bundle.config.get("max_tokens", 0))
    if not max_tokens:
        max_tokens = encoders.longest(open_tokenizer(bundle.path), work.labelled.texts(work.train[:20_000]))
    model = encoders.classifier_from(bundle, work.task, work.labels, max_tokens, dropout)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    return model, max_tokens


def with_adapters(model: Any, settings: LoRA, place: str) -> Any:
    """The `peft` model around `model`, which has adapters in its encoder now and trains them and its head alone; None,
    and the model as it was, where all of it is trained.

    Raises:
        HalfpintError: a target that no layer is called, or no `peft`.
    """
    if not settings.lora:
        return None
    peft = need("peft", "LoRA")
    known = linear_names(model.encoder)
    names = [name.strip() for name in settings.lora_targets.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise SettingError(
                f"{place}: lora_targets", wanted="last names of linear layers", got=repr(name),
                todo=nearest(name, known),
            )  # fmt: skip
    config = peft.LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout,
        target_modules=[name for name in names or known if name != "classifier"], bias="none",
    )  # fmt: skip
    adapted = peft.get_peft_model(model, config)
    model.classifier.requires_grad_(True)
    return adapted


def need_labels_of(bundle: Bundle, labels: Sequence[str], place: str) -> None:
    """Refuse a student that answers with other labels; one without a head has none yet.

    Raises:
        HalfpintError: with both.
    """
    if bundle.kind == Kind.CLASSIFIER and bundle.labels != tuple(labels):
        raise HalfpintError(
            f"{place}: student {bundle.path}", wanted=f"the labels of the data: {', '.join(labels[:5])}",
            got=", ".join(bundle.labels[:5]), todo="Give a student of the same job, or an encoder without a head.",
        )  # fmt: skip


def write_encoder(folder: Path, model: Any, source: Bundle) -> None:
    """The bundle `source` with the encoder of `model` in place of its own; its head, if it has one, goes with it."""
    if source.kind == Kind.CLASSIFIER:
        write_classifier(folder, model, source.path)
        return
    for file in source.path.glob("*.json"):
        if file.name != CARD:
            shutil.copyfile(file, folder / file.name)
    weights = {name: tensor.contiguous() for name, tensor in model.encoder.state_dict().items()}
    need("safetensors.torch", "distilling").save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
