"""What `halfpint plan` foretells against what is measured then: peak memory, and time, of trainings and of serving.

Each case is planned for in one fresh process, on the machine as it is, and done in another. Where the machine is to be
busy, a process burns a core from before the plan to the end. Time is that of the training itself, evaluations included
(`tokens_per_s` of the card); of serving the tokens per second that are read and written.

    python benchmarks/planner.py [--state quiet] [--state busy] [--case llama-5M] [--repeats 1]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # what the halfpint command sets

from harness import DATA, RESULTS, write

TEXT = DATA / "wikitext2" / "test.txt.gz"
TABLE = Path(__file__).resolve().parents[1] / "examples" / "tickets.csv"
BASE = "smollm2-135m-instruct"
LOOKS, LOOKED = 2, 4096  # evaluations, and tokens of each
PROMPT, WRITTEN = 128, 48
CASES: dict[str, dict[str, Any]] = {
    "llama-1M": {"arch": "llama", "size": "1M", "tokens": 200_000},
    "llama-5M": {"arch": "llama", "size": "5M", "tokens": 80_000},
    "llama-30M": {"arch": "llama", "size": "30M", "tokens": 20_000},
    "bert-5M": {"arch": "bert", "size": "5M", "tokens": 80_000},
    "lora": {"base": BASE, "tokens": 10_240},
    "fit": {"table": str(TABLE)},
    "q8_0": {"type": "q8_0"},
    "q4_0": {"type": "q4_0"},
}
MOST = {"memory": 0.25, "time": 0.35}


def main() -> None:
    """Run the cases in each state, and write results/planner.json; cases that are not run now stay as they were."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", action="append", choices=("quiet", "busy"), default=None)
    parser.add_argument("--case", action="append", choices=CASES, default=None)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--one", choices=("plan", "do"))
    parser.add_argument("--bundle", default="")
    given = parser.parse_args()
    if given.one:
        work = plan if given.one == "plan" else do
        print(json.dumps(work(CASES[given.case[0]], given.bundle)))
        return
    file = RESULTS / "planner.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    with tempfile.TemporaryDirectory(prefix="halfpint-planner-") as name:
        for state in given.state or ("quiet", "busy"):
            for case in given.case or CASES:
                for repeat in range(given.repeats):
                    bundle = exported(CASES[case], Path(name))
                    with burning(state == "busy"):
                        load = os.getloadavg()[0]
                        foretold = child("plan", case, bundle)
                        found = child("do", case, bundle)
                    row = {
                        "case": case,
                        "state": state,
                        "repeat": repeat,
                        "load": round(load, 2),
                        **against(foretold, found),
                    }
                    rows = [one for one in rows if (one["case"], one["state"], one["repeat"]) != (case, state, repeat)]
                    rows.append(row)
                    parts = {"memory": row["memory"], **row["times"]}
                    said = ", ".join(f"{what} {one['error']:+.0%}" for what, one in parts.items())
                    print(f"  {state} {case}: {said}", flush=True)
    write("planner", {"most": MOST, "within": within(rows), "rows": rows})


def against(foretold: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Both figures of each, and how far the forecast is off, as a share of what was measured."""

    def both(theirs: float, ours: float) -> dict[str, float]:
        return {"foretold": theirs, "measured": ours, "error": theirs / ours - 1}

    times = {name: both(foretold["times"][name], found["times"][name]) for name in found["times"]}
    return {
        "memory": both(foretold["memory_bytes"], found["memory_bytes"]), "times": times,
        "busy_share": foretold["busy"],
    }  # fmt: skip


def within(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many forecasts are within the most that they may be off, by state."""
    found: dict[str, Any] = {}
    for state in sorted({one["state"] for one in rows}):
        some = [one for one in rows if one["state"] == state]
        memory = [abs(one["memory"]["error"]) for one in some]
        times = [abs(each["error"]) for one in some for each in one["times"].values()]
        found[state] = {
            "memory": f"{sum(one <= MOST['memory'] for one in memory)} of {len(memory)}",
            "time": f"{sum(one <= MOST['time'] for one in times)} of {len(times)}",
            "worst_memory": max(memory), "worst_time": max(times),
        }  # fmt: skip
    return found


def child(what: str, case: str, bundle: str) -> dict[str, Any]:
    """The figures of one fresh process."""
    command = [sys.executable, __file__, "--one", what, "--case", case, "--bundle", bundle]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def burning(wanted: bool) -> Iterator[None]:
    """While another process burns a core."""
    if not wanted:
        yield
        return
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.5)
        yield
    finally:
        burner.kill()
        burner.wait()


def exported(case: dict[str, Any], folder: Path) -> str:
    """The GGUF bundle that a case of serving runs, made where it is not there yet; "" for the others."""
    import halfpint as hp

    if "type" not in case:
        return ""
    target = folder / case["type"]
    if not target.is_dir():
        hp.export(BASE, type=case["type"], out=target, quiet=True)
    return str(target)


