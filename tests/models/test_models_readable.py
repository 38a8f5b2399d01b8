"""What a tokenizer cannot read of a language is measured, and said before time is spent."""

from __future__ import annotations

from pathlib import Path

import pytest

from halfpint.bundle import Bundle
from halfpint.models.readable import MULTILINGUAL, unreadable_note, unreadable_share


@pytest.fixture
def english(tmp_path: Path) -> Bundle:
    """A WordPiece vocabulary of a few English words and of all letters of three Arabic words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = sorted(set("الفاتورة لم تصل") - {" "})
    pieces = ["[UNK]", "the", "bill", "is", "wrong", ".", *letters, *("##" + letter for letter in letters)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return Bundle(tmp_path)


def test_the_share_is_that_of_unknown_tokens_and_of_letters_within_words(english: Bundle) -> None:
    assert unreadable_share(english, ["the bill is wrong."] * 3) == 0
    assert unreadable_share(english, ["the bill is 退款"]) == pytest.approx(1 / 4)
    assert unreadable_share(english, ["الفاتورة"]) == pytest.approx(7 / 8)  # its first letter may be a word
    assert unreadable_share(english, []) == unreadable_share(english, [""]) == 0


def test_many_texts_are_sampled_throughout(english: Bundle) -> None:
    texts = ["the bill"] * 3000 + ["退 款"] * 3000
    assert unreadable_share(english, texts) == pytest.approx(0.5, abs=0.02)


def test_bytes_are_never_unknown(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE({char: at for at, char in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert unreadable_share(Bundle(tmp_path), ["the bill"]) == 0
    assert unreadable_share(Bundle(tmp_path), ["فاتورة"]) > 0.5  # but two bytes a letter are no word


def test_the_note_names_a_base_that_reads_them() -> None:
    assert unreadable_note("all-minilm-l6-v2", 0.1) == ""
    note = unreadable_note("all-minilm-l6-v2", 0.77)
    assert "all-minilm-l6-v2 cannot read these texts: 77% of their tokens" in note and MULTILINGUAL in note
    assert "try" not in unreadable_note(MULTILINGUAL, 0.5)
