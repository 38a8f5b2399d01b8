"""A recipe with several variants to compare: what they share, and what each does otherwise.

[[variant]]
name = "llama"
set = ["stage.1.arch=llama"]   # changes of the recipe's stages, as --set takes them

[[variant]]
name = "n-gram"
[[variant.stage]]              # or stages of its own, in the place of the recipe's
use = "train/ngram"
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from halfpint.errors import HalfpintError, nearest
from halfpint.recipe import Recipe, checked, override_in, with_faults

PART = "variant"
_KEYS = ("name", "set", "stage")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,40}")


class Variant(NamedTuple):
    """One of the recipes that are compared; all have the same data and task."""

    name: str
    recipe: Recipe


def check_variants(content: Mapping[str, Any], place: str) -> tuple[Variant, ...]:
    """The variants that `content` (parsed TOML) describes, each a whole recipe.

    Raises:
        HalfpintError: with every fault in it.
    """
    shared = {key: value for key, value in content.items() if key != PART}
    written = content[PART]
    if not isinstance(written, list) or len(written) < 2:
        raise with_faults(place, [f"{PART} must be two or more [[{PART}]], not {written!r:.60}"])
    found, faults, names = [], list[str](), set[str]()
    for number, one in enumerate(written, start=1):
        here = f"{PART} {number}"
        if not isinstance(one, dict):
            faults.append(f"{here} must be a table ([[{PART}]]), not {one!r:.60}")
            continue
        name = one.get("name", "")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            faults.append(f"{here}: name must be letters, digits, '.', '-' and '_', 41 at most, not {name!r:.60}")
        elif name.lower() in names:
            faults.append(f"{here}: another one has the name {name!r}")
        else:
            here, names = f"{here} ({name})", names | {name.lower()}
        faults += [f"{here}: unknown key {key!r}. {nearest(key, _KEYS)}" for key in one if key not in _KEYS]
        recipe, more = _checked_variant(shared, one)
        faults += [f"{here}: {fault}" for fault in more]
        if recipe is not None:
            found.append(Variant(str(name), recipe))
    if faults:
        raise with_faults(place, faults)
    return tuple(found)


def _checked_variant(shared: Mapping[str, Any], one: Mapping[str, Any]) -> tuple[Recipe | None, list[str]]:
    """The recipe of one variant, or what is wrong with it."""
    content, faults = deepcopy(dict(shared)), list[str]()
    if "stage" in one:
        content["stage"] = one["stage"]
    changes = one.get("set", [])
    if not isinstance(changes, list) or not all(isinstance(change, str) for change in changes):
        return None, [f'set must be a list of texts, such as ["stage.1.arch=llama"], not {changes!r:.60}']
    for change in changes:
        try:
            override_in(content, change)
        except HalfpintError as error:
            faults.append(str(error).replace("--set", "set", 1))
    recipe, more = checked(content)
    return (None if faults else recipe), [*faults, *more]


def as_toml(variants: Sequence[Variant]) -> str:
    """A recipe of these variants with every setting spelled out."""
    lines = variants[0].recipe.head()
    for one in variants:
        lines += ["", f"[[{PART}]]", f"name = {json.dumps(one.name)}", *one.recipe.stages_as(f"{PART}.stage")]
    return "\n".join(lines) + "\n"
