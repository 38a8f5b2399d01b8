"""Numbers of a path come back as they were; others are no path, and other bytes are refused."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as some

pytest.importorskip("constriction")

from halfpint.models.trellis import NEXT, RUN, decoded, encoded, places


def path(rows: int, columns: int, seed: int, most: int = 9) -> npt.NDArray[np.int16]:
    """Numbers drawn one after the other, as the states allow."""
    random = np.random.default_rng(seed)
    found, state = np.zeros((rows, columns), dtype=np.int16), 0
    for column in range(columns):
        for row in range(rows):
            state = state if row % RUN else 0
            place = int(random.integers(-most, most + 1))
            found[row, column] = 2 * place - np.sign(place) * (state & 1)
            state = NEXT[state, place & 1]
    return found


@given(some.integers(1, 2 * RUN + 3), some.integers(1, 5), some.integers(1, 3), some.integers(0, 99))
def test_a_path_comes_back(rows: int, columns: int, kinds: int, seed: int) -> None:
    values = path(rows, columns, seed)
    which = (np.arange(rows) % kinds % rows).astype(np.uint8)
    read = places(values)
    assert read is not None
    np.testing.assert_array_equal(decoded(encoded(read, which), columns, which), values)


def test_each_state_is_led_to_from_two() -> None:
    """So that a path can be followed backwards, and parity tells which is which."""
    assert sorted(NEXT.reshape(-1).tolist()) == sorted(2 * list(range(len(NEXT))))
    assert all(one != other for one, other in NEXT)


@pytest.mark.parametrize("end", [-128, -127, 127])
def test_the_ends_of_a_byte_come_back(end: int) -> None:
    """In the states that have them; those that have not are at the ends beside them."""
    values, state = np.zeros((130, 2), dtype=np.int16), 0
    for row in range(130):
        state = state if row % RUN else 0
        odd = state & 1
        values[row] = end if end % 2 == odd else end - np.sign(end)
        state = NEXT[state, int(values[row, 0] + np.sign(end) * odd) // 2 & 1]
    read = places(values)
    assert read is not None and end in values
    which = np.zeros(130, dtype=np.uint8)
    np.testing.assert_array_equal(decoded(encoded(read, which), 2, which), values)


def test_one_number_changed_is_no_path() -> None:
    values = path(200, 4, 1)
    for row, column in ((0, 0), (63, 1), (64, 2), (199, 3)):
        other = values.copy()
        other[row, column] += 1 if abs(other[row, column]) > 1 else 3
        assert places(other) is None


def test_bytes_are_those_of_the_entropy_of_each_state() -> None:
    """Odd and even states have tables of their own: numbers that tell states apart cost what each does."""
    values = path(RUN * 40, 50, 2, most=3)
    read = places(values)
    assert read is not None
    told = encoded(read, np.zeros(len(values), dtype=np.uint8))
    assert 8 * len(told) / values.size == pytest.approx(np.log2(7), abs=0.01)


def test_other_bytes_are_refused() -> None:
    values = path(RUN, 4, 3)
    read = places(values)
    assert read is not None
    told = encoded(read, np.zeros(RUN, dtype=np.uint8))
    with pytest.raises((ValueError, zlib.error)):
        decoded(told[:4], 4, np.zeros(RUN, dtype=np.uint8))
    with pytest.raises(ValueError, match="other tables"):
        decoded(told, 4, np.ones(RUN, dtype=np.uint8))
