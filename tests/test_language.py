"""Language models by the commands that people type: counted and trained ones, at tiny size."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from halfpint.bundle import Bundle, open_bundle
from halfpint.commands._learning import pretrain
from halfpint.commands.evaluate import Evaluate, evaluate_text
from halfpint.commands.run import run_recipe
from halfpint.commands.tokenizer import make_tokenizer
from halfpint.data.corpus import Corpus, CorpusData
from halfpint.errors import HalfpintError
from halfpint.evaluate.text import judge
from halfpint.models.pull_language import base_bundle
from halfpint.progress import SILENT, Log
from halfpint.recipe import read_recipe
from halfpint.tokenizers.train import TokenizerSettings
from halfpint.train.ngram import Ngram

Typed = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parents[1]
TICKETS = ROOT / "examples" / "tickets.csv"
DATA = CorpusData(sources=(str(TICKETS),), text="text", validation_share=0.2, clean=False)


def test_the_commands(tmp_path: Path, typed: Typed) -> None:
    out = tmp_path / "counts"

    def told(*words: object) -> str:
        code, output, errors = typed(*words)
        assert code == 0, errors
        return output

    made = told("pretrain", TICKETS, "--text", "text", "--arch", "ngram", "--order", 3, "--out", out)
    assert " unigrams, " in made and f"halfpint generate {out}" in made
    assert [path.name for path in tmp_path.iterdir()] == ["counts"]
    (out / "report.html").unlink()
    assert json.loads(told("report", out, "--json"))["kind"] == "language" and (out / "report.html").is_file()
    figures = json.loads(told("evaluate", out, TICKETS, "--text", "text", "--json"))
    assert {"perplexity", "perplexity_without_unknown", "bits_per_byte", "size_bytes", "tokens_per_s"} <= set(figures)
    assert 1 < figures["perplexity"] < 20 and figures["unknown_share"] == 0  # the text that it was counted in
    with pytest.raises(HalfpintError, match="--metric needs a classifier"):
        Evaluate(bundle=str(out), data=str(TICKETS), metric="accuracy").run(SILENT)
    assert "bits per byte" in told("evaluate", out, TICKETS, "--text", "text")
    words = json.loads(told("predict", out, "It would", "--top", 3, "--json"))["words"]
    assert words[0]["word"] == "be" and len(words) == 3
    first = told("generate", out, "I was", "--seed", 4, "--max-tokens", 5)
    assert first.startswith("I was ") and first == told("generate", out, "I was", "--seed", 4, "--max-tokens", 5)
    told("tokenizer", TICKETS, "--text", "text", "--vocab", 500, "--out", tmp_path / "tokens")
    assert (tmp_path / "tokens" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--arch", "lama"), "'lama'"),
        (("--arch", "llama", "--objective", "masked"), "masked"),
        (("--size", "10X"), "10X"),
        (("--arch", "ngram", "--order", "9"), "order"),
        (("--arch", "ngram", "--validation", "nowhere.txt"), "nowhere.txt"),
    ],
)
def test_bad_input_is_told_before_work_starts(words: Sequence[str], said: str, tmp_path: Path, typed: Typed) -> None:
    out = tmp_path / "out"
    code, _, errors = typed("pretrain", TICKETS, "--text", "text", "--out", out, *words)
    assert code == 2 and errors.splitlines()[-1].startswith("error: ") and said in errors
    assert not list(tmp_path.iterdir())


def test_texts_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "noise.bin").write_bytes(bytes(range(256)) * 40)
    for name in ("empty.txt", "noise.bin", "absent.txt"):
        with pytest.raises(HalfpintError, match=name):
            pretrain(CorpusData(sources=(str(tmp_path / name),)), [Ngram()], tmp_path / "out", SILENT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.txt", "noise.bin"]


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    for force in (False, True):
        with pytest.raises(HalfpintError, match="other files"):
            pretrain(DATA, [Ngram(order=1)], tmp_path / "mine", SILENT, force=force)
    with pytest.raises(HalfpintError, match="is not empty"):
        make_tokenizer(
            (str(TICKETS),), "text", TokenizerSettings(vocab_size=500), tmp_path / "mine", SILENT, force=True
        )
    pretrain(DATA, [Ngram(order=1)], tmp_path / "one", SILENT)
    with pytest.raises(HalfpintError, match="a bundle that is there"):
        pretrain(DATA, [Ngram(order=2)], tmp_path / "one", SILENT)
    pretrain(DATA, [Ngram(order=2)], tmp_path / "one", SILENT, force=True)
    assert open_bundle(tmp_path / "one").config["order"] == 2


def test_a_longer_context_predicts_better(tmp_path: Path, corpus: Corpus) -> None:
    """And what `pretrain` tells of held-out text is what `evaluate` finds on it."""
    source = tmp_path / "held.txt"
    source.write_text("\n".join(corpus.validation), encoding="utf-8")
    data = CorpusData(sources=(str(TICKETS),), text="text", validation=str(source), clean=False)
    found = []
    for order in (1, 3):
        result = pretrain(data, [Ngram(order=order)], tmp_path / str(order), SILENT)
        again = evaluate_text(open_bundle(tmp_path / str(order)), CorpusData(sources=(str(source),)), SILENT)
        assert again["bits_per_byte"] == pytest.approx(result["validation"]["bits_per_byte"], rel=1e-9)
        found.append(result["validation"]["bits_per_byte"])
    assert found[1] < found[0]


def test_figures_of_a_model_that_knows_nothing_of_the_text(tmp_path: Path) -> None:
    pretrain(DATA, [Ngram(order=2)], tmp_path / "counts", SILENT)
    figures = judge(open_bundle(tmp_path / "counts"), ["zzz zzzz\nzzzzz"], SILENT)
    assert figures["unknown_share"] == pytest.approx(3 / 5)
    assert figures["perplexity_without_unknown"] < figures["perplexity"]
    assert math.isfinite(figures["perplexity"])


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("counted", ()),
        (
            "python-completion",
            ("stage.1.size=125K", "stage.1.vocabulary=400", "stage.1.context=32", "stage.1.tokens=2048",
             "stage.1.batch_tokens=256", "stage.1.evaluations=1", "stage.1.evaluation_tokens=512"),
        ),
    ],
)  # fmt: skip
def test_the_recipes_run(recipe: str, changes: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if recipe == "python-completion":
        changes = (
            *changes,
            f'data.sources=["{Path(json.__file__).parent}"]',
            "data.validation_share=0.3",
            "data.clean=false",
        )
    out = tmp_path / "out"
    found = run_recipe(read_recipe(ROOT / "recipes" / f"{recipe}.toml", changes), out, Log(quiet=True))
    assert 0 < found["validation"]["bits_per_byte"] < 20
    assert open_bundle(out / "best").card["task"] == "predict"
    again = read_recipe(out / "recipe.resolved.toml")
    assert run_recipe(again, out, SILENT) == found  # from the cache, by the recipe as it was resolved


def conversations(folder: Path) -> Path:
    rows = [
        {"instruction": f"What is {number} plus one?", "input": "", "output": f"It is {number + 1}."}
        for number in range(30)
    ]
    (folder / "talks.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "talks.json"


def test_what_was_interrupted_goes_on_and_nothing_else(
    bundles: Callable[[str], Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from halfpint.commands import _learning
    from halfpint.data.conversations import ChatData
    from halfpint.train.chat import Chat

    data, base, out = ChatData(source=str(conversations(tmp_path))), str(bundles("language").path), tmp_path / "out"
    short, longer = (Chat(template="chatml", epochs=epochs, precision="fp32") for epochs in (1, 2))
    put, trained, run = _learning.replace_folder, [], Chat.run

    def counted(stage: Chat, *given: Any) -> Bundle:
        trained.append(stage.epochs)
        return run(stage, *given)

    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Chat, "run", counted)
    monkeypatch.setattr(_learning, "replace_folder", killed)
    with pytest.raises(KeyboardInterrupt):
        _learning.finetune(base, data, short, out, SILENT)
    assert trained == [1] and not out.exists()
    monkeypatch.setattr(_learning, "replace_folder", put)
    found = _learning.finetune(base, data, short, out, SILENT)
    assert trained == [1] and found["stages"][-1]["settings"]["epochs"] == 1  # not trained again
    monkeypatch.setattr(_learning, "replace_folder", killed)
    with pytest.raises(KeyboardInterrupt):
        _learning.finetune(base, data, short, tmp_path / "other", SILENT)
    monkeypatch.setattr(_learning, "replace_folder", put)
    found = _learning.finetune(base, data, longer, tmp_path / "other", SILENT)
    assert trained == [1, 1, 2] and found["stages"][-1]["settings"]["epochs"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out", "talks.json"]


def test_a_model_is_adapted_to_a_domain(
    bundles: Callable[[str], Bundle], tmp_path: Path, typed: Typed,
) -> None:  # fmt: skip
    base, out = bundles("language").path, tmp_path / "out"
    words = ("finetune", base, TICKETS, "--task", "predict", "--text", "text", "--out", out)
    code, said, errors = typed(*words, "--json")
    assert code == 0, errors
    found = json.loads(said)
    assert found["stages"][-1]["use"] == "train/adapt" and found["validation"]["bits_per_byte"] < 8
    code, _, errors = typed(*words, "--template", "chatml", "--force")
    assert code == 2 and "--template needs --task chat" in errors
    code, _, errors = typed(*words[:3], "--task", "predictt", "--out", out)
    assert code == 2 and "Did you mean 'predict'?" in errors


def test_a_model_is_taught_and_exported(
    bundles: Callable[[str], Bundle],
    tmp_path: Path,
    typed: Typed,
) -> None:
    pytest.importorskip("peft")
    pytest.importorskip("xllamacpp")
    talks = conversations(tmp_path)
    base, taught, file = bundles("language").path, tmp_path / "taught", tmp_path / "file"
    words = ("--task", "chat", "--lora", "--template", "chatml", "--epochs", 1, "--out", taught, "--json")
    code, said, errors = typed("finetune", base, talks, *words)
    assert code == 0, errors
    assert json.loads(said)["stages"][-1]["use"] == "train/chat"
    assert (taught / "chat_template.jinja").is_file() and open_bundle(taught).card["task"] == "chat"
    code, said, errors = typed("export", taught, "--to", "gguf", "--type", "f16", "--out", file)
    assert code == 0 and "FutureWarning" not in errors, errors
    assert f"halfpint chat {file}" in said and "--to gguf" not in said  # what one does with it, and no more exporting
    assert (file / "model.gguf").is_file()
    written = [typed("generate", path, "What is", "--temperature", 0, "--max-tokens", 5)[1]
               for path in (taught, file)]  # fmt: skip
    assert written[0] == written[1]
    code, _, errors = typed("export", file, "--out", tmp_path / "again")
    assert code == 2 and "expected a Transformer language model, got one of llama_cpp" in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "talks.json", "taught"]


def test_a_folder_holds_base_models_apart(tmp_path: Path, tiny_language: Path) -> None:
    """A run that goes on, or a folder that is kept, never takes the model of another call; nor one that has changed."""
    other = tmp_path / "other"
    shutil.copytree(tiny_language, other)
    (other / "notes.json").write_text("{}")
    first = base_bundle(str(tiny_language), tmp_path / "held", SILENT)
    second = base_bundle(str(other), tmp_path / "held", SILENT)
    assert (second.path / "notes.json").is_file() and not (first.path / "notes.json").exists()
    assert base_bundle(str(tiny_language), tmp_path / "held", SILENT).path == first.path
    (other / "notes.json").write_text("[0]")
    third = base_bundle(str(other), tmp_path / "held", SILENT)
    assert third.path != second.path and (third.path / "notes.json").read_text() == "[0]"
