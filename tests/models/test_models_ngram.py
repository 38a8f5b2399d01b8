"""The n-gram model against Kneser-Ney written out by its formulas, and against KenLM's figure on WikiText-2."""

from __future__ import annotations

import gzip
import math
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from halfpint.errors import HalfpintError
from halfpint.models import _ngram_counts, ngram
from halfpint.models._ngram_text import BOS, split_lines
from halfpint.models.ngram import NgramModel, parse_prune

WIKITEXT = Path(__file__).resolve().parents[3] / "shared" / "data" / "wikitext2"

# Small and lumpy: many repeated n-grams, so that the discounts of many examples are real ones.
WORDS = [*"aaaabbbccdef", "<unk>", "</s>", "é\u00a0é"]
LINE = st.lists(st.sampled_from(WORDS), max_size=7).map(" ".join)
CORPUS = st.lists(LINE, min_size=1, max_size=25).filter(any)
PRUNE = st.lists(st.integers(0, 2), max_size=3).map(sorted)


class Reference:
    """Modified Kneser-Ney with dictionaries, after Chen and Goodman's formulas; n-grams are tuples of words."""

    def __init__(self, lines: list[str], order: int, prune: list[int]) -> None:
        self.order = order
        self.occurs: Counter[tuple[str, ...]] = Counter()
        before: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
        for line in lines:
            words = ["BOS", *(word for word in line.split(" ") if word), "EOS"]
            for start in range(len(words)):
                for stop in range(start + 1, min(start + order, len(words)) + 1):
                    gram = tuple(words[start:stop])
                    self.occurs[gram] += 1
                    if start:
                        before[gram].add(words[start - 1])
        prune = [*prune, *[prune[-1] if prune else 0] * order]
        self.adjusted = {
            gram: count if len(gram) == order or gram[0] == "BOS" else len(before[gram])
            for gram, count in self.occurs.items()
        }
        self.adjusted[("BOS",)] = 0
        self.kept = {
            gram for gram, count in self.occurs.items() if count > prune[len(gram) - 1] or gram in {("BOS",), ("EOS",)}
        }
        self.words = {gram[0] for gram in self.kept if len(gram) == 1} - {"BOS"} | {"UNKNOWN"}
        self.discounts = [self.discount(length) for length in range(1, order + 1)]
        self.followers: defaultdict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
        for gram in self.adjusted:
            self.followers[gram[:-1]].append(gram)

    def discount(self, length: int) -> list[float]:
        n = Counter(count for gram, count in self.adjusted.items() if len(gram) == length)
        if n[1] and n[2] and n[3]:
            y = n[1] / (n[1] + 2 * n[2])
            found = [0, 1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]]
            if all(0 < amount <= j for j, amount in enumerate(found[1:], start=1)):
                return found
        return [0, 0.5, 1, 1.5]

    def taken(self, gram: tuple[str, ...]) -> float:
        if gram not in self.kept:
            return self.adjusted[gram]
        return self.discounts[len(gram) - 1][min(self.adjusted[gram], 3)]

    def probability(self, context: tuple[str, ...], word: str) -> float:
        followers = self.followers.get(context, [])
        lower = self.probability(context[1:], word) if context else 1 / len(self.words)
        total = sum(self.adjusted[gram] for gram in followers)
        if not total:
            return lower
        gram = (*context, word)
        own = self.adjusted[gram] - self.taken(gram) if gram in self.kept else 0
        return (own + sum(map(self.taken, followers)) * lower) / total

    def score(self, line: str) -> list[float]:
        known = [word if word in self.words else "UNKNOWN" for word in line.split(" ") if word]
        words = ["BOS", *known, "EOS"]
        return [
            math.log10(self.probability(tuple(words[max(at - self.order + 1, 0) : at]), words[at]))
            for at in range(1, len(words))
        ]


