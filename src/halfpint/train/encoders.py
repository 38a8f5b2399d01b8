"""What the stages that train a classifier in PyTorch share: making, tokenising, scoring and writing it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle, Kind, read_json
from halfpint.engines import softmax
from halfpint.engines.torch_classifier import load_model
from halfpint.models.heads import head_of
from halfpint.models.weights import other_shapes, refuse_other
from halfpint.outputs import Encoded, Ints, per_text
from halfpint.stage import Work
from halfpint.task import LabelTask, Task
from halfpint.tokenizers.load import open_tokenizer

_LONGEST = 256
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def new_classifier(encoder: Bundle, task: Task[Any], labels: Sequence[str], max_tokens: int, dropout: float) -> Any:
    """The encoder's weights with a new head of the task, whose last layer is zero.

    The weights file may name them with or without the encoder's own prefix ("bert.").
    """
    from safetensors.torch import load_file

    head = head_of(task, str(encoder.path))
    model = head.build(encoder.config, labels, min(max_tokens, positions(encoder.config)), dropout)
    weights = load_file(encoder.path / "model.safetensors")
    prefix = encoder.config["model_type"] + "."
    weights = {name.removeprefix(prefix): tensor.float() for name, tensor in weights.items()}
    wanted = model.encoder.state_dict()
    refuse_other(
        str(encoder.path), encoder.config["model_type"], set(wanted) - set(weights), other_shapes(weights, wanted)
    )  # fmt: skip
    model.encoder.load_state_dict({name: weights[name] for name in wanted})
    return model.eval()


def classifier_from(bundle: Bundle, task: Task[Any], labels: Sequence[str], max_tokens: int, dropout: float) -> Any:
    """The classifier in `bundle`, or a new one on the encoder in it, with `dropout` set throughout."""
    if bundle.kind == Kind.CLASSIFIER:
        return load_model(bundle.path)
    return new_classifier(bundle, task, labels, max_tokens, dropout)


def longest(tokenizer: Any, texts: Sequence[str]) -> int:
    """The cut for texts, in tokens: the 99.5th percentile of the training texts, a multiple of 8, 256 at most."""
    lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(list(texts[:20_000]))]
    return int(min(_LONGEST, max(16, -(-int(np.percentile(lengths, 99.5)) // 8) * 8)))


def drawn(examples: Sequence[Any], texts: int, seed: int) -> Sequence[Any]:
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


def encoded(folder: Path, task: LabelTask[Any], texts: Sequence[str], max_tokens: int) -> Encoded:
    """Texts as the encoder in `folder` reads them, cut at `max_tokens` and at what it has places for."""
    most = min(max_tokens, positions(read_json(folder / "config.json")))
    return task.encode(texts, open_tokenizer(folder, max_tokens=most), most)


@dataclass(frozen=True)
class Judge:
    """Scores logits of the examples that choices are made on, by the metric that they are made by."""

    task: LabelTask[Any]
    examples: Sequence[Any]
    labels: Sequence[str]
    primary: str
    units: Ints | None = None

    @classmethod
    def of(cls, work: Work, units: Ints | None = None) -> Judge:
        """For the validation examples; `units` are `Encoded.per_text`."""
        return cls(work.labelled, work.validation, work.labels, work.primary, units)

    def __call__(self, logits: npt.NDArray[Any]) -> float:
        """The score of logits or probabilities (units, labels)."""
        return self.task.score(self.primary, self.examples, per_text(softmax(logits), self.units), self.labels)


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
