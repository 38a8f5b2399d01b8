"""Terms of texts: what they are in scripts with and without spaces, and that their hashes are those of their names."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from halfpint.data.terms import Index, Shape, chunked, hash_of, hashed, hashes_of, terms

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
mixed = st.text(st.sampled_from("aB _1-' \n\u00e9\u0130\u0301退款不了タワーのการจัดที่हिन्दीعَرَب\u200d한국"), max_size=60)
WORDS = Shape((0, 0))


def test_terms_of_a_text() -> None:
    assert terms("Hi, you!", WORDS) == ["w:hi", "w:,", "w:you", "w:!", "w:hi ,", "w:, you", "w:you !"]
    assert terms("ab", Shape((3, 5))) == ["w:ab", "c: ab", "c:ab ", "c: ab ", "c: ab "]
    assert terms("the the", WORDS) == ["w:the", "w:the", "w:the the"]
    assert terms("a b c", Shape((0, 0), 3))[3:] == ["w:a b", "w:b c", "w:a b c"]
    assert terms("  \n ", Shape()) == []


@pytest.mark.parametrize(
    ("text", "some"),
    [
        ("退款没到", ["c:退", "c:款", "c:退款", "c:没到", "c:退款没"]),  # Chinese: words are one to three characters
        ("荷物が届かない", ["c:荷", "c:荷物", "c:届か", "c:かない"]),
        ("จัดส่งช้า", ["c:ส่ง", "c:ช้า"]),
        ("iPhone坏了", ["w:iphone", "c:坏", "c:坏了"]),
        ("हिन्दी में", ["w:हिन्दी", "w:में", "w:हिन्दी में"]),  # the vowels are part of the words
        ("مُحَمَّد قال", ["w:مُحَمَّد", "w:قال"]),
        ("می\u200cروم", ["w:می\u200cروم"]),
    ],
)
def test_terms_of_scripts(text: str, some: list[str]) -> None:
    assert set(some) <= set(terms(text, Shape()))


def test_words_alone_of_a_script_without_spaces_have_characters() -> None:
    assert terms("退款没", WORDS) == ["w:退款没", "c:退", "c:款", "c:没", "c:退款", "c:款没", "c:退款没"]


def test_terms_of_bundles_of_before_stay() -> None:
    """Marks part words, and a run of Chinese is one word."""
    assert terms("में 退款", Shape((0, 0), 2, scripts=False)) == [
        "w:म", "w:\u0947", "w:\u0902", "w:退款", "w:म \u0947", "w:\u0947 \u0902", "w:\u0902 退款"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "shape", [Shape(), Shape((0, 0), 3), Shape((3, 3), 1), Shape((2, 6)), Shape((3, 5), 2, scripts=False)]
)
@given(some=st.lists(texts | mixed, max_size=6))
@example(some=["It's 10:30 _x_ don't\u2014stop", "", "a", "\u0130I"])
def test_hashed_terms_are_the_terms(shape: Shape, some: list[str]) -> None:
    found = hashed(some, shape)
    names = [found.name(term) for term in range(len(found.hashes))]
    by_text: list[Counter[str]] = [Counter() for _ in some]
    for owner, name in zip(found.owners().tolist(), names, strict=True):
        by_text[owner][name] += 1
    assert by_text == [Counter(terms(text, shape)) for text in some]
    assert found.hashes.tolist() == hashes_of(names).tolist() == [hash_of(name) for name in names]


def test_chunks_are_all_texts_in_order() -> None:
    some = ["a" * size for size in (3, 0, 10, 1, 1, 1)]
    assert list(chunked(some, 5)) == [(0, 2), (2, 3), (3, 6)]
    assert list(chunked([], 5)) == []


@given(st.sets(st.integers(0, 2**64 - 1), max_size=200), st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_the_index_finds_what_is_in_it(held: set[int], others: list[int]) -> None:
    # Numbers that differ little meet in the table.
    kept = sorted(held | {one ^ 1 for one in held})
    asked = [*others, *kept, *kept[:7]]
    at, numbers = Index(np.array(kept, dtype=np.uint64)).find(np.array(asked, dtype=np.uint64))
    number = {hash_: place for place, hash_ in enumerate(kept)}
    wanted = {place: number[one] for place, one in enumerate(asked) if one in number}
    assert dict(zip(at.tolist(), numbers.tolist(), strict=True)) == wanted
