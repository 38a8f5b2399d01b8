"""Language models from end to end: a tokenizer from text, a model from text, a model judged on text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from halfpint.bundle import CARD, Bundle, Kind, file_sha256, new_bundle, open_bundle, replace_folder, write_json
from halfpint.compress.lossless import Lossless
from halfpint.compress.quantize import Quantize
from halfpint.data.conversations import ChatData, prepare_chat
from halfpint.data.corpus import CorpusData, prepare_corpus
from halfpint.energy import metered
from halfpint.errors import HalfpintError, nearest
from halfpint.evaluate.kept import kept
from halfpint.evaluate.text import judge
from halfpint.export.unpacked import Unpacked
from halfpint.machine import describe
from halfpint.models.ngram import NgramModel
from halfpint.models.packed_gguf import PACKED_FILE
from halfpint.models.pull_language import PullLanguage, base_bundle, can_start
from halfpint.pipeline import Pipeline
from halfpint.progress import Log
from halfpint.recipe import Recipe
from halfpint.report.mask import show_mask
from halfpint.search.language_report import write_language_report
from halfpint.stage import Stage
from halfpint.task import Split, tasks, text_task
from halfpint.tokenizers.train import KINDS, TokenizerReport, TokenizerSettings, train_tokenizer
from halfpint.train import ranks
from halfpint.train.chat import masked_tokens
from halfpint.train.pretrain import Pretrain
from halfpint.workspace import disk_errors, open_workspace, refuse_other_files

TOKENIZER = "tokenizer.json"


def make_tokenizer(
    sources: tuple[str, ...], text: str, settings: TokenizerSettings, out: Path, log: Log, *, force: bool = False
) -> TokenizerReport:
    """Train a tokenizer on text as it is, and write it to `out` whole.

    Args:
        text: the column of tables that holds the texts; empty guesses it.

    Raises:
        HalfpintError: no text, settings that do not fit, or an `out` that holds something else.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (force and (out / TOKENIZER).is_file()))):
        raise HalfpintError(
            f"--out {out}", wanted="a new or empty folder", got="files that are there",
            todo="Give another --out, or --force to replace a tokenizer.",
        )  # fmt: skip
    if settings.kind not in KINDS:
        raise HalfpintError(
            "kind", wanted="a kind of tokenizer", got=repr(settings.kind), todo=nearest(settings.kind, KINDS)
        )
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(out), TemporaryDirectory(prefix=".halfpint-", dir=out.parent) as folder:
        data = CorpusData(sources=sources, text=text, validation_share=0.0, clean=False)
        corpus = prepare_corpus(data, Path(folder) / "corpus", log)
        report = train_tokenizer(corpus.train, settings, Path(folder) / "made", log)
        replace_folder(Path(folder) / "made", out)
    return report


def pretrain(
    data: CorpusData, stages: Sequence[Stage], out: Path, log: Log, *, force: bool = False, command: str = ""
) -> dict[str, Any]:
    """Make a language model from text: the bundle goes to `out`; gives its figures on the validation documents.

    What is unfinished is kept beside `out` (its name with ".unfinished"), and the same call goes on from there.

    Raises:
        HalfpintError: no text to learn from, settings that do not fit, or an `out` that holds something else.
    """
    return _learn("", data, stages, out, log, force=force, command=command)


def finetune(
    base: str, data: ChatData | CorpusData, stage: Stage, out: Path, log: Log, *, force: bool = False, command: str = ""
) -> dict[str, Any]:
    """Teach a language model on conversations or on the text of a domain: the bundle goes to `out`.

    Gives what was done and, of text, the figures on the validation documents.

    Args:
        base: a bundle's folder, or a base model (a name of the catalogue, a Hub name, a folder).

    What is unfinished is kept beside `out`, and the same call goes on from there.

    Raises:
        HalfpintError: no such base or data, settings that do not fit, or an `out` that holds something else.
    """
    return _learn(base, data, [stage], out, log, force=force, command=command)


