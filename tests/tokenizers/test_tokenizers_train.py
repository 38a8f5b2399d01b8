"""Trained tokenizers: any text comes back, the same texts give the same files, transformers opens them, faults told."""

from __future__ import annotations

import functools
import gzip
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from halfpint.data.documents import END_OF_TEXT
from halfpint.errors import HalfpintError
from halfpint.progress import SILENT
from halfpint.tokenizers.kinds import END, MASKED, PAD, START
from halfpint.tokenizers.train import TokenizerReport, TokenizerSettings, train_tokenizer
from halfpint.tokenizers.unigram import train_unigram

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SUBJECTS = ["the cat", "my old dog", "a teacher", "our neighbour", "the café owner", "Zoë", "nobody", "an engineer"]
VERBS = ["sees", "is watching", "has forgotten", "will paint", "never bought", "quickly returned", "understands"]
OBJECTS = [
    "the house.", "42 apples!", "a garden, slowly.", "every letter?", "\n\tan `x = f(y)` line", "naïve", "文字 too",
]  # fmt: skip
ODD = [" ", "\r\n", "  ", "\u00a0", "▁", "<0x41>", "<unk>", "<|im_end|>", "\x00", "🙂", "'s", "\n\n\t"]
SIZES = {"bpe": 410, "unigram": 460, "wordpiece": 200, "word": 50, "char": 340}


@functools.cache
def texts() -> tuple[str, ...]:
    source = random.Random(1)
    return tuple(
        " ".join(
            f"{source.choice(SUBJECTS)} {source.choice(VERBS)} {source.choice(OBJECTS)}"
            for _ in range(source.randint(2, 9))
        )
        for _ in range(400)
    )


def made(kind: str, folder: Path, **changes: Any) -> TokenizerReport:
    given = {"kind": kind, "vocab_size": SIZES[kind], **changes}
    return train_tokenizer(texts(), TokenizerSettings(**given), folder, SILENT)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tokenizer, TokenizerReport, Path]]:
    folder = tmp_path_factory.mktemp("tokenizers")
    found = {}
    for kind in SIZES:
        report = made(kind, folder / kind)
        found[kind] = (Tokenizer.from_file(str(folder / kind / "tokenizer.json")), report, folder / kind)
    return found


@settings(max_examples=150)
@given(
    text=st.one_of(
        st.text(),
        st.text(st.characters(codec="utf-8"), min_size=20, max_size=60),
        st.lists(st.sampled_from([*SUBJECTS, *OBJECTS, *ODD])).map("".join),
    )
)  # fmt: skip
@pytest.mark.parametrize("kind", ["bpe", "unigram", "char"])
@pytest.mark.parametrize("as_text", [False, True])
def test_any_text_comes_back(tokenizers: dict[str, Any], kind: str, as_text: bool, text: str) -> None:
    tokenizer = tokenizers[kind][0]
    tokenizer.encode_special_tokens = as_text
    encoding = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(encoding.ids, skip_special_tokens=False) == text
    if as_text:
        special = {tokenizer.token_to_id(token) for token in (END_OF_TEXT, PAD, START, END, "<unk>")}
        assert not special & set(encoding.ids)


@pytest.mark.parametrize("kind", list(SIZES))
def test_report(tokenizers: dict[str, Any], kind: str) -> None:
    tokenizer, report, folder = tokenizers[kind]
    assert report.vocab_size == tokenizer.get_vocab_size(with_added_tokens=True) <= SIZES[kind]
    assert kind == "char" or report.vocab_size >= 0.9 * SIZES[kind]
    assert sorted(tokenizer.get_vocab(with_added_tokens=True).values()) == list(range(report.vocab_size))
    assert report.lossless == (kind in ("bpe", "unigram", "char"))
    assert any("lossy" in note for note in report.notes) != report.lossless
    assert report.measured_on == "held-out texts"
    assert 1 < report.texts < len(texts())
    least = {"char": 1.0, "unigram": 3.5, "bpe": 3.5, "wordpiece": 3.5, "word": 3.5}[kind]
    assert least < report.bytes_per_token < 8
    assert (report.unknown_share > 0) == (kind == "word")
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


