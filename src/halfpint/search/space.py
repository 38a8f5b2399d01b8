"""The candidates of `fit`, cheapest first, and what each is expected to cost before it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from halfpint.bundle import Bundle
from halfpint.compress.layers import Layers
from halfpint.compress.onnx_int4 import OnnxInt4
from halfpint.compress.onnx_int8 import OnnxInt8
from halfpint.compress.vocab import Vocab
from halfpint.distil.static import Static
from halfpint.export.onnx import Onnx
from halfpint.models.pull import Pull
from halfpint.models.weights import WEIGHTS_FILE, header_of
from halfpint.stage import Stage, stage_class
from halfpint.task import LabelTask
from halfpint.train.blend import Blend
from halfpint.train.finetune import REFIT_TEXTS, Finetune
from halfpint.train.frozen_linear import FrozenLinear

EXPORT_S = 9.0  # what a candidate takes to be exported and measured on two cores, until it is measured
FIRST = 3
"""Candidates of a training that are measured at once; its other forms come after those of the other trainings."""
EXPORTS_S = FIRST * EXPORT_S
STATIC = "static vectors"
_COMMON_TOKENS = 8000
_STORED = OnnxInt8(compute="fp32")  # weights stored in 8 bits, products in fp32
_FOUR_BIT_GROUP = OnnxInt4().group
_INT4_BITS = 4.5  # a weight, scales and all
_STATIC_TEXTS_PER_S = 6000.0  # that a table of token vectors is trained on
_STATIC_S = 30.0  # for what the encoder says of tokens, and the measurement
_BLEND_BYTES = 6000  # of a TF-IDF classifier in int8, for each label
# Many texts bear larger batches (they go faster) at a larger rate, and teach something to most embeddings.
_MANY_TEXTS, _MANY_RATE, _MANY_BATCH = 20_000, 1.5e-4, 128
_CONSISTENCY = 1.0  # of two passes over many texts, where there is time for them
_CONSISTENT_EPOCHS, _EPOCHS = (6, 5, 4, 3), (4, 3, 2)
_HEAL_HEAD_RATE = 5e-4  # the head is trained already; only what it reads has changed
_HEAL_SHARE = 0.6  # of the epochs, when layers were taken out
_READING = 2.0  # times as many texts are read in a second as are learned from: steps may be in bf16, reading is in fp32
_HEAD_S, _HEAD_TEXTS = 20.0, 10_000  # for a head on features of so many texts
_LEAST_HEAD_S = 4.0
_FEWEST_TUNED = 1000  # texts that an encoder is trained on, however short the time
_FEW_EPOCHS = 2  # over fewer texts than there are
_FEWEST_FROZEN = 2000  # texts that a head on a frozen encoder is fitted on, however short the time


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
    """Candidates that share their training.

    Args:
        expected_s: seconds that it takes, all in all; finish_s: those of them after the training's steps.
    """

    name: str
    family: str
    train: tuple[Stage, ...]
    variants: tuple[Variant, ...]
    expected_s: float = 0.0
    finish_s: float = 0.0


@dataclass(frozen=True)
class Encoder:
    """What the plan needs to know of a base encoder.

    Args:
        base: its name for `models/pull`.
        layers: number of layers; embedding_weights, layer_weights (of one), other_weights: numbers of weights.
        hidden: width; tokenizer_bytes: of tokenizer.json; wordpiece: whether its vocabulary can be pruned.
        texts_per_s: texts of this data that one training step works through per second, here.
        blends: whether the task has a model of counted words to blend an encoder with.
        tuning: the task's own settings of fine-tuning.
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
    blends: bool = True
    tuning: Mapping[str, Any] = field(default_factory=dict)


def tuning(texts: int, own: Mapping[str, Any] | None = None) -> Finetune:
    """How an encoder is fine-tuned on so many texts; `own` are the settings that a task has of its own."""
    many = {"learning_rate": _MANY_RATE, "batch_size": _MANY_BATCH, "train_embeddings": True}
    return Finetune(**{**(many if texts >= _MANY_TEXTS else {}), **(own or {})})


def cheap_groups(task: LabelTask[Any]) -> list[Group]:
    """Candidates that need no encoder: those of the task."""
    found: dict[str, Group] = {}
    for one in task.candidates():
        variant = Variant(one.name, one.family, one.precision, _stages(one.finish))
        group = found.get(one.group) or Group(one.group, one.family, _stages(one.train), (), one.expected_s)
        found[one.group] = replace(group, variants=(*group.variants, variant))
    return list(found.values())


