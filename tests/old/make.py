"""Makes what lies beside it, anew, in a folder that it is given: bundles, their answers, and runs that were killed.

    python tests/old/make.py FOLDER

It was run once, with the code whose bundles and runs are to stay open: README.md says which.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
HALFPINT = [sys.executable, "-m", "halfpint"]
DATA = '[data]\nsource = "tickets.csv"\n[task]\nmetric = "accuracy"\n'
LINEAR = '[[stage]]\nuse = "train/tfidf_linear"\nfeatures = 300\n'
TUNED = """
[[stage]]
use = "models/pull"
base = "encoder"
[[stage]]
use = "train/finetune"
epochs = 12
batch_size = 8
learning_rate = 1e-3
train_embeddings = true
start_share = 0.0
precision = "fp32"
"""
ONNX = '[[stage]]\nuse = "export/onnx"\n'
RECIPES = {
    "majority": DATA + '[[stage]]\nuse = "train/majority"\n',
    "linear": DATA + LINEAR,
    "linear-int8": DATA + LINEAR + ONNX + '[[stage]]\nuse = "compress/onnx_int8"\n',
    "classifier": DATA + TUNED,
    "classifier-onnx": DATA + TUNED + ONNX,
    "static": DATA + TUNED + '[[stage]]\nuse = "distil/static"\nepochs = 2\nwidth = 16\npairs = 50\n',
}
LANGUAGE = """
[data]
sources = ["running.txt"]
validation = "held.txt"
clean = false
[task]
name = "predict"
[[stage]]
use = "models/pull_language"
base = "small-language"
[[stage]]
use = "train/adapt"
tokens = 8192
batch_tokens = 256
learning_rate = 3e-3
evaluations = 3
precision = "fp32"
"""
SMALL = TUNED.replace("encoder", "small-encoder").replace("train_embeddings = true\n", "")
KILLED = {"unfinished-classifier": DATA + SMALL, "unfinished-language": LANGUAGE}
ADAPTED = ("--task", "predict", "--validation", "held.txt", "--epochs", "8", "--set", "batch_tokens=256",
           "--set", "learning_rate=3e-3", "--set", "precision=fp32")  # fmt: skip
ASKED = ("I was charged twice", "the app crashes when I open it", "where is my parcel?", "I cannot log in")
TOP = ("--top", "3", "--json")
WRITTEN = ("I was charged", "--temperature", "0", "--max-tokens", "8", "--json")
STEP = 14  # of a training: behind the checkpoint of its first evaluation, before the second
JUDGED = (
    "rows", "accuracy", "f1_macro", "log_loss", "calibration_error", "interval", "confusion", "tokens", "documents",
    "nats_per_token", "bits_per_byte", "perplexity_per_word", "perplexity_per_token_interval",
)  # fmt: skip


def halfpint(*words: str) -> str:
    """What a command prints."""
    done = subprocess.run([*HALFPINT, *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"halfpint {' '.join(words)}: exit code {done.returncode}")
    return done.stdout


def killed(out: Path, event: dict[str, Any], *words: str) -> None:
    """Start a command that writes to `out`, and kill it as soon as its events tell of `event`."""
    with subprocess.Popen([*HALFPINT, *words], start_new_session=True) as running:
        wanted = set(event.items())
        while running.poll() is None:
            events = out / "events.jsonl"
            lines = events.read_text(encoding="utf-8").splitlines(keepends=True) if events.is_file() else []
            told = [json.loads(line) for line in lines if line.endswith("\n")]
            if any(wanted <= {(key, value) for key, value in one.items() if key in event} for one in told):
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()
                return
            time.sleep(0.001)
    raise SystemExit(f"{out}: it ended before it was killed")


def write_data() -> None:
    """The table, running text, conversations, and models that know nothing."""
    import torch
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    found = spec_from_file_location("conftest", HERE.parent / "conftest.py")
    assert found is not None and found.loader is not None
    conftest = module_from_spec(found)
    sys.modules["conftest"] = conftest
    found.loader.exec_module(conftest)
    shutil.copyfile(HERE / "tickets.csv", "tickets.csv")
    texts = [line.rpartition(",")[0].strip('"') for line in Path("tickets.csv").read_text("utf-8").splitlines()[1:]]
    Path("running.txt").write_text("\n\n".join(texts[:80]), encoding="utf-8")
    Path("held.txt").write_text("\n\n".join(texts[80:]), encoding="utf-8")
    rows = [{"instruction": f"What is {number} plus one?", "output": f"It is {number + 1}."} for number in range(30)]
    Path("sums.json").write_text(json.dumps(rows), encoding="utf-8")
    for small, width in (("", 32), ("small-", 16)):
        shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": 2,
                 "max_position_embeddings": 64, "initializer_range": 0.2}  # fmt: skip
        for name in ("encoder", "language"):
            folder = Path(small + name)
            torch.manual_seed(0)
            if name == "encoder":
                folder.mkdir()
                size = conftest.write_tokenizer(folder, texts, 10 * width + 30)
                model = BertModel(BertConfig(vocab_size=size, num_hidden_layers=width // 16, **shape))
            else:
                halfpint("tokenizer", "running.txt", "--vocab", "320", "--out", str(folder))
                ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1, "tie_word_embeddings": True}
                model = LlamaForCausalLM(LlamaConfig(vocab_size=320, num_hidden_layers=1, **ends, **shape))
            model.save_pretrained(folder)


def keep(bundle: Path, name: str) -> None:
    """Copy a bundle, without the report of the run that made it and without where in which file an operator began."""
    import onnx

    kept = Path("bundles") / name
    shutil.copytree(bundle, kept, ignore=shutil.ignore_patterns("report.*", "events.jsonl"))
    if name == "classifier-onnx":
        model, card = onnx.load(kept / "model.onnx"), json.loads((kept / "card.json").read_text(encoding="utf-8"))
        for node in model.graph.node:
            node.ClearField("metadata_props")
        onnx.save(model, kept / "model.onnx")
        card["files"]["model.onnx"] = sha256((kept / "model.onnx").read_bytes()).hexdigest()
        (kept / "card.json").write_text(json.dumps(card, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_bundles() -> None:
    """One folder a bundle in `bundles`."""
    for name, recipe in RECIPES.items():
        Path("recipe.toml").write_text(recipe, encoding="utf-8")
        halfpint("run", "recipe.toml", "--out", f"made/{name}")
        keep(Path("made") / name / "best", name)
    halfpint("pretrain", "running.txt", "--arch", "ngram", "--order", "3", "--out", "made/ngram")
    halfpint("finetune", "language", "running.txt", *ADAPTED, "--out", "made/language")
    halfpint("finetune", "made/language", "sums.json", "--template", "chatml", "--epochs", "2", "--out", "made/chat",
             "--set", "precision=fp32")  # fmt: skip
    halfpint("export", "made/chat", "--type", "f16", "--out", "made/gguf")
    for name in ("ngram", "language", "chat", "gguf"):
        keep(Path("made") / name, name)


def write_answers() -> None:
    """`answers.json`: by bundle what it said to each of `ASKED`, how it was judged, and what it wrote."""
    answers: dict[str, Any] = {}
    for name in (*RECIPES, "ngram", "language", "chat", "gguf"):
        bundle, data = f"bundles/{name}", "tickets.csv" if name in RECIPES else "held.txt"
        judged = json.loads(halfpint("evaluate", bundle, data, "--json"))
        answers[name] = {
            "predict": [json.loads(line) for line in halfpint("predict", bundle, *ASKED, *TOP).splitlines()],
            "evaluate": {key: judged[key] for key in JUDGED if key in judged},
        }
        if name not in RECIPES:
            written = json.loads(halfpint("generate", bundle, *WRITTEN))
            answers[name]["generate"] = {key: written[key] for key in ("prompt", "text", "finish")}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(said)}" for name, said in answers.items())
    Path("answers.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def write_killed() -> None:
    """`unfinished-fit`, after two candidates, and two trainings behind their first evaluation."""
    measured = {"event": "candidate", "name": "tfidf-small-fp32"}
    killed(Path("unfinished-fit"), measured, "fit", "tickets.csv", "--base", "none", "--out", "unfinished-fit")
    for name, recipe in KILLED.items():
        Path(f"{name}.toml").write_text(recipe, encoding="utf-8")
        killed(Path(name), {"event": "step", "step": STEP}, "run", f"{name}.toml", "--out", name)
    for memo in Path().rglob("fingerprints.json"):
        memo.unlink()  # where on this machine the texts lay, and when they were written: true nowhere else


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir()
    os.chdir(sys.argv[1])
    write_data()
    write_bundles()
    write_answers()
    write_killed()
