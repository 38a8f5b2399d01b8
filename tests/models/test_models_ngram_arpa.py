"""ARPA files: what is written is read again, others are read by KenLM's rules, damage is told by its line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halfpint.errors import HalfpintError
from halfpint.models.ngram import NgramModel

WORDS = [*"aaaabbbccdef", "<unk>", "</s>", "<s>", "<UNK>", "\\<unk>", "\\\\</s>", "\\a", "é\u00a0é"]
LINE = st.lists(st.sampled_from(WORDS), max_size=7).map(" ".join)
CORPUS = st.lists(LINE, min_size=1, max_size=20).filter(any)

# As SRILM may write: no <unk>, no back-off where it is 0, spaces for tabs, a 3-gram without its own ending as a 2-gram.
FOREIGN = """\
made by hand

\\data\\
ngram 1=5
ngram 2=3
ngram 3=1

\\1-grams:
-99\t<s>\t-0.5
-0.7\t</s>
-0.4 a -0.25
-0.9\tb\t-0.125
-1.5\té

\\2-grams:
-0.1\t<s> a\t-0.3
-0.6\ta b
-0.2\tb </s>

\\3-grams:
-0.05\t<s> a é

\\end\\
"""


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=CORPUS, order=st.integers(1, 4), prune=st.integers(0, 1), zipped=st.booleans())
def test_written_and_read_again(tmp_path: Path, lines: list[str], order: int, prune: int, zipped: bool) -> None:
    model = NgramModel.fit(lines, order, prune=[0, prune][:order])
    path = tmp_path / ("model.arpa.gz" if zipped else "model.arpa")
    model.to_arpa(path)
    again = NgramModel.from_arpa(path)
    assert again.smoothing == "arpa"
    assert again.tables.words == model.tables.words
    for kind in ("keys", "log10", "backoff"):
        for one, other in zip(getattr(again.tables, kind), getattr(model.tables, kind), strict=True):
            np.testing.assert_array_equal(one, np.maximum(other, -99))  # nothing at all is written so
    assert sorted(path.name for path in tmp_path.iterdir()) in (
        [path.name], ["model.arpa", "model.arpa.gz"]
    )  # fmt: skip


def test_what_is_written(tmp_path: Path) -> None:
    NgramModel.fit(["a <unk>", "a", "\\<s>"], order=2).to_arpa(tmp_path / "new" / "model.arpa")
    lines = (tmp_path / "new" / "model.arpa").read_text(encoding="utf-8").split("\n")
    assert lines[:6] == ["\\data\\", "ngram 1=6", "ngram 2=6", "", "\\1-grams:", lines[5]]
    unigrams = [line.split("\t") for line in lines[5:11]]
    assert [word for _, word, _ in unigrams] == ["<unk>", "<s>", "</s>", "a", "\\<unk>", "\\\\<s>"]
    assert unigrams[1][0] == "0" and all(float(chance) < 0 for chance, word, _ in unigrams if word != "<s>")
    assert lines[11:13] == ["", "\\2-grams:"]
    assert {line.partition("\t")[2] for line in lines[13:19]} == {
        "<s> a", "<s> \\\\<s>", "a </s>", "a \\<unk>", "\\<unk> </s>", "\\\\<s> </s>"
    }  # fmt: skip
    assert lines[19:] == ["", "\\end\\", ""]


def test_what_lmplz_says_of_two_lines(tmp_path: Path) -> None:
    """Figures of `lmplz --discount_fallback -o 3`, as KenLM's own tests hold them (lm/common/test_data/toy0.arpa)."""
    lmplz = {
        "<unk>": (-0.90309, 0), "<s>": (0, -0.30103), "a": (-0.46943438, -0.30103), "b": (-0.5720968, -0.30103),
        "<s> a": (-0.37712017, -0.30103), "b </s>": (-0.5220179, 0), "<s> b": (-0.41574955, -0.30103),
        "<s> a a": (-0.14885087,), "<s> b a": (-0.124077894,), "b a </s>": (-0.42082912,), "a b </s>": (-0.397617,),
    }  # fmt: skip
    NgramModel.fit(["a a b a", "b a a b"], order=3).to_arpa(tmp_path / "model.arpa")
    rows = [line.split("\t") for line in (tmp_path / "model.arpa").read_text(encoding="utf-8").splitlines()]
    found = {row[1]: tuple(float(value) for value in (row[0], *row[2:])) for row in rows if len(row) > 1}
    assert len(found) == 5 + 7 + 7
    for words, values in lmplz.items():
        assert found[words] == pytest.approx(values, abs=1e-6), words


def test_unsmoothed_models_write_nothing_as_minus_99(tmp_path: Path) -> None:
    model = NgramModel.fit(["a b", "a c"], order=2, smoothing="none")
    model.to_arpa(tmp_path / "model.arpa")
    again = NgramModel.from_arpa(tmp_path / "model.arpa")
    np.testing.assert_array_equal(again.score(["a b", "a c"]).log10, model.score(["a b", "a c"]).log10)
    assert again.score(["b b"]).log10[1] < -99


