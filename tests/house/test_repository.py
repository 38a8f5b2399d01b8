"""What holds for all files of the repository: recipes, names of machines and hosts, pages made from the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from halfpint.recipe import read_content, read_recipe
from halfpint.search.variants import PART, check_variants

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_have_no_faults(path: Path) -> None:
    content = read_content(path)
    compared = [one.recipe for one in check_variants(content, str(path))] if PART in content else [read_recipe(path)]
    for recipe in compared:
        sources = getattr(recipe.data, "sources", None) or (recipe.data.source,)
        elsewhere = ("../shared/", "python-stdlib")  # where the data sets lie beside a clone; on every machine
        assert recipe.stages and all((ROOT / source).exists() or source.startswith(elsewhere) for source in sources)


def test_no_file_names_this_machine_or_a_registry() -> None:
    """Read whole: paths of the machine that built it, and hosts that only a package manager should know."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout: no list of tracked files")
    places = ("work", "root")
    hosts = [("pypi", "org"), ("files.pythonhosted", "org"), ("registry.npmjs", "org")]
    hosts += [("deb.debian", "org"), ("test.pypi", "org")]
    words = [re.escape(".".join(host)) for host in hosts] + [rf"(?<![\w.]){re.escape(f'/{name}/')}" for name in places]
    pattern = re.compile("|".join(words))
    wrong = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if not path.is_file() or b"\0" in path.read_bytes()[:1000]:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            wrong += [f"{name}:{number}: {match[0]}" for match in [pattern.search(line)] if match]
    assert not wrong


def test_the_pages_that_are_made_from_the_code_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
