"""The commands of language models as a person types them: what was asked for wrongly is said, and nothing is left."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from halfpint.bundle import Bundle, new_bundle, open_bundle, write_json
from halfpint.models.ngram import NgramModel

ROOT = Path(__file__).resolve().parents[1]
TICKETS = ROOT / "examples" / "tickets.csv"
TEXT = "the cat sat on the <unk>\nthe dog sat on the log\nthe cat saw the <unk> dog\n"
Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "text.txt"
    path.parent.mkdir()
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_counts_go_to_arpa_and_come_back(tmp_path: Path, text: Path, typed: Typed) -> None:
    counted, back = tmp_path / "counted", tmp_path / "back"
    assert typed("pretrain", text, "--arch", "ngram", "--order", 3, "--out", counted)[0] == 0
    for name, words in (("plain.arpa.gz", ()), ("merged.arpa", ("--merge-unknown",))):
        code, _, errors = typed("export", counted, "--to", "arpa", "--out", tmp_path / name, *words)
        assert code == 0, errors
    plain = gzip.decompress((tmp_path / "plain.arpa.gz").read_bytes()).decode()
    assert "\\<unk>" in plain and "\\<unk>" not in (tmp_path / "merged.arpa").read_text(encoding="utf-8")
    code, _, errors = typed("import", tmp_path / "plain.arpa.gz", "--out", back)
    assert code == 0, errors
    one, other = (NgramModel.load(folder).score([TEXT]).log10 for folder in (counted, back))
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert open_bundle(back, task="predict").card["stages"][0]["use"] == "import"
    assert json.loads(typed("evaluate", back, text, "--json")[1])["perplexity"] > 1


def test_a_file_that_is_there_is_not_replaced_unasked(tmp_path: Path, text: Path, typed: Typed) -> None:
    counted, arpa = tmp_path / "counted", tmp_path / "kept.arpa"
    assert typed("pretrain", text, "--arch", "ngram", "--order", 2, "--out", counted)[0] == 0
    arpa.write_text("mine", encoding="utf-8")
    code, _, errors = typed("export", counted, "--to", "arpa", "--out", arpa)
    assert code == 2 and "exists already" in errors and arpa.read_text(encoding="utf-8") == "mine"
    assert typed("export", counted, "--to", "arpa", "--out", tmp_path)[0] == 2
    assert (
        json.loads(typed("export", counted, "--to", "arpa", "--out", arpa, "--force", "--json")[1])["size_bytes"] > 99
    )
    assert typed("export", counted, "--to", "gguf", "--merge-unknown", "--out", tmp_path / "x")[0] == 2
    for words, said in (
        (("--to", "gguf", "--nearest"), "--nearest needs --to compressed-tensors"),
        (("--to", "compressed-tensors", "--pack"), "--pack needs --to gguf"),
        (("--to", "compressed-tensors", "--type", "q4_1"), "--type must be q8_0 or q4_0"),
        (("--to", "compressed-tensor"), "Did you mean 'compressed-tensors'"),
    ):
        code, _, errors = typed("export", counted, *words, "--out", tmp_path / "x")
        assert code == 2 and said in errors


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arch", "ngram", "--objective", "masked"], ["--objective needs a Transformer"]),
        (["--arch", "ngram", "--counts"], ["--counts needs a Transformer"]),
        (["--arch", "llama", "--smoothing", "none"], ["--smoothing needs --arch ngram"]),
        (["--arch", "ngarm"], ["Did you mean 'ngram'?"]),
        (["--arch", "zzzzzz"], ["For example ngram, llama"]),
        (["--arch", "bert", "--counts"], ["--counts: expected a causal model"]),
        (["--arch", "llama", "--set", "batch_tokns=5"], ["unknown key 'batch_tokns'", "'batch_tokens'"]),
        (["--arch", "llama", "--set", "batch_tokens=many"], ["batch_tokens must be a whole number, not 'many'"]),
        (["--arch", "llama", "--set", "accumulate"], ["must be NAME=VALUE"]),
        (["--arch", "llama", "--set", "warmup=3"], ["warmup must be a share"]),
        (["--arch", "llama", "--seed", "-1"], ["'--seed'"]),
    ],
)
def test_pretrain_says_what_it_cannot_use(
    words: list[str], said: list[str], tmp_path: Path, text: Path, typed: Typed
) -> None:
    code, output, errors = typed("pretrain", text, "--out", tmp_path / "out", *words)
    assert (code, output) == (2, "") and all(part in errors for part in said), errors
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_size_that_no_memory_holds_is_refused_before_anything_is_read(
    tmp_path: Path, text: Path, typed: Typed
) -> None:
    code, _, errors = typed("pretrain", text, "--size", "60B", "--out", tmp_path / "out")
    assert code == 2 and "memory: expected about" in errors and "GiB" in errors, errors
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_places_that_cannot_be_written(tmp_path: Path, text: Path, typed: Typed) -> None:
    for command in (["tokenizer"], ["pretrain", "--arch", "ngram"]):
        code, _, errors = typed(command[0], text, *command[1:], "--out", text / "below" / "a" / "file")
        assert code == 2 and "not a directory" in errors, errors
    code, _, errors = typed("tokenizer", text, "--kind", "bep", "--out", tmp_path / "out")
    assert code == 2 and "Did you mean 'bpe'?" in errors


def test_a_base_model_is_used_by_its_name(
    tmp_path: Path, bundles: Callable[[str], Bundle], typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `pull` put into the cache writes at once; the bundle made of it is made once."""
    name = "smollm2-135m-instruct"
    monkeypatch.setenv("HALFPINT_CACHE", str(tmp_path))
    shutil.copytree(bundles("language").path, tmp_path / "models" / name, ignore=shutil.ignore_patterns("card.json"))
    code, output, errors = typed("generate", name, "My order", "--max-tokens", 3, "--no-chat")
    assert code == 0 and output.startswith("My order"), errors
    made = (tmp_path / "bundles" / name / "card.json").stat().st_mtime_ns
    assert typed("predict", name, "My", "--top", 2)[0] == 0
    assert (tmp_path / "bundles" / name / "card.json").stat().st_mtime_ns == made
    code, _, errors = typed("generate", "smollm2-135m-instrct", "My")
    assert code == 2 and "There is no folder" in errors


