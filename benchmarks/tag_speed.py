"""Entities in a CoNLL file: bundles of halfpint against spaCy's en_core_web_sm, on one machine in one run.

Each system runs in a fresh process on one thread, in turn. Counted: from the texts of the file to their spans, for all
sentences at once; not loading, nor a first pass over a few sentences. Words are those of the file. As other work on the
machine slows all systems, words per second of processor time are kept as well.

spaCy at its best: only the parts that entities need, `nlp.pipe` with batches of 256. "words" gives it the words of the
file (`Doc(vocab, words)`), so that its spans can be those of the file and it has no words to find; "text" gives it the
plain text, as halfpint's bundles get it.

What the F1 of spaCy says: its model learned from OntoNotes, whose guidelines differ. Its labels are mapped to those of
CoNLL, and "the" before and "'s" after a name left out, as CoNLL does; what else differs counts as wrong. So that F1 is
a lower bound of what it knows, while bundles that learned from CoNLL's own training file know its guidelines.

    python -m venv PEER && PEER/bin/pip install "spacy>=3.8,<3.9" && PEER/bin/python -m spacy download en_core_web_sm
    python benchmarks/tag_speed.py --peer PEER/bin/python --bundles BUNDLE [BUNDLE ...] --data eng.testb [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "RAYON_NUM_THREADS"), "1"
)
MODEL = "en_core_web_sm"
UNUSED = ["tok2vec", "tagger", "parser", "attribute_ruler", "lemmatizer"]  # "ner" of this model has its own tok2vec
BATCH, WARM = 256, 64
TO_CONLL = {
    "PERSON": "PER", "ORG": "ORG", "GPE": "LOC", "LOC": "LOC", "FAC": "LOC", "NORP": "MISC", "EVENT": "MISC",
    "WORK_OF_ART": "MISC", "LANGUAGE": "MISC", "PRODUCT": "MISC",
}  # fmt: skip
BEFORE, AFTER = "the ", (" 's", "'s", " '")
SPEEDS = {"words_per_s": "wall", "words_per_processor_s": "processor"}
MODES = ("words", "text")
NOTE = f"{MODEL} learned from OntoNotes, by other guidelines than CoNLL's: its F1 is a lower bound of what it knows"
Spans = list[list[Any]]


def main() -> None:
    """Measure all systems in turn, judge their spans and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", help="the Python that has spaCy and its model")
    parser.add_argument("--bundles", nargs="+", type=Path, default=[])
    parser.add_argument("--data", help="a CoNLL file")
    parser.add_argument("--out", type=Path, help="default: results/tag_speed.json")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--texts", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        texts = json.loads(given.texts.read_text(encoding="utf-8"))
        print(json.dumps(spacy_spans(given.one, texts) if given.one in MODES else bundle_spans(given.one, texts)))
        return
    if not given.peer or not given.bundles or not given.data:
        parser.error("--peer, --bundles and --data are needed")
    measure(given.peer, given.bundles, given.data, given.repeats, given.out)


def measure(peer: str, bundles: Sequence[Path], data: str, repeats: int, out: Path | None) -> None:
    """Run each system `repeats` times, each time in a process of its own."""
    import harness

    from halfpint.data.span_faults import cleaned
    from halfpint.data.span_files import read_spans
    from halfpint.data.spans import TagData

    examples = cleaned(read_spans(data, TagData(source=data)))
    texts = [example.text for example in examples]
    words = sum(len(text.split(" ")) for text in texts)
    systems = {f"spaCy {MODEL}, {mode}": (peer, mode) for mode in MODES}
    facts: dict[str, dict[str, Any]] = {name: {} for name in systems}
    for path in bundles:
        name, about = described(path, taken=systems)
        systems[name], facts[name] = (sys.executable, str(path)), about
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in systems}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps(texts), encoding="utf-8")
        for repeat in range(repeats):
            for name, (python, what) in systems.items():
                runs[name].append(in_fresh_process([python, __file__, "--one", what, "--texts", str(file)]))
                print(f"  {repeat + 1}/{repeats} {name}: {words / runs[name][-1]['wall']:,.0f} words/s", flush=True)
    found = {name: facts[name] | figures(runs[name], words, examples) for name in systems}
    for mode in MODES:
        reference = found[f"spaCy {MODEL}, {mode}"]
        for one in found.values():
            one[f"by_spacy_{mode}"] = {key: round(one[key]["median"] / reference[key]["median"], 2) for key in SPEEDS}
    if out:
        harness.RESULTS = out.resolve().parent
    result = {
        "unit": "words/s", "data": Path(data).name, "texts": len(texts), "words": words, "threads": 1,
        "note": NOTE, "labels": TO_CONLL, "systems": found,
    }  # fmt: skip
    harness.write(out.stem if out else "tag_speed", result)


