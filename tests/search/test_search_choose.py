"""Which candidate is taken, and what is said of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from halfpint.lookup import open_task
from halfpint.search.choose import Choice, choose
from halfpint.search.limits import CARD_ROOM, Limits
from halfpint.task import label_task
from halfpint.tasks._label_figures import label_counts

TASK = label_task(open_task("classify"), "here")
TRUE = np.arange(400) % 4


def candidate(name: str, wrong: int, size: int, *, first: int = 0, **more: Any) -> dict[str, Any]:
    """A measured candidate with `wrong` mistakes from row `first` on."""
    predicted = TRUE.copy()
    predicted[first : first + wrong] = (predicted[first : first + wrong] + 1) % 4
    accuracy = float((predicted == TRUE).mean())
    return {
        "name": name, "family": name, "status": "measured", "size_bytes": size, "latency_p50_ms": 1.0,
        "metrics": {"accuracy": accuracy, "f1_macro": accuracy}, "interval": [accuracy - 0.03, accuracy + 0.03],
        "counts": label_counts(TRUE, predicted, 4), **more,
    }  # fmt: skip


def pick(candidates: list[dict[str, Any]], limits: Limits | None = None) -> Choice:
    counts = {one["name"]: one["counts"] for one in candidates if "counts" in one}
    return choose(candidates, limits or Limits(), "accuracy", TASK, counts)


def name(found: dict[str, Any] | None) -> str:
    return str(found["name"]) if found else ""


def test_an_equal_smaller_one_is_taken_and_a_worse_one_is_not() -> None:
    best = candidate("finetuned", 20, 1000)
    equal, worse = candidate("equal", 22, 500, first=100), candidate("worse", 60, 100)
    assert name(pick([best, equal, worse]).chosen) == "equal"
    assert name(pick([best, worse]).chosen) == "finetuned"
    assert name(pick([best, equal]).best) == "finetuned"


def test_the_difference_is_judged_on_the_same_texts() -> None:
    """Six more mistakes on the same texts are no chance; six more among others that were mended may be."""
    best = candidate("best", 20, 1000)
    always_worse = candidate("nested", 32, 500)  # errs wherever the best does, and 12 times more
    elsewhere = candidate("apart", 26, 500, first=200)
    assert name(pick([best, always_worse]).chosen) == "best"
    assert name(pick([best, elsewhere]).chosen) == "apart"


def test_a_better_smaller_one_needs_no_comparison() -> None:
    assert name(pick([candidate("large", 30, 1000), candidate("small", 10, 10)]).chosen) == "small"


def test_of_equal_size_the_better() -> None:
    assert name(pick([candidate("a", 22, 500), candidate("b", 20, 500), candidate("c", 21, 500)]).chosen) == "b"


def test_a_floor_takes_the_smallest_that_reaches_it() -> None:
    found = [candidate("best", 10, 1000), candidate("enough", 60, 100), candidate("less", 100, 10)]
    limits = Limits(floor={"accuracy": 0.85})
    choice = pick(found, limits)
    assert name(choice.chosen) == "enough"  # clearly worse than the best, but what was asked
    assert [one["feasible"] for one in found] == [True, True, False]
    assert found[2]["why"] == "accuracy 0.7500 is under 0.85"


def test_keep_is_a_share_of_the_best() -> None:
    found = [candidate("best", 40, 1000), candidate("enough", 56, 100), candidate("less", 64, 10)]
    assert name(pick(found, Limits(keep=0.95)).chosen) == "enough"  # 0.86 of 0.90
    assert "under 0.95 of the best (0.9000)" in found[2]["why"]
    assert name(pick(found, Limits(keep=1.0)).chosen) == "best"


def test_limits_come_first() -> None:
    large, small = candidate("large", 10, 10**6), candidate("small", 100, 10**5)
    slow = candidate("slow", 5, 10**4, latency_p50_ms=50.0)
    limits = Limits(max_size_bytes=5 * 10**5, max_latency_ms=10.0)
    choice = pick([large, small, slow], limits)
    assert name(choice.chosen) == "small"
    assert name(choice.best) == "slow"
    assert large["why"] == "1 MB is over 500 KB"
    assert slow["why"] == "50.0 ms is over 10 ms"


def test_a_limit_leaves_room_for_the_card() -> None:
    one = candidate("one", 1, 10**6)
    assert pick([one], Limits(max_size_bytes=10**6)).chosen is None
    assert name(pick([one], Limits(max_size_bytes=10**6 + CARD_ROOM)).chosen) == "one"


def test_infeasible_tells_the_closest() -> None:
    near, far = candidate("near", 40, 6 * 10**5), candidate("far", 10, 9 * 10**5)
    choice = pick([far, near], Limits(max_size_bytes=5 * 10**5))
    assert choice.chosen is None
    assert name(choice.closest) == "near"
    assert choice.verdict == "Infeasible; the closest is near: 600 KB is over 500 KB."
    good, poor = candidate("good", 40, 10**9), candidate("poor", 200, 10)
    assert name(pick([good, poor], Limits(floor={"accuracy": 0.95})).closest) == "good"


def test_only_what_was_measured_counts() -> None:
    skipped: dict[str, Any] = {"name": "skipped", "family": "x", "status": "skipped", "size_bytes": None, "metrics": {}}
    assert name(pick([skipped, candidate("one", 10, 10)]).chosen) == "one"
    choice = pick([skipped])
    assert choice == Choice(None, None, None, "No candidate could be measured.")


def test_the_verdict_says_whether_a_transformer_pays() -> None:
    large = candidate("finetuned", 10, 10**6)
    assert "You don't need a transformer: tfidf reaches" in pick([candidate("tfidf", 12, 10), large]).verdict
    verdict = pick([candidate("tfidf", 90, 10), large]).verdict
    assert "A transformer pays here: +0.2000 over tfidf." in verdict
    assert verdict.startswith("finetuned: accuracy 0.9750 on validation (95% interval 0.9450 to 1.0050), 1 MB, 1.0 ms")


measured = st.builds(
    candidate, st.sampled_from(["tfidf", "finetuned"]), st.integers(0, 200), st.integers(1, 10**7),
    first=st.integers(0, 200), latency_p50_ms=st.floats(0.1, 30),
)  # fmt: skip


@given(
    found=st.lists(measured, min_size=1, max_size=6),
    size=st.one_of(st.none(), st.integers(10**4, 10**7)),
    latency=st.one_of(st.none(), st.floats(0.5, 30)),
    floor=st.one_of(st.none(), st.floats(0.5, 1)),
)
def test_a_choice_always_meets_the_limits(
    found: list[dict[str, Any]], size: int | None, latency: float | None, floor: float | None
) -> None:
    limits = Limits(
        max_size_bytes=size, max_latency_ms=latency, floor={} if floor is None else {"accuracy": floor}
    )  # fmt: skip
    for number, one in enumerate(found):
        one["name"] += f" {number}"
    choice = pick(found, limits)
    able = [one for one in found if not limits.misses(one)]
    assert [one for one in found if one["feasible"]] == able
    assert all(limits.distance(one) == 0 for one in able)
    assert all(limits.distance(one) > 0 for one in found if one not in able)
    if choice.chosen is None:
        assert not able
        assert choice.closest is min(found, key=lambda one: (limits.distance(one), -one["metrics"]["accuracy"]))
        return
    assert choice.chosen in able
    top = max(one["metrics"]["accuracy"] for one in able)
    if floor is not None:
        assert choice.chosen["size_bytes"] == min(one["size_bytes"] for one in able)
    else:
        assert choice.chosen["metrics"]["accuracy"] >= top - 0.1
        best = [one for one in able if one["metrics"]["accuracy"] == top]
        assert choice.chosen["size_bytes"] <= min(one["size_bytes"] for one in best)


def test_no_need_of_a_transformer_is_said_with_grounds_alone() -> None:
    counted = candidate("counted", 10, 1000, family="tfidf")
    assert "No transformer was measured." in pick([counted]).verdict
    assert "meets what was asked" in pick([counted], Limits(floor={"accuracy": 0.5})).verdict
    slow = candidate("slow", 10, 9000, family="tfidf", latency_p50_ms=50.0)
    chosen = pick([slow, candidate("trained", 12, 5000)], Limits(max_latency_ms=10))
    assert name(chosen.chosen) == "trained" and "don't need" not in chosen.verdict
    vectors = candidate("vectors", 10, 100, family="static vectors")
    verdict = pick([candidate("words", 90, 10, family="tfidf"), vectors, candidate("trained", 60, 5000)]).verdict
    assert "No transformer does better than vectors (0.9750)." in verdict