def test_unknown_and_the_word_spelled_so_can_be_merged(tmp_path: Path) -> None:
    lines = ["a <unk> b", "a b", "b <unk>", "<unk> a"] * 2
    model = NgramModel.fit(lines, order=3)
    model.to_arpa(tmp_path / "model.arpa", merge_unknown=True)
    text = (tmp_path / "model.arpa").read_text(encoding="utf-8")
    assert text.count("\t<unk>\t") == 1 and "\\<" not in text
    assert f"ngram 1={len(model.tables.words) - 1}\n" in text
    merged = NgramModel.from_arpa(tmp_path / "model.arpa")
    # To the program that reads it the file's <unk> is the unknown word, which a text's unknown words are.
    raw = [line.replace("<unk>", "never-seen") for line in lines]
    np.testing.assert_allclose(merged.score(raw).log10, model.score(lines).log10, atol=1e-6)
    plain = NgramModel.fit(["a b"])
    plain.to_arpa(tmp_path / "plain.arpa", merge_unknown=True)  # where there is no such word, nothing changes
    assert NgramModel.from_arpa(tmp_path / "plain.arpa").tables.words == plain.tables.words


def test_files_of_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "foreign.arpa"
    path.write_text(FOREIGN, encoding="utf-8")
    model = NgramModel.from_arpa(path)
    assert model.tables.words == ["<unk>", "<s>", "</s>", "a", "b", "é"]
    scores = model.score(["a é", "a b", "b new", "é"])
    expected = [
        -0.1, -0.05, -0.7,  # a | <s>; é | <s> a; </s> alone
        -0.1, -0.3 - 0.6, -0.2,  # the weight of "<s> a", then b | a; </s> | b
        -0.5 - 0.9, -0.125 - 100.0, -0.7,  # KenLM's -100 for an <unk> that is not there
        -0.5 - 1.5, -0.7,
    ]  # fmt: skip
    assert scores.log10.tolist() == pytest.approx(expected, abs=1e-5)
    assert scores.unknown.tolist() == [False] * 7 + [True] + [False] * 3
    with_capitals = FOREIGN.replace("1=5", "1=6").replace("-1.5\té", "-1.5\té\n-2\t<UNK>")
    path.write_text(with_capitals.replace("\n", "\r\n"), encoding="utf-8")
    assert NgramModel.from_arpa(path).score(["new"]).log10.tolist() == pytest.approx([-2.5, -0.7])


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("\\data\\", "data", 24, r"expected \\data\\, got the end of the file"),
        ("ngram 1=5\n", "", 4, "expected the number of 1-grams"),
        ("ngram 2=3\n", "", 5, "expected the number of 2-grams, got 'ngram 3=1'"),
        ("ngram 1=5\nngram 2=3\nngram 3=1\n", "", 5, "expected ngram 1="),
        ("ngram 1=5", "ngram 1=6", 14, r"1-gram .*\(of 6 lines such\), got an empty line"),
        ("ngram 1=5", "ngram 1=4", 13, r"expected \\2-grams:, got '-1.5\\té'"),
        ("ngram 2=3", "ngram 2=4", 19, "got an empty line"),
        ("ngram 3=1", "ngram 3=2", 22, "got an empty line"),
        ("-0.7\t</s>\n", "-0.7\tc\n", 13, "expected a unigram </s>, got none"),
        ("-0.9\tb", "-0.9\ta", 12, "expected each word once, got 'a' for the second time"),
        ("-0.9\tb\t-0.125", "-0.9\tb\t-0.125\t1", 12, "got '-0.9 b -0.125 1'"),
        ("-0.9\tb\t-0.125", "minus\tb\t-0.125", 12, "got 'minus' for a number"),
        ("-0.9\tb\t-0.125", "-0.9\tb\tnan", 12, "got the number 'nan'"),
        ("-0.9\tb", "0.9\tb", 12, "got the number '0.9'"),
        ("\ta b\n", "\ta c\n", 17, "got 'c', which is no unigram"),
        ("\tb </s>\n", "\ta b\n", 18, "expected each n-gram once"),
        ("\t<s> a é", "\tb a é", 21, "whose first words are listed as a 2-gram"),
        ("\t<s> a é", "\t<s> a é\t-0.5", 21, "expected log10 of a probability, the words of a 3-gram"),
        ("\\end\\\n", "", 23, r"expected \\end\\, got the end of the file"),
        ("\\3-grams:\n-0.05\t<s> a é\n\n\\end\\\n", "", 20, r"expected \\3-grams:, got the end of the file"),
        ("-0.05\t<s> a é\n\n\\end\\\n", "", 21, "got the end of the file"),
    ],
)
def test_damage_is_told_by_line(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    path = tmp_path / "damaged.arpa"
    assert FOREIGN.count(old) == 1
    path.write_text(FOREIGN.replace(old, new), encoding="utf-8")
    with pytest.raises(HalfpintError, match=message) as told:
        NgramModel.from_arpa(path)
    assert told.value.place == f"{path}: line {line}"


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "model.arpa"
    with pytest.raises(HalfpintError, match="There is no file"):
        NgramModel.from_arpa(path)
    path.write_bytes(bytes(range(256)) * 100)
    with pytest.raises(HalfpintError, match="a binary file"):
        NgramModel.from_arpa(path)
    path.write_bytes(b"")
    with pytest.raises(HalfpintError, match=r"line 1: .* the end of the file"):
        NgramModel.from_arpa(path)
    path.write_bytes(FOREIGN.encode("latin-1"))
    with pytest.raises(HalfpintError, match="line 13: expected a word in UTF-8"):
        NgramModel.from_arpa(path)
    zipped = tmp_path / "model.arpa.gz"
    zipped.write_bytes(gzip.compress(FOREIGN.encode())[:-30])
    with pytest.raises(HalfpintError, match="a damaged one"):
        NgramModel.from_arpa(zipped)
    zipped.write_bytes(b"no gzip at all")
    with pytest.raises(HalfpintError, match="a damaged one"):
        NgramModel.from_arpa(zipped)
