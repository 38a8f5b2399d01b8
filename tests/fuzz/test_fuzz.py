"""Whatever a file, a bundle or a request holds: an answer or one clear error, and soon. `make fuzz` tries many more.

Each input is made with a seed of its own, which a failure names: HALFPINT_FUZZ_FROM=SEED HALFPINT_FUZZ=1 repeats it.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from mutate import as_json, damaged, hostile

from halfpint.bundle import CARD, Bundle, file_sha256, read_json, write_json
from halfpint.errors import HalfpintError

MANY = int(os.environ.get("HALFPINT_FUZZ", "0"))  # inputs of each kind; 0: a few
FIRST = int(os.environ.get("HALFPINT_FUZZ_FROM", "0"))
SECONDS = 10 if MANY else 300  # a hang, on a machine that does nothing else; a few inputs run at any load
TOP = Path(__file__).resolve().parents[2]
TICKETS = (TOP / "examples" / "tickets.csv").read_bytes()
ROWS = [
    {"text": f"my parcel {number} is late, café", "label": "late" if number % 2 else "lost"} for number in range(12)
]
TURNS = [
    {"messages": [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": f"{number}"}]}
    for number in range(4)
]
ARPA = b"""\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-1\t<unk>\t0
-99\t<s>\t-0.3
-0.5\t</s>
-0.6\tlate\t-0.2

\\2-grams:
-0.2\t<s> late
-0.1\tlate </s>

\\end\\
"""
Typed = Callable[..., tuple[int, str, str]]
Get = Callable[[str], Bundle]


def seeds(few: int) -> range:
    return range(FIRST, FIRST + (MANY or few))


class _LateError(BaseException):
    """An input took too long; nothing may catch it."""


@contextmanager
def in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise _LateError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def clear(seed: int) -> Iterator[None]:
    """Whatever happens inside, it ends in time, well or with an error of halfpint's own."""
    try:
        with in_time(), suppress(HalfpintError):
            yield
    except BaseException as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {str(error)[:300]}") from error


def fine(seed: int, code: int, err: str) -> None:
    assert code in (0, 1, 2, 3) and "Traceback" not in err, f"seed {seed}: exit code {code}: {err[-500:]}"


def parquet() -> bytes:
    arrow, file = pytest.importorskip("pyarrow"), io.BytesIO()
    pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(ROWS), file)
    return file.getvalue()


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"\n".join(map(as_json, rows))


def hostile_lines(rows: list[dict[str, Any]], random: Random) -> bytes:
    if random.random() < 0.4:
        return damaged(jsonl(rows), random)
    changed = [hostile(row, random) if random.random() < 0.3 else row for row in rows]
    return jsonl(changed) if random.random() < 0.7 else as_json(hostile(changed, random))


FILES: dict[str, tuple[int, Callable[[Random], bytes]]] = {
    ".csv": (25, lambda random: damaged(b"\n".join(TICKETS.split(b"\n")[:30]), random)),
    ".tsv": (8, lambda random: damaged(b"text\tlabel\n" + b"my parcel\tlate\nno parcel\tlost\n" * 9, random)),
    ".jsonl": (15, lambda random: hostile_lines(ROWS, random)),
    ".json": (8, lambda random: as_json(hostile(ROWS, random))),
    ".parquet": (15, lambda random: damaged(parquet(), random)),
    ".conll": (10, lambda random: damaged((TOP / "examples" / "orders.conll").read_bytes()[:1500], random)),
    ".spans.jsonl": (
        10,
        lambda random: hostile_lines(
            [{"text": "Ada met Bo in Rome", "spans": [{"start": 0, "end": 3, "label": "PER"}]}] * 6, random
        ),
    ),
}


@pytest.mark.parametrize("ending", FILES)
def test_check(ending: str, typed: Typed, tmp_path: Path) -> None:
    few, make = FILES[ending]
    for seed in seeds(few):
        file = tmp_path / f"data{ending}"
        file.write_bytes(make(Random(seed)))
        with in_time():
            code, _, err = typed("check", file)
        fine(seed, code, err)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
