"""The candidates of `fit`, cheapest first, and what each is expected to cost before it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from halfpint.bundle import Bundle
from halfpint.compress.layers import Layers
from halfpint.compress.onnx_int8 import OnnxInt8
from halfpint.compress.vocab import Vocab
from halfpint.export.onnx import Onnx
from halfpint.models.pull import Pull
from halfpint.stage import Stage
from halfpint.train.blend import Blend
from halfpint.train.finetune import Finetune
from halfpint.train.frozen_linear import FrozenLinear
from halfpint.train.majority import Majority
from halfpint.train.tfidf_linear import TfidfLinear

_EXPORT_S = 35.0  # half of what the exports of one training take with their measurements, on two cores
_COMMON_TOKENS = 8000
_STORED = OnnxInt8(compute="fp32")  # weights stored in 8 bits, products in fp32
_BLEND_BYTES = 6000  # of a TF-IDF classifier in int8, for each label
_HEAL_HEAD_RATE = 5e-4  # the head is trained already; only what it reads has changed
_HEAL_SHARE = 0.6  # of the epochs, when layers were taken out


@dataclass(frozen=True)
class Variant:
    """One candidate: how a trained bundle is finished."""

    name: str
    family: str
    precision: str | None
    finish: tuple[Stage, ...]
    expected_bytes: int = 0


@dataclass(frozen=True)
class Group:
    """Candidates that share their training."""

    name: str
    family: str
    train: tuple[Stage, ...]
    variants: tuple[Variant, ...]
    expected_s: float = 0.0


@dataclass(frozen=True)
class Encoder:
    """What the plan needs to know of a base encoder.

    Args:
        base: its name for `models/pull`.
        layers: number of layers; embedding_weights, layer_weights (of one), other_weights: numbers of weights.
        hidden: width; tokenizer_bytes: of tokenizer.json; wordpiece: whether its vocabulary can be pruned.
        texts_per_s: texts of this data that one training step works through in a second, here.
    """

    base: str
    layers: int
    hidden: int
    embedding_weights: int
    layer_weights: int
    other_weights: int
    tokenizer_bytes: int
    wordpiece: bool
    texts_per_s: float


def cheap_groups() -> list[Group]:
    """Candidates that need no encoder."""
    linear = (
        Variant("tfidf-linear-fp32", "tfidf", "fp32", (Onnx(),)),
        Variant("tfidf-linear-int8", "tfidf", "int8", (Onnx(), OnnxInt8())),
    )
    small = tuple(replace(variant, name=variant.name.replace("linear", "small")) for variant in linear)
    return [
        Group("majority", "majority", (Majority(),), (Variant("majority", "majority", None, ()),)),
        Group("tfidf-small", "tfidf", (TfidfLinear(features=6000),), small),
        Group("tfidf-linear", "tfidf", (TfidfLinear(),), linear),
    ]


def encoder_groups(
    encoder: Encoder, texts: int, labels: int, used_tokens: int, seconds: float, seed: int
) -> list[Group]:
    """Candidates with an encoder that fit in `seconds`, cheapest first, with the epochs that the time allows.

    Args:
        texts: training texts; labels: number of labels; used_tokens: different tokens in the training texts.
    """
    forward_s = min(texts, 20_000) / (3 * encoder.texts_per_s)
    epoch_s = texts / encoder.texts_per_s
    start: tuple[Stage, ...] = (Pull(base=encoder.base),)
    frozen = (*start, FrozenLinear())
    groups = [
        Group("frozen", "frozen encoder", frozen, _variants(encoder, "frozen", encoder.layers, labels, used_tokens))
    ]
    expected = [forward_s + 20 + _EXPORT_S * 2]
    depths = sorted({round(encoder.layers * share) for share in (2 / 3, 1 / 2)} - {0, encoder.layers}, reverse=True)
    left = seconds - expected[0] - _refit_s(texts, encoder.texts_per_s, 4)
    plan = _epochs(left, epoch_s, texts, [depth / encoder.layers for depth in depths])
    if plan is not None:
        epochs, heal, train_texts, taken = plan
        trained = (*start, Finetune(epochs=epochs, train_texts=train_texts, seed=seed))
        variants = _variants(encoder, "finetuned", encoder.layers, labels, used_tokens)
        groups.append(Group("finetuned", "fine-tuned encoder", trained, variants))
        refit_s = _refit_s(texts, encoder.texts_per_s, 2)
        expected.append(epochs * epoch_s * _share(train_texts, texts) + refit_s + _EXPORT_S * 2)
        for depth in depths[:taken]:
            name = f"finetuned-{depth}layers"
            stages = (
                *trained,
                Layers(keep=depth),
                Finetune(
                    epochs=heal, head_learning_rate=_HEAL_HEAD_RATE, train_texts=train_texts, start_share=0.0, seed=seed
                ),
            )
            groups.append(Group(name, "fewer layers", stages, _variants(encoder, name, depth, labels, used_tokens)))
            part = depth / encoder.layers
            cost = (heal * epoch_s * _share(train_texts, texts) + refit_s / 2) * part
            expected.append(cost + _EXPORT_S * 2)
    return [replace(group, expected_s=round(cost, 1)) for group, cost in zip(groups, expected, strict=True)]


def _refit_s(texts: int, texts_per_s: float, passes: int) -> float:
    """Seconds of refitting heads: passes over the texts forward, of ten thousand texts at most."""
    return passes * min(texts, 12_000) / (3 * texts_per_s)


def _share(train_texts: int, texts: int) -> float:
    return train_texts / texts if train_texts else 1.0


def _epochs(left: float, epoch_s: float, texts: int, shares: Sequence[float]) -> tuple[int, int, int, int] | None:
    """Epochs of fine-tuning and of healing, texts used (0 is all), and the shallower candidates there is time for."""
    for taken in range(len(shares), -1, -1):
        for epochs in (4, 3, 2):
            heal = max(1, round(epochs * _HEAL_SHARE))
            cost = epochs * epoch_s + heal * epoch_s * sum(shares[:taken]) + (1 + taken) * 2 * _EXPORT_S
            if cost <= left and (epochs >= 3 or taken == 0):
                return epochs, heal, 0, taken
    usable = left - 2 * _EXPORT_S
    share = usable / (2 * epoch_s) if epoch_s else 0.0
    return (2, 1, max(1, round(share * texts)), 0) if share >= 0.1 else None


def _variants(encoder: Encoder, name: str, layers: int, labels: int, used_tokens: int) -> tuple[Variant, ...]:
    body = layers * encoder.layer_weights + encoder.other_weights + labels * (encoder.hidden + 1)
    overhead = 200_000

    def expected(tokens_weights: int, tokenizer_bytes: int, width: int) -> int:
        return (body + tokens_weights) * width + tokenizer_bytes + overhead

    whole = (encoder.embedding_weights, encoder.tokenizer_bytes)
    found = [
        Variant(f"{name}-fp32", "", "fp32", (Onnx(),), expected(*whole, 4)),
        Variant(f"{name}-int8", "", "int8", (Onnx(), OnnxInt8()), expected(*whole, 1)),
    ]
    if encoder.wordpiece:
        vocabulary = encoder.embedding_weights // encoder.hidden
        sizes = {"vocab": max(_COMMON_TOKENS, used_tokens), "vocab-min": used_tokens}
        for suffix, tokens in sizes.items():
            if tokens >= 0.9 * vocabulary or (suffix == "vocab-min" and tokens >= _COMMON_TOKENS):
                continue
            weights, tokenizer = tokens * encoder.hidden, round(encoder.tokenizer_bytes * tokens / vocabulary)
            pruned = (Onnx(), Vocab(size=tokens if suffix == "vocab" else 1))
            family = "pruned vocabulary"
            if suffix == "vocab":
                cost = expected(weights, tokenizer, 4)
                found.append(Variant(f"{name}-{suffix}-fp32", family, "fp32", pruned, cost))
            cost = expected(weights, tokenizer, 1)
            if suffix == "vocab":
                found.append(Variant(f"{name}-{suffix}-int8", family, "int8", (*pruned, OnnxInt8()), cost))
            stored = (*pruned, _STORED)
            found.append(Variant(f"{name}-{suffix}-w8", family, "w8", stored, cost))
            cost += _BLEND_BYTES * labels
            found.append(Variant(f"{name}-{suffix}-w8+tfidf", "blend", "w8", (*stored, Blend()), cost))
    else:
        cost = found[-1].expected_bytes + _BLEND_BYTES * labels
        found.append(Variant(f"{name}-w8+tfidf", "blend", "w8", (Onnx(), _STORED, Blend()), cost))
    return tuple(found)


def describe_encoder(bundle: Bundle, base: str, texts_per_s: float) -> Encoder:
    """The `Encoder` in a pulled bundle, from the header of its weights."""
    import json

    from halfpint.compress._tensors import EMBEDDING, LAYER

    with (bundle.path / "model.safetensors").open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    embedding = layer = other = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        weights = 1
        for length in entry["shape"]:
            weights *= length
        match = LAYER.fullmatch(name)
        if EMBEDDING.search(name):
            embedding += weights
        elif match is not None:
            layer += weights if int(match["number"]) == 0 else 0
        elif "pooler" not in name and "position_ids" not in name:
            other += weights
    tokenizer = json.loads((bundle.path / "tokenizer.json").read_text(encoding="utf-8"))
    return Encoder(
        base=base,
        layers=int(bundle.config["num_hidden_layers"]),
        hidden=int(bundle.config["hidden_size"]),
        embedding_weights=embedding,
        layer_weights=layer,
        other_weights=other,
        tokenizer_bytes=(bundle.path / "tokenizer.json").stat().st_size,
        wordpiece=tokenizer["model"].get("type") == "WordPiece",
        texts_per_s=texts_per_s,
    )
