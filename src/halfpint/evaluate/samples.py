"""What a language model writes: it goes on from the beginnings of held-out texts, or fills a gap in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from halfpint.bundle import Bundle
from halfpint.engines import open_language_engine
from halfpint.errors import HalfpintError

NUMBER = 3
_PROMPT_WORDS, _PROMPT_CHARS = 8, 60
_WRITTEN_TOKENS = 100
_TEMPERATURE = 0.8
_SENTENCE_CHARS = 160
_LOOKED_AT = 64  # documents, for a place to begin
_GAP = "[MASK]"
_LEAST_LETTERS = 3  # of a word that is worth a guess


def samples(bundle: Bundle, held: Sequence[str], *, number: int = NUMBER, seed: int = 0) -> list[dict[str, Any]]:
    """So many samples of a language model; the same seed gives the same ones.

    A causal model goes on from the beginning of a paragraph of `held` at temperature 0.8: "prompt" and "text" (what it
    wrote). A masked one fills a gap: "prompt" (with [MASK]), "word" (what stood there) and "filled", the likeliest
    tokens with their probabilities.
    """
    random = np.random.default_rng(seed)
    chosen = [held[int(place)] for place in random.permutation(len(held))[:_LOOKED_AT]]
    chosen *= -(-_LOOKED_AT // max(len(chosen), 1))  # of few documents several places each
    engine: Any = open_language_engine(bundle)
    masked = getattr(engine, "objective", "causal") == "masked"
    found = [_place(text, random, masked=masked) for text in chosen]
    places = dict.fromkeys(place for place in found if place)
    if masked:
        return list(islice(_filled(engine, places, random), number))
    written = []
    for prompt in islice(places, number):
        pieces = engine.generate(prompt, max_tokens=_WRITTEN_TOKENS, temperature=_TEMPERATURE, seed=seed)
        written.append({"prompt": prompt, "text": "".join(pieces)})
    return written


def _place(text: str, random: np.random.Generator, *, masked: bool) -> str:
    """The beginning of one of the paragraphs of a text; of a masked model a sentence or so."""
    lines = [line.strip() for line in re.split(r"\n\s*\n", text) if len(line.split()) >= _LEAST_LETTERS]
    if not lines:
        return ""
    line = lines[int(random.integers(len(lines)))]
    if masked:
        return " ".join(line[:_SENTENCE_CHARS].split()[:-1] if len(line) > _SENTENCE_CHARS else line.split())
    words = list(islice(re.finditer(r"\S+", line), _PROMPT_WORDS))
    within = [word.end() for word in words if word.end() <= _PROMPT_CHARS]
    return line[: within[-1]] if within else line[:_PROMPT_CHARS]


def _filled(engine: Any, places: Iterable[str], random: np.random.Generator) -> Iterator[dict[str, Any]]:
    for text in places:
        words = [found for found in re.finditer(r"\w+", text) if len(found[0]) >= _LEAST_LETTERS]
        if not words:
            continue
        word = words[int(random.integers(len(words)))]
        prompt = f"{text[: word.start()]}{_GAP}{text[word.end() :]}"
        try:
            guesses = engine.fill(prompt)[0]
        except HalfpintError:  # longer than the context
            continue
        yield {"prompt": prompt, "word": word[0], "filled": [[token, chance] for token, chance in guesses]}