@settings(max_examples=100)
@example(lines=["", "", "", "b", "a a b"], order=2, prune=[], held=[], chunk=3)  # the formula gives a discount of 0
@given(
    lines=CORPUS, order=st.integers(1, 5), prune=PRUNE, held=st.lists(LINE, max_size=5), chunk=st.sampled_from([3, 999])
)
def test_kneser_ney_is_as_the_formulas_say(
    lines: list[str], order: int, prune: list[int], held: list[str], chunk: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram, "_CHUNK", chunk)
        patch.setattr(ngram, "_BATCH", chunk)
        model = NgramModel.fit(lines, order, prune=prune[:order])
        texts = [*lines, *held, "new a b a", "a new new"]
        scores = model.score(texts)
    reference = Reference(lines, order, prune[:order])
    expected = [reference.score(text) for text in texts]
    np.testing.assert_allclose(scores.log10, [value for values in expected for value in values], atol=2e-5)
    assert scores.lengths.tolist() == [len(values) for values in expected]
    assert scores.sentences == len(texts)
    assert scores.size_bytes == sum(len(text.encode()) + 1 for text in texts)
    discounts = {tuple(map(round_, row[1:])) for row in map(tuple, reference.discounts)}
    assert {tuple(map(round_, row)) for row in model.discounts} == discounts


def round_(value: float) -> float:
    return round(value, 9)


def drawn_lines(number: int) -> list[str]:
    """Lines of words that are as unevenly frequent as real ones."""
    chance = np.random.default_rng(0)
    return [" ".join(map(str, chance.zipf(1.3, size=chance.integers(0, 30)).clip(max=2000))) for _ in range(number)]


@pytest.mark.parametrize("prune", [[], [0, 0, 1], [1, 1, 2]])
def test_kneser_ney_with_discounts_of_its_own(prune: list[int]) -> None:
    """Enough text that every order has discounts by its counts of counts, which few of the small examples have."""
    *lines, first, second = drawn_lines(600)
    model, reference = NgramModel.fit(lines, 3, prune=prune), Reference(lines, 3, prune)
    assert not model.fallback
    expected = [value for line in (first, second, *lines[:3]) for value in reference.score(line)]
    np.testing.assert_allclose(model.score([first, second, *lines[:3]]).log10, expected, atol=2e-5)
    assert sum(model.tables.ngrams) == len(reference.kept) + 1  # and the unknown word


@settings(max_examples=50)
@given(
    lines=CORPUS, order=st.integers(1, 5), prune=PRUNE, context=LINE, smoothing=st.sampled_from(["kneser-ney", "none"]),
    min_count=st.integers(0, 3),
)  # fmt: skip
def test_probabilities_sum_to_one_after_any_context(
    lines: list[str], order: int, prune: list[int], context: str, smoothing: str, min_count: int
) -> None:
    model = NgramModel.fit(lines, order, smoothing, prune[:order], min_count)
    for text in (context, f"new {context}", f"{context} new"):
        after = model.tables.after(model._history(text))
        assert after[BOS] == 0
        assert abs(after.sum() - 1) < 1e-5
        # Scoring goes another way through the tables, and says the same of every word.
        ordinary = model.tables.words[3:]
        scored = model.score([f"{text} {word}" for word in ordinary])
        ends = np.cumsum(scored.lengths) - 2
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(scored.log10[ends], np.log10(after[3:]), atol=1e-4)


def test_relative_frequencies_back_off_to_the_longest_context_seen() -> None:
    model = NgramModel.fit(["a b c", "a b d", "x b d", "b"], order=3, smoothing="none")
    chances = {context: dict(model.next_words(context)) for context in ("a b", "new b", "a new", "")}
    assert chances["a b"] == pytest.approx({"c": 1 / 2, "d": 1 / 2})
    assert chances["new b"] == pytest.approx({"c": 1 / 4, "d": 2 / 4, "</s>": 1 / 4})
    assert chances["a new"] == pytest.approx(
        {"</s>": 4 / 14, "b": 4 / 14, "a": 2 / 14, "d": 2 / 14, "c": 1 / 14, "x": 1 / 14}, rel=1e-5
    )
    assert chances[""] == pytest.approx({"a": 1 / 2, "x": 1 / 4, "b": 1 / 4})
    assert model.score(["a b c"]).log10 == pytest.approx(np.log10([1 / 2, 1, 1 / 2, 1]), abs=1e-6)
    assert model.score(["a c"]).perplexity == math.inf


