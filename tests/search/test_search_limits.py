"""Limits as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfpint.errors import HalfpintError
from halfpint.lookup import open_task
from halfpint.search.limits import bytes_text, parse_floor, parse_latency, parse_share, parse_size

METRICS = open_task("classify").metrics


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("25MB", 25_000_000), ("25 mb", 25_000_000), ("800kB", 800_000), ("1.5GiB", 1_610_612_736), ("512", 512),
        ("512b", 512), (" 3KiB ", 3072), ("0.5MiB", 524_288), ("0.1MB", 100_000), ("1" * 400 + "GB", None),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int | None) -> None:
    found = parse_size(text)
    assert found == size if size is not None else found > 10**400


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("25GiG", "Did you mean 'GiB'"), ("25XB", "There is: KB, MB"), ("", "not ''"), ("MB", "not 'MB'"),
        ("-5MB", "not '-5MB'"), ("1e6", "25MB"), ("0MB", "must be more than 0"), ("0.2", "must be more than 0"),
        ("5,5MB", "25MB"), ("inf", "25MB"),
    ],
)  # fmt: skip
def test_sizes_that_are_none(text: str, told: str) -> None:
    with pytest.raises(HalfpintError, match="--max-size") as caught:
        parse_size(text)
    assert told in str(caught.value)


@given(number=st.integers(1, 10**9), unit=st.sampled_from(["B", "kB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_any_size(number: int, unit: str) -> None:
    base = 1024 if "i" in unit else 1000
    assert parse_size(f"{number}{unit}") == number * base ** "bkmg".index(unit[0].lower())
    assert parse_size(f"{number} {unit.upper()}") == parse_size(f"{number}{unit.lower()}")


@given(size=st.integers(1, 10**13))
def test_bytes_read_back(size: int) -> None:
    """What is said of a size is that size, to about three digits."""
    assert parse_size(bytes_text(size).replace(",", "")) == pytest.approx(size, rel=0.006)


@given(value=st.floats(0.001, 10_000), unit=st.sampled_from([("ms", 1.0), ("s", 1000.0), ("", 1.0), ("us", 0.001)]))
def test_latencies(value: float, unit: tuple[str, float]) -> None:
    text = f"{value:.6f}"
    assert parse_latency(f"{text}{unit[0]}") == pytest.approx(float(text) * unit[1])


@pytest.mark.parametrize("text", ["fast", "10m", "-3ms", "0ms", "", "10 ms extra"])
def test_latencies_that_are_none(text: str) -> None:
    with pytest.raises(HalfpintError, match="--max-latency"):
        parse_latency(text)


def test_floors() -> None:
    assert parse_floor(None, METRICS) == {}
    assert parse_floor(["f1_macro=0.85", "accuracy = .9", "accuracy=1"], METRICS) == {"f1_macro": 0.85, "accuracy": 1.0}
    for text, told in (
        ("f1_macro", "METRIC=VALUE"),
        ("f1_macro=85", "from 0 to 1"),
        ("f1_macro=1.1", "from 0 to 1"),
        ("f1_macro=nan", "from 0 to 1"),
        ("f1_marco=0.8", "Did you mean 'f1_macro'"),
        ("f1=0.8", "There is: accuracy"),
        ("=0.8", "There is: accuracy"),
    ):
        with pytest.raises(HalfpintError, match="--floor") as caught:
            parse_floor([text], METRICS)
        assert told in str(caught.value)


@pytest.mark.parametrize("value", [0.0, -0.5, 1.01, float("nan")])
def test_shares(value: float) -> None:
    with pytest.raises(HalfpintError, match="--keep"):
        parse_share(value)
    assert parse_share(1.0) == 1.0
    assert parse_share(None) is None


def test_metrics_that_a_floor_can_name() -> None:
    assert parse_floor([f"{metric}=0.5" for metric in METRICS], METRICS) == dict.fromkeys(METRICS, 0.5)
