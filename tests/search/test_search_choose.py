"""Which candidate is taken, and what is said of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from halfpint.data.examples import Example
from halfpint.errors import HalfpintError
from halfpint.lookup import open_task
from halfpint.search.choose import Choice, choose
from halfpint.search.compare import Answers
from halfpint.search.limits import CARD_ROOM, Limits, parse_within
from halfpint.search.verdict import on_test, rare
from halfpint.task import label_task
from halfpint.tasks._label_figures import label_counts

TASK = label_task(open_task("classify"), "here")


def candidate(name: str, wrong: int, size: int, *, first: int = 0, rows: int = 4000, **more: Any) -> dict[str, Any]:
    """A measured candidate with `wrong` mistakes from row `first` on."""
    right = np.ones(rows, dtype=bool)
    right[first : first + wrong] = False
    return made(name, size, right, **more)


def made(name: str, size: int, right: NDArray[np.bool_], **more: Any) -> dict[str, Any]:
    """A measured candidate that is right on these rows."""
    true = np.arange(len(right)) % 4
    predicted = np.where(right, true, (true + 1) % 4)
    accuracy = float(right.mean())
    return {
        "name": name, "family": name, "status": "measured", "size_bytes": size, "latency_p50_ms": 1.0,
        "metrics": {"accuracy": accuracy, "f1_macro": accuracy}, "interval": [accuracy - 0.03, accuracy + 0.03],
        "counts": label_counts(true, predicted, 4), **more,
    }  # fmt: skip


def pick(candidates: list[dict[str, Any]], limits: Limits | None = None, **more: Any) -> Choice:
    answers = {one["name"]: Answers.of(one["counts"]) for one in candidates if "counts" in one}
    return choose(candidates, limits or Limits(), "accuracy", TASK, answers, **more)


def name(found: dict[str, Any] | None) -> str:
    return str(found["name"]) if found else ""


def test_the_smallest_that_is_shown_to_be_nearly_as_good_is_taken() -> None:
    best = candidate("finetuned", 20, 1000)
    alike = candidate("alike", 21, 500)  # one more mistake in 4,000, and otherwise the same
    assert name(pick([best, alike]).chosen) == "alike"
    assert name(pick([best, alike]).top) == "finetuned"


def test_what_may_be_as_good_is_not_taken() -> None:
    """As many mistakes, but others: of 400 rows that is no proof of anything."""
    best, other = candidate("finetuned", 20, 1000, rows=400), candidate("other", 21, 500, first=100, rows=400)
    choice = pick([best, other])
    assert name(choice.chosen) == "finetuned"
    assert choice.undecided == ("other",)
    assert name(pick([best, other], Limits(within=0.1)).chosen) == "other"
    may = "other (500 B, 1.0 ms) may do as well: it is 0.0025 below it, but on 400 rows it could be 0.0"
    assert may in choice.verdict
    assert "rows would show that it is within 0.01" in choice.verdict


def test_what_is_worse_by_more_than_the_margin_is_not_said_to_do_as_well() -> None:
    """More rows could still show it, so they are asked; but as it looks, it does not do as well."""
    choice = pick([candidate("large", 20, 1000, rows=400), candidate("small", 30, 500, first=100, rows=400)])
    assert choice.undecided == ("small",) and name(choice.chosen) == "large"
    assert "may do as well" not in choice.verdict


def test_a_larger_one_that_may_be_better_is_asked_too() -> None:
    """As many mistakes on 400 rows, but others: it may be better by more than the margin."""
    small = candidate("small", 20, 500, rows=400)
    choice = pick([candidate("large", 20, 1000, first=100, rows=400), small])
    assert name(choice.chosen) == "small" and choice.undecided == ("large",)
    assert "may do as well" not in choice.verdict
    sure = pick([candidate("large", 400, 1000, first=100), candidate("small", 20, 500)])
    assert name(sure.chosen) == "small" and sure.undecided == ()


def test_as_many_rows_as_were_said_show_it() -> None:
    few = [candidate("large", 20, 1000, rows=400), candidate("small", 21, 500, first=100, rows=400)]
    needed = pick(few).compared["small"].rows_needed(0.01)
    assert needed is not None and needed > 2000
    times = needed // 400 + 1
    many = [
        candidate("large", 20 * times, 1000, rows=400 * times),
        candidate("small", 21 * times, 500, first=100 * times, rows=400 * times),
    ]
    assert name(pick(many).chosen) == "small"


def test_what_is_worse_is_not_taken_however_many_rows() -> None:
    choice = pick([candidate("finetuned", 20, 1000), candidate("worse", 120, 100)])
    assert name(choice.chosen) == "finetuned" and choice.undecided == ()
    assert "no smaller one is shown to be within 0.01 of it" in choice.verdict and "may do" not in choice.verdict


def test_a_better_smaller_one_needs_no_comparison() -> None:
    choice = pick([candidate("large", 300, 1000), candidate("small", 10, 10)])
    assert name(choice.chosen) == "small"
    assert "the best candidate measured that meets the limits, and the smallest of these." in choice.verdict


def test_of_many_that_are_worse_by_more_than_the_margin_few_are_taken() -> None:
    """Ten candidates, each 0.015 below the best: one is wrongly shown to be within 0.01 in one of twenty runs."""
    generator, wrong = np.random.default_rng(0), 0
    for _ in range(100):
        right = generator.random(2000) < 0.9
        found = [made("best", 10_000, right)]
        for number in range(10):
            other = np.where(generator.random(2000) < 0.05, generator.random(2000) < 0.6, right)
            found.append(made(f"small {number}", number + 1, other))
        wrong += name(pick(found).chosen) != "best"
    assert wrong <= 12


def test_a_floor_takes_the_smallest_that_is_shown_to_reach_it() -> None:
    found = [candidate("best", 100, 1000), candidate("enough", 400, 100), candidate("near", 590, 50),
             candidate("less", 1000, 10)]  # fmt: skip
    choice = pick(found, Limits(floor={"accuracy": 0.85}))
    assert name(choice.chosen) == "enough"  # clearly worse than the best, but what was asked
    assert [one["feasible"] for one in found] == [True, True, False, False]
    assert found[3]["why"] == "accuracy 0.7500 is under 0.85"
    assert found[2]["why"].startswith(
        "accuracy 0.8525 is not shown to reach 0.85: its 95% interval on 4,000 rows begins"
    )
    assert "rows would show it" in found[2]["why"] and choice.undecided == ("near",)


def test_keep_is_a_share_of_the_best() -> None:
    found = [candidate("best", 400, 1000), candidate("enough", 480, 100), candidate("less", 700, 10),
             candidate("near", 560, 50)]  # fmt: skip
    assert name(pick(found, Limits(keep=0.95)).chosen) == "enough"  # 0.88 of 0.90
    assert "under 0.95 of the best (0.9000)" in found[2]["why"]
    assert "is not shown to be 0.95 of the best (0.9000)" in found[3]["why"]
    assert name(pick(found, Limits(keep=1.0)).chosen) == "best"


def test_limits_come_first() -> None:
    large, small = candidate("large", 10, 10**6), candidate("small", 1000, 10**5)
    slow = candidate("slow", 5, 10**4, latency_p50_ms=50.0)
    unsteady = candidate("unsteady", 5, 10**4, latency_p50_ms=8.0, latency_p50_high_ms=11.0)
    limits = Limits(max_size_bytes=5 * 10**5, max_latency_ms=10.0)
    choice = pick([large, small, slow, unsteady], limits)
    assert name(choice.chosen) == "small"
    assert name(choice.best) == "slow"
    assert large["why"] == "1 MB is over 500 KB"
    assert slow["why"] == "50.0 ms is over 10 ms"
    assert unsteady["why"] == "11.0 ms is over 10 ms"


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
    good, poor = candidate("good", 400, 10**9), candidate("poor", 2000, 10)
    assert name(pick([good, poor], Limits(floor={"accuracy": 0.95})).closest) == "good"


def test_only_what_was_measured_counts() -> None:
    skipped: dict[str, Any] = {"name": "skipped", "family": "x", "status": "skipped", "size_bytes": None, "metrics": {}}
    assert name(pick([skipped, candidate("one", 10, 10)]).chosen) == "one"
    choice = pick([skipped])
    assert choice == Choice(None, None, None, "No candidate could be measured.")


def test_rows_that_one_alone_answered_do_not_count() -> None:
    """Beside each other are the rows that both answered; more of them decide what few leave open."""
    right = np.random.default_rng(1).random(6000) < 0.9
    other = np.where(np.random.default_rng(2).random(6000) < 0.02, ~right, right)
    third = right[:400] & (np.arange(400) % 50 > 0)
    found = [made("large", 1000, right[:400]), made("small", 10, other[:400]), made("third", 500, third)]
    answers = {one["name"]: Answers.of(one["counts"]) for one in found}
    assert name(choose(found, Limits(), "accuracy", TASK, answers).chosen) != "small"
    for one, all_right in (("large", right), ("small", other)):
        answers[one] = Answers.of(made(one, 1, all_right)["counts"])
    choice = choose(found, Limits(), "accuracy", TASK, answers)
    assert name(choice.top) == "large"
    assert (choice.compared["small"].rows, choice.compared["third"].rows) == (6000, 400)


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
        assert choice.chosen["metrics"]["accuracy"] >= top - 0.01
        best = [one for one in able if one["metrics"]["accuracy"] == top]
        assert choice.chosen["size_bytes"] <= min(one["size_bytes"] for one in best)


# Each sentence, with its ground and without


def said(*found: dict[str, Any], limits: Limits | None = None, **more: Any) -> str:
    return pick(list(found), limits, **more).verdict


def counted(wrong: int, size: int = 10, **more: Any) -> dict[str, Any]:
    return candidate("tfidf", wrong, size, family="tfidf", **more)


def trained(wrong: int, size: int = 10**6, **more: Any) -> dict[str, Any]:
    return candidate("finetuned", wrong, size, **more)


def test_no_need_of_a_transformer_is_said_where_one_was_trained_and_counting_is_shown_as_good() -> None:
    need = "You don't need a transformer"
    assert need in said(counted(101), trained(100))
    assert "within 0.01 of the best one trained here (finetuned, 0.9750)" in said(counted(101), trained(100))
    assert need not in said(counted(200), trained(100))  # worse
    assert need not in said(counted(10, rows=400, first=100), trained(10, rows=400))  # as good, but not shown
    assert need not in said(counted(101))  # none was there
    assert need not in said(counted(101), trained(100, family="frozen encoder"))  # none was trained
    assert need not in said(counted(101), trained(100, trained=False))
    assert need not in said(counted(101), trained(100), limits=Limits(max_size_bytes=5000))  # none meets the limits


def test_where_none_was_trained_that_is_what_is_said() -> None:
    skipped = {"name": "finetuned", "family": "x", "status": "skipped", "metrics": {}, "why": "no time left"}
    assert "No transformer was trained." in said(counted(10))
    assert "No transformer was trained." in said(counted(10), skipped)
    large = said(counted(101), trained(100), limits=Limits(max_size_bytes=5000))
    assert "No transformer that was trained here meets the limits." in large
    assert "No transformer" not in said(counted(101), trained(100))
    assert "Counting words meets what was asked." in said(
        counted(400), trained(100), limits=Limits(floor={"accuracy": 0.8})
    )


def test_a_transformer_pays_where_the_difference_is_shown() -> None:
    assert "A transformer pays here: +0.2000 over tfidf (95% interval +0.18" in said(counted(900), trained(100))
    close = said(counted(46, rows=400, first=100), trained(40, rows=400))
    assert "A transformer pays" not in close
    assert "That a transformer pays here is not shown: +0.0150 over tfidf (95% interval -0.0" in close
    # The chosen one is no transformer, or there is nothing to compare it with.
    assert "pays" not in said(counted(900), candidate("vectors", 100, 500, family="static vectors"), trained(600))
    assert "pays" not in said(trained(100))
    assert "pays" not in said(counted(900, latency_p50_ms=50.0), trained(100), limits=Limits(max_latency_ms=10))


def test_whether_a_transformer_does_better_is_left_open_where_it_is() -> None:
    found = [counted(38, rows=400), trained(40, rows=400, first=100)]
    assert "Whether a transformer does better is not shown: counting words is 0.0050 above it" in said(*found)
    assert "Whether a transformer" not in said(counted(101), trained(100))


def test_what_was_skipped_is_said_with_the_minutes_that_would_do() -> None:
    assert "about --minutes 12 would do for all" in said(counted(10), minutes=12.0)
    assert "skipped" not in said(counted(10))


def test_that_nothing_was_learned_is_said_where_it_is_not_shown() -> None:
    lead = "not shown to be better than always giving one answer"
    majority = candidate("majority", 3000, 1, family="majority")
    assert lead not in said(majority, counted(100))
    assert lead not in said(counted(3000))
    assert lead in said(candidate("majority", 200, 1, family="majority", rows=400), counted(196, rows=400, first=150))
    noise = said(candidate("majority", 196, 1, family="majority", rows=400), counted(200, rows=400))
    assert "Nothing learned here is shown to be better than always giving one answer." in noise


def test_rare_labels_are_named_where_each_label_counts_the_same() -> None:
    rows = [Example("text", "often", 1)] * 50 + [Example("text", "rare", 1)] * 3
    assert rare(TASK, rows, "f1_macro").endswith("are little known: 1 (rare 3).")
    assert rare(TASK, rows, "accuracy") == ""
    assert rare(TASK, rows[:50], "f1_macro") == ""


def test_what_the_test_says() -> None:
    result = {"accuracy": 0.8, "interval": [0.75, 0.85], "rows": 500}
    plain = "On 500 test texts: accuracy 0.8000 (0.7500 to 0.8500)."
    assert on_test({}, result, "accuracy", Limits()) == plain
    assert on_test({}, result, "accuracy", Limits(floor={"accuracy": 0.79})) == plain
    missed = on_test({}, result, "accuracy", Limits(floor={"accuracy": 0.81}))
    assert missed == f"{plain} On test it misses the floor: accuracy 0.8000, asked for was 0.81."
    assert on_test({}, {**result, "rows": 1}, "accuracy", Limits()).startswith("On 1 test text: ")
    assert "prove little" in on_test({}, {**result, "rows": 20}, "accuracy", Limits())


def test_margins_that_cannot_be_are_refused() -> None:
    assert parse_within(0.0) == 0.0 and parse_within(0.02) == 0.02
    for wrong in (-1.0, 1.0, 3.0, float("nan")):
        with pytest.raises(HalfpintError, match="--within"):
            parse_within(wrong)
