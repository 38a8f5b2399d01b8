"""`halfpint models`: its filters, what it prints, and its JSON."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from halfpint import machine_speed
from halfpint.commands.models import ListModels, Models, OneModel
from halfpint.errors import HalfpintError
from halfpint.models.known import Known, known_models
from halfpint.models.known_shape import served
from halfpint.progress import Log


@pytest.fixture(autouse=True)
def rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that reads 10 GB a second: what is shown does not depend on this one."""
    monkeypatch.setattr(machine_speed, "read_rate", lambda: 1e10)
    monkeypatch.setenv("COLUMNS", "80")


def listed(**asked: Any) -> Models:
    found = ListModels(**asked).run(Log())
    assert isinstance(found, Models)
    return found


def test_all_are_listed_the_smallest_first() -> None:
    found = listed()
    assert set(found.models) == set(known_models().values()) and found.exit_code == 0
    sizes = [model.parameters for model in found.models]
    assert sizes == sorted(sizes)


def test_each_filter_keeps_what_it_names() -> None:
    def names(models: Models) -> set[str]:
        return {model.name for model in models.models}

    def all_with(test: Any) -> set[str]:
        return {model.name for model in known_models().values() if test(model)}

    assert names(listed(task="guard")) == all_with(lambda model: "guard" in model.tasks)
    allowed = all_with(lambda model: model.commercial in ("yes", "conditions"))
    assert names(listed(licence="commercial")) == allowed and "nllb-200-distilled-600m" not in allowed
    assert names(listed(licence="mit")) == all_with(lambda model: model.licence == "MIT")
    assert names(listed(language="de")) == all_with(lambda model: "de" in model.languages)
    small = names(listed(max_ram="500MB", context=1000))
    assert small == all_with(lambda model: served(model, "8-bit", 1000).memory <= 500_000_000)
    assert small < names(listed(max_ram="500MB", type="4-bit", context=1000))

    def is_fast(model: Known) -> bool:
        return model.kind != "encoder" and 1e10 / served(model, "8-bit", 4096).read >= 20

    assert names(listed(min_tokens_per_s=20.0)) == all_with(is_fast)
    both = names(listed(task="chat", language="de", max_ram="2GB"))
    assert both == names(listed(task="chat")) & names(listed(language="de")) & names(listed(max_ram="2GB"))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"task": "chat", "max_ram": "10MB"}, r"--max-ram 10MB leaves none of the \d+ models .* least is \d+ MB"),
        ({"task": "chat", "min_tokens_per_s": 1e6}, r"--min-tokens-per-s 1e\+06 .* fastest is smollm2-135m"),
        ({"task": "embed", "min_tokens_per_s": 1.0}, "they read texts and write none"),
        ({"task": "embed", "licence": "CC-BY-4.0"}, "--licence CC-BY-4.0 leaves none .* licences are Apache-2.0, "),
        ({"licence": "CC-BY-4.0", "language": "zh"}, "--language zh leaves none of the 1 model .* are de, en"),
    ],
)  # fmt: skip
def test_where_none_passes_the_filter_and_the_nearest_are_named(asked: dict[str, Any], told: str) -> None:
    found = listed(**asked)
    assert found.models == () and found.exit_code == 3
    assert re.search(told, str(found)), str(found)
    assert json.loads(found.as_json())["models"] == []


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"task": "chatt"}, "--task must be one of .*, not 'chatt'. Did you mean 'chat'"),
        ({"licence": "Apache"}, "--licence must be commercial or one of .*, not 'Apache'"),
        ({"language": "german"}, "--language must be a language's code .* not 'german'. The sources list .* de,"),
        ({"max_ram": "2XB"}, "--max-ram must be a size such as .* not '2XB'"),
        ({"type": "3-bit"}, "--type must be one of 16-bit, 8-bit, 4-bit, not '3-bit'"),
        ({"name": "qwen3-06b"}, r"No model 'qwen3-06b' is known. Did you mean 'qwen3-0\.6b'"),
        ({"name": "qwen3-0.6b", "task": "chat"}, "--task needs a list of models, not one"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(HalfpintError, match=told):
        ListModels(**asked).run(Log())


@pytest.mark.parametrize("columns", ["80", "132", "200"])
def test_the_table_keeps_to_the_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text = str(listed())
    assert max(map(len, text.splitlines())) <= int(columns)
    for model in known_models().values():
        assert f"\n{model.name} " in text, "a name is never cut"
    assert max(map(len, str(ListModels(name="qwen3-0.6b").run(Log())).splitlines())) <= int(columns)


def test_one_model_is_told_with_the_source_of_each_fact() -> None:
    found = ListModels(name="llama-3.2-1b-instruct").run(Log())
    assert isinstance(found, OneModel)
    text = " ".join(str(found).split())
    for words in (
        "1,235,814,400 [counted on", "Llama 3.2 Community License; commercial use: with conditions",
        "[github.com/meta-llama/llama-models, models/llama3_2/MODEL_CARD.md]", "MMLU, 5 shots: 49.3",
        "Ollama llama3.2:1b", "NVIDIA NIM meta/llama-3.2-1b-instruct", "Azure AI catalogue unknown",
        "halfpint pull llama-3.2-1b-instruct", "halfpint finetune llama-3.2-1b-instruct DATA",
    ):  # fmt: skip
        assert words in text, words
    refused = str(ListModels(name="t5-small").run(Log()))
    assert "halfpint cannot take it" in refused and "halfpint pull" not in refused
    assert "halfpint fit DATA --base all-minilm-l6-v2" in str(ListModels(name="all-minilm-l6-v2").run(Log()))


def test_the_json_holds_all_facts_and_costs() -> None:
    told = json.loads(listed(task="chat").as_json())
    assert set(told) == {"models", "total", "asked", "nearest", "machine"}
    assert told["asked"] == ["--task chat"] and told["total"] == len(known_models())
    assert told["machine"] == {"type": "8-bit", "context": 4096, "memory_bytes_per_s": 10**10}
    facts = {
        "name", "family", "kind", "hub", "parameters", "exact", "model_type", "shape", "licence", "commercial",
        "context", "languages", "languages_in_all", "tasks", "scores", "ollama", "nim", "azure", "note", "not_taken",
        "sources", "served",
    }  # fmt: skip
    for one in told["models"]:
        assert set(one) == facts
        assert set(one["served"]) == {"16-bit", "8-bit", "4-bit"}
        for costs in one["served"].values():
            assert set(costs) == {"memory_bytes", "weight_bytes", "cache_bytes", "tokens_per_s"}
            assert costs["memory_bytes"] == costs["weight_bytes"] + (costs["cache_bytes"] or 0)
            assert costs["tokens_per_s"] > 0
        assert all(isinstance(words, str) and " " in words for words in one["sources"].values())
    alone = json.loads(ListModels(name="qwen3-0.6b").run(Log()).as_json())
    assert set(alone) == {*facts, "machine"} and alone["hub"] == "Qwen/Qwen3-0.6B"
