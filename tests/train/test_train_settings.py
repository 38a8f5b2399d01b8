"""Settings of training: which of them cannot be, and which parameters they hold for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from halfpint.bundle import Bundle
from halfpint.errors import HalfpintError
from halfpint.lookup import open_task
from halfpint.train import encoders
from halfpint.train.finetune import Finetune
from halfpint.train.loop import Training, check_settings, optimiser_groups

pytest.importorskip("torch", reason="training needs torch")


def test_groups_decay_matrices_alone(bundles: Callable[[str], Bundle]) -> None:
    model = encoders.new_classifier(bundles("encoder"), open_task("classify"), ["a", "b"], 64, 0.1)
    model.encoder.get_input_embeddings().weight.requires_grad_(False)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    settings = Training(learning_rate=1e-4, head_learning_rate=1e-2, weight_decay=0.05)
    seen = []
    for group in optimiser_groups(model, settings):
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.append(name)
            plain = name.endswith("bias") or "LayerNorm" in name
            assert group["weight_decay"] == (0.0 if plain else 0.05), name
            assert group["peak"] == (1e-2 if name.startswith("classifier.") else 1e-4), name
    assert sorted(seen) == sorted(name for name, tensor in model.named_parameters() if tensor.requires_grad)
    assert len(seen) == len(list(model.parameters())) - 1
    same = optimiser_groups(model, replace(settings, head_learning_rate=0.0))
    assert {group["peak"] for group in same} == {1e-4}


@pytest.mark.parametrize(
    ("field_name", "value", "told"),
    [
        ("schedule", "lineer", "Did you mean 'linear'"),
        ("precision", "fp8", "auto, fp32 or bf16"),
        ("learning_rate", 0.0, "above 0"),
        ("batch_size", -1, "above 0"),
        ("accumulate", 0, "above 0"),
        ("class_weights", "even", "none or balanced"),
    ],
)
def test_settings_that_cannot_be(field_name: str, value: Any, told: str) -> None:
    with pytest.raises(HalfpintError, match=told) as caught:
        Finetune(**{field_name: value})
    assert field_name in caught.value.place
    check_settings(Training(), "here")