def test_chunks_give_the_same_counts_as_the_whole() -> None:
    chance = np.random.default_rng(0)
    lines = drawn_lines(600)
    whole = NgramModel.fit(lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram, "_CHUNK", 500)
        parts = NgramModel.fit("\n".join(lines[start : start + 7]) for start in range(0, 600, 7))
    assert whole.tables.words == parts.tables.words
    for one, other in pairwise([whole.tables, parts.tables]):
        for kind in ("keys", "log10", "backoff"):
            for first, second in zip(getattr(one, kind), getattr(other, kind), strict=True):
                np.testing.assert_array_equal(first, second)
    runs = [np.unique(chance.integers(0, 99, size=size)) for size in (5, 40, 1, 0, 20, 60, 3)]
    np.testing.assert_array_equal(_ngram_counts._union(runs), np.unique(np.concatenate(runs)))


@pytest.mark.parametrize(
    ("texts", "lines"),
    [
        (["a\nb\n"], [b"a", b"b"]), (["a", "b\n"], [b"a", b"b"]), (["", "a\n\n"], [b"", b"a", b""]), (["\n"], [b""]),
        (["a\u2028b\x85c"], ["a\u2028b\x85c".encode()]), (["\ud800"], [b"?"]), ("a b\nc", [b"a b", b"c"]),
    ],
)  # fmt: skip
def test_what_a_line_is(texts: list[str], lines: list[bytes]) -> None:
    assert list(split_lines(texts)) == lines


def test_words_spelled_like_the_special_ones_are_ordinary_words() -> None:
    model = NgramModel.fit(["a <unk> <s> </s> b"] * 3)
    assert model.tables.words == ["<unk>", "<s>", "</s>", "a", "<unk>", "<s>", "</s>", "b"]
    scores = model.score(["a <unk> <s> </s> b", "a new"])
    assert scores.unknown.tolist() == [False] * 6 + [False, True, False]
    assert scores.log10[1] > -0.3 > -1 > scores.log10[7]
    assert scores.perplexity_known < scores.perplexity


def test_rare_words_become_the_unknown_one() -> None:
    model = NgramModel.fit(["the cat sat", "the dog sat", "the cow sat", "the cow ran"], order=2, min_count=2)
    assert model.tables.words == ["<unk>", "<s>", "</s>", "the", "sat", "cow"]
    scores = model.score(["the yak sat"])
    assert scores.unknown.tolist() == [False, True, False, False]
    assert scores.log10[1] > math.log10(0.25)  # much of what comes after "the"
    assert "<unk>" not in dict(model.next_words("the"))


def test_next_words_weigh_every_word_there_is() -> None:
    model = NgramModel.fit(["a b c", "a b d", "a b c", "e f"])
    found = model.next_words("x y a b", top=100)
    assert [word for word, _ in found[:2]] == ["c", "d"]
    assert {word for word, _ in found} == {"a", "b", "c", "d", "e", "f", "</s>"}
    chances = [chance for _, chance in found]
    assert chances == sorted(chances, reverse=True)
    assert 0.9 < sum(chances) < 1  # the rest is the unknown word's
    assert model.next_words("x y a b", top=3) == found[:3]
    assert model.next_words("whatever\na") == model.next_words("a") != model.next_words("e a")
    with pytest.raises(HalfpintError, match="top must be 1 or more"):
        model.next_words("", top=0)


def test_samples_follow_the_probabilities() -> None:
    model = NgramModel.fit(["a b", "a b", "a c", "a d e f g"] * 5, order=3)
    wanted = dict(model.next_words("a", top=99))
    drawn = Counter(next(iter(model.sample("a", seed=seed, tokens=1)), "</s>") for seed in range(4000))
    for word, chance in wanted.items():
        assert abs(drawn[word] / 4000 - chance) < 0.03
    assert list(model.sample("a", seed=7)) == list(model.sample("a", seed=7))
    assert list(model.sample("a", temperature=0)) == ["b"]
    assert list(model.sample("a d", temperature=0.01, seed=3)) == ["e", "f", "g"]
    assert len(list(model.sample("a d", temperature=0, tokens=2))) == 2
    hot = Counter(next(iter(model.sample("a", seed=seed, tokens=1, temperature=50)), "</s>") for seed in range(500))
    assert max(hot.values()) < 120
    for settings_ in ({"temperature": -1.0}, {"tokens": -1}):
        with pytest.raises(HalfpintError, match="sampling"):
            model.sample("a", **settings_)


