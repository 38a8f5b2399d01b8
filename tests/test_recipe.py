"""Recipes: every fault told at once, and a text that reads back as what was written."""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfpint import registry
from halfpint.bundle import read_json
from halfpint.commands.init import Init
from halfpint.commands.run import run_recipe
from halfpint.data.prepare import Data
from halfpint.errors import HalfpintError
from halfpint.export.onnx import Onnx
from halfpint.lookup import open_task
from halfpint.models.pull import Pull
from halfpint.pipeline import faults_in_order
from halfpint.progress import SILENT, Log
from halfpint.recipe import Recipe, check_recipe, read_recipe
from halfpint.stage import Stage, stage_class
from halfpint.task import Task
from halfpint.train.adapt import Adapt
from halfpint.train.chat import Chat
from halfpint.train.finetune import Finetune
from halfpint.train.frozen_linear import FrozenLinear
from halfpint.train.majority import Majority
from halfpint.train.mix import Mix
from halfpint.train.ngram import Ngram
from halfpint.train.pretrain import Pretrain
from halfpint.train.tfidf_linear import TfidfLinear

CLASSIFY, PREDICT = open_task("classify"), open_task("predict")
GOOD = """
[data]
source = "tickets.csv"
[task]
metric = "f1_macro"
[[stage]]
use = "models/pull"
[[stage]]
use = "train/frozen_linear"
[[stage]]
use = "train/finetune"
epochs = 2
learning_rate = 1
"""


def faults_of(text: str) -> str:
    with pytest.raises(HalfpintError) as caught:
        check_recipe(tomllib.loads(text), "recipe.toml")
    return str(caught.value)


def test_a_good_recipe() -> None:
    recipe = check_recipe(tomllib.loads(GOOD), "recipe.toml")
    assert recipe.task is CLASSIFY
    assert recipe.metric == "f1_macro"
    assert recipe.data == Data(source="tickets.csv")
    assert recipe.stages == (Pull(), FrozenLinear(), Finetune(epochs=2, learning_rate=1.0))
    assert type(recipe.stages[2].settings()["learning_rate"]) is float


def test_all_faults_are_told_at_once() -> None:
    told = faults_of("""
        [dta]
        [data]
        sourse = "x.csv"
        seed = "one"
        drop_missing = 1
        [task]
        name = "clasify"
        metric = "acuracy"
        mertic = ""
        [[stage]]
        use = "train/finetun"
        [[stage]]
        use = "train/finetune"
        epoch = 3
        epochs = 2.5
        learning_rate = true
        [[stage]]
        use = "train/finetune"
        schedule = "lineer"
        [[stage]]
        use = "train/loop"
    """)
    for part in (
        "has 14 faults:",
        "[dta]: no such part. Did you mean 'data'?",
        "data: unknown key 'sourse'. Did you mean 'source'?",
        "data: source is missing; it is a text, and has no default",
        "data: seed must be a whole number, not 'one'",
        "data: drop_missing must be true or false, not 1",
        "task.name must be a task, not 'clasify'. Did you mean 'classify'?",
        "task.metric must be a metric, not 'acuracy'. Did you mean 'accuracy'?",
        "task.mertic: no such key. Did you mean 'metric'?",
        "stage 1: use must be a stage (room/file), not 'train/finetun'. Did you mean 'train/finetune'?",
        "stage 2 (train/finetune): unknown key 'epoch'. Did you mean 'epochs'?",
        "stage 2 (train/finetune): epochs must be a whole number, not 2.5",
        "stage 2 (train/finetune): learning_rate must be a number, not True",
        "Did you mean 'linear'?",
        "stage 4: use: expected a stage (room/file), got 'train/loop', which is no stage",
    ):
        assert part in told, part
    assert told.count("\n  - ") == 14


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[data]\nsource = "x"\n[stage]\nuse = "train/majority"', "stage must be [[stage]], not {'use'"),
        ('[data]\nsource = "x"\nstage = 3', "unknown key 'stage'"),
        ('stage = ["train/majority"]\n[data]\nsource = "x"', "stage 1 must be a table ([[stage]]), not 'train/maj"),
        ('data = "x.csv"\n[[stage]]\nuse = "train/majority"', "data must be [data], not 'x.csv'"),
        ('task = "classify"\n[data]\nsource = "x"', "task must be [task], not 'classify'"),
        ('[data]\nsource = "x"\n[task]\nname = ["a"]\nmetric = ["b"]', "task.name must be a task, not ['a']"),
        ('[data]\nsource = "x"', "there is no [[stage]]"),
        ('[data]\nsource = "x"\n[[stage]]\nepochs = 3', "stage 1: use must be a stage (room/file), not ''"),
        ('[data]\nsource = "x"\n[[stage]]\nuse = "train/finetune"',
         "stage 1: train/finetune needs 'encoder' or 'classifier', got no stage before it"),
        ('[data]\nsource = "x"\n[[stage]]\nuse = "train/majority"\n[[stage]]\nuse = "export/onnx"',
         "stage 2: export/onnx needs 'classifier' or 'linear', got a bundle of the kind 'ready' before it"),
    ],
)  # fmt: skip
def test_one_fault(text: str, told: str) -> None:
    found = faults_of(text)
    assert told in found
    assert found.startswith("recipe.toml has ")