def _stages(named: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[Stage, ...]:
    return tuple(stage_class(use, "candidate")(**settings) for use, settings in named)


def frozen_group(
    encoder: Encoder,
    texts: int,
    labels: int,
    used_tokens: int,
    seconds: float = math.inf,
    exports_s: float = EXPORTS_S,
) -> Group:
    """The encoder as it is, with a head that is fitted on as many texts as there is time to read.

    Args:
        texts: training texts; labels: number of labels; used_tokens: different tokens in the training texts.
        seconds: time for it; exports_s: that the exports measured first take of it.
    """
    most = min(texts, FrozenLinear.train_texts)
    left = seconds - _head_s(most) - exports_s
    taken = most if left >= _pass_s(encoder, most) else max(_FEWEST_FROZEN, int(left * _READING * encoder.texts_per_s))
    stage = FrozenLinear() if taken >= most else FrozenLinear(train_texts=taken)
    return Group(
        "frozen",
        "frozen encoder",
        (Pull(base=encoder.base), stage),
        _variants(encoder, "frozen", encoder.layers, labels, used_tokens),
        round(_pass_s(encoder, min(taken, most)) + _head_s(min(taken, most)) + exports_s, 1),
        exports_s,
    )


def static_group(encoder: Encoder, texts: int, teacher: Group | None = None) -> Group:
    """A table of token vectors from the encoder; with `teacher` from the encoder that it trains, and of its answers."""
    stage = Static()
    name = f"{teacher.name}-static" if teacher else "static"
    vocabulary = encoder.embedding_weights // encoder.hidden
    rows = min(vocabulary, stage.tokens) if encoder.wordpiece else vocabulary  # pairs come besides, by the data
    tokenizer = round(encoder.tokenizer_bytes * rows / vocabulary)
    variant = Variant(name, STATIC, "int8", (), rows * (min(stage.width, encoder.hidden) + 4) + tokenizer)
    cost = stage.epochs * texts / _STATIC_TEXTS_PER_S + _STATIC_S + (_pass_s(encoder, texts) if teacher else 0.0)
    train = teacher.train if teacher else (Pull(base=encoder.base),)
    return Group(name, STATIC, (*train, stage), (variant,), round(cost, 1), _STATIC_S)


def tuned_groups(
    encoder: Encoder,
    texts: int,
    labels: int,
    used_tokens: int,
    seconds: float,
    seed: int,
    exports_s: float = EXPORTS_S,
    most_bytes: int | None = None,
) -> list[Group]:
    """The trainings of the encoder that fit in `seconds`, with the epochs and the depths that the time allows.

    Args:
        exports_s: seconds that the exports of one training take with their measurements.
        most_bytes: that a model may take: where all layers are too many, there are depths that are not.
    """  # fmt: skip
    depths, least = _depths(encoder, labels, used_tokens, most_bytes)
    finish_s = _finish_s(encoder, texts, exports_s)
    epoch_s = texts / encoder.texts_per_s
    plan = _epochs(seconds, epoch_s, finish_s, texts, [depth / encoder.layers for depth in depths], least)
    if plan is None:
        train_texts = _fewer_texts(encoder, texts, seconds, exports_s, [d / encoder.layers for d in depths[:least]])
        if train_texts < min(texts, _FEWEST_TUNED):
            return []
        finish_s = _finish_s(encoder, train_texts, exports_s)
        plan = (_FEW_EPOCHS, 1, train_texts, least, False)
    epochs, heal, train_texts, taken, twice = plan
    epoch_s *= 2.0 if twice else train_texts / texts if train_texts else 1.0
    consistency = _CONSISTENCY if twice else 0.0
    stage = tuning(train_texts or texts, encoder.tuning)
    stage = replace(stage, epochs=epochs, consistency=consistency, train_texts=train_texts, seed=seed)
    trained = (Pull(base=encoder.base), stage)
    variants = _variants(encoder, "finetuned", encoder.layers, labels, used_tokens)
    groups = [Group("finetuned", "fine-tuned encoder", trained, variants, epochs * epoch_s + finish_s, finish_s)]
    for depth in depths[:taken]:
        name = f"finetuned-{depth}layers"
        healing = replace(stage, epochs=heal, head_learning_rate=_HEAL_HEAD_RATE, start_share=0.0)
        variants = _variants(encoder, name, depth, labels, used_tokens)
        cost = heal * epoch_s * depth / encoder.layers + finish_s
        stages = (*trained, Layers(keep=depth), healing)
        groups.append(Group(name, "fewer layers", stages, variants, cost, finish_s))
    return [replace(group, expected_s=round(group.expected_s, 1), finish_s=round(finish_s, 1)) for group in groups]


def _depths(encoder: Encoder, labels: int, used_tokens: int, most_bytes: int | None) -> tuple[list[int], int]:
    """Numbers of layers for shallower candidates, the deepest first, and how many of them there have to be."""
    usual = sorted({round(encoder.layers * share) for share in (2 / 3, 1 / 2)} - {0, encoder.layers}, reverse=True)
    if most_bytes is None:
        return usual, 0

    def fits(depth: int) -> bool:
        variants = _variants(encoder, "", depth, labels, used_tokens)
        return min(variant.expected_bytes for variant in variants) <= most_bytes

    if fits(encoder.layers):
        return usual, 0
    small = [depth for depth in range(encoder.layers - 1, 0, -1) if fits(depth)][:2]
    return small or usual, min(1, len(small))


def _pass_s(encoder: Encoder, texts: int) -> float:
    """Seconds of one pass forward."""
    return texts / (_READING * encoder.texts_per_s)


def _epochs(
    left: float, epoch_s: float, finish_s: float, texts: int, shares: Sequence[float], least: int
) -> tuple[int, int, int, int, bool] | None:
    """Epochs of fine-tuning and of healing, texts used (0 is all), the shallower candidates there is time for, and
    whether each text is read twice in a step.

    At least `least` shallower candidates are taken. Reading twice beats as much time in more epochs; it is for many
    texts, few are over-fitted by other means.
    """

    def fits(epochs: int, taken: int, pass_s: float) -> bool:
        training_s = (epochs + _heal(epochs) * sum(shares[:taken])) * pass_s
        return training_s + (1 + taken) * finish_s <= left

    depths = range(len(shares), least - 1, -1)
    if texts >= _MANY_TEXTS:
        for taken in depths:
            for epochs in _CONSISTENT_EPOCHS:
                if fits(epochs, taken, 2 * epoch_s) and (epochs > 3 or taken == least):
                    return epochs, _heal(epochs), 0, taken, True
    for taken in depths:
        for epochs in _EPOCHS:
            if fits(epochs, taken, epoch_s) and (epochs > 2 or taken == least):
                return epochs, _heal(epochs), 0, taken, False
    return None


def _fewer_texts(encoder: Encoder, texts: int, seconds: float, exports_s: float, shares: Sequence[float]) -> int:
    """On how many texts there is time to train, with the shallower candidates of these shares of the layers."""
    trainings = 1 + len(shares)
    a_text = (_FEW_EPOCHS + sum(shares) + trainings / _READING) / encoder.texts_per_s
    a_text += trainings * (_HEAD_S - _LEAST_HEAD_S) / _HEAD_TEXTS
    return min(texts, int((seconds - trainings * (exports_s + _LEAST_HEAD_S)) / a_text))


def least_seconds(encoder: Encoder, texts: int, exports_s: float = EXPORTS_S) -> float:
    """Seconds that a training of the encoder takes on as few texts as are worth it."""
    few = min(texts, _FEWEST_TUNED)
    return _FEW_EPOCHS * few / encoder.texts_per_s + _finish_s(encoder, few, exports_s)


def _finish_s(encoder: Encoder, texts: int, exports_s: float) -> float:
    """What comes after a training's steps on so many texts: the head is fitted again, and it is exported."""
    read = min(texts, REFIT_TEXTS)
    return _pass_s(encoder, read) + _head_s(read) + exports_s


def _head_s(texts: int) -> float:
    """Seconds that fitting a head on features of so many texts takes."""
    return _LEAST_HEAD_S + (_HEAD_S - _LEAST_HEAD_S) * min(texts, _HEAD_TEXTS) / _HEAD_TEXTS


def _heal(epochs: int) -> int:
    return max(1, round(epochs * _HEAL_SHARE))


def _variants(encoder: Encoder, name: str, layers: int, labels: int, used_tokens: int) -> tuple[Variant, ...]:
    """How a trained encoder can be finished, the likeliest to be chosen first: time may run out between them."""
    body = layers * encoder.layer_weights + encoder.other_weights + labels * (encoder.hidden + 1)
    overhead = 200_000

    def expected(tokens_weights: int, tokenizer_bytes: int, width: int) -> int:
        return (body + tokens_weights) * width + tokenizer_bytes + overhead

    whole = (encoder.embedding_weights, encoder.tokenizer_bytes)
    full = [
        Variant(f"{name}-int8", "", "int8", (Onnx(), OnnxInt8()), expected(*whole, 1)),
        Variant(f"{name}-fp32", "", "fp32", (Onnx(),), expected(*whole, 4)),
    ]
    if not encoder.wordpiece:
        cost = full[0].expected_bytes + _BLEND_BYTES * labels
        both = [Variant(f"{name}-w8+tfidf", "blend", "w8", (Onnx(), _STORED, Blend()), cost)]
        return (*(both if encoder.blends else []), *full)
    vocabulary = encoder.embedding_weights // encoder.hidden
    family = "pruned vocabulary"
    blends, rest = [], []
    sizes = {"vocab-min": used_tokens, "vocab": max(_COMMON_TOKENS, used_tokens)}
    suffixes = [
        suffix
        for suffix, tokens in sizes.items()
        if tokens < 0.9 * vocabulary and (suffix != "vocab-min" or tokens < _COMMON_TOKENS)
    ]
    for suffix in suffixes:
        tokens = sizes[suffix]
        weights, tokenizer = tokens * encoder.hidden, round(encoder.tokenizer_bytes * tokens / vocabulary)
        cost = expected(weights, tokenizer, 1)
        pruned = (Onnx(), Vocab(size=tokens if suffix == "vocab" else 1))
        stored = (*pruned, _STORED)
        blended = (*stored, Blend())
        blends.append(Variant(f"{name}-{suffix}-w8+tfidf", "blend", "w8", blended, cost + _BLEND_BYTES * labels))
        rest.append(Variant(f"{name}-{suffix}-w8", family, "w8", stored, cost))
        if suffix == suffixes[0] and encoder.hidden % _FOUR_BIT_GROUP == 0:  # four bits are for who wants it small
            small = cost - round(layers * encoder.layer_weights * (1 - _INT4_BITS / 8))
            four = (*pruned, OnnxInt4())
            name4 = f"{name}-{suffix}-int4"
            blends.append(Variant(f"{name4}+tfidf", "blend", "int4", (*four, Blend()), small + _BLEND_BYTES * labels))
            rest.append(Variant(name4, family, "int4", four, small))
            table = round(weights * (1 - _INT4_BITS / 8))  # that embeddings in four bits save
            smaller = small - table
            four = (*pruned, OnnxInt4(embedding_bits=4))
            name4 = f"{name}-{suffix}-all4"
            blends.append(Variant(f"{name4}+tfidf", "blend", "int4", (*four, Blend()), smaller + _BLEND_BYTES * labels))
            rest.append(Variant(name4, family, "int4", four, smaller))
            if layers < encoder.layers:  # for who wants it fast as well
                quick = (*pruned, OnnxInt8(embedding_bits=4))
                rest.append(Variant(f"{name}-{suffix}-int8e4", family, "int8", quick, cost - table))
        if suffix == "vocab":
            rest.append(Variant(f"{name}-{suffix}-int8", family, "int8", (*pruned, OnnxInt8()), cost))
            cost = expected(weights, tokenizer, 4)
            rest.append(Variant(f"{name}-{suffix}-fp32", family, "fp32", pruned, cost))
    return (*(blends if encoder.blends else []), *rest, *full)


def describe_encoder(bundle: Bundle, base: str, texts_per_s: float, task: LabelTask[Any]) -> Encoder:
    """The `Encoder` in a pulled bundle, from the header of its weights."""
    import json

    from halfpint.compress.tensors import EMBEDDING, LAYER

    embedding = layer = other = 0
    for name, entry in header_of(bundle.path / WEIGHTS_FILE).items():
        weights = math.prod(entry["shape"])
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
        blends=bool(task.blend),
        tuning=task.tuning,
    )
