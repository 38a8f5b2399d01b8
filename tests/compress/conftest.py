"""What several tests of compressing need."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from halfpint.bundle import Bundle, new_bundle, open_bundle
from halfpint.engines.torch_lm import load_model


@pytest.fixture(scope="session")
def loud(tmp_path_factory: pytest.TempPathFactory, bundles: Callable[[str], Bundle]) -> Bundle:
    """The tiny language model with random weights that are large enough for what is done to them to show."""
    import torch

    tiny, target = bundles("language"), tmp_path_factory.mktemp("loud") / "made"
    model = load_model(tiny.path, "causal")
    torch.manual_seed(0)
    for tensor in model.parameters():
        if tensor.ndim == 2:
            torch.nn.init.normal_(tensor, 0.0, 0.1)
    with torch.no_grad():  # as in trained models, some directions are much larger than others
        width = model.config.hidden_size
        model.get_input_embeddings().weight.mul_(torch.logspace(-0.7, 0.7, width))
    with new_bundle(target, tiny) as (folder, card):
        shutil.copytree(tiny.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("card.json", "README.md"))
        model.save_pretrained(folder)
        card["stages"].append({"use": "train/pretrain", "settings": {}, "seconds": 0.0})
    return open_bundle(target)