def test_overrides(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(GOOD, encoding="utf-8")
    recipe = read_recipe(path, [
        "data.seed=7", "data.text = body", 'data.label="my label"', "stage.3.epochs=5", "stage.3.schedule=cosine",
        "stage.3.train_embeddings=true", "task.metric=accuracy", "stage.3.learning_rate=2e-4",
    ])  # fmt: skip
    assert recipe.data == Data(source="tickets.csv", seed=7, text="body", label="my label")
    assert recipe.metric == "accuracy"
    assert recipe.stages[2] == Finetune(epochs=5, schedule="cosine", train_embeddings=True, learning_rate=2e-4)
    assert read_recipe(path).stages[2] == Finetune(epochs=2, learning_rate=1.0)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed=1", "PART.KEY=VALUE"),
        ("data.seed", "PART.KEY=VALUE"),
        ("data.seed.more=1", "PART.KEY=VALUE"),
        ("stage.4.epochs=1", "from 1 to 3"),
        ("stage.0.epochs=1", "from 1 to 3"),
        ("stage.two.epochs=1", "from 1 to 3"),
        ("stage.²=1", "from 1 to 3"),
        ("stage.3.epochs.x=1", "from 1 to 3"),
        ("stage.3.epoch=1", "Did you mean 'epochs'"),
        ("stage.3.epochs=many", "epochs must be a whole number, not 'many'"),
        ("dat.seed=1", "Did you mean 'data'"),
    ],
)
def test_overrides_with_faults(override: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(GOOD, encoding="utf-8")
    with pytest.raises(HalfpintError) as caught:
        read_recipe(path, [override])
    assert told in str(caught.value)


@pytest.mark.parametrize("part", ["data = 3\n", "stage = 3\n"])
def test_an_override_of_what_is_no_table(part: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(part, encoding="utf-8")
    with pytest.raises(HalfpintError, match="--set"):
        read_recipe(path, ["data.seed=1", "stage.1.epochs=1"])


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    for name, content in (("bytes", b"\xff\xfe\x00"), ("words", b"epochs: 3\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(HalfpintError, match=name):
            read_recipe(tmp_path / name)
    with pytest.raises(HalfpintError, match=r"no file or folder .*halfpint init"):
        read_recipe(tmp_path / "nothing")


def all_stages() -> dict[str, type[Stage]]:
    found = {}
    for room in ("models", "train", "compress", "export"):
        for name in registry.variants(room):
            try:
                found[f"{room}/{name}"] = stage_class(f"{room}/{name}", "here")
            except HalfpintError:
                continue
    return found


VALUES: dict[type, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(1, 2**32 - 1),
    float: st.floats(1e-12, 1e12),
    str: (TEXTS := st.text(st.characters(exclude_categories=["Cs"]), max_size=30)),
    tuple[str, ...]: st.lists(TEXTS, max_size=3).map(tuple),
}
CHOICES = {"schedule": ["linear", "cosine", "wsd", "constant"], "precision": ["auto", "fp32", "bf16"],
           "class_weights": ["none", "balanced"], "compute": ["int8", "fp32"]}  # fmt: skip
LORA: dict[str, list[Any]] = {
    "lora": [True],
    "lora_targets": ["", "q_proj"],
    "lora_dropout": [0.0, 0.1],
    "context": [0, 64],
}
ITS_OWN: dict[type, dict[str, list[Any]]] = {
    Data: {"header": ["", "yes", "no"]},
    Chat: {**LORA, "template": ["", "chatml"]},
    Adapt: {**LORA, "packing": ["fit", "stream"]},
    Ngram: {"order": [3, 5, 8], "smoothing": ["kneser-ney", "none"], "prune": ["", "0 0 1"]},
    Mix: {"order": [2, 5, 8]},
    Pretrain: {
        "arch": ["llama", "bert"], "objective": ["", "causal", "masked"], "size": ["125K", "10M", "1.5B"],
        "tokenizer": ["", "bpe"], "context": [8, 256], "packing": ["fit", "stream"], "mask_share": [0.1, 0.15],
        "beta1": [0.0, 0.9], "beta2": [0.95, 0.999],
    },
}  # fmt: skip


def instances(kind: type) -> st.SearchStrategy[Any]:
    """Settings of any values that the class takes."""
    hints = typing.get_type_hints(kind)
    choices = CHOICES | ITS_OWN.get(kind, {})
    parts: dict[str, st.SearchStrategy[Any]] = {}
    for item in fields(kind):
        parts[item.name] = st.sampled_from(choices[item.name]) if item.name in choices else VALUES[hints[item.name]]
    return st.fixed_dictionaries(parts).map(lambda values: taken(kind, values))


def taken(kind: type, values: dict[str, Any]) -> Any:
    """Those of the values that the class takes, one after the other where it does not take all at once."""
    try:
        return kind(**values)
    except HalfpintError:
        kept: dict[str, Any] = {}
        for name, value in values.items():
            try:
                kind(**kept, **{name: value})
            except HalfpintError:
                continue
            kept[name] = value
        return kind(**kept)


def orders(kinds: dict[str, type[Stage]]) -> list[tuple[str, ...]]:
    """Every order of up to three stages that fit together, no stage twice; a longer one for what comes after three."""
    found: list[tuple[str, ...]] = []
    open_orders: list[tuple[str, ...]] = [()]
    for _ in range(3):
        grown = []
        for order in open_orders:
            for use in kinds:
                longer = (*order, use)
                stages = [kinds[name]() for name in longer]
                if use not in order and not faults_in_order(stages, [""] * len(stages)):
                    grown.append(longer)
        found += grown
        open_orders = grown
    for use in sorted(set(kinds) - {one for order in found for one in order}):
        longer = next(
            (*order, use)
            for order in open_orders
            if not faults_in_order([kinds[name]() for name in (*order, use)], [""] * (len(order) + 1))
        )
        found.append(longer)
    return found


ORDERS = orders(all_stages())


@given(drawn=st.data(), order=st.sampled_from(ORDERS), task=st.sampled_from([CLASSIFY, PREDICT]))
def test_what_is_written_reads_back(drawn: Any, order: tuple[str, ...], task: Task[Any]) -> None:
    kinds = all_stages()
    metrics = ["", *task.metrics]
    stages = tuple(drawn.draw(instances(kinds[use])) for use in order)
    recipe = Recipe(drawn.draw(instances(task.data)), task, drawn.draw(st.sampled_from(metrics)), stages)
    assert check_recipe(tomllib.loads(recipe.toml()), "recipe.toml") == recipe


def test_every_stage_is_in_some_order() -> None:
    assert {use for order in ORDERS for use in order} == set(all_stages())


def test_init_writes_a_recipe_that_reads(tmp_path: Path) -> None:
    source = tmp_path / 'my "tickets".csv'
    rows = [f"text {number} about {word},{word}" for number in range(6) for word in ("bills", "bugs")]
    source.write_text("message,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    out = tmp_path / "recipe.toml"
    said = Init(data=str(source), out=out).run(SILENT)
    assert f"next: halfpint run {out}" in said.text
    recipe = read_recipe(out)
    assert (recipe.data.source, recipe.data.text, recipe.data.label) == (str(source), "message", "label")
    assert recipe.stages[0] == Pull()
    assert recipe.stages[3] == Onnx()
    with pytest.raises(HalfpintError, match="--force"):
        Init(data=str(source), out=out).run(SILENT)
    Init(data=str(source), text="message", label="label", out=out, force=True).run(SILENT)


def test_init_knows_the_task_of_the_data(tmp_path: Path) -> None:
    said = Init(data="examples/orders.conll", out=tmp_path / "recipe.toml").run(SILENT)
    recipe = read_recipe(tmp_path / "recipe.toml")
    assert "tags from column 2 of 2" in said.text and recipe.task.name == "tag"
    assert (recipe.data.text, recipe.data.label) == ("1", "2")
    assert [stage.use for stage in recipe.stages] == [
        "models/pull", "train/finetune", "export/onnx", "compress/onnx_int8"
    ]  # fmt: skip


def test_a_run_is_proven_and_then_cached(tmp_path: Path, few_rows: Callable[[int], Path]) -> None:
    recipe = Recipe(Data(source=str(few_rows(120))), CLASSIFY, "", (Majority(),))
    out = tmp_path / "out"
    result = run_recipe(recipe, out, Log(quiet=True))
    assert result == read_json(out / "result.json")
    assert set(result) == {"key", "primary_metric", "validation", "test", "bundle", "seconds"}
    assert read_recipe(out / "recipe.resolved.toml") == recipe
    assert (out / "best" / "card.json").is_file()
    before = (out / "result.json").stat().st_mtime_ns
    assert run_recipe(recipe, out, Log(quiet=True)) == result
    assert (out / "result.json").stat().st_mtime_ns == before
    other = run_recipe(replace(recipe, metric="f1_macro"), out, Log(quiet=True))
    assert other["primary_metric"] == "f1_macro"


def test_a_run_leaves_the_files_of_others_alone(tmp_path: Path, few_rows: Callable[[int], Path]) -> None:
    recipe = Recipe(Data(source=str(few_rows(120))), CLASSIFY, "", (TfidfLinear(features=50),))
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(HalfpintError, match="`halfpint run` did not write it"):
        run_recipe(recipe, tmp_path, Log(quiet=True))
    with pytest.raises(HalfpintError, match="--out"):
        run_recipe(recipe, tmp_path / "work" / "mine.txt", Log(quiet=True))
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


@pytest.mark.parametrize(
    "text",
    [
        "[data]\nsource = " + "[" * 100_000,
        "[data]\nseed = " + "1" * 5_000,
        f"[data]\nseed = {10**30}",
        "[data]\nsource = 'x.csv'\nseed = -1\n[[stage]]\nuse = 'train/majority'",
        "[data]\nsource = 'x.csv'\n[[stage]]\nuse = 'train/tfidf_linear'\nstrength = inf",
        "[data]\nsource = 'x.csv'\n[[stage]]\nuse = 'train/tfidf_linear'\nstrength = nan",
    ],
    ids=["deep", "digits", "large", "negative", "infinite", "nan"],
)
def test_numbers_and_depths_that_no_program_takes(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(HalfpintError) as told:
        read_recipe(path)
    assert len(str(told.value)) < 500


@pytest.mark.parametrize("value", ["[" * 100_000, "1" * 5_000, "1e999", "-1"])
def test_overrides_that_no_program_takes(value: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(GOOD, encoding="utf-8")
    with pytest.raises(HalfpintError):
        read_recipe(path, [f"data.seed={value}"])