def plan(case: dict[str, Any], bundle: str) -> dict[str, Any]:
    """What is foretold: bytes of memory, and seconds of each part of the work; the machine is measured for it."""
    from halfpint.evaluate.llama_speed import llama_speed
    from halfpint.machine_speed import busy_share, measured
    from halfpint.models.known_shape import known_shape
    from halfpint.models.serving_cost import decode_seconds, prefill_seconds, serving_bytes
    from halfpint.models.shape import shape_of
    from halfpint.models.sizes import default_vocabulary, new_model, parse_parameters, resolve, size_dial
    from halfpint.search import planner
    from halfpint.train.adapt import Adapt
    from halfpint.train.loop import use_bf16
    from halfpint.train.pretrain import Pretrain

    if "type" in case:
        busy = busy_share()
        shape, speed = known_shape(BASE).shape, llama_speed()[case["type"]]
        return {
            "memory_bytes": serving_bytes(shape, case["type"], min(8192, shape.context)), "busy": busy,
            "times": {
                "written": decode_seconds(shape, case["type"], speed, PROMPT),
                "read": prefill_seconds(shape, speed, PROMPT),
            },
        }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        machine = measured(Path(name), busy_share())
    if "table" in case:
        found = planner.encoder_forecast(known_shape("all-minilm-l6-v2").shape, texts_of(case), machine)
        return {"memory_bytes": found[1], "busy": machine.busy, "times": {"pass": found[0]}}
    if "base" in case:
        shape, stage = known_shape(BASE).shape, Adapt(context=256)
    else:
        parameters = parse_parameters(case["size"])
        settings, _ = size_dial(case["arch"], parameters, default_vocabulary(parameters), 256)
        shape = shape_of(new_model(resolve(case["arch"])[0], settings, meta=True))
        stage = Pretrain()
    asked = planner.Asked(
        tokens=case["tokens"], passes=1.0, minutes=0.0, context=256, step_tokens=stage.batch_tokens,
        optimizer=stage.optimizer, bf16=use_bf16("auto"), evaluations=LOOKS, evaluation_tokens=LOOKED, prompt=PROMPT,
        threads=1,
    )  # fmt: skip
    rows = planner.rows_at_once(asked.step_tokens, 256)
    row = planner.training(shape, asked, rows, machine, planner.Room(0, 0, 0), lora="base" in case)
    return {
        "memory_bytes": row["memory_bytes"], "busy": machine.busy,
        "times": {"training": row["seconds"] - planner.START_S},
    }  # fmt: skip


def do(case: dict[str, Any], bundle: str) -> dict[str, Any]:
    """What is measured: the process' peak memory, and seconds of each part of the work."""
    import halfpint as hp
    from halfpint.bundle import read_json
    from halfpint.machine import peak_memory_bytes

    if "type" in case:
        return served(Path(bundle))
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "made"
        if "table" in case:
            hp.fit(case["table"], minutes=2, out=out, quiet=True)
            speed = read_json(out / "plan.json")["texts_per_s"]
            return {"memory_bytes": peak_memory_bytes(), "times": {"pass": len(texts_of(case)) / speed}}
        settings = {"evaluations": LOOKS, "evaluation_tokens": LOOKED, "tokens": case["tokens"]}
        if "base" in case:
            hp.finetune(
                BASE, str(TEXT), task="predict", lora=True, context=256, out=out, quiet=True,
                set=tuple(f"{key}={value}" for key, value in settings.items()),
            )  # fmt: skip
        else:
            hp.pretrain(
                str(TEXT), arch=case["arch"], size=case["size"], as_it_is=True, out=out, quiet=True,
                set=tuple(f"{key}={value}" for key, value in settings.items()),
            )  # fmt: skip
        entry = read_json(out / "card.json")["stages"][-1]
        seconds = case["tokens"] / entry["tokens_per_s"]
    return {"memory_bytes": peak_memory_bytes(), "times": {"training": seconds}}


def served(bundle: Path) -> dict[str, Any]:
    """A GGUF file read from and written with, as `halfpint serve` would."""
    from halfpint.bundle import open_bundle
    from halfpint.engines import open_language_engine
    from halfpint.machine import peak_memory_bytes

    model: Any = open_language_engine(open_bundle(bundle)).model  # type: ignore[attr-defined]
    model.logits([1] * 8, 7)
    reads = []
    for number in range(3):
        started = time.perf_counter()
        model.logits([number + 2] * PROMPT, PROMPT - 1)
        reads.append((time.perf_counter() - started) / PROMPT)
    ids = [2] * PROMPT
    model.logits(ids, PROMPT - 1)
    started = time.perf_counter()
    for number in range(WRITTEN):
        ids = [*ids, number + 5]
        model.logits(ids, len(ids) - 1)
    written = (time.perf_counter() - started) / WRITTEN
    return {"memory_bytes": peak_memory_bytes(), "times": {"written": written, "read": sum(reads) / len(reads)}}


def texts_of(case: dict[str, Any]) -> list[str]:
    """The texts that `fit` trains on, about: those of the table less a third."""
    import csv

    with Path(case["table"]).open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    return texts[: 2 * len(texts) // 3]


if __name__ == "__main__":
    main()
