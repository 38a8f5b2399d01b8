"""What is personal data in a text and what only looks like it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfpint.data.personal import find_personal, mask


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("write to a.b+c@mail.example.com.", [("email", "a.b+c@mail.example.com")]),
        ("call +44 20 7946 0958 today", [("phone", "+44 20 7946 0958")]),
        ("(555) 123-4567 or 555.123.4567", [("phone", "(555) 123-4567"), ("phone", "555.123.4567")]),
        ("+1 (555) 123-4567", [("phone", "+1 (555) 123-4567")]),
        ("Tel: 07700900123!", [("phone", "07700900123")]),
        ("030/1234567 and 01 23 45 67 89", [("phone", "030/1234567"), ("phone", "01 23 45 67 89")]),
        ("card 4111 1111 1111 1111.", [("card", "4111 1111 1111 1111")]),
        ("378282246310005", [("card", "378282246310005")]),
        ("to DE89 3704 0044 0532 0130 00 please", [("iban", "DE89 3704 0044 0532 0130 00")]),
        ("GB82WEST12345698765432", [("iban", "GB82WEST12345698765432")]),
    ],
)
def test_found(text: str, found: list[tuple[str, str]]) -> None:
    assert find_personal(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "order 1234567890 and order 555-123-4567",
        "invoice no. 0800 123456",
        "on 2024-01-15 10:30:00, 15.01.2024 10:30 and 01-02-2020",
        "192.168.100.200 and 10.0.0.1",
        "$1,234,567.89 or 1.234.567,89 EUR",
        "4111 1111 1111 1112",
        "DE88 3704 0044 0532 0130 00",
        "ISBN 978-3-16-148410-0, version 1.2.3.4567",
        "12345678901234567890",
        "in 2019-2020 we had 5000 6000 7000",
        "@someone at home, a@b, 3@4.5",
        "growth +3.5%, then 0.1234 0.5678 0.9123",
    ],
)
def test_not_found(text: str) -> None:
    assert find_personal(text) == []


@given(st.integers(10**14, 10**15 - 1), st.integers(1, 9))
def test_a_card_with_one_wrong_digit_is_none(stem: int, change: int) -> None:
    digits = [4, *map(int, str(stem))][:15]
    total = sum(sum(divmod(2 * d, 10)) if place % 2 == 0 else d for place, d in enumerate(digits))
    check = -total % 10
    number = "".join(map(str, digits))
    assert find_personal(f"{number}{check}") == [("card", f"{number}{check}")]
    assert find_personal(f"{number}{(check + change) % 10}") == []


def test_mask_hides_all_but_the_ends() -> None:
    assert mask("4111 1111 1111 1111") == "4…11"
    assert mask("a@b.c") == "…"
