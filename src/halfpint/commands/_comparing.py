"""Comparing the variants of a recipe: each is made in a process of its own, all are judged on the same documents."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from halfpint import __version__
from halfpint.bundle import Bundle, open_bundle, read_json, write_json
from halfpint.commands.run import EVENTS, RECIPE, RESULT, check_end, read_data, refuse_other_files, result_in
from halfpint.data.corpus import Corpus, judging
from halfpint.energy import energy_spent, metered
from halfpint.engines import ScoredText
from halfpint.errors import HalfpintError
from halfpint.evaluate.measure import child_environment
from halfpint.evaluate.perplexity import bits_difference, perplexity_of
from halfpint.evaluate.spelled import byte_costs, spelled
from halfpint.evaluate.text import judge
from halfpint.files import clear_temporary, locked, write_text
from halfpint.machine import describe
from halfpint.models import sizes
from halfpint.progress import Log
from halfpint.report.comparison_page import KIND, verdict_of
from halfpint.report.html import write_report
from halfpint.report.learning import trainings
from halfpint.search import one_variant
from halfpint.search.variants import Variant, as_toml
from halfpint.workspace import copy_bundle, disk_errors

_VARIANT = "recipe.toml"
_JUDGED_BYTES = 300_000
"""Of the documents that all variants are judged on, about: whole documents, spread over all of them."""


def compare(variants: Sequence[Variant], out: Path, log: Log, *, force: bool = False) -> dict[str, Any]:
    """Make and compare the variants in folder `out`: the best bundle goes to OUT/best, the report beside it.

    Variants that are done are not made again, an interrupted one goes on. The best has the lowest bits per byte on
    validation documents that no variant chose its weights by; differences to it are paired over the same documents.

    Raises:
        HalfpintError: bad data, a variant that cannot be made or compared, or an `out` that holds something else.
    """
    started = time.monotonic()
    with disk_errors(out), locked(out):
        refuse_other_files(out, force=force)
        first = variants[0].recipe
        for one in variants:
            _check(one)
        clear_temporary(out / "work")
        corpus = read_data(first, out / "work" / "corpus", log)
        assert isinstance(corpus, Corpus)  # what the data of running text is
        documents = _judged(corpus, log)
        out.mkdir(parents=True, exist_ok=True)
        log.events = out / EVENTS
        recipe = as_toml(variants)
        write_text(out / RECIPE, recipe)
        key = sha256(f"{recipe} {corpus.key} {corpus.proof}".encode()).hexdigest()
        found = result_in(out)
        if found.get("key") == key:
            log.say("nothing to do: this recipe's result is there already", kind="cached")
            return found
        with metered(log):
            for number, one in enumerate(variants, start=1):
                log.say(f"variant {number} of {len(variants)}: {one.name}", kind="variant", name=one.name)
                _make(one, out / "work" / one.name, out / "work" / "corpus", corpus.key, log)
            rows, scores = _figures(variants, out / "work", corpus, documents, log)
        best = min(rows, key=lambda row: float(row["bits_per_byte"]))
        for row, scored in zip(rows, scores, strict=True):
            if row is not best:
                row["difference"] = list(bits_difference(scored, scores[rows.index(best)]))
        copy_bundle(out / "work" / best["name"] / best.pop("folder"), out / "best")
        for row in rows:
            row.pop("folder", None)
        report = {
            "kind": KIND, "halfpint": __version__, "task": first.task.name, "variants": rows, "best": best["name"],
            "verdict": verdict_of(rows, best["name"]), "judged": _about(documents), "data": corpus.summary(),
            "machine": describe(), "energy": _sum_of(rows), "out": str(out), "recipe": recipe, "recipe_file": RECIPE,
            "command": f"halfpint run {shlex.quote(str(out / RECIPE))}",
            "seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip
        write_report(report, out)
        result = {
            "key": key, "variants": rows, "best": best["name"], "verdict": report["verdict"],
            "bundle": str(out / "best"), "seconds": report["seconds"],
        }  # fmt: skip
        write_json(out / RESULT, result)
    return result


def _check(one: Variant) -> None:
    """Refuse a variant that cannot be made here, or whose figures could not be compared with the others'."""
    recipe = one.recipe
    try:
        if not recipe.task.of_text:
            raise HalfpintError(
                "task.name", wanted="the task 'predict': variants are compared by bits per byte of running text",
                got=repr(recipe.task.name), todo="Run each variant as a recipe of its own.",
            )  # fmt: skip
        check_end(recipe)
        for stage in recipe.stages:
            stage.check()
            arch = str(getattr(stage, "arch", ""))
            if arch and sizes.resolve(arch, str(getattr(stage, "objective", "")))[1] == sizes.MASKED:
                raise HalfpintError(
                    f"{stage.use}: arch", wanted="a causal architecture", got=f"{arch!r}, a masked one",
                    todo="Its bits per byte are of hidden tokens alone, which nothing else compares with.",
                )  # fmt: skip
    except HalfpintError as error:
        raise HalfpintError(
            f"variant {one.name}", wanted=error.wanted, got=error.got, said=f"variant {one.name}: {error}"
        ) from None