@pytest.mark.parametrize(("smoothing", "order"), [("kneser-ney", 4), ("none", 3), ("kneser-ney", 1)])
def test_saved_and_loaded(tmp_path: Path, smoothing: str, order: int) -> None:
    lines = ["a b a b c\u2028", "a b <unk>", "", "b a b c é"] * 3
    model = NgramModel.fit(lines, order, smoothing, prune=[0, 0, 1][:order])
    model.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors", "vocabulary.txt"]
    again = NgramModel.load(tmp_path)
    assert again.config() == model.config()
    held = [*lines, "new words a b", "c b a"]
    np.testing.assert_array_equal(again.score(held).log10, model.score(held).log10)
    assert again.next_words("a b") == model.next_words("a b")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocabulary.txt"])
def test_damaged_folders_are_told(tmp_path: Path, name: str) -> None:
    NgramModel.fit(["a b c d"] * 2).save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-20] if name != "vocabulary.txt" else b"a\nb\n")
    with pytest.raises(HalfpintError, match="damaged"):
        NgramModel.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(HalfpintError):
        NgramModel.load(tmp_path)


def test_other_models_and_wrong_arrays_are_told(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    NgramModel.fit(["a b c d", "a c"] * 2, order=3).save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name, values in {"word.2": tensors["word.2"][::-1].copy(), "log10.3": tensors["log10.3"][1:].copy()}.items():
        save_file({**tensors, name: values}, tmp_path / "model.safetensors")
        with pytest.raises(HalfpintError, match=r"damaged one .*order"):
            NgramModel.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(HalfpintError, match="expected an n-gram model, got a model of type 'bert'"):
        NgramModel.load(tmp_path)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"order": 0}, "order must be 1 to 8, not 0"),
        ({"order": 9}, "order must be 1 to 8, not 9"),
        ({"smoothing": "knesser-ney"}, "Did you mean 'kneser-ney'"),
        ({"prune": (0, -1)}, "prune must .* not 0 -1"),
        ({"prune": (1, 0)}, "prune must .* not 1 0"),
        ({"prune": (0, 0, 0), "order": 2}, "prune must be at most 2"),
        ({"min_count": -1}, "min_count"),
        ({"lines": []}, "at least one word"),
        ({"lines": ["", "\n\n", " \t "]}, "at least one word"),
        ({"lines": ["fine", "PK\x03\x04\0\0"]}, "line 2 of the text: expected text, got a binary file"),
        ({"lines": [b"bytes"]}, "expected lines as str, got bytes"),
    ],
)
def test_bad_input_is_told(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(HalfpintError, match=message):
        NgramModel.fit(**{"lines": ["a b"], **settings_})  # type: ignore[arg-type]


def test_prune_as_text() -> None:
    assert parse_prune("0 0 1") == (0, 0, 1) and parse_prune(" ") == ()
    with pytest.raises(HalfpintError, match="whole numbers"):
        parse_prune("0 one")
    assert NgramModel.fit(["a b c", "a b d"], 4, prune=parse_prune("0 1")).tables.ngrams == [7, 2, 1, 0]


def test_wikitext_perplexity_is_that_of_kenlm() -> None:
    """220.1386 is what KenLM gives (benchmarks/ngram.py), with <unk> as an ordinary word, for it has none unknown."""
    if not WIKITEXT.is_dir():
        pytest.skip(f"no {WIKITEXT}: the shared data is not here")
    with gzip.open(WIKITEXT / "train.txt.gz", "rt", encoding="utf-8") as file:
        model = NgramModel.fit(file)
    assert model.tables.ngrams[0] == 33_277 + 3  # the words, <unk> among them, and the three special ones
    with gzip.open(WIKITEXT / "test.txt.gz", "rt", encoding="utf-8") as file:
        scores = model.score(file)
    assert (scores.tokens, scores.sentences, scores.size_bytes) == (245_569, 4_358, 1_256_449)
    assert not scores.unknown.any()
    assert scores.perplexity == scores.perplexity_known == pytest.approx(220.1386, rel=1e-5)
