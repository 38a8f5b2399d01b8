"""What the stages that train a classifier in PyTorch share: making, tokenising, scoring and writing it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.data.examples import Example
from halfpint.engines.torch_classifier import load_model
from halfpint.metrics import metric
from halfpint.tokenizers.load import open_tokenizer

_LONGEST = 256
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def new_classifier(encoder: Bundle, labels: Sequence[str], max_tokens: int, dropout: float) -> Any:
    """A `PooledClassifier` with the encoder's weights and a head of zeros.

    The weights file may name them with or without the encoder's own prefix ("bert.").
    """
    import torch
    from safetensors.torch import load_file

    from halfpint.models.pooled_classifier import PooledClassifier, PooledClassifierConfig

    config = PooledClassifierConfig(
        encoder=encoder.config,
        classifier_dropout=dropout,
        max_tokens=min(max_tokens, positions(encoder.config)),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    model = PooledClassifier(config)
    weights = load_file(encoder.path / "model.safetensors")
    prefix = encoder.config["model_type"] + "."
    weights = {name.removeprefix(prefix): tensor.float() for name, tensor in weights.items()}
    wanted = set(model.encoder.state_dict())
    missing = wanted - set(weights)
    if missing:
        from halfpint.errors import HalfpintError

        raise HalfpintError(
            str(encoder.path), wanted=f"weights of a {encoder.config['model_type']} encoder",
            got=f"a file without {sorted(missing)[0]} and {len(missing) - 1} more", todo="Give another base model.",
        )  # fmt: skip
    model.encoder.load_state_dict({name: weights[name] for name in wanted})
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
    return model.eval()


def classifier_from(bundle: Bundle, labels: Sequence[str], max_tokens: int, dropout: float) -> Any:
    """The classifier in `bundle`, or a new one on the encoder in it, with `dropout` set throughout."""
    if bundle.config.get("model_type") == "halfpint_pooled_classifier":
        model = load_model(bundle.path)
    else:
        model = new_classifier(bundle, labels, max_tokens, dropout)
    return model


def longest(tokenizer: Any, examples: Sequence[Example]) -> int:
    """The cut for texts, in tokens: the 99.5th percentile of the training texts, a multiple of 8, 256 at most."""
    lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch_fast([e.text for e in examples[:20_000]])]
    return int(min(_LONGEST, max(16, -(-int(np.percentile(lengths, 99.5)) // 8) * 8)))


def drawn(examples: Sequence[Example], texts: int, seed: int) -> Sequence[Example]:
    """So many of the examples, drawn with `seed` and in their order; all of them for 0 or when there are no more."""
    if not 0 < texts < len(examples):
        return examples
    chosen = np.sort(np.random.default_rng(seed).permutation(len(examples))[:texts])
    return [examples[index] for index in chosen]


def positions(config: Mapping[str, Any]) -> int:
    """The most tokens that the encoder of a configuration (its own, or a classifier's) has places for."""
    inner = config.get("encoder", config)
    # RoBERTa and its kin count places from the one after the padding token's id.
    skipped = int(inner.get("pad_token_id") or 0) + 1 if "roberta" in inner["model_type"] else 0
    return int(inner.get("max_position_embeddings") or _LONGEST + skipped) - skipped


def token_ids(folder: Path, examples: Sequence[Example], max_tokens: int) -> list[list[int]]:
    """Token ids of the texts, cut at `max_tokens` and at what the encoder in `folder` has places for."""
    most = positions(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    tokenizer = open_tokenizer(folder, max_tokens=min(max_tokens, most))
    return [encoding.ids for encoding in tokenizer.encode_batch_fast([example.text for example in examples])]


def score(logits: npt.NDArray[Any], targets: npt.NDArray[np.int64], primary: str) -> float:
    """The metric `primary` of the largest logits, for choices made during training."""
    return metric(primary, targets, logits.argmax(axis=1), logits.shape[1])


def write_classifier(folder: Path, model: Any, source: Path) -> None:
    """Write the model in Hugging Face layout, with the tokenizer of `source`."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # halfpint shows its own
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["pad_token_id"] = config["encoder"].get("pad_token_id") or 0
    (folder / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
