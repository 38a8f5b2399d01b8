"""Plans that keep to their time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfpint.bundle import Bundle
from halfpint.compress.layers import Layers
from halfpint.lookup import open_task
from halfpint.pipeline import faults_in_order
from halfpint.search.space import (
    Encoder,
    Group,
    _variants,
    cheap_groups,
    describe_encoder,
    frozen_group,
    static_group,
    tuned_groups,
)
from halfpint.task import label_task
from halfpint.train.finetune import Finetune
from halfpint.train.frozen_linear import FrozenLinear

TASK = label_task(open_task("classify"), "here")
ENCODER = Encoder(
    base="some-encoder", layers=6, hidden=384, embedding_weights=30522 * 384, layer_weights=1_770_000,
    other_weights=200_000, tokenizer_bytes=466_000, wordpiece=True, texts_per_s=100.0,
)  # fmt: skip


def every_stage_fits(groups: list[Group]) -> None:
    for group in groups:
        for variant in group.variants:
            stages = [*group.train, *variant.finish]
            assert faults_in_order(stages, [""] * len(stages)) == [], variant.name
    names = [variant.name for group in groups for variant in group.variants]
    assert len(set(names)) == len(names)


@given(texts=st.integers(50, 200_000), seconds=st.floats(0, 7200), speed=st.floats(5, 5000), labels=st.integers(2, 150))
def test_a_plan_keeps_to_its_time(texts: int, seconds: float, speed: float, labels: int) -> None:
    encoder = replace(ENCODER, texts_per_s=speed)
    groups = tuned_groups(encoder, texts, labels, 3000, seconds, 0)
    static = [static_group(encoder, texts), *(static_group(encoder, texts, group) for group in groups[:1])]
    every_stage_fits([*cheap_groups(TASK), frozen_group(encoder, texts, labels, 3000), *static, *groups])
    assert sum(group.expected_s for group in groups) <= seconds + 1
    for group in groups:
        tuned = [stage for stage in group.train if isinstance(stage, Finetune)]
        assert all(stage.epochs >= 1 and 0 <= stage.train_texts <= texts for stage in tuned)
        epoch_s = (tuned[0].train_texts or texts) / speed * (2 if tuned[0].consistency else 1)
        training_s = tuned[-1].epochs * epoch_s * depth(group) / ENCODER.layers
        assert group.expected_s == pytest.approx(training_s + group.finish_s, abs=0.2)


def test_a_short_time_is_enough_for_a_head_on_fewer_texts() -> None:
    def planned(seconds: float) -> tuple[int, float]:
        group = frozen_group(ENCODER, 26_000, 3, 5000, seconds)
        (stage,) = (stage for stage in group.train if isinstance(stage, FrozenLinear))
        return stage.train_texts, group.expected_s

    assert planned(3600)[0] == FrozenLinear.train_texts
    texts, expected = planned(110)
    assert 2000 < texts < FrozenLinear.train_texts and expected == pytest.approx(110, abs=10)
    assert planned(10)[0] == 2000


def test_exports_that_take_longer_leave_less_for_training() -> None:
    def epochs(exports_s: float) -> int:
        groups = tuned_groups(ENCODER, 9000, 77, 5000, 600, 0, exports_s)
        return sum(stage.epochs for group in groups for stage in group.train if isinstance(stage, Finetune))

    assert epochs(10) > epochs(100) > epochs(550)


def test_where_all_layers_are_too_many_there_are_fewer() -> None:
    """The deepest candidates that meet the size, with the training that they are cut from, however the time is."""

    def planned(most_bytes: int | None, seconds: float = 2200.0) -> list[int]:
        groups = tuned_groups(ENCODER, 53_000, 2, 11_000, seconds, 0, 55.0, most_bytes)
        assert sum(group.expected_s for group in groups) <= seconds + 1
        return [depth(group) for group in groups]

    assert planned(None) == [6] and planned(25_000_000) == [6]
    assert planned(None, 20_000.0) == [6, 4, 3]
    smallest = {
        layers: min(one.expected_bytes for one in _variants(ENCODER, "", layers, 2, 11_000)) for layers in range(7)
    }
    for layers in range(1, 6):
        found = planned(smallest[layers])
        assert found[:2] == [6, layers] and found[2:] in ([], [layers - 1])
        assert planned(smallest[layers], 20_000.0) == [6, layers, *([layers - 1] if layers > 1 else [])]
    assert planned(smallest[1] - 1) == [6]  # none fits: nothing that is made could


def depth(group: Group) -> int:
    return next((stage.keep for stage in group.train if isinstance(stage, Layers)), ENCODER.layers)


def test_more_time_is_never_less_training() -> None:
    work = []
    for seconds in range(30, 7200, 30):
        groups = tuned_groups(ENCODER, 9000, 77, 5000, seconds, 0)
        stages = [stage for group in groups for stage in group.train if isinstance(stage, Finetune)]
        work.append((len(groups), stages[0].epochs * (stages[0].train_texts or 9000) if stages else 0))
    assert [groups for groups, _ in work] == sorted(groups for groups, _ in work)
    assert work[0] == (0, 0)
    assert work[-1][0] == 3
    assert work[-1][1] >= 3 * 9000


def test_other_tokenizers_are_not_pruned() -> None:
    encoder = replace(ENCODER, wordpiece=False)
    groups = [frozen_group(encoder, 1000, 5, 3000), *tuned_groups(encoder, 1000, 5, 3000, 3600, 0)]
    assert not any("vocab" in variant.name for group in groups for variant in group.variants)


def test_smaller_variants_are_expected_smaller() -> None:
    sizes = {one.name: one.expected_bytes for one in frozen_group(ENCODER, 1000, 5, 3000).variants}
    assert sizes["frozen-fp32"] == pytest.approx(4 * 22_700_000, rel=0.05)
    assert sizes["frozen-int8"] < sizes["frozen-fp32"] / 3
    assert sizes["frozen-vocab-int8"] < sizes["frozen-int8"]


def test_an_encoder_is_described_from_its_file(tiny_encoder: Path) -> None:
    from safetensors.numpy import load_file

    found = describe_encoder(Bundle(tiny_encoder), "tiny", 12.0, TASK)
    weights = load_file(tiny_encoder / "model.safetensors")
    assert (found.layers, found.hidden, found.wordpiece, found.texts_per_s) == (2, 32, True, 12.0)
    total = sum(tensor.size for key, tensor in weights.items() if not key.startswith("pooler"))
    assert found.embedding_weights + 2 * found.layer_weights + found.other_weights == total
    assert found.embedding_weights == weights["embeddings.word_embeddings.weight"].size
    assert found.tokenizer_bytes == (tiny_encoder / "tokenizer.json").stat().st_size
