"""Recipes with variants: what they share, what each does otherwise, and every fault told at once."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from halfpint.errors import HalfpintError
from halfpint.search.variants import as_toml, check_variants

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
BASE = """
[data]
sources = ["text.txt"]
[task]
name = "predict"
[[stage]]
use = "train/pretrain"
size = "1M"
"""


def content(more: str) -> dict[str, Any]:
    return tomllib.loads(BASE + more)


def test_each_variant_is_a_whole_recipe_that_comes_again_from_its_own_words() -> None:
    found = check_variants(
        content('[[variant]]\nname = "a"\nset = ["stage.1.arch=gpt2", "stage.1.size=2M"]\n'
                '[[variant]]\nname = "b"\n[[variant.stage]]\nuse = "train/ngram"\norder = 3'), "here",
    )  # fmt: skip
    assert [(one.name, one.recipe.stages[0].use) for one in found] == [("a", "train/pretrain"), ("b", "train/ngram")]
    first = found[0].recipe.stages[0].settings()
    assert (first["arch"], first["size"], found[1].recipe.stages[0].settings()["order"]) == ("gpt2", "2M", 3)
    assert found[0].recipe.data == found[1].recipe.data
    assert check_variants(tomllib.loads(as_toml(found)), "again") == found


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ('[[variant]]\nname = "a"', ["variant must be two or more"]),
        ("variant = 3", ["variant must be two or more"]),
        (
            '[[variant]]\nname = "a"\nsett = ["stage.1.arch=gpt2"]\n[[variant]]\nname = "A"',
            ["variant 1 (a): unknown key 'sett'. Did you mean 'set'", "variant 2: another one has the name 'A'"],
        ),
        ('[[variant]]\n[[variant]]\nname = "../b"', ["variant 1: name must be letters", "not '../b'"]),
        ('[[variant]]\nname = "a"\nset = "x"\n[[variant]]\nname = "b"', ["variant 1 (a): set must be a list of texts"]),
        (
            '[[variant]]\nname = "a"\nset = ["stage.1.archi=gpt2"]\n[[variant]]\nname = "b"\nset = ["stage.2.arch=x"]',
            ["variant 1 (a): stage 1 (train/pretrain): unknown key 'archi'", "a number from 1 to 1"],
        ),
        (
            '[[variant]]\nname = "a"\n[[variant.stage]]\nuse = "train/ngrams"\n[[variant]]\nname = "b"\nstage = 3',
            ["variant 1 (a): ", "ngrams", "variant 2 (b): stage must be [[stage]]"],
        ),
    ],
)
def test_all_faults_are_told_at_once(more: str, wanted: list[str]) -> None:
    written = content(more) if more.startswith("[") else {**content(""), "variant": 3}
    with pytest.raises(HalfpintError) as error:
        check_variants(written, "here")
    assert "here has " in str(error.value)
    for words in wanted:
        assert words in str(error.value)


def test_the_shipped_one_gives_all_the_same_size_time_and_text() -> None:
    found = check_variants(tomllib.loads((RECIPES / "architectures.toml").read_text("utf-8")), "here")
    settings = [stage.settings() for one in found for stage in one.recipe.stages if stage.use == "train/pretrain"]
    assert len(settings) == len(found) - 1
    same = [{key: value for key, value in one.items() if key != "arch"} for one in settings]
    assert all(one == same[0] for one in same)
    assert len({one["arch"] for one in settings}) == len(settings)
