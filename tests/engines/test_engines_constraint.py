"""Output by a JSON schema: what is written parses and fits, with untrained models, of every kind of vocabulary."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle
from halfpint.data.corpus import Corpus
from halfpint.engines import Generation, open_language_engine
from halfpint.errors import HalfpintError
from halfpint.progress import SILENT
from halfpint.tokenizers.token_bytes import token_bytes
from halfpint.tokenizers.train import TokenizerSettings, train_tokenizer

pytest.importorskip("llguidance")

TICKET: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["bug", "billing", "größe"]},
        "title": {"type": "string", "maxLength": 8},
        "urgency": {"type": "integer", "minimum": 1, "maximum": 5},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["kind", "title", "urgency", "tags"],
    "additionalProperties": False,
}


def fits(value: Any) -> bool:
    """TICKET by hand."""
    return (
        list(value) == list(TICKET["properties"])
        and value["kind"] in ("bug", "billing", "größe")
        and isinstance(value["title"], str) and len(value["title"]) <= 8
        and type(value["urgency"]) is int and 1 <= value["urgency"] <= 5
        and len(value["tags"]) <= 2 and all(type(tag) is bool for tag in value["tags"])
    )  # fmt: skip


@pytest.fixture(scope="module", params=["language", "gguf"])
def engine(request: pytest.FixtureRequest, bundles: Callable[[str], Bundle]) -> Any:
    pytest.importorskip("xllamacpp" if request.param == "gguf" else "transformers")
    return open_language_engine(bundles(request.param), threads=1)


def test_what_is_written_fits(engine: Any) -> None:
    texts = set()
    for seed, temperature in ((0, 1.0), (1, 1.0), (2, 3.0), (3, 0.0)):
        settings = Generation(max_tokens=200, temperature=temperature, seed=seed, schema=TICKET)
        pieces = list(engine.write("A ticket: ", settings))
        text = "".join(piece.text for piece in pieces)
        assert pieces[-1].finish == "stop" and fits(json.loads(text)), text
        texts.add(text)
    assert len(texts) > 1


def test_texts_in_turn_keep_to_their_own_schema(engine: Any) -> None:
    schemas: list[Any] = [TICKET, {"enum": ["yes", "no"]}, {"type": "integer", "minimum": 10, "maximum": 99}]
    texts = [engine.write("", Generation(max_tokens=200, temperature=2.0, schema=schema)) for schema in schemas]
    found = ["", "", ""]
    going = set(range(3))
    while going:
        for place in sorted(going):
            piece = next(texts[place], None)
            found[place] += piece.text if piece else ""
            going -= set() if piece else {place}
    assert fits(json.loads(found[0]))
    assert json.loads(found[1]) in ("yes", "no") and 10 <= json.loads(found[2]) <= 99


def test_too_few_tokens_say_so(engine: Any) -> None:
    last = list(engine.write("", Generation(max_tokens=5, schema=TICKET)))[-1]
    assert (last.finish, last.written) == ("length", 5)


def test_nothing_stands_for_any_object(engine: Any) -> None:
    for seed in range(2):
        pieces = list(engine.write("", Generation(max_tokens=40, temperature=1.0, seed=seed, schema={})))
        text = "".join(piece.text for piece in pieces)
        assert text.startswith("{")
        assert pieces[-1].finish == "length" or isinstance(json.loads(text), dict)


def test_scores_are_the_models_own(engine: Any) -> None:
    """Not those among what the schema leaves, where the second brace of a forced pair would be sure."""
    schema = {"type": "object", "properties": {"aa": {"const": 1}}, "required": ["aa"], "additionalProperties": False}
    pieces = list(engine.write("x", Generation(temperature=1.0, schema=schema, logprobs=0)))
    assert pieces[-1].log_probability < -3


def test_the_best_by_a_schema(engine: Any) -> None:
    settings = Generation(max_tokens=30, temperature=0.0, schema={"enum": ["red", "green", "blue"]})
    found = engine.best("The colour is ", 5, settings)
    assert sorted(json.loads(one.text) for one in found) == ["blue", "green", "red"]
    assert all(one.finish == "stop" for one in found)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "nothing"}, "schema: expected a JSON schema .* got this: Invalid type: nothing"),
        ({"properties": {"a": {"type": "array", "items": {"type": "strin"}}}, "type": "object"},
         "schema/properties/a/items: expected .* Invalid type: strin"),
        ({"$ref": "#/nowhere"}, "schema: .*'/nowhere' does not exist"),
        ({"anyOf": [{"type": "null"}, {"type": "string", "pattern": "("}]}, "schema/anyOf/1: .*regex parse error"),
        ({"type": "object", "const": {1, 2}}, "schema: expected a JSON schema, got Object of type set"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_kept_to(schema: Any, message: str, bundles: Callable[[str], Bundle]) -> None:
    pytest.importorskip("transformers")
    engine = open_language_engine(bundles("language"), threads=1)
    with pytest.raises(HalfpintError, match=message):
        engine.write("", Generation(schema=schema))


def test_whole_words_keep_to_no_schema(bundles: Callable[[str], Bundle]) -> None:
    with pytest.raises(HalfpintError, match="schema: expected a language model of another kind"):
        open_language_engine(bundles("ngram")).write("", Generation(schema={}))


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char", "wordpiece"])
def test_bytes_of_tokens_make_the_text(kind: str, corpus: Corpus, tmp_path: Any) -> None:
    from halfpint.tokenizers.load import open_tokenizer

    size = 700 if kind != "char" else 8000
    train_tokenizer(corpus.train, TokenizerSettings(kind=kind, vocab_size=size), tmp_path / "made", SILENT)
    found = token_bytes(tmp_path / "made")
    if kind == "wordpiece":
        assert found is None
        return
    assert found is not None
    tokenizer = open_tokenizer(tmp_path / "made")
    for text in ("My order is late.", "Größe 🙂 \t\n  文字", "<|endoftext|> \x00\x7f"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert b"".join(found[number] for number in ids).decode() == text
    # A grammar over them: its tokens join to a value.
    from halfpint.engines._constraint import Grammars

    end = tokenizer.token_to_id("<|endoftext|>")
    grammars = Grammars(found, [end], [end], lambda raw: tokenizer.encode(raw.decode()).ids)
    constraint = grammars.constraint({"enum": ["größe", "a b"]})
    logits, random, out = np.zeros(len(found), dtype=np.float32), np.random.default_rng(0), b""
    while not constraint.ended:
        allowed = np.flatnonzero(np.isfinite(constraint.mask(logits)))
        token = int(random.choice(allowed))
        constraint.take(token)
        out += found[token]
    assert json.loads(out) in ("größe", "a b")