def _learn(
    base: str, data: Any, stages: Sequence[Stage], out: Path, log: Log, *, force: bool, command: str
) -> dict[str, Any]:
    task = next(one for one in tasks() if isinstance(data, one.data))
    rank, processes = ranks.join()
    log = Log(quiet=True) if rank else log  # of several processes one tells, and writes
    alone = next((stage.use for stage in stages if processes > 1 and not isinstance(stage, Pretrain)), "")
    if alone:
        raise HalfpintError(alone, wanted="one process", got=f"{processes}", todo="Run it without torchrun.")
    started = time.monotonic()
    figures: dict[str, Any] = {}
    with open_workspace(out, log, force=force) as space:
        with ranks.after_first():
            for stage in stages:
                stage.check()
            split = task.read(data, space.folder / "corpus", log)
            start = can_start(base_bundle(base, space.folder / "base", log)) if base else None
        space.begin()
        log.events = space.events if ranks.is_first() else None
        with metered(log):
            made = Pipeline(split, space.folder, task, task.primary(split.train), log).make(stages, start=start).bundle
        ranks.wait()  # until all have opened it: it is moved now
        with ranks.after_first() as first:
            if first:
                held = split.validation if task.of_text else ()
                figures = judge(made, held, log) if len(held) else {}
                told = {"validation": figures, "data": split.summary(), "machine": describe()["cpu"]}
                write_json(made.path / CARD, {**made.card, "figures": told})
                again = Recipe(data, task, "", (PullLanguage(base=base), *stages) if base else tuple(stages))
                write_language_report(
                    made, split, figures, out=out, into=made.path, events=space.events, recipe=again.toml(),
                    command=command, seconds=time.monotonic() - started, log=log,
                )  # fmt: skip
                log.events = None  # the folder goes
                replace_folder(made.path, out)
                space.clear()
    return _done(out, started, data=split.summary(), validation=figures)


def _done(out: Path, started: float, **figures: Any) -> dict[str, Any]:
    bundle = Bundle(out)
    seconds = round(time.monotonic() - started, 1)
    return {
        "bundle": str(out), "size_bytes": bundle.size_bytes, "seconds": seconds, "stages": bundle.card["stages"],
        "task": bundle.card.get("task", ""), **figures,
    }  # fmt: skip


def mask_shown(base: str, data: ChatData, template: str, log: Log, *, colour: bool) -> str:
    """The first conversation of `data` as `base` reads it, with what the loss counts marked.

    Raises:
        HalfpintError: no such base or data, or a base without a chat template.
    """
    conversations = prepare_chat(data, log)
    with TemporaryDirectory(prefix="halfpint-base-") as folder:
        parent = base_bundle(base, Path(folder) / "base", log)
        pieces, counted = masked_tokens(parent, conversations.train[0], template)
    return show_mask(pieces, counted, colour=colour)


def export(
    name: str, stages: Sequence[Stage], out: Path, log: Log, *, force: bool = False, rounded_to: str = ""
) -> dict[str, Any]:
    """Export a language model to `out` by a stage of export/ and what may follow it; a packed one is unpacked instead,
    to the file that it was made from. Gives what was done.

    Args:
        rounded_to: the type of weights that a model is rounded to first where the stage wants it quantised.

    Raises:
        HalfpintError: no such model, a stage that does not fit it, or an `out` that holds something else.
        RefusedError: the export does not say what the model says.
    """
    packed = (Path(name) / PACKED_FILE).is_file()
    started = time.monotonic()
    with open_workspace(out, log, force=force) as space:
        if packed and any(isinstance(stage, Lossless) for stage in stages):
            raise HalfpintError(
                name, wanted="a model that is not packed yet", got="one that is", todo="Use it as it is."
            )
        if packed and Kind.LANGUAGE not in stages[0].needs:
            raise HalfpintError(
                name, wanted="a quantised model for that format", got="a packed GGUF file",
                todo="Export the bundle that it was made from, or this one with --to gguf.",
            )  # fmt: skip
        stages = [Unpacked()] if packed else stages
        for stage in stages:
            stage.check()
        try:
            start = open_bundle(name) if packed else can_start(base_bundle(name, space.folder / "base", log))
            for stage in stages:
                stage.fits(start)
            if Kind.LANGUAGE not in stages[0].needs:
                stages = [*_rounding(start, rounded_to), *stages]
            task = text_task()
            nothing: Split[str] = Split(train=(), validation=())
            made = Pipeline(nothing, space.folder, task, task.primary(()), log).make(stages, start=start)
            replace_folder(made.bundle.path, out)
        finally:
            space.clear()
    return _done(out, started, validation=None)


