"""What counting comes to: on the same tokens and bytes as the model that is set beside it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from halfpint.bundle import Bundle
from halfpint.data.corpus import Corpus
from halfpint.evaluate.counted_baseline import counted_baseline
from halfpint.evaluate.samples import samples
from halfpint.evaluate.text import judge
from halfpint.progress import SILENT
from halfpint.tokenizers.load import open_tokenizer


def test_it_counts_the_tokens_and_bytes_that_the_model_is_judged_on(
    bundles: Callable[[str], Bundle], corpus: Corpus
) -> None:
    bundle = bundles("language")
    held = [*corpus.validation[:6], "日本語 🙂 and what no training text has"]
    figures = judge(bundle, held, SILENT)
    found = counted_baseline(bundle, corpus.train, held)
    assert found is not None
    for name in ("tokens", "words", "bytes", "documents", "interval_over"):
        assert found[name] == figures[name], name
    assert found["order"] == 8 and found["train_share"] == 1.0  # 400 tokens are hardly longer than characters
    assert found["bits_per_byte"] == pytest.approx(
        found["nats_per_token"] / np.log(2) * found["tokens"] / found["bytes"], rel=1e-9
    )
    assert 1 < found["bits_per_byte"] < 8  # any byte can come, and English is foretold better than that


def test_what_it_saw_it_foretells_better(bundles: Callable[[str], Bundle], corpus: Corpus) -> None:
    bundle = bundles("language")
    seen = counted_baseline(bundle, corpus.train, corpus.train[:5])
    new = counted_baseline(bundle, corpus.train, corpus.validation[:5])
    alone = counted_baseline(bundle, corpus.train, corpus.validation[:5], masked=True)
    assert seen and new and alone
    assert seen["bits_per_byte"] < new["bits_per_byte"] < alone["bits_per_byte"]
    assert alone["order"] == 1 and len(alone["ngrams"]) == 1


def test_frequencies_of_single_tokens(bundles: Callable[[str], Bundle]) -> None:
    """Of a text of one token, all of the probability but what is kept for the others is its own."""
    found = counted_baseline(bundles("language"), ["a" + " a" * 999] * 20, [" a" * 50], masked=True)
    assert found is not None and found["nats_per_token"] < 0.1


def test_a_large_text_is_counted_in_part(bundles: Callable[[str], Bundle], corpus: Corpus) -> None:
    bundle = bundles("language")
    texts = [f"{number} {corpus.train[0][:2000]}" for number in range(20)]
    whole = sum(len(open_tokenizer(bundle.path).encode(text, add_special_tokens=False).ids) for text in texts)
    found = counted_baseline(bundle, texts, corpus.validation[:2], most_tokens=whole // 4 + 1)
    assert found is not None and found["train_share"] == 0.25
    assert 0.9 * whole / 4 < found["train_tokens"] <= whole // 4 + 1


def test_nothing_to_count(bundles: Callable[[str], Bundle], corpus: Corpus) -> None:
    for train, held in (([], ["a"]), (["a"], []), ([""], ["a"])):
        assert counted_baseline(bundles("language"), train, held) is None
    assert counted_baseline(bundles("ngram"), corpus.train, corpus.validation) is None  # it has no such tokens


def test_samples_are_the_same_each_time(bundles: Callable[[str], Bundle], corpus: Corpus) -> None:
    whole = "\n".join(corpus.validation)
    for name in ("language", "ngram"):
        found = samples(bundles(name), corpus.validation)
        assert found == samples(bundles(name), corpus.validation)
        assert len(found) == 3 and all(one["prompt"] in whole for one in found)
        assert len({one["prompt"] for one in found}) == 3
    filled = samples(bundles("masked"), corpus.validation, number=2)
    assert [sorted(one) for one in filled] == [["filled", "prompt", "word"]] * 2
    assert all(len(one["filled"]) == 5 and "[MASK]" in one["prompt"] for one in filled)
    assert samples(bundles("language"), ["", " \n "]) == []