def test_no_row_of_a_file_is_lost(ending: str, typed: Typed, bundles: Get, tmp_path: Path) -> None:
    few, make = FILES[ending]
    for seed in seeds(few // 2):
        file, out = tmp_path / f"data{ending}", tmp_path / f"out{ending}"
        file.write_bytes(make(Random(seed)))
        out.write_text("as it was", encoding="utf-8")
        with in_time():
            code, _, err = typed("predict", bundles("onnx-linear").path, "--file", file, "--out", out)
        fine(seed, code, err)
        if code:
            assert out.read_text(encoding="utf-8") == "as it was", f"seed {seed}: a file torn by a failure"
        else:
            from halfpint.data.read import read_table

            written = re.search(r"([\d,]+) rows? written to", err)
            assert written, f"seed {seed}: {err}"
            with suppress(HalfpintError):
                assert int(written[1].replace(",", "")) == len(read_table(str(file))), f"seed {seed}"
        assert [one.name for one in tmp_path.iterdir() if one not in (file, out)] == [], f"seed {seed}: left behind"


def test_conversations(tmp_path: Path) -> None:
    from halfpint.data.conversations import ChatData, prepare_chat
    from halfpint.progress import SILENT

    for seed in seeds(15):
        file = tmp_path / "chats.jsonl"
        file.write_bytes(hostile_lines(TURNS, Random(seed)))
        with clear(seed):
            prepare_chat(ChatData(source=str(file)), SILENT)


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".parquet"])
def test_a_corpus(ending: str, tmp_path: Path) -> None:
    from halfpint.data.corpus import CorpusData, prepare_corpus
    from halfpint.progress import SILENT

    for seed in seeds(6):
        random, file = Random(seed), tmp_path / f"corpus{ending}"
        file.write_bytes(damaged(TICKETS[:3000], random) if ending == ".txt" else FILES[ending][1](random))
        with clear(seed):
            prepare_corpus(CorpusData(sources=(str(file),), clean=bool(seed % 2)), tmp_path / "made", SILENT)
        shutil.rmtree(tmp_path / "made", ignore_errors=True)


def test_arpa(tmp_path: Path) -> None:
    from halfpint.models.ngram import NgramModel

    for seed in seeds(40):
        file = tmp_path / "model.arpa"
        file.write_bytes(damaged(ARPA, Random(seed)))
        with clear(seed):
            list(NgramModel.from_arpa(file).next_words("late", 3))


def test_recipes(tmp_path: Path) -> None:
    from halfpint.recipe import read_recipe

    recipe = (TOP / "recipes" / "tickets.toml").read_bytes()
    for seed in seeds(30):
        random, file = Random(seed), tmp_path / "recipe.toml"
        file.write_bytes(damaged(recipe, random))
        override = damaged(b"stage.1.base=all-minilm-l6-v2", random).decode("utf-8", "replace")
        with clear(seed):
            read_recipe(file, [override] if seed % 3 == 0 else [])


def test_recipes_with_variants(tmp_path: Path) -> None:
    from halfpint.recipe import read_content
    from halfpint.search.variants import PART, check_variants

    recipe = (TOP / "recipes" / "architectures.toml").read_bytes()
    for seed in seeds(30):
        random, file = Random(seed), tmp_path / "recipe.toml"
        file.write_bytes(damaged(recipe, random))
        override = damaged(b"stage.1.arch=llama", random).decode("utf-8", "replace")
        with clear(seed):
            content = read_content(file, [override] if seed % 3 == 0 else [])
            check_variants({PART: None, **content}, "here")


def copied(bundle: Bundle, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(bundle.path, target))


def harmed(folder: Path, random: Random) -> str:
    """One file of a bundle changed, with the hash that it then has in the card, as someone hostile would."""
    name = random.choice(sorted(one.name for one in folder.iterdir() if one.is_file()))
    file = folder / name
    content = file.read_bytes()
    if name.endswith(".json") and random.random() < 0.7:
        file.write_bytes(as_json(hostile(json.loads(content), random)))
    else:
        file.write_bytes(damaged(content, random))
    if name != CARD:
        card = read_json(folder / CARD)
        card["files"][name] = file_sha256(file) if isinstance(card["files"][name], str) else {
            **card["files"][name], "sha256": file_sha256(file)
        }  # fmt: skip
        write_json(folder / CARD, card)
    return name


@pytest.mark.parametrize("name", ["linear", "onnx-linear", "ngram", "majority", "dictionary", "crf"])
def test_bundles(name: str, typed: Typed, bundles: Get, tmp_path: Path) -> None:
    for seed in seeds(8):
        folder = copied(bundles(name), tmp_path / "bundle")
        what = harmed(folder, Random(seed))
        with in_time():
            code, _, err = typed("predict", folder, "my parcel is late")
        assert code in (0, 2) and "Traceback" not in err, f"seed {seed}, {what}: exit code {code}: {err[-500:]}"