@pytest.mark.parametrize("kind", ["bpe", "word"])
def test_the_figures_are_those_of_the_texts_given_to_measure_on(tmp_path: Path, kind: str) -> None:
    given = ["the cat sees 42 apples!\n", "the old dog"]
    settings = TokenizerSettings(kind=kind, vocab_size=SIZES[kind])
    report = train_tokenizer(texts(), settings, tmp_path, SILENT, held_out=given)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokens = sum(len(tokenizer.encode(text).ids) for text in given)
    assert report.bytes_per_token == pytest.approx(sum(len(text.encode()) for text in given) / tokens, abs=1e-3)
    assert report.tokens_per_word == pytest.approx(tokens / 8, abs=1e-3)
    assert report.texts == len(texts())


def test_the_same_in_every_process(tokenizers: dict[str, Any], tmp_path: Path) -> None:
    """Hash tables have another order in each process; files must not."""
    file = tmp_path / "texts.json"
    file.write_text(json.dumps(texts()), encoding="utf-8")
    code = (
        "import json, sys\nfrom pathlib import Path\nfrom halfpint.progress import SILENT\n"
        "from halfpint.tokenizers.train import TokenizerSettings, train_tokenizer\n"
        "texts = json.loads(Path(sys.argv[1]).read_text(encoding='utf-8'))\n"
        f"for kind, size in {SIZES!r}.items():\n"
        "    settings = TokenizerSettings(kind=kind, vocab_size=size)\n"
        "    print(train_tokenizer(texts, settings, Path(sys.argv[2]) / kind, SILENT).sha256)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [tokenizers[kind][1].sha256 for kind in SIZES], done.stderr


def test_transformers_opens_it_and_chats(tokenizers: dict[str, Any]) -> None:
    auto = pytest.importorskip("transformers").AutoTokenizer
    for kind, (tokenizer, _, folder) in tokenizers.items():
        loaded = auto.from_pretrained(str(folder))
        assert loaded.is_fast
        assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == (END_OF_TEXT, END_OF_TEXT, PAD)
        assert loaded.unk_token == (None if kind in ("bpe", "char") else "<unk>")
        for text in texts()[:20]:
            tokenizer.encode_special_tokens = False
            assert loaded(text)["input_ids"] == tokenizer.encode(text).ids
        ids = loaded.convert_tokens_to_ids([START, END])
        assert len(set(ids)) == 2 and set(ids) <= set(loaded.all_special_ids)
    loaded = auto.from_pretrained(str(tokenizers["bpe"][2]))
    turns = [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Yes?"}]
    said = "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n"
    assert loaded.apply_chat_template(turns, tokenize=False) == said
    asked = loaded.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert asked == "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n"
    assert loaded.decode(loaded("  a  b\n")["input_ids"]) == "  a  b\n"


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
def test_masked(tmp_path: Path, kind: str) -> None:
    made(kind, tmp_path, purpose="masked")
    loaded = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(str(tmp_path))
    assert [loaded.pad_token, loaded.unk_token, loaded.cls_token, loaded.sep_token, loaded.mask_token] == list(
        MASKED.values()
    )
    ids = loaded("the cat", "a teacher")
    tokens = loaded.convert_ids_to_tokens(ids["input_ids"])
    assert (tokens[0], tokens[-1], tokens.count("[SEP]")) == ("[CLS]", "[SEP]", 2)
    assert sum(ids["token_type_ids"]) == len(tokens) - tokens.index("[SEP]") - 1
    assert loaded("the [MASK]")["input_ids"][-2] == loaded.mask_token_id
    assert not (tmp_path / "chat_template.jinja").exists()


def test_wordpiece_cuts_words_as_bert_does(tokenizers: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = tokenizers["wordpiece"][0]
    assert tokenizer.encode("the teacher nobody").tokens == ["the", "teacher", "nobody"]
    pieces = tokenizer.encode("thenobody").tokens
    assert len(pieces) > 1 and not pieces[0].startswith("##")
    assert all(piece.startswith("##") for piece in pieces[1:])
    assert "".join(piece.removeprefix("##") for piece in pieces) == "thenobody"
    made("wordpiece", tmp_path, lowercase=True)
    lower = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert lower.encode("THE CAFÉ").ids == lower.encode("the cafe").ids


def test_words_between_spaces_where_punctuation_stands_alone(tmp_path: Path) -> None:
    apart = ["the cat , which <unk> 's old , sat . \n"] * 3
    report = train_tokenizer(apart, TokenizerSettings(kind="word", vocab_size=14), tmp_path, SILENT)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode(apart[0]).tokens == [
        "the",
        "cat",
        ",",
        "which",
        "<unk>",
        "'s",
        "old",
        ",",
        "sat",
        ".",
        "\n",
    ]
    assert "around punctuation too" in report.notes[0]
    together = ["The cat's old, it sat."]
    report = train_tokenizer(together, TokenizerSettings(kind="word", vocab_size=14), tmp_path, SILENT)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode(together[0]).tokens == ["The", "cat", "'", "s", "old", ",", "it", "sat", "."]


def test_special_tokens_of_ones_own_are_one_token(tmp_path: Path) -> None:
    made("bpe", tmp_path, special_tokens=("<tool>",))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert "<tool>" in tokenizer.encode("a<tool>b").tokens


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "bbpe"}, "Did you mean 'bpe'"),
        ({"purpose": "casual"}, "Did you mean 'causal'"),
        ({"kind": "bpe", "vocab_size": 100}, "at least 260: the special tokens and 256 bytes"),
        ({"kind": "char", "vocab_size": 200}, "at least 260"),
        ({"kind": "unigram", "vocab_size": 270}, "characters"),
        ({"kind": "wordpiece", "vocab_size": 60}, "characters, each at the beginning"),
        ({"kind": "bpe", "vocab_size": 20_000}, "too short for a vocabulary of 20,000 tokens: it has "),
        ({"kind": "unigram", "vocab_size": 20_000}, "too short for a vocabulary of 20,000 tokens: it has "),
        (
            {"kind": "wordpiece", "vocab_size": 20_000},
            "too short for a vocabulary of 20,000 tokens: it has ",
        ),
        ({"kind": "word", "vocab_size": 20_000}, "too short for a vocabulary of 20,000 tokens: it has "),
        ({"kind": "bpe", "lowercase": True}, "the kind wordpiece or word"),
        ({"special_tokens": ("",)}, "names with letters"),
    ],
)
def test_what_cannot_be_trained_is_told_and_leaves_nothing(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(HalfpintError, match=said):
        train_tokenizer(texts(), TokenizerSettings(**changes), tmp_path / "out", SILENT)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", list(SIZES))
@pytest.mark.parametrize("nothing", [(), ("", " \n")])
def test_no_text_is_told(tmp_path: Path, kind: str, nothing: tuple[str, ...]) -> None:
    with pytest.raises(HalfpintError, match="expected text to train a tokenizer on"):
        train_tokenizer(nothing, TokenizerSettings(kind=kind), tmp_path / "out", SILENT)
    assert not (tmp_path / "out").exists()


def test_a_broken_source_of_texts_stops_it(tmp_path: Path) -> None:
    def broken() -> Any:
        yield from texts()
        raise HalfpintError("the source", wanted="text", got="an end of the line")

    with pytest.raises(HalfpintError, match="end of the line"):
        train_tokenizer(broken(), TokenizerSettings(vocab_size=410), tmp_path / "out", SILENT)
    assert not (tmp_path / "out").exists()


def test_unigram_fits_better_than_characters_and_finds_the_words() -> None:
    words = Counter(word for text in texts() for word in text.split())
    alphabet = sorted(set("".join(words)))
    pieces = dict(train_unigram(words, 120, alphabet))
    assert len(pieces) == 120 and set(alphabet) <= set(pieces)
    assert {"neighbour", "teacher", "forgotten", "watching"} <= set(pieces)
    assert all(score < 0 for score in pieces.values())


@pytest.mark.parametrize(("part", "tokens"), [("valid", 217_646), ("test", 245_569)])
def test_words_of_wikitext_are_those_of_the_literature(tmp_path: Path, part: str, tokens: int) -> None:
    """As many as Merity et al. (2016) count, an end of line being one."""
    if not (DATA / "wikitext2").exists():
        pytest.skip("wikitext2 is not beside the repository")
    text = gzip.decompress((DATA / "wikitext2" / f"{part}.txt.gz").read_bytes()).decode()
    report = train_tokenizer([text], TokenizerSettings(kind="word", vocab_size=13_000), tmp_path, SILENT)
    assert report.measured_on == "training texts"
    assert report.tokens_per_word * len(text.split()) == pytest.approx(tokens, abs=15)
