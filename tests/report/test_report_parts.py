"""The pieces of the report: the front, where names go, steps of colour, the matrix, units and contrast."""

from __future__ import annotations

import itertools
import math
import re
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfpint.report import units
from halfpint.report.place import Label, place
from halfpint.report.scales import front, latency_edges
from halfpint.report.sections import right
from halfpint.report.tables import confused_pairs, confusion

pairs = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(pairs)
def test_the_front_holds_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    kept = [points[at] for at in front([(float(x), float(y)) for x, y in points])]
    beaten = {
        p for p, q in itertools.product(points, points) if q != p and q[0] <= p[0] and q[1] >= p[1]
    }  # fmt: skip
    assert kept == sorted(set(points) - beaten)


labels = st.builds(
    Label,
    x=st.floats(20, 380),
    y=st.floats(20, 280),
    r=st.just(6.0),
    width=st.floats(20, 120),
    height=st.just(15.0),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(labels, min_size=1, max_size=12))
def test_names_cover_neither_names_nor_points_nor_the_edge(found: list[Label]) -> None:
    points = [(label.x - 6, label.y - 6, label.x + 6, label.y + 6) for label in found]
    boxes = [spot.box for spot in place(found, (0, 0, 400, 300), points) if spot is not None]
    assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= 400 and box[3] <= 300 for box in boxes)
    for a, b in itertools.chain(itertools.combinations(boxes, 2), itertools.product(boxes, points)):
        assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.001, 5000), max_size=12), st.none() | st.floats(0.001, 5000))
def test_the_steps_of_colour_are_few_and_hold_the_limit(values: list[float], limit: float | None) -> None:
    edges = latency_edges(values, limit)
    assert len(edges) <= 4 and edges == sorted(set(edges))
    if limit is not None and values and min(values) < limit < max(values):
        assert limit in edges


@pytest.mark.parametrize(
    ("accuracy", "rows", "told"),
    [
        (1.0, 1, "1 of 1 text it"), (0.0, 1, "0 of 1 text it"), (8 / 9, 9, "8 of 9 texts it"),
        (1.0, 99, "99 of 99 texts"),
        (0.8, 100, "80 of 100 texts"), (0.8, 5000, "80 of 100 texts"), (0.996, 1000, "99.60 of 100 texts"),
        (0.004, 1000, "0.40 of 100 texts"), (1.0, 1000, "100 of 100 texts"), (0.0, 1000, "0 of 100 texts"),
    ],
)  # fmt: skip
def test_how_often_it_is_right_is_said_of_as_many_texts_as_there_were(accuracy: float, rows: int, told: str) -> None:
    test = {"metrics": {"accuracy": accuracy}, "rows": rows}
    report = {"chosen": "one", "test": {"one": test, "majority": {**test, "metrics": {"accuracy": 0.0}}}}
    assert right(report) == f"Right for {told.removesuffix(' it')} it had never seen"
    report["data"] = {"labels": {"a": 3}}
    assert right(report).endswith("(always guessing “a”: 0)")


def test_a_small_matrix_shows_its_figures_and_a_large_one_its_pairs() -> None:
    small = confusion({"labels": ["a", "<script>"], "matrix": [[7, 2], [0, 5]]})
    assert re.findall(r"<td[^>]*>(\d+)</td>", small) == ["7", "2", "0", "5"]
    names = [f"n{i}" for i in range(21)]
    matrix = [[9 if i == j else 0 for j in range(21)] for i in range(21)]
    assert "No text was labelled wrongly" in confusion({"labels": names, "matrix": matrix})
    matrix[4][6], matrix[2][1] = 5, 2
    assert confused_pairs(names, [[float(n) for n in row] for row in matrix]) == [
        ("n4", "n6", 5.0, 5 / 14),
        ("n2", "n1", 2.0, 2 / 11),
    ]
    large = confusion({"labels": names, "matrix": matrix})
    assert large.count("<li>") == 2 and large.count("<rect") == 23
    assert confusion({"labels": names, "matrix": matrix[1:]}) == ""


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (units.size(999), "999 B"),
        (units.size(22_900_000), "22.9 MB"),
        (units.size(999_999), "1.00 MB"),
        (units.size(1_400_000_000), "1.40 GB"),
        (units.size(None), "–"),
        (units.trim(units.size(25_000_000)), "25 MB"),
        (units.trim(units.size(2_500_000)), "2.5 MB"),
        (units.trim(units.milliseconds(100)), "100 ms"),
        (units.trim("100%"), "100%"),
        (units.milliseconds(0.31), "0.310 ms"),
        (units.milliseconds(0.004), "4.00 µs"),
        (units.milliseconds(1240), "1.24 s"),
        (units.seconds(0.84), "0.840 s"),
        (units.seconds(869), "14 min 29 s"),
        (units.seconds(7500), "2 h 5 min"),
        (units.seconds(3600), "1 h"),
        (units.watt_hours(0.0123), "0.0123 Wh"),
        (units.watt_hours(0.0004), "0.400 mWh"),
        (units.watt_hours(0), "0 Wh"),
        (units.grams(0.0053), "5.30 mg"),
        (units.metric_name("f1_macro"), "F1 (macro)"),
        (units.quality("accuracy", 0.9316), "93.2%"),
        (units.quality("perplexity", 18.24), "18.24"),
        (units.interval("accuracy", [0.9, 0.95]), "90.0 to 95.0%"),
        (units.interval("accuracy", [0.9, math.nan]), ""),
        (units.count(13083), "13,083"),
    ],
)
def test_figures_read_as_people_write_them(shown: str, wanted: str) -> None:
    assert shown.replace("\u00a0", " ") == wanted


def _luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(char * 2 for char in digits) if len(digits) == 3 else digits
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    ("name", "grounds", "words", "shapes"),
    [
        ("page.css", ("page", "card", "tint"), ("ink", "soft", "pick", "good", "bad", "warn"), ("hit",)),
        ("pareto.css", ("bg",), ("ink", "soft", "limit", "pick"), ("l0", "l1", "l2", "l3", "l4", "lx", "front")),
    ],
)
def test_writing_and_marks_stand_out_in_light_and_dark(
    name: str, grounds: tuple[str, ...], words: tuple[str, ...], shapes: tuple[str, ...]
) -> None:
    style = files("halfpint.report").joinpath(name).read_text("utf-8")
    light: dict[str, str] = {}
    dark: dict[str, str] = {}
    for colour, value in re.findall(r"--(\w+):\s*(#[0-9a-f]{3,6})", style):
        (dark if colour in light else light)[colour] = value
    assert set(dark) == set(light)
    for colours in (light, dark):
        for ground in grounds:
            for colour in words:
                assert _contrast(colours[colour], colours[ground]) >= 4.5, (colour, ground)
            for colour in shapes:
                assert _contrast(colours[colour], colours[ground]) >= 2.9, (colour, ground)