@pytest.mark.parametrize("name", ["gguf", "packed", "onnx", "language", "classifier"])
def test_bundles_that_other_programs_read(name: str, bundles: Get, tmp_path: Path) -> None:
    """In a process of its own: a file that harms the program that reads it must not end this one."""
    words = ["generate", "--tokens", "3"] if name in ("gguf", "packed", "language") else ["predict"]
    for seed in seeds(2):
        folder = copied(bundles(name), tmp_path / "bundle")
        what = harmed(folder, Random(seed))
        ended = subprocess.run(
            [sys.executable, "-m", "halfpint.cli", words[0], str(folder), "my parcel", *words[1:]],
            capture_output=True, text=True, errors="replace", timeout=60 * SECONDS, check=False,
        )  # fmt: skip
        fine(seed, ended.returncode, f"{what}: {ended.stderr}")


def test_packed_files(bundles: Get, tmp_path: Path) -> None:
    from halfpint.models.packed_gguf import PACKED_FILE, unpack

    content, file = (bundles("packed").path / PACKED_FILE).read_bytes(), tmp_path / PACKED_FILE
    for seed in seeds(25):
        file.write_bytes(damaged(content, Random(seed)))
        with clear(seed):
            unpack(file, io.BytesIO())


BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "/v1/classify": ("onnx-linear", {"texts": ["my parcel is late"], "top": 2}),
    "/v1/chat/completions": (
        "chat",
        {
            "model": "chat", "messages": [{"role": "user", "content": "Where?"}], "max_tokens": 3, "temperature": 0.5,
            "top_p": 0.9, "stop": ["."], "seed": 1, "logit_bias": {"5": 1.0}, "n": 1, "stream": False,
        },
    ),
    "/v1/completions": ("gguf", {"model": "gguf", "prompt": "I was", "max_tokens": 3, "stop": [], "echo": False}),
}  # fmt: skip
SCHEMA = {
    "type": "object",
    "properties": {
        "late": {"type": "boolean"}, "days": {"type": "integer", "minimum": 1, "maximum": 9, "multipleOf": 2},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3},
        "who": {"anyOf": [{"type": "string", "pattern": "[a-z]{1,5}"}, {"$ref": "#/$defs/name"}]},
    },
    "required": ["late"], "additionalProperties": False, "$defs": {"name": {"type": "string", "maxLength": 4}},
}  # fmt: skip


@contextmanager
def served(bundle: Bundle, listening: Callable[..., Any]) -> Iterator[Any]:
    import time

    import httpx

    from halfpint import registry
    from halfpint.lookup import task_of

    app = registry.load("serve", task_of(bundle).routes).build_app(bundle.path, threads=1, timeout_s=SECONDS / 2)
    with listening(app) as address, httpx.Client(base_url=address, timeout=2 * SECONDS, trust_env=False) as client:
        end = time.monotonic() + 60 * SECONDS
        while client.get("/health").json()["status"] == "loading":
            assert time.monotonic() < end
            time.sleep(0.01)
        yield client


def ask(client: Any, path: str, body: bytes, seed: int) -> None:
    with in_time():
        reply = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code < 500 or reply.status_code in (503, 504), (
        f"seed {seed}: {reply.status_code} {reply.text:.300}"
    )
    assert reply.json() is not None
    with in_time():
        assert client.get("/health").json()["status"] == "ok", f"seed {seed}"


@pytest.mark.parametrize("path", BODIES)
def test_requests(path: str, bundles: Get, listening: Callable[..., Any]) -> None:
    name, body = BODIES[path]
    with served(bundles(name), listening) as client:
        for seed in seeds(20):
            random = Random(seed)
            content = as_json(hostile(body, random)) if random.random() < 0.8 else damaged(as_json(body), random)
            ask(client, path, content, seed)


@pytest.mark.parametrize("name", ["chat", "gguf"])
def test_schemas(name: str, bundles: Get, listening: Callable[..., Any]) -> None:
    path = "/v1/chat/completions" if name == "chat" else "/v1/completions"
    _, body = BODIES[path]
    with served(bundles(name), listening) as client:
        for seed in seeds(10):
            schema = hostile(SCHEMA, Random(seed))
            asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
            ask(client, path, as_json({**body, "response_format": asked}), seed)
