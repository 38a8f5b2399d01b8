"""The plan of fine-tuning: its rates, the order of its candidates, and what a training has to come near to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from halfpint.compress.layers import Layers
from halfpint.errors import HalfpintError, TrainingStoppedError
from halfpint.lookup import open_task
from halfpint.progress import SILENT
from halfpint.search import space
from halfpint.search.encoder import Plan, planned, try_cut, try_whole
from halfpint.search.limits import Limits
from halfpint.search.space import EXPORTS_S, Encoder, Group, frozen_group, least_seconds, tuned_groups
from halfpint.search.tries import NO_TIME, Tries
from halfpint.stage import Stage
from halfpint.task import label_task
from halfpint.train.blend import Blend
from halfpint.train.finetune import Finetune

ENCODER = Encoder(
    base="some-encoder", layers=6, hidden=384, embedding_weights=30522 * 384, layer_weights=1_770_000,
    other_weights=200_000, tokenizer_bytes=466_000, wordpiece=True, texts_per_s=100.0,
)  # fmt: skip
HOUR = 3600.0


def tuning(groups: list[Group]) -> list[Finetune]:
    return [stage for group in groups for stage in group.train if isinstance(stage, Finetune)]


@pytest.mark.parametrize(
    ("texts", "rate", "batch"), [(19_999, 5e-5, 32), (20_000, 1.5e-4, 128), (150_000, 1.5e-4, 128)]
)
def test_many_texts_bear_larger_batches_at_a_larger_rate(texts: int, rate: float, batch: int) -> None:
    stages = tuning(tuned_groups(ENCODER, texts, 2, 3000, 10 * HOUR, 0))
    assert len(stages) > 1
    assert {(stage.learning_rate, stage.batch_size, stage.train_embeddings) for stage in stages} == {
        (rate, batch, texts >= 20_000)
    }
    assert space.tuning(texts).batch_size == batch  # which the speed is measured with
    assert Finetune.learning_rate == 5e-5


def test_many_texts_are_read_twice_where_there_is_time() -> None:
    """Reading each text twice in a step is for three epochs and more, and its time is counted."""
    kinds = set()
    for minutes in range(10, 240, 5):
        groups = tuned_groups(ENCODER, 50_000, 2, 3000, minutes * 60.0, 0)
        for stage in tuning(groups[:1]):
            kinds.add((stage.consistency > 0, stage.epochs))
            spent = stage.epochs * (stage.train_texts or 50_000) / ENCODER.texts_per_s
            spent *= 2 if stage.consistency else 1
            assert groups[0].expected_s == pytest.approx(spent + groups[0].finish_s, abs=0.2)
    assert {epochs for twice, epochs in kinds if twice} == {3, 4, 5, 6}
    assert {2, 3} <= {epochs for twice, epochs in kinds if not twice}
    assert not any(stage.consistency for stage in tuning(tuned_groups(ENCODER, 9000, 2, 3000, 10 * HOUR, 0)))


def test_the_rate_goes_by_the_texts_that_are_used() -> None:
    """Many texts of which there is time to read few are few."""
    (stage,) = tuning(tuned_groups(ENCODER, 60_000, 2, 3000, 400.0, 0))
    assert 0 < stage.train_texts < 20_000
    assert (stage.learning_rate, stage.batch_size) == (Finetune.learning_rate, Finetune.batch_size)


@pytest.mark.parametrize("used_tokens", [3000, 12_000])
def test_the_likeliest_are_finished_first(used_tokens: int) -> None:
    """Blends with a small vocabulary, then what they are made of, then the whole vocabulary; fp32 last of each."""
    groups = [frozen_group(ENCODER, 9000, 77, used_tokens), *tuned_groups(ENCODER, 9000, 77, used_tokens, 2 * HOUR, 0)]
    assert len(groups) == 4
    for group in groups:
        blends = [any(isinstance(stage, Blend) for stage in variant.finish) for variant in group.variants]
        assert any(blends) and blends == sorted(blends, reverse=True)
        names = [variant.name.removeprefix(f"{group.name}-") for variant in group.variants]
        few = [
            "vocab-min-w8+tfidf", "vocab-min-int4+tfidf", "vocab-min-all4+tfidf", "vocab-w8+tfidf",
            "vocab-min-w8", "vocab-min-int4", "vocab-min-all4", "vocab-w8", "vocab-int8", "vocab-fp32",
        ]  # fmt: skip
        most = [
            "vocab-w8+tfidf", "vocab-int4+tfidf", "vocab-all4+tfidf",
            "vocab-w8", "vocab-int4", "vocab-all4", "vocab-int8", "vocab-fp32",
        ]  # fmt: skip
        quick = [name for name in names if name.endswith("int8e4")]
        assert len(quick) == ("layers" in group.name)
        names = [name for name in names if name not in quick]
        assert names == [*(few if used_tokens < 8000 else most), "int8", "fp32"]
    whole = frozen_group(replace(ENCODER, wordpiece=False), 9000, 77, used_tokens).variants
    assert [variant.name for variant in whole] == ["frozen-w8+tfidf", "frozen-int8", "frozen-fp32"]


def run_with(candidates: list[dict[str, Any]], pipeline: Any = None, minutes: float = 20.0, **limits: Any) -> Tries:
    task = label_task(open_task("classify"), "here")
    now = time.monotonic()
    return Tries(
        task, Limits(**limits, minutes=minutes), pipeline, "accuracy", SILENT, now, now + 60 * minutes, candidates
    )


def candidate(family: str, score: float, status: str = "measured") -> dict[str, Any]:
    return {
        "family": family,
        "status": status,
        "metrics": {"accuracy": score},
        "interval": [score - 0.02, score + 0.02],
    }


def test_the_bar_leaves_blends_out() -> None:
    """A training is judged unblended: a blend's score would stop one that could win."""
    found = [
        candidate("tfidf", 0.80), candidate("frozen encoder", 0.90), candidate("blend", 0.95),
        candidate("pruned vocabulary", 0.99, "refused"),
    ]  # fmt: skip
    assert run_with(found)._bar() == pytest.approx(0.88)
    assert run_with(found[2:])._bar() is None
    assert run_with([])._bar() is None
    for limits in ({"floor": {"accuracy": 0.9}}, {"keep": 0.99}):  # then the smallest that is enough is looked for
        assert run_with(found, **limits)._bar() is None