def _rounding(start: Bundle, type_: str) -> list[Stage]:
    """What quantises a model before a stage that wants it quantised: none where it is.

    Raises:
        HalfpintError: a type, and a model that is quantised; or neither.
    """
    if start.kind == Kind.LANGUAGE and not type_:
        raise HalfpintError(
            str(start.path), wanted="a quantised model, or --type", got="neither",
            todo="Give --type q8_0 or q4_0, which rounds it, or quantise it by compress/quantize in a recipe.",
        )  # fmt: skip
    if start.kind == Kind.QUANTIZED and type_:
        raise HalfpintError("--type", wanted="none, as the model is quantised", got=type_, todo="Leave it out.")
    if start.kind != Kind.LANGUAGE:
        return []
    ends = ["embeddings"] if start.config.get("tie_word_embeddings", True) else ["embeddings", "output"]
    types = ",".join([type_, *(f"{role}=q8_0" for role in ends)])  # these are written in fp16 anyway
    return [Quantize(types=types, method="round")]


def write_arpa(name: str, out: Path, *, merge_unknown: bool, force: bool) -> dict[str, Any]:
    """Write the n-gram model in the bundle `name` as an ARPA file; gives its bytes.

    Raises:
        HalfpintError: no n-gram model there, or an `out` that is there already.
    """
    if out.is_dir() or (out.exists() and not force):
        got = "a folder" if out.is_dir() else "one that is there"
        raise HalfpintError(f"--out {out}", wanted="a new file", got=got, todo="Give another --out, or --force.")
    bundle = open_bundle(name)
    if bundle.card.get("engine") != "ngram":
        raise HalfpintError(str(name), wanted="an n-gram model", got=f"a bundle of {bundle.card.get('engine')}")
    with disk_errors(out):
        NgramModel.load(bundle.path).to_arpa(out, merge_unknown=merge_unknown)
    return {"file": str(out), "size_bytes": out.stat().st_size}


def read_arpa(file: Path, out: Path, *, force: bool) -> dict[str, Any]:
    """A bundle at `out` of the n-gram model in an ARPA file; gives what was done.

    Raises:
        HalfpintError: no such file, a damaged one, or an `out` that holds something else.
    """
    refuse_other_files(out, force=force)
    started = time.monotonic()
    model = NgramModel.from_arpa(file)
    config = model.config()
    with disk_errors(out), new_bundle(out, kind=Kind.NGRAM) as (folder, card):
        model.save(folder)
        card.update(task=text_task().name, engine="ngram")
        seconds = round(time.monotonic() - started, 3)
        told = {"ngrams": config["ngrams"], "vocabulary": config["vocabulary_size"], "sha256": file_sha256(file)}
        card["stages"].append({"use": "import", "settings": {"file": file.name}, "seconds": seconds, **told})
    return _done(out, started, validation=None)


def evaluate_text(bundle: Bundle, data: CorpusData, log: Log, reference: str = "", tokens: int = 0) -> dict[str, Any]:
    """The figures of a language model on text, which is taken as it is.

    Args:
        reference: a bundle or base model that it was made from; the figures are then those of `evaluate.kept`.
        tokens: how many are read beside a reference, from the front; 0 reads all.

    Raises:
        HalfpintError: no such text, a bundle that is no language model, or a reference of another vocabulary.
    """
    with TemporaryDirectory(prefix="halfpint-text-") as folder:
        corpus = prepare_corpus(replace(data, clean=False, validation="", validation_share=0.0), Path(folder), log)
        if not reference:
            return judge(bundle, corpus.train, log)
        figures = kept(base_bundle(reference, Path(folder) / "base", log), bundle, corpus.train, tokens=tokens, log=log)
    log.event("kept", bundle=bundle.path, reference=reference, **figures)
    return figures
