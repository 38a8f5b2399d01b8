"""Files with labelled spans: each form and scheme is read alike, and what is faulty is told with its lines."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from halfpint.data.span_faults import find_faults, mended
from halfpint.data.span_files import looks_like_spans, read_spans
from halfpint.data.spans import Read, Span, TagData, TagExample, prepare_spans
from halfpint.errors import HalfpintError
from halfpint.progress import SILENT, Log

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
WANTED = [
    TagExample("Anna Berg of Bonn Bonn .", (Span(0, 9, "PER"), Span(13, 17, "LOC"), Span(18, 22, "LOC")), 1),
    TagExample("No one .", (), 8),
]
WORDS = (("Anna", "Berg", "of", "Bonn", "Bonn", "."), ("No", "one", "."))
SCHEMES = {
    "IOB2 (BIO)": ("B-PER", "I-PER", "O", "B-LOC", "B-LOC", "O"),
    "IOB1": ("I-PER", "I-PER", "O", "I-LOC", "B-LOC", "O"),
    "BIOES (BILOU)": ("B-PER", "E-PER", "O", "S-LOC", "S-LOC", "O"),
}
Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(text: str) -> str:
        path = tmp_path / f"data{len(list(tmp_path.iterdir()))}.txt"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return put


def columns(tags: tuple[str, ...], form: str = "{word} {tag}", blank: str = "") -> str:
    sentences = (zip(WORDS[0], tags, strict=True), ((word, "O") for word in WORDS[1]))
    return f"\n{blank}\n".join("\n".join(form.format(word=word, tag=tag) for word, tag in one) for one in sentences)


def read(source: str, **settings: str) -> Read:
    return read_spans(source, TagData(source=source, **settings))


def kinds(found: Read, **others: Read) -> dict[str, str]:
    return {one.kind: one.message for one in find_faults(found, others)}


@pytest.mark.parametrize(("documents", "whole"), [(40, True), (12, False)])
def test_documents_stay_whole_where_there_are_enough(documents: int, whole: bool, write: Write) -> None:
    sentences = [
        "".join(f"word{number}x{one}x{at} O\n" for at in range(5)) + f"Bonn{number}x{one} B-LOC\n"
        for number in range(documents) for one in range(3)
    ]  # fmt: skip
    source = write("".join("-DOCSTART- O\n\n" * (at % 3 == 0) + one + "\n" for at, one in enumerate(sentences)))
    found = prepare_spans(TagData(source=source), SILENT)
    sides = [{example.document for example in side} for side in (found.train, found.validation, found.test)]
    assert all(sides)
    assert (sum(map(len, sides)) == documents) == whole


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("form", "blank"),
    [("{word} {tag}", ""), ("{word}\tNN\t{tag}", "\t"), ("de:{word}\t{tag}", " \t "), ("{word}  X  {tag}", "\r")],
)
def test_columns(scheme: str, form: str, blank: str, write: Write) -> None:
    source = write("-DOCSTART- O\n\n" * (form == "{word} {tag}") + columns(SCHEMES[scheme], form, blank))
    found = read(source)
    assert scheme in found.said and looks_like_spans(source) == 0.9
    assert [(one.text, one.spans) for one in found.examples] == [(one.text, one.spans) for one in WANTED]
    assert not found.findings


def test_bilou_has_other_letters(write: Write) -> None:
    found = read(write(columns(("B-PER", "L-PER", "O", "U-LOC", "U-LOC", "O"))))
    assert found.examples == WANTED and "BIOES" in found.said


def test_a_scheme_may_be_named(write: Write) -> None:
    source = write(columns(("I-PER", "I-PER", "O", "I-LOC", "O", "O")))
    assert "IOB1" in read(source).said and not read(source).findings
    assert "impossible_tag" in kinds(read(source, scheme="iob2"))


def test_labels_for_each_word(write: Write) -> None:
    pos = read(write("The DT\ncat NN\nsat VB\n\nA DT\ncat NN\nsat VB\n"))
    assert [span.label for span in pos.examples[0].spans or ()] == ["DT", "NN", "VB"]
    io = read(write("Anna PER\nBerg PER\nsat O\n\nA O\ncat O\n"))
    assert io.examples[0].spans == (Span(0, 9, "PER"),)


def test_the_column_of_the_tags_may_be_chosen(write: Write) -> None:
    source = write("EU NNP I-NP I-ORG\nsays VBZ I-VP O\n\nBonn NNP I-NP I-LOC\nwins VBZ I-VP O\n")
    assert read(source).examples[0].spans == (Span(0, 2, "ORG"),)
    assert [span.label for span in read(source, label="3").examples[0].spans or ()] == ["NP", "VP"]
    assert [span.label for span in read(source, label="-3").examples[0].spans or ()] == ["NNP", "VBZ"]
    for wrong in ("5", "0", "tag"):
        with pytest.raises(HalfpintError, match=r"data\.label: expected the number of a column, from 1 to 4"):
            read(source, label=wrong)


def test_universal_dependencies(write: Write) -> None:
    line = "{n}\t{word}\tlemma\t{tag}\tX\t_\t0\troot\t_\t_"
    rows = [line.format(n=n, word=word, tag=tag) for n, word, tag in ((1, "Cats", "NOUN"), (2, "sleep", "VERB"))]
    source = write("\n".join(["# text = Cats sleep", rows[0], line.format(n="2-3", word="both", tag="_"), rows[1], ""]))
    found = read(source)
    assert found.examples == [TagExample("Cats sleep", (Span(0, 4, "NOUN"), Span(5, 10, "VERB")), 2)]
    assert any("comment" in note for note in found.notes)


TRIPLES = [[0, 9, "PER"], [13, 17, "LOC"], [18, 22, "LOC"]]
SPANS = [{"start": start, "end": end, "label": label} for start, end, label in TRIPLES]
DOCCANO = [{"id": 1, "label": label, "start_offset": start, "end_offset": end} for start, end, label in TRIPLES]
TEXT = WANTED[0].text


@pytest.mark.parametrize(
    "row",
    [
        {"text": TEXT, "spans": SPANS},
        {"id": 3, "text": TEXT, "entities": SPANS},
        {"text": TEXT, "label": TRIPLES},
        {"text": TEXT, "entities": DOCCANO},
        [TEXT, {"entities": TRIPLES}],
        {"sentence": TEXT, "spans": list(reversed(SPANS))},
        {"tokens": list(WORDS[0]), "ner_tags": list(SCHEMES["IOB2 (BIO)"])},
    ],
    ids=lambda row: ",".join(row) if isinstance(row, dict) else "spacy",
)
@pytest.mark.parametrize("array", [False, True])
def test_objects(row: object, array: bool, write: Write) -> None:
    source = write(json.dumps([row, row]) if array else f"{json.dumps(row)}\n{json.dumps(row)}\n")
    found = read(source)
    assert [(one.text, one.spans) for one in found.examples] == [(WANTED[0].text, WANTED[0].spans)] * 2
    assert [one.row for one in found.examples] == [1, 2] and looks_like_spans(source) == 0.9


def test_gzip_and_utf16(tmp_path: Path) -> None:
    text = columns(SCHEMES["IOB1"])
    for name, data in (("a.gz", gzip.compress(text.encode())), ("b", text.encode("utf-16"))):
        (tmp_path / name).write_bytes(data)
        assert [one.text for one in read(str(tmp_path / name)).examples] == [one.text for one in WANTED]
        assert looks_like_spans(str(tmp_path / name)) == 0.9
    (tmp_path / "c.gz").write_bytes(gzip.compress(text.encode())[:40])
    with pytest.raises(HalfpintError, match="damaged"):
        read(str(tmp_path / "c.gz"))


@pytest.mark.parametrize(
    "text",
    [
        "", "text,label\nhello there,a\nbye now,b\n", "one text\nand another\n", "\x00\x01", "[1, 2, 3]", "{" * 100,
        '{"text": "a", "label": "b"}\n', "just a text\twith_tab\nno\tb\nyes\tc\n", '["a", "b"]\n["c", "d"]\n',
        "text\tlabel\na b c\tx\nd e f\ty\n",
    ],
)  # fmt: skip
def test_other_files_are_not_taken_for_it(text: str, write: Write) -> None:
    assert looks_like_spans(write(text)) == 0.0


def test_a_large_file_is_known_by_its_beginning(write: Write) -> None:
    row = json.dumps({"text": TEXT, "spans": SPANS})
    assert looks_like_spans(write((row + "\n") * 5000)) == 0.9
    assert looks_like_spans(write("[" + ", ".join([row] * 5000) + "]")) == 0.9
    assert looks_like_spans(write(columns(SCHEMES["IOB2 (BIO)"]) + "\n\nword O" * 60_000)) == 0.9
    assert looks_like_spans("/no/such/file") == looks_like_spans(str(Path(__file__).parent)) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        '{"text": "nothing here", "spans": []}\n' * 40 + json.dumps({"text": TEXT, "spans": SPANS}),
        json.dumps({"text": TEXT + " and so on" * 60_000, "entities": SPANS}),
    ],
)
def test_spans_are_known_though_the_first_rows_have_none_or_are_long(text: str, write: Write) -> None:
    assert looks_like_spans(write(text)) == 0.9


def test_texts_in_which_nothing_is_marked_are_known(write: Write) -> None:
    assert looks_like_spans(write('{"text": "nothing here", "spans": []}\n' * 40)) == 0.6
    assert looks_like_spans(write('{"text": "nothing here", "labels": []}\n' * 40)) == 0.0


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_large_file_in_utf16_is_known(encoding: str, tmp_path: Path) -> None:
    text = "\ufeff" + (columns(SCHEMES["IOB1"]) + "\n\nLjubljana\u010a\u0a0a O\n\n") * 4000
    (tmp_path / "wide").write_bytes(text.encode(encoding))
    assert looks_like_spans(str(tmp_path / "wide")) == 0.9


def test_comments_with_as_many_columns_as_words(write: Write) -> None:
    found = read(write("# id one\tx=y\nAnna _ _ B-PER\n# _ _ O\n\n# id two\tx=y\nBonn _ _ B-LOC\n"))
    assert [one.text for one in found.examples] == ["Anna #", "Bonn"] and not found.findings
    assert "2 comment lines (#) left out" in found.notes
    plain = read(write("# id a1 d=t\nthe\tDET\n#\tSYM\n\n# id a2 d=t\n#\tSYM\n"))
    assert [one.text for one in plain.examples] == ["the #", "#"]


def test_a_word_without_a_tag_costs_its_sentence(write: Write) -> None:
    found = read(write("in\tO\nBerlin\t\n\nin\tO\nRome\tB-LOC\n"))
    assert "without a tag" in kinds(found)["irregular_line"] and "line 2" in kinds(found)["irregular_line"]


def test_halves_of_surrogate_pairs(write: Write) -> None:
    found = read(write('{"text": "Anna \\ud83d in Bonn", "spans": [{"start": 0, "end": 4, "label": "PER"}]}'))
    assert found.examples[0].text == "Anna \ufffd in Bonn"
    assert read(write('{"tokens": ["Anna", "\\ud83d"], "tags": ["B-PER", "O"]}')).examples[0].text == "Anna \ufffd"


def test_the_first_row_need_not_be_like_the_others(write: Write) -> None:
    spans = [{"start": 0, "end": 4, "label": "PER"}]
    rows = [{"text": None, "spans": []}, {"text": "Anna", "spans": spans}]
    found = read(write("\n".join(map(json.dumps, rows))))
    assert [one.text for one in found.examples] == ["Anna"] and "1 row without a text" in found.findings[0].message
    both = {"text": "Anna", "tokens": ["Anna"], "tags": ["B-PER"]}
    assert read(write(json.dumps(both))).examples[0].spans == (Span(0, 4, "PER"),)


def test_impossible_tags_are_repaired_and_told(write: Write) -> None:
    found = read(write("a O\nb I-X\nc I-X\n\nd B-X\ne I-Y\n\nf B-X\ng I-X\n\nh B-Y\n"))
    assert [one.spans for one in found.examples] == [
        (Span(2, 5, "X"),), (Span(0, 1, "X"), Span(2, 3, "Y")), (Span(0, 3, "X"),), (Span(0, 1, "Y"),)
    ]  # fmt: skip
    message = kinds(found)["impossible_tag"]
    assert "2 tags" in message and "'I-X after O'" in message and "lines 2, 6" in message


def test_bioes_that_is_cut_off(write: Write) -> None:
    found = read(write("a S-X\n\nb B-X\nc O\n\nd I-X\ne E-X\n\nf B-X\n"))
    assert [one.spans for one in found.examples[1:]] == [(Span(0, 1, "X"),), (Span(0, 3, "X"),), (Span(0, 1, "X"),)]
    assert "3 tags" in kinds(found)["impossible_tag"]


def test_lines_of_another_width_cost_their_sentence(write: Write) -> None:
    found = read(write("a B-X\nb O\n\nc B-X\nd\n\ne B-X\nf x O\n\n\tO\n\ng B-Y\nh O\n"))
    (message,) = [one.message for one in found.findings if one.kind == "irregular_line"]
    assert "3 lines" in message and "lines 5, 8, 10" in message
    with pytest.raises(HalfpintError, match="a word and its tag per line"):
        read(write("only\none\ncolumn\n"))


def test_tags_of_another_form(write: Write) -> None:
    found = read(write("a B-X\nb O\n\nc B-X\nd -X-\n\ne B-X\nf I-X\n"))
    assert "'-X-'" in kinds(found)["foreign_tag"] and "line 5" in kinds(found)["foreign_tag"]


def jsonl(*rows: tuple[str, list[list[object]]]) -> str:
    return "".join(json.dumps({"text": text, "label": spans}) + "\n" for text, spans in rows)


def test_spans_that_do_not_fit_their_text(write: Write) -> None:
    good: list[tuple[str, list[list[object]]]] = [(f"Bonn is {n}", [[0, 4, "LOC"]]) for n in range(9)]
    bad: list[tuple[str, list[list[object]]]] = [
        ("Bonn", [[0, 5, "LOC"]]),
        ("Bonner Platz", [[0, 4, "LOC"]]),
        ("Bonn is", [[0, 5, "LOC"]]),
        ("New York Times", [[0, 8, "LOC"], [0, 14, "ORG"]]),
    ]
    found = read(write(jsonl(*good, *bad)))
    told = kinds(found)
    assert {"span_outside", "inside_word", "span_spaces", "overlapping"} <= set(told)
    for kind, line in (("span_outside", 10), ("inside_word", 11), ("span_spaces", 12), ("overlapping", 13)):
        assert f"line {line}" in told[kind]
    assert mended(found.examples[11]).spans == (Span(0, 4, "LOC"),)
    assert mended(found.examples[12]).spans == (Span(0, 14, "ORG"),)
    with pytest.raises(HalfpintError, match="characters from 0"):
        prepare_spans(TagData(source=write(jsonl(*[("ü", [[0, 2, "X"]])] * 9))), SILENT)


def test_rows_without_a_text_or_with_other_spans_are_told(write: Write) -> None:
    rows = [
        '{"text": "Bonn", "spans": [[0, 4, "LOC"]]}',
        '{"text": " ", "spans": []}',
        '{"text": "a", "spans": [[0, "x"]]}',
        "3",
    ]
    found = read(write("\n".join(rows)))
    assert len(found.examples) == 1 and "lines 2, 3, 4" in kinds(found)["unreadable_row"]
    with pytest.raises(HalfpintError, match="line 2"):
        read(write('{"text": "Bonn", "spans": [[0, 4, "LOC"]]}\n{"text"\n'))


def test_fields_may_be_named(write: Write) -> None:
    source = write(json.dumps({"a": "no", "words_of": "Bonn", "marks": [[0, 4, "LOC"]]}) + "\n")
    assert read(source, text="words_of", label="marks").examples == [TagExample("Bonn", (Span(0, 4, "LOC"),), 1)]
    with pytest.raises(HalfpintError, match="Did you mean 'marks'"):
        read(source, text="words_of", label="mark")


def sentences(n: int, word: str = "town") -> str:
    places = [f"{chr(97 + i % 26)}{chr(97 + i // 26)}{word}{i}" for i in range(n)]
    return "".join(
        f"we O\n{word}{place * 3} O\nsaw O\n{place.title()} B-LOC\nnumber{i} O\n\n" for i, place in enumerate(places)
    )


def test_training_makes_no_sense(write: Write) -> None:
    with pytest.raises(HalfpintError, match="no span in any text"):
        prepare_spans(TagData(source=write("a O\nb O\n\nc O\nd O\n"), scheme="iob2"), SILENT)
    with pytest.raises(HalfpintError, match="labels that are only in test: 'PER'"):
        prepare_spans(TagData(source=write(sentences(40)), test=write("a B-PER\nb O\n\nc B-LOC\nd O\n")), SILENT)
    with pytest.raises(HalfpintError, match="is empty"):
        prepare_spans(TagData(source=write("  \n")), SILENT)
    with pytest.raises(HalfpintError, match="keep some for validation and test"):
        prepare_spans(TagData(source=write("a B-X\nb O\n")), SILENT)


def test_what_is_in_the_test_file_is_not_learned(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    both = "Bonn B-LOC\nis O\nhere O\n\n"
    part = "and O\nso O\nGhent B-LOC\nis O\nhere O\ntoo O\n\n"
    near = "Lausanne B-LOC\nwelcomed O\nextraordinary O\nmathematicians O\n\n"
    split = prepare_spans(
        TagData(
            source=write(both + part + near.replace("ians", "ian") + sentences(40)),
            test=write(both + "so O\nGhent B-LOC\nis O\nhere O\n\n" + near + sentences(5, "port")),
        ),
        Log(),
    )
    assert len(split.test) == 8 and len((*split.train, *split.validation)) == 40
    told = {one["kind"]: one["count"] for one in split.facts["dropped"]}
    assert told == {"leakage_test": 1, "leakage_near_test": 1, "leakage_part_test": 1}
    assert "Bonn is here" not in [one.text for one in (*split.train, *split.validation)]
    assert "in test: left out of training: 1 text (line 1)" in capsys.readouterr().err
    assert split.facts["dropped"][0]["kind"] == "leakage_test" and split.facts["test"] == 8


def test_near_duplicates_stay_on_one_side(write: Write) -> None:
    twice = "".join(f"{sentences(60).rstrip()}\n\n" for _ in range(2))
    split = prepare_spans(TagData(source=write(twice), seed=1), SILENT)
    sides = [{one.text for one in side} for side in (split.train, split.validation, split.test)]
    assert all(sides) and not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    again = prepare_spans(TagData(source=write(twice), seed=1), SILENT)
    assert (again.key, again.proof) == (split.key, split.proof)
    assert prepare_spans(TagData(source=write(twice), seed=2), SILENT).key != split.key


@pytest.mark.parametrize(
    ("file", "texts", "spans"),
    [
        ("conll2003/eng.train.gz", 14_041, 23_499),
        ("wnut17/wnut17train.conll", 3_394, 1_975),
        ("mit_restaurant/train.txt.gz", 7_660, 15_363),
        ("wikiann/de.dev.txt.gz", 10_000, 13_818),
    ],
)
def test_known_files(file: str, texts: int, spans: int) -> None:
    if not (DATA / file).is_file():
        pytest.skip(f"no {file}")
    found = read(str(DATA / file))
    assert (len(found.examples), sum(len(one.spans or ()) for one in found.examples)) == (texts, spans)
    assert looks_like_spans(str(DATA / file)) == 0.9