def test_each_gap_has_its_words(bundles: Callable[[str], Bundle], typed: Typed) -> None:
    code, output, _ = typed("predict", bundles("masked").path, "my [MASK] is [MASK]", "--json", "--top", 3)
    lines = [json.loads(line) for line in output.splitlines()]
    assert code == 0 and [line["gap"] for line in lines] == [1, 2] and all(len(line["words"]) == 3 for line in lines)
    assert typed("predict", bundles("masked").path, "my [MASK]", "--top", 100_000)[0] == 0  # more than there are


def test_a_server_whose_model_cannot_be_read_ends(tmp_path: Path, bundles: Callable[[str], Bundle]) -> None:
    pytest.importorskip("xllamacpp")
    source = bundles("gguf")
    with new_bundle(tmp_path / "broken", source) as (folder, _):
        for file in source.path.iterdir():
            if file.name not in ("card.json", "README.md"):
                shutil.copyfile(file, folder / file.name)
        (folder / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    command = [sys.executable, "-m", "halfpint", "serve", str(tmp_path / "broken"), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ") and "model.gguf" in done.stderr


@pytest.mark.slow
def test_a_killed_training_goes_on(tmp_path: Path, typed: Typed) -> None:
    """SIGKILL in the middle of `pretrain`; the same command goes on, and another one in between says what to do."""
    out = tmp_path / "out"
    words = [
        "pretrain", TICKETS, "--text", "text", "--size", "125k", "--vocab", "400", "--context", "32",
        "--tokens", "400k", "--as-it-is", "--out", out,
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "halfpint", *map(str, words)], stderr=subprocess.PIPE, env={**os.environ}, text=True
    )
    checkpoint = Path(f"{out}.unfinished")
    until = time.monotonic() + 300
    while not any(checkpoint.rglob("checkpoint")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    code, _, errors = typed(*words)
    assert code == 0 and "resuming at step" in errors, errors
    assert open_bundle(out).card["stages"][0]["total_steps"] >= 190 and not checkpoint.exists()


def test_damaged_bundles_are_said_to_be(tmp_path: Path, bundles: Callable[[str], Bundle], typed: Typed) -> None:
    for name, change in (("files", {"files": []}), ("none", {"files": None})):
        folder = tmp_path / name
        shutil.copytree(bundles("linear").path, folder)
        write_json(folder / "card.json", {**Bundle(folder).card, **change})
        code, _, errors = typed("predict", folder, "hello")
        assert code == 2 and "expected the hashes of the bundle's files" in errors, errors
    (tmp_path / "report.json").write_text("{}", encoding="utf-8")
    code, _, errors = typed("report", tmp_path)
    assert code == 2 and "is not a report of halfpint" in errors and not (tmp_path / "report.html").exists()


def test_a_file_alone_a_wrong_command_and_pull_without_a_name(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talks, text, table = tmp_path / "talks.jsonl", tmp_path / "book.txt", tmp_path / "rows.csv"
    talks.write_text('{"prompt": "a", "completion": "b"}\n')
    text.write_text("Once.\n")
    table.write_text("text,label\na,b\n")
    for file, command in ((talks, "finetune smollm2-135m-instruct"), (text, "pretrain"), (table, "fit")):
        code, _, errors = typed(file)
        assert code == 2 and f"Try: halfpint {command} {file}" in errors
    assert "Did you mean 'finetune'" in typed("fintune", "x")[2]
    monkeypatch.setenv("HALFPINT_CACHE", str(tmp_path / "cache"))
    code, said, _ = typed("pull")
    assert code == 0 and "smollm2-135m-instruct  (135M parameters, Apache-2.0)" in said and "in the cache" not in said
    here = tmp_path / "cache" / "models" / "smollm2-135m-instruct"
    here.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (here / name).write_text("{}")
    assert "Apache-2.0; in the cache)" in typed("pull")[1]
    code, said, errors = typed("pull", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert (code, said.strip()) == (0, str(here)) and "is in the cache as smollm2-135m-instruct" in errors


def test_masked_models_are_told_what_they_can_do(typed: Typed, bundles: Callable[[str], Bundle]) -> None:
    masked = bundles("masked").path
    for words in (("chat", masked), ("generate", masked, "Once")):
        code, _, errors = typed(*words, given="Hello\n")
        assert code == 2 and 'It fills gaps: halfpint fill BUNDLE "the [MASK] of"' in errors, errors
    assert typed("predict", masked, "the [MASK] of")[0] == 0
    code, said, _ = typed("fill", masked, "my [MASK] is [MASK]", "--top", 2)
    assert code == 0 and [line[:9] for line in said.splitlines()] == ["[MASK] 1:", "[MASK] 2:"]
    lines = typed("fill", masked, "a [MASK] [MASK]", "--json")[1].splitlines()
    assert [json.loads(line)["gap"] for line in lines] == [1, 2]
    code, _, errors = typed("fill", masked, "no gap")
    assert code == 2 and "There is no [MASK] in the text 'no gap'." in errors
    code, _, errors = typed("fill", masked)
    assert code == 2 and f'Give a text with a gap: halfpint fill {masked} "the [MASK] of".' in errors
    counted = bundles("ngram").path
    code, _, errors = typed("fill", counted, "a [MASK]")
    assert code == 2 and f"{counted} fills no gaps: it is not a masked language model." in errors
    code, _, errors = typed("serve", masked, "--port", 0)
    assert code == 2 and "serve needs a causal language model, and this is a masked one. It fills gaps" in errors


def test_where_no_folder_is_named_it_has_the_name_of_the_text(
    tmp_path: Path, text: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert typed("pretrain", text, "--arch", "ngram", "--order", 2)[0] == 0
    assert open_bundle("text-ngram").card["engine"] == "ngram"
    page = Path("text-ngram", "report.html").read_text(encoding="utf-8")
    assert "<h1>An n-gram model of order 2 with " in page and " n-grams, not evaluated yet</h1>" in page
    assert (
        "Bits per byte" not in page and "<b>–</b>" not in page and "halfpint_ngram" not in page
    )  # no figure that is not there
    assert typed("export", "text-ngram", "--to", "arpa")[0] == 0
    assert typed("import", "text-ngram.arpa")[0] == 0 and open_bundle("text-ngram-ngram").card["engine"] == "ngram"
    assert typed("tokenizer", text, "--vocab", 262)[0] == 0
    assert Path("text-tokenizer", "tokenizer.json").is_file()
    code, _, errors = typed("tokenizer", text, "--vocab", 262)
    assert code == 2 and "The folder text-tokenizer is not empty." in errors


def test_commands_that_take_it_take_it(typed: Typed, bundles: Callable[[str], Bundle], tmp_path: Path) -> None:
    code, _, errors = typed("generate", bundles("linear").path, "Once")
    assert code == 2 and errors.endswith("take it: compress, distil, evaluate, predict, report, serve.\n")
    chats = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello to you"}]
    chats.write_text(json.dumps({"messages": turns}) + "\n", encoding="utf-8")
    code, _, errors = typed("fit", chats)
    assert code == 2 and "take it: compress, distil, evaluate, finetune, pretrain, tokenizer. Name another" in errors


def test_the_report_of_a_bundle_is_that_of_its_run(
    typed: Typed, tmp_path: Path, bundles: Callable[[str], Bundle]
) -> None:
    shutil.copytree(bundles("ngram").path, tmp_path / "out" / "best")
    code, _, errors = typed("report", tmp_path / "out" / "best")
    assert code == 2 and "report.json" in errors
    report = {"verdict": "as it went", "bundle": "b", "stages": [], "energy": {"wh": 1, "source": "modelled"}}
    (tmp_path / "out" / "report.json").write_text(json.dumps({**report, "models": {}}))
    code, said, errors = typed("report", tmp_path / "out" / "best", "--json")
    assert code == 0 and json.loads(said)["verdict"] == "as it went", errors
