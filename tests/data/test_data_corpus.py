"""Corpora: nothing lost where nothing is to be cleaned, what is dropped and why, the split, the cache, the faults."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfpint.data import documents
from halfpint.data.corpus import Corpus, CorpusData, open_corpus, prepare_corpus
from halfpint.data.corpus_clean import RULES, fault, looks_like_code, tidy
from halfpint.data.corpus_read import PYTHON_STDLIB, find_source
from halfpint.data.dedup import near_duplicate_groups, normalise
from halfpint.data.documents import cut
from halfpint.data.language import language_of
from halfpint.data.near_duplicates import NearDuplicates
from halfpint.errors import HalfpintError
from halfpint.progress import SILENT, Log

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
TEXT = """
river stone quiet market letter garden winter story wheel copper lantern island basket music harvest
window bridge captain feather mountain silver orchard thunder village needle pepper meadow candle
harbour blanket sparrow
"""
WORDS = TEXT.split()


def prose(seed: int, words: int = 60) -> str:
    source = random.Random(seed)
    found = [source.choice(WORDS) for _ in range(words)]
    return " ".join(f"the {word}" if number % 4 == 0 else word for number, word in enumerate(found)) + "."


def jsonl(path: Path, rows: list[Any]) -> Path:
    text = "".join(json.dumps(row if isinstance(row, dict) else {"text": row}) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Corpus]:
    def run(*sources: Path | str, log: Log = SILENT, **changes: Any) -> Corpus:
        return prepare_corpus(CorpusData(sources=tuple(map(str, sources)), **changes), tmp_path / "cache", log)

    return run


PIECES = st.lists(
    st.sampled_from(
        ["\n", "\n\n", " \n", "\r\n", "\f", "\f\n", "<|endoftext|>", "<|endoftext|>\n", " = A = \n \n", " \n = B = \n",
         " = = C = = \n", "word ", "a longer line of text\n", "\u2028", "é文🙂\n", "x" * 50]
    )
)  # fmt: skip


@settings(max_examples=200)
@given(pieces=PIECES, at=st.lists(st.integers(0, 400), max_size=4), code=st.booleans())
def test_documents_joined_are_the_text_and_cut_no_line(pieces: list[str], at: list[int], code: bool) -> None:
    text = "".join(pieces)
    borders = sorted({0, len(text), *(text.find("\n", place) + 1 for place in at)})
    blocks = [text[one:other] for one, other in pairwise(borders)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "WHOLE_CHARS", 120)
        patch.setattr(documents, "PIECE_CHARS", 60)
        patch.setattr(documents, "MOST_CHARS", 150)
        found = list(cut(blocks, code=code))
    assert "".join(found) == text
    assert all(found)
    for piece in found[:-1]:
        assert piece.endswith(("\n", "\f", "<|endoftext|>"))
        assert len(piece) <= 188 or "\n" not in piece.rstrip("\n\f")[150:]


def test_what_a_document_is() -> None:
    marked = "One story.\n<|endoftext|>\nAnother.\n\nStill that.\n<|endoftext|>\n"
    assert list(cut([marked])) == ["One story.\n<|endoftext|>\n", "Another.\n\nStill that.\n<|endoftext|>\n"]
    articles = " \n = One = \n \n Text . \n \n = = Part = = \n \n More . \n \n = Two = \n \n Text . \n"
    assert [piece.split("=")[1] for piece in cut([articles])] == [" One ", " Two "]
    assert list(cut(["page 1\n\fpage 2\n"])) == ["page 1\n\f", "page 2\n"]
    assert list(cut(["import a\n\f\ndef b(): ...\n"], code=True)) == ["import a\n\f\ndef b(): ...\n"]
    short = "a paragraph\n\n" * 1000
    assert list(cut([short])) == [short]
    long = [("line " * 40 + "\n") * 3 + "\n"] * 300
    pieces = list(cut(["".join(long)]))
    assert len(pieces) > 5
    assert all(piece.endswith("\n\n") and 8_000 < len(piece) < 21_000 for piece in pieces)


@pytest.mark.parametrize(("part", "articles"), [("valid", 60), ("test", 60)])
def test_wikitext_has_as_many_articles_as_its_authors_say(part: str, articles: int) -> None:
    if not (DATA / "wikitext2").exists():
        pytest.skip("wikitext2 is not beside the repository")
    text = gzip.decompress((DATA / "wikitext2" / f"{part}.txt.gz").read_bytes()).decode()
    lines = text.splitlines(keepends=True)
    for blocks in ([text], ["".join(lines[n : n + 700]) for n in range(0, len(lines), 700)]):
        found = list(cut(blocks))
        assert "".join(found) == text
        assert len(found) == articles


@settings(max_examples=25)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1))
def test_uncleaned_is_the_file_to_the_byte(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("exact")
    (folder / "a.txt").write_bytes(text.encode())
    if text.encode().startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"PK", b"BZh", b"%PDF", b"PAR1")):
        return
    data = CorpusData(sources=(str(folder / "a.txt"),), clean=False, validation_share=0.0)
    corpus = prepare_corpus(data, folder / "cache", SILENT)
    assert "".join(corpus.train) == text
    assert (corpus.path / "train.bin").read_bytes() == text.encode()
    assert len(corpus.validation) == 0


def test_every_kind_of_source_gives_the_same_texts(tmp_path: Path, make: Callable[..., Corpus]) -> None:
    texts = [prose(seed) for seed in range(12)]
    jsonl(tmp_path / "rows.jsonl", [{"id": n, "text": text} for n, text in enumerate(texts)])
    jsonl(tmp_path / "rows.jsonl.gz", [{"id": n, "text": text} for n, text in enumerate(texts)])
    (tmp_path / "rows.csv").write_text("id,text\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(texts)))
    (tmp_path / "rows.tsv").write_text("id\ttext\n" + "".join(f"{n}\t{text}\n" for n, text in enumerate(texts)))
    (tmp_path / "rows.json").write_text(json.dumps([{"id": n, "text": text} for n, text in enumerate(texts)]))
    (tmp_path / "marked.txt").write_text("".join(text + "\n<|endoftext|>\n" for text in texts))
    folder = tmp_path / "folder" / "below"
    folder.mkdir(parents=True)
    for number, text in enumerate(texts):
        (folder / f"{number:02}.txt").write_text(text)
    (folder.parent / "README.md").write_text("what this is and is no part of it " * 5)
    (folder / "image.png").write_bytes(b"\x89PNG\r\n\x00\x00")
    (folder / "empty.txt").touch()
    (folder / ".hidden.txt").write_text("hidden")
    names = ["rows.jsonl", "rows.jsonl.gz", "rows.csv", "rows.tsv", "rows.json", "marked.txt", "folder"]
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"id": range(12), "text": texts}).to_parquet(str(tmp_path / "rows.parquet"))
    saved = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": texts})})
    saved.save_to_disk(str(tmp_path / "saved"))
    for name in [*names, "rows.parquet", "saved"]:
        corpus = make(tmp_path / name, validation_share=0.0)
        assert list(corpus.train) == texts, name
    assert corpus.summary()["train"] == {
        "documents": 12, "bytes": sum(map(len, texts)), "words": sum(len(text.split()) for text in texts),
    }  # fmt: skip
    left = make(tmp_path / "folder", validation_share=0.0).summary()["left_out"]
    assert left == {"not readable as text (expected a text file)": 1, "empty file": 1}


def test_the_text_column_is_guessed_or_named(tmp_path: Path, make: Callable[..., Corpus]) -> None:
    rows = [{"path": f"p{n}", "content": prose(n), "note": prose(n + 50)} for n in range(250)]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    assert list(make(path, validation_share=0.0).train) == [row["content"] for row in rows]
    assert list(make(path, text="note", validation_share=0.0).train) == [row["note"] for row in rows]
    with pytest.raises(HalfpintError, match="Did you mean 'note'"):
        make(path, text="notes")
    broken = jsonl(tmp_path / "surrogate.jsonl", [{"text": "half a pair \ud83d of five words"}, {"text": None}] * 2)
    assert set(make(broken, clean=False, validation_share=0.0).train) == {"half a pair \ufffd of five words"}


GOOD = prose(0)


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        (GOOD, False, ""),
        ("One short line.", False, "too short"),
        ("この文は短いですが、十分な長さの文字を持っています。", False, ""),
        ("短い。", False, "too short"),
        ("हिन्दी भाषा में लिखा हुआ एक साधारण वाक्य यहाँ है।", False, ""),
        (GOOD[:90] + "\ufffd\x01\x02", False, "damaged"),
        ("12 34 56 78 90 -- 12.5 % 99 3/4 and 55 66", False, "few letters"),
        ("a b c d e f g h i j k", False, "odd words"),
        ("pneumono" * 10 + " " + "ultramicro" * 9 + " is the a of", False, "odd words"),
        ("\n".join(["Click here to read more of it now"] * 5 + WORDS[:5]), False, "repeated lines"),
        ("buy cheap watches now " * 30, False, "repeated words"),
        ("\n".join(f"- {prose(n, 6)}" for n in range(9)), False, "lists"),
        ("\n".join(f"{prose(n, 6)}.." for n in range(9)), False, "cut lines"),
        (GOOD + " Lorem ipsum dolor sit amet.", False, "placeholder"),
        ("def main(argument):\n    return {'key': [argument, 1]}\n", True, ""),
        ("x=1\n", True, "too short"),
        ("var a=" + "function(){return[1,2]};" * 60, True, "long lines"),
    ],
)
def test_rules(text: str, code: bool, reason: str) -> None:
    assert fault(text, code=code) == reason
    assert reason == "" or reason in RULES


def test_code_is_told_from_prose() -> None:
    assert not looks_like_code(GOOD)
    assert not looks_like_code(" = A Title = \n \n The <unk> of <unk> was ( in 1914 ) the <unk> @-@ based one . \n")
    assert looks_like_code(Path(documents.__file__).read_text(encoding="utf-8"))
    assert tidy(" \n\n  An indented line.\r\nAnother.\n\n<|endoftext|>\n") == "  An indented line.\nAnother."


def test_what_is_dropped_is_counted_and_told(tmp_path: Path, make: Callable[..., Corpus]) -> None:
    base = [prose(seed, 80) for seed in range(20)]
    near = base[3].replace("the", "that", 1)
    texts = [
        *base,
        base[0].upper() + "!",
        near,
        "too short",
        "Der Fluss und die Brücke sind nicht weit von dem Dorf, das wir",
    ]
    events = tmp_path / "events.jsonl"
    corpus = make(jsonl(tmp_path / "a.jsonl", texts), validation_share=0.0, language="en", log=Log(events, quiet=True))
    assert list(corpus.train) == base
    dropped = {item["reason"]: (item["count"], len(item["examples"])) for item in corpus.summary()["dropped"]}
    assert dropped == {
        "exact duplicate": (1, 1), "near duplicate": (1, 1), "too short": (1, 1), "other language": (1, 1),
    }  # fmt: skip
    examples = {item["reason"]: item["examples"][0] for item in corpus.summary()["dropped"]}
    assert examples["too short"]["place"].endswith("a.jsonl, line 23") and examples["too short"]["start"] == "too short"
    said = events.read_text(encoding="utf-8")
    assert "dropped: 1 × near duplicate" in said and "20 documents" in said


def test_near_duplicates_are_those_of_dedup(monkeypatch: pytest.MonkeyPatch) -> None:
    """In small chunks, with texts read again for each check, as if all had been in memory."""
    source = random.Random(5)
    texts = [prose(seed, 40) for seed in range(60)]
    for _ in range(90):
        words = source.choice(texts).split()
        for _ in range(source.randint(0, 6)):
            words[source.randrange(len(words))] = source.choice(WORDS)
        texts.append(" ".join(words))
    true = near_duplicate_groups(texts)
    monkeypatch.setattr("halfpint.data.near_duplicates._CHUNK_CHARS", 2000)
    near = NearDuplicates()
    for text in texts:
        near.add(normalise(text))
    found = near.groups(texts.__getitem__)
    firsts = {int(group): int(number) for number, group in reversed(list(enumerate(true)))}
    assert found.tolist() == [firsts[int(group)] for group in true]
    assert len(set(found.tolist())) < 140


def test_the_split_is_by_document_content_and_seed(tmp_path: Path, make: Callable[..., Corpus]) -> None:
    texts = [prose(seed) for seed in range(200)]
    path = jsonl(tmp_path / "a.jsonl", texts)
    corpus = make(path, validation_share=0.1)
    train, validation = list(corpus.train), list(corpus.validation)
    assert sorted([*train, *validation]) == sorted(texts)
    assert train == [text for text in texts if text in set(train)]  # the order of the source stays
    assert 0.08 < sum(map(len, validation)) / sum(map(len, texts)) < 0.12
    shuffled = jsonl(tmp_path / "b.jsonl", random.Random(1).sample(texts, len(texts)))
    assert set(make(shuffled, validation_share=0.1).validation) == set(validation)
    assert set(make(path, validation_share=0.1, seed=1).validation) != set(validation)
    more = jsonl(tmp_path / "c.jsonl", [*texts, *(prose(seed) for seed in range(200, 220))])
    assert len(set(validation) - set(make(more, validation_share=0.1).validation)) <= 3  # nearly all of it stays


def test_near_duplicates_are_on_one_side_even_when_kept(tmp_path: Path, make: Callable[..., Corpus]) -> None:
    pairs = [(text, text + " Indeed.") for text in (prose(seed, 90) for seed in range(40))]
    path = jsonl(tmp_path / "a.jsonl", [text for pair in pairs for text in pair])
    corpus = make(path, clean=False, validation_share=0.3)
    train, validation = set(corpus.train), set(corpus.validation)
    assert len(train) + len(validation) == 80
    for one, other in pairs:
        assert (one in train) == (other in train)
    assert not corpus.summary()["dropped"]


def test_a_validation_source_is_left_alone_and_train_has_nothing_of_it(
    tmp_path: Path, make: Callable[..., Corpus]
) -> None:
    base = [prose(seed, 90) for seed in range(20)]
    held = [base[0], base[0], "short", base[1].replace("the", "that", 1)]
    corpus = make(jsonl(tmp_path / "a.jsonl", base), validation=str(jsonl(tmp_path / "v.jsonl", held)))
    assert list(corpus.validation) == held
    assert list(corpus.train) == base[2:]
    assert {item["reason"]: item["count"] for item in corpus.summary()["dropped"]} == {"in validation": 2}
    same = make(jsonl(tmp_path / "a.jsonl", base), validation=str(tmp_path / "v.jsonl"), clean=False)
    assert list(same.train) == base and list(same.validation) == held


def test_made_once_and_again_when_the_content_changes(tmp_path: Path, make: Callable[..., Corpus]) -> None:
    path = jsonl(tmp_path / "a.jsonl", [prose(seed) for seed in range(30)])
    first = make(path)
    stamp = (first.path / "train.bin").stat().st_mtime_ns
    again = make(path)
    assert (again.key, again.path, (again.path / "train.bin").stat().st_mtime_ns) == (first.key, first.path, stamp)
    assert list(open_corpus(first.path).train) == list(first.train)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.jsonl").write_bytes(path.read_bytes())
    assert make(elsewhere / "a.jsonl").key == first.key  # content counts, not where it lies
    assert make(path, seed=7).key != first.key
    jsonl(path, [prose(seed) for seed in range(31)])
    assert make(path).key != first.key
    assert first.train.key != first.validation.key
    (first.path / "train.bin").write_bytes(b"cut off")
    with pytest.raises(HalfpintError, match="damaged"):
        open_corpus(first.path)


def test_python_own_library(make: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stdlib = tmp_path / "lib"
    for name, text in {
        "a.py": "def first(argument):\n    return [argument]\n" * 4, "below/b.py": "class B:\n    x = {'a': 1}\n" * 4,
        "site-packages/c.py": "third = 3\n" * 9, "note.txt": prose(1), "below/d.py": "é = 'latin one is not utf-8'\n",
    }.items():  # fmt: skip
        (stdlib / name).parent.mkdir(parents=True, exist_ok=True)
        (stdlib / name).write_bytes(text.encode("latin-1" if name.endswith("d.py") else "utf-8"))
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(stdlib)})
    corpus = make(PYTHON_STDLIB, clean=False, validation_share=0.0)
    assert list(corpus.train) == [(stdlib / name).read_text() for name in ("a.py", "below/b.py")]
    assert corpus.summary()["left_out"] == {"not UTF-8": 1}
    monkeypatch.undo()
    assert len(find_source(PYTHON_STDLIB).files) > 150


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sources": ()}, "at least one source"),
        ({"sources": ("goood.txt",)}, "Did you mean 'good.txt'"),
        ({"sources": ("empty.txt",)}, "empty.txt is empty"),
        ({"sources": ("binary.bin",)}, "binary file"),
        ({"sources": ("nothing",)}, "no files in the folder"),
        ({"sources": ("images",)}, "no text in images \\(1 × not readable"),
        ({"sources": ("cut.txt.gz",)}, "a whole gzip file"),
        ({"sources": ("broken.jsonl",)}, "broken.jsonl, line 2 is not valid JSON"),
        ({"sources": ("list.jsonl",)}, "line 1, column 'text': expected a text, got a list"),
        ({"sources": ("one.txt",)}, "only one document"),
        ({"sources": ("short.jsonl",)}, "worth learning from: 2 × too short, of 2 documents.*fewer than 5 words"),
        ({"validation_share": 0.6}, "between 0 and 0.5"),
        ({"validation_share": -0.1}, "between 0 and 0.5"),
        ({"language": "english"}, "a language that is known"),
        ({"validation": "nowhere.txt"}, "no file or folder nowhere.txt"),
        ({"validation": "good.txt"}, "documents that the validation source does not have"),
    ],
)
def test_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., Corpus], changes: dict[str, Any], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.txt").write_text("".join(prose(seed) + "\n<|endoftext|>\n" for seed in range(9)))
    (tmp_path / "one.txt").write_text(GOOD)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.bin").write_bytes(b"\x00\x01\x02" * 50)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"\x89PNG\x00\x00")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(prose(1, 900).encode())[:-30])
    (tmp_path / "broken.jsonl").write_text(json.dumps({"text": GOOD}) + "\nno json\n")
    jsonl(tmp_path / "list.jsonl", [{"text": ["a", "b"], "other": GOOD}])
    jsonl(tmp_path / "short.jsonl", ["Hi there.", "Bye."])
    sources = changes.pop("sources", ("good.txt",))
    with pytest.raises(HalfpintError, match=said):
        make(*sources, **{"text": "text" if sources == ("list.jsonl",) else "", **changes})
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (GOOD + " It was the best of all that they had.", "en"),
        ("Der Fluss ist nicht weit von dem Dorf, und die Brücke ist noch da, aber sie wird nicht gebaut", "de"),
        ("これは日本語の文章です。漢字もあります。", "ja"),
        ("這是中文的句子。", "zh"),
        ("Это не то, что мы хотели бы от вас, но так было и у них", "ru"),
        ("xq zzt 123", "unknown"),
        ("", "unknown"),
    ],
)
def test_languages(text: str, code: str) -> None:
    assert language_of(text) == code


@pytest.mark.parametrize("code", ["eng", "deu", "fra", "spa"])
def test_languages_of_flores(code: str) -> None:
    path = DATA / "flores200_subset" / f"{code}_Latn.devtest"
    if not path.exists():
        pytest.skip("flores200_subset is not beside the repository")
    lines = path.read_text(encoding="utf-8").splitlines()
    wanted = {"eng": "en", "deu": "de", "fra": "fr", "spa": "es"}[code]
    alone = [language_of(line) for line in lines]
    together = [language_of(" ".join(lines[n : n + 5])) for n in range(0, len(lines), 5)]
    assert alone.count(wanted) > 0.85 * len(lines)
    assert len(lines) - alone.count(wanted) - alone.count("unknown") < 0.01 * len(lines)  # unsure, but seldom wrong
    assert together.count(wanted) > 0.98 * len(together)