def _judged(corpus: Corpus, log: Log) -> list[str]:
    """The documents that all variants are judged on."""
    documents = list(judging(corpus)[1])
    sizes_ = [len(text.encode()) for text in documents]
    if not documents:
        raise HalfpintError(
            "data", wanted="validation documents", got="none", todo="Give more text, or data.validation."
        )
    kept = min(len(documents), max(1, round(len(documents) * _JUDGED_BYTES / max(sum(sizes_), 1))))
    chosen = [documents[at * len(documents) // kept] for at in range(kept)]
    if kept < len(documents):
        log.say(f"judged on {kept} of {len(documents)} validation documents, spread over all of them", kind="judged")
    return chosen


def _about(documents: Sequence[str]) -> dict[str, int]:
    return {"documents": len(documents), "bytes": sum(len(text.encode()) for text in documents)}


def _make(one: Variant, folder: Path, corpus: Path, data: str, log: Log) -> None:
    """Make a variant in a process of its own, unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    if _finished(one, folder, data) is not None:
        log.say(f"  {one.name}: made before", kind="cached", name=one.name)
        return
    one.recipe.write(folder / _VARIANT)
    (folder / one_variant.FAILED).unlink(missing_ok=True)
    # -P: a file of the user's folder called like a package must not take its place.
    command = [sys.executable, "-P", "-m", one_variant.__name__, str(folder / _VARIANT), str(folder), str(corpus)]
    log_settings: dict[str, Any] = {"capture_output": True, "text": True} if log.quiet else {}
    done = subprocess.run(
        [*command, *(["--quiet"] if log.quiet else [])], env=child_environment(), stdin=subprocess.DEVNULL,
        check=False, **log_settings,
    )  # fmt: skip
    if done.returncode:
        told = folder / one_variant.FAILED
        said = read_json(told)["said"] if told.is_file() else f"its process ended with {done.returncode}"
        written = (done.stderr or "").strip().splitlines()[-1:] if not told.is_file() else []
        raise HalfpintError(
            f"variant {one.name}", wanted="stages that run to their end", got=" ".join([said, *written]).rstrip("."),
            todo="Variants that are done are kept: the same command goes on.",
        )  # fmt: skip


def _finished(one: Variant, folder: Path, data: str) -> tuple[Bundle, dict[str, Any]] | None:
    """The bundle of a variant and what was written down when it was made; None where there is none, or another."""
    try:
        made = read_json(folder / one_variant.MADE)
        if (made["recipe"], made["data"]) != (one.recipe.toml(), data):
            return None
        return open_bundle(folder / str(made["bundle"])), made
    except (HalfpintError, OSError, KeyError):
        return None


def _figures(
    variants: Sequence[Variant], work: Path, corpus: Corpus, documents: Sequence[str], log: Log
) -> tuple[list[dict[str, Any]], list[list[ScoredText]]]:
    """A row of figures for each variant, and its scores of the documents."""
    rows, scores = [], []
    costs = byte_costs(corpus.train)
    for one in variants:
        folder = work / one.name
        found = _finished(one, folder, corpus.key)
        assert found is not None  # it was made just now
        bundle, made = found
        scored: list[ScoredText] = []
        log.say(f"judging {one.name}", kind="judging", name=one.name)
        judged = judge(bundle, documents, log, scored)
        scored = spelled(documents, scored, costs)
        figures = {**judged, **perplexity_of(scored).figures()}
        events = folder / one_variant.EVENTS
        training = (trainings(bundle.card, events) or [{}])[-1]
        kept = ("bits_per_byte", "bits_per_byte_interval", "perplexity_per_word", "perplexity_per_token", "size_bytes")
        rows.append({
            "name": one.name, "folder": bundle.path.name, **{name: figures[name] for name in kept},
            "interval_over": figures["interval_over"], "scored_tokens_per_s": judged["tokens_per_s"],
                "unknown_share": judged.get("unknown_share"),
            "parameters": _parameters(bundle), "train_s": made["seconds"],
            "peak_memory_bytes": made["peak_memory_bytes"], "energy": energy_spent(events),
            "tokens": training.get("tokens"), "tokens_per_s": training.get("tokens_per_s"),
            "curve": training.get("validation"),
        })  # fmt: skip
        scores.append(scored)
    return rows, scores


def _parameters(bundle: Bundle) -> int | None:
    entries = [entry.get("parameters") for entry in bundle.card["stages"]]
    return next((int(count) for count in reversed(entries) if count), None)


def _sum_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The energy of all variants together."""
    parts = [row["energy"] for row in rows if row["energy"]]
    if not parts:
        return {}
    modelled = any(part["source"] == "modelled" for part in parts)
    return {
        **{name: sum(part[name] for part in parts) for name in ("wh", "co2e_g", "seconds")},
        "source": "modelled" if modelled else "measured", "method": parts[-1]["method"],
    }  # fmt: skip
