"""The plan of fine-tuning: its rates, the order of its candidates, and what a training has to come near to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from halfpint.compress.layers import Layers
from halfpint.data.prepare import Data
from halfpint.errors import HalfpintError, TrainingStoppedError
from halfpint.lookup import open_task
from halfpint.progress import SILENT
from halfpint.search import space
from halfpint.search.fit import Request, _bar, _Run, _try_tuned
from halfpint.search.limits import Limits
from halfpint.search.space import Encoder, Group, frozen_group, tuned_groups
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


def run_with(candidates: list[dict[str, Any]], tmp_path: Path, **limits: Any) -> _Run:
    task = label_task(open_task("classify"), "here")
    request = Request(task=task, data=Data(source="none"), limits=Limits(**limits), out=tmp_path)
    return _Run(request, SimpleNamespace(), "accuracy", SILENT, time.monotonic(), candidates)  # type: ignore[arg-type]


def candidate(family: str, score: float, status: str = "measured") -> dict[str, Any]:
    return {
        "family": family,
        "status": status,
        "metrics": {"accuracy": score},
        "interval": [score - 0.02, score + 0.02],
    }


def test_the_bar_leaves_blends_out(tmp_path: Path) -> None:
    """A training is judged unblended: a blend's score would stop one that could win."""
    found = [
        candidate("tfidf", 0.80), candidate("frozen encoder", 0.90), candidate("blend", 0.95),
        candidate("pruned vocabulary", 0.99, "refused"),
    ]  # fmt: skip
    assert _bar(run_with(found, tmp_path)) == pytest.approx(0.88)
    assert _bar(run_with(found[2:], tmp_path)) is None
    assert _bar(run_with([], tmp_path)) is None
    for limits in ({"floor": {"accuracy": 0.9}}, {"keep": 0.99}):  # then the smallest that is enough is looked for
        assert _bar(run_with(found, tmp_path, **limits)) is None


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


def tried(most_bytes: int, pipeline: Trainings, tmp_path: Path, **limits: Any) -> dict[str, str]:
    """Why each group's first candidate was not measured."""
    groups = tuned_groups(ENCODER, 9000, 77, 12_000, 2 * HOUR, 0, 60.0, most_bytes)
    run = run_with([], tmp_path, max_size_bytes=most_bytes, minutes=240.0, **limits)
    run.pipeline = pipeline  # type: ignore[assignment]
    _try_tuned(run, groups)
    return {group.name: next(one["why"] for one in run.candidates if one["name"] == group.variants[0].name)
            for group in groups}  # fmt: skip


def test_all_layers_are_trained_for_those_that_are_cut_from_them(tmp_path: Path) -> None:
    pipeline = Trainings()
    reasons = tried(7_500_000, pipeline, tmp_path)
    depths = [depth for depth, _ in pipeline.trained]
    assert depths[0] == 6 and len(depths) >= 2 and max(depths[1:]) < 6
    assert "over" in reasons["finetuned"]
    groups = tuned_groups(ENCODER, 9000, 77, 12_000, 2 * HOUR, 0, 60.0, 7_500_000)
    ends = [end for _, end in pipeline.trained[:2]]
    assert ends[1] - ends[0] > 0.9 * groups[1].expected_s - groups[1].finish_s  # time is left for the first of them


def test_nothing_is_trained_where_no_candidate_can_win(tmp_path: Path) -> None:
    pipeline = Trainings()
    assert all("over" in why for why in tried(600_000, pipeline, tmp_path).values())
    assert pipeline.trained == []


def test_nothing_is_cut_from_what_was_not_trained(tmp_path: Path) -> None:
    pipeline = Trainings(fails=True)
    reasons = tried(25_000_000, pipeline, tmp_path)
    assert "it cannot win" in reasons.pop("finetuned")
    assert reasons and all("which it is cut from, was not trained" in why for why in reasons.values())