class Trainings:
    """A pipeline that notes what is trained and for how long at most, and exports nothing."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails, self.trained = fails, list[tuple[int, float]]()

    def make(self, stages: Sequence[Stage], deadline: float = 0.0, bar_to_beat: float | None = None) -> Any:
        depth = next((stage.keep for stage in stages if isinstance(stage, Layers)), ENCODER.layers)
        if not isinstance(stages[-1], Finetune):
            raise HalfpintError("a test", wanted="nothing", got="an export")
        if self.fails:
            raise TrainingStoppedError("training", wanted="a chance", got="it cannot win")
        self.trained.append((depth, deadline))
        return SimpleNamespace(seconds=1.0)


def tried(most_bytes: int, pipeline: Trainings) -> dict[str, str]:
    """Why each group's first candidate was not measured."""
    groups = tuned_groups(ENCODER, 9000, 77, 12_000, 2 * HOUR, 0, 60.0, most_bytes)
    run = run_with([], pipeline, 240.0, max_size_bytes=most_bytes)
    try_whole(run, groups)
    try_cut(run, groups)
    run.try_pending()
    return {group.name: next(one["why"] for one in run.candidates if one["name"] == group.variants[0].name)
            for group in groups}  # fmt: skip


def test_all_layers_are_trained_for_those_that_are_cut_from_them() -> None:
    pipeline = Trainings()
    reasons = tried(7_500_000, pipeline)
    depths = [depth for depth, _ in pipeline.trained]
    assert depths[0] == 6 and len(depths) >= 2 and max(depths[1:]) < 6
    assert "over" in reasons["finetuned"]
    groups = tuned_groups(ENCODER, 9000, 77, 12_000, 2 * HOUR, 0, 60.0, 7_500_000)
    ends = [end for _, end in pipeline.trained[:2]]
    assert ends[1] - ends[0] > 0.9 * groups[1].expected_s - groups[1].finish_s  # time is left for the first of them


def test_nothing_is_trained_where_no_candidate_can_win() -> None:
    pipeline = Trainings()
    assert all("over" in why for why in tried(600_000, pipeline).values())
    assert pipeline.trained == []


def test_nothing_is_cut_from_what_was_not_trained() -> None:
    pipeline = Trainings(fails=True)
    reasons = tried(25_000_000, pipeline)
    assert "it cannot win" in reasons.pop("finetuned")
    assert reasons and all("which it is cut from, was not trained" in why for why in reasons.values())


def plan_for(texts: int, seconds: float, speed: float = 100.0) -> Plan:
    held = {"seconds": seconds, "exports_s": EXPORTS_S}
    return planned(run_with([]), replace(ENCODER, texts_per_s=speed), (texts, 6, 9000), held, 0)


@pytest.mark.parametrize("texts", [300, 3000, 30_000])
@pytest.mark.parametrize("speed", [60.0, 100.0, 400.0])
def test_an_encoder_is_trained_in_five_minutes(texts: int, speed: float) -> None:
    """Of which a third goes to choosing and the end; on a busy machine of fewer texts."""
    plan = plan_for(texts, 0.65 * 300, speed)
    (stage,) = tuning(plan.tuned[:1])
    assert (stage.train_texts or texts) >= min(texts, 1000)
    assert sum(one.expected_s for one in plan.tuned) + plan.frozen.expected_s <= 0.65 * 300 + 60  # type: ignore[union-attr]


def test_a_plan_without_time_says_how_much_would_do() -> None:
    for seconds in (0.0, 5.0, 30.0):
        plan = plan_for(20_000, seconds)
        assert plan.tuned == []
        assert plan.minutes_needed * 60 == pytest.approx(least_seconds(ENCODER, 20_000) - seconds)
        assert "-" not in plan.said(100.0) and "no time to train the encoder" in plan.said(100.0)
        assert plan_for(20_000, seconds + plan.minutes_needed * 60 + 1).tuned


def test_what_was_left_out_for_time_is_told_with_the_minutes_that_would_do() -> None:
    run = run_with([], Trainings(), 1.0)
    assert run.minutes_needed is None
    (group, *_) = tuned_groups(ENCODER, 9000, 77, 12_000, 2 * HOUR, 0)
    run.try_group(group)
    assert all(NO_TIME in one["why"] for one in run.candidates)
    assert run.minutes_needed is not None and run.minutes_needed * 60 > group.expected_s
