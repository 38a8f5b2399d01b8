"""What is said in numbers and words that people use."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from halfpint.progress import passes_shown
from halfpint.report.units import gram_names

ROOT = Path(__file__).resolve().parents[1]
CLUMSY = (
    "got neither or both", "to learn from", "to choose by", "for the end", "final proof", "taken for what",
    "surest first", "off the front", "under the pointer", "asked for:", "to repeat it", "1 rows",
    "to call it from a program", "asking for the model", "not the body", "came too slowly", "tokens at once",
    "foretell", "go on with a text", "begin anew", "made anew", "learns by heart", "learned by heart", "there stood",
    "beside fewer bits", "bits a weight", "most bytes of",
)  # fmt: skip
"""Phrases that new users stumbled over; what stands in their place is in the pages and messages now."""


@pytest.mark.parametrize(
    ("passes", "said"), [(0.027, "2.7 % of one pass"), (1.0, "1 pass"), (1.5, "1.5 passes"), (12, "12 passes")]
)
def test_passes(passes: float, said: str) -> None:
    assert passes_shown(passes) == said


def test_grams() -> None:
    assert gram_names(4) == ["unigrams", "bigrams", "trigrams", "4-grams"]


def said_in(path: Path) -> Iterator[str]:
    """The texts of a file that people may read: of Python its strings, without docstrings, else all of it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield text
        return
    module = ast.parse(text)
    docs = {id(one.value) for one in ast.walk(module) if isinstance(one, ast.Expr)}
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_no_clumsy_phrase_is_left() -> None:
    """In messages, in the pages of a server and of a report, and in what is generated from docstrings."""
    paths = [path for ending in ("py", "html", "js") for path in sorted((ROOT / "src").rglob(f"*.{ending}"))]
    paths += [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "recipes").glob("*.toml")), ROOT / "README.md"]
    wrong = [
        f"{path.relative_to(ROOT)}: {phrase}"
        for path in paths for text in said_in(path) for phrase in CLUMSY if phrase in text.lower()
    ]  # fmt: skip
    assert not wrong and len(paths) > 300