def described(path: Path, taken: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A name of a bundle that no other has, and its size and stages."""
    from halfpint.bundle import open_bundle

    bundle = open_bundle(path)
    name = f"halfpint {bundle.card['engine']}, {bundle.size_bytes / 1e6:.2f} MB"
    while name in taken:
        name += " (another)"
    return name, {"size_bytes": bundle.size_bytes, "stages": [stage["use"] for stage in bundle.card["stages"]]}


def in_fresh_process(command: list[str]) -> dict[str, Any]:
    """What a run of this file prints on its last line."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | ONE_THREAD)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def figures(runs: Sequence[dict[str, Any]], words: int, examples: Sequence[Any]) -> dict[str, Any]:
    """Speeds of all runs, and the strict F1 of the spans, which must be the same in all."""
    from halfpint.data.spans import Span
    from halfpint.lookup import open_task
    from halfpint.tasks._tags import tag_names

    assert all(run["spans"] == runs[0]["spans"] for run in runs), "the runs found different spans"
    task, labels = open_task("tag"), tag_names(sorted(set(TO_CONLL.values())))
    answers = [tuple(Span(*span) for span in spans) for spans in runs[0]["spans"]]
    counts = task.counts(examples, answers, labels)
    speeds = {}
    for name, key in SPEEDS.items():
        values = [round(words / run[key]) for run in runs]
        speeds[name] = {"median": statistics.median(values), "min": min(values), "max": max(values), "values": values}
    loading = round(statistics.median(run["loading"] for run in runs), 2)
    f1 = round(float(task.metrics["f1_strict"](counts)), 4)
    return {**speeds, "f1_strict": f1, "loading_s": loading, "versions": runs[0]["versions"]}


def timed(find: Callable[[Sequence[str]], list[Spans]], texts: Sequence[str], begun: float) -> dict[str, Any]:
    """The spans of all texts, and how long it took after a first pass over a few."""
    find(texts[:WARM])
    ready, before = time.perf_counter(), time.process_time()
    spans = find(texts)
    wall, processor = time.perf_counter() - ready, time.process_time() - before
    return {"wall": wall, "processor": processor, "loading": ready - begun, "spans": spans}


def bundle_spans(path: str, texts: Sequence[str]) -> dict[str, Any]:
    """The run of a bundle."""
    begun = time.perf_counter()
    from halfpint.bundle import open_bundle
    from halfpint.engines import open_engine
    from halfpint.lookup import open_task
    from halfpint.machine import packages

    task, engine = open_task("tag"), open_engine(open_bundle(path), threads=1)

    def find(texts: Sequence[str]) -> list[Spans]:
        return [list(spans) for spans in task.decode(texts, engine.probabilities(texts), engine.labels)]

    return timed(find, texts, begun) | {"versions": {"halfpint": packages()["halfpint"]}}


def spacy_spans(mode: str, texts: Sequence[str]) -> dict[str, Any]:
    """The run of spaCy on the words of the file, which one space parts, or on its text."""
    begun = time.perf_counter()
    import spacy
    from spacy.tokens import Doc

    name = next(name for name in spacy.util.get_installed_models() if name.startswith(MODEL))  # or a copy of it
    nlp = spacy.load(name, exclude=UNUSED)

    def find(texts: Sequence[str]) -> list[Spans]:
        given = (Doc(nlp.vocab, words=text.split(" ")) for text in texts) if mode == "words" else texts
        found = nlp.pipe(given, batch_size=BATCH)
        return [[mapped(entity) for entity in doc.ents if entity.label_ in TO_CONLL] for doc in found]

    versions = {"spacy": spacy.__version__, name: nlp.meta["version"], "parts": nlp.pipe_names}
    return timed(find, texts, begun) | {"versions": versions}


def mapped(entity: Any) -> list[Any]:
    """Start, end and label of an entity of spaCy, as CoNLL would have them."""
    text, start = entity.text, entity.start_char
    if text.lower().startswith(BEFORE):
        text, start = text[len(BEFORE) :], start + len(BEFORE)
    ending = next((after for after in AFTER if text.endswith(after)), "")
    return [start, start + len(text) - len(ending), TO_CONLL[entity.label_]]


if __name__ == "__main__":
    main()
