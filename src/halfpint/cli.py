"""The command line: words to calls, results to words. No logic lives here."""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from halfpint import cli_language
from halfpint.errors import DISK_FAULTS, EXIT_BAD_INPUT, EXIT_INFEASIBLE, EXIT_INTERRUPTED, HalfpintError

app = typer.Typer(
    name="halfpint",
    help="Small language models, from raw text to production, on hardware you own.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Text = Annotated[str, typer.Option(help="Column with the texts (guessed and said when not given).")]
Label = Annotated[str, typer.Option(help="Column with the labels (guessed and said when not given).")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing while working.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle, such as OUT/best.")]
Data = Annotated[str, typer.Argument(metavar="DATA", help="CSV, TSV, JSONL, Parquet, a datasets folder or a Hub name.")]


def _version(value: bool) -> None:
    if value:
        from halfpint import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    pass


@app.command()
def check(
    data: Data,
    text: Text = "",
    label: Label = "",
    test: Annotated[str, typer.Option(help="Labelled texts kept for testing: leakage into them is looked for.")] = "",
    json_: AsJson = False,
) -> None:
    """Look for faults in labelled texts; exit code 1 when there are errors."""
    from halfpint.data.check import check as find
    from halfpint.data.columns import find_columns
    from halfpint.data.examples import labelled
    from halfpint.data.read import read_table

    table = read_table(data)
    columns = find_columns(table, text=text or None, label=label or None)
    examples, others = labelled(table, columns), None
    if test:
        others = labelled(found := read_table(test), find_columns(found, text=text or None, label=label or None))
    findings = find(examples, test=others)
    errors = sum(finding.severity == "error" for finding in findings)
    if json_:
        rows = [vars(finding) for finding in findings]
        print(
            json.dumps({"source": data, "rows": len(examples), "errors": errors, "findings": rows}, ensure_ascii=False)
        )
    else:
        labels = len({example.label for example in examples})
        print(f"{data}: {len(examples):,} rows, {labels} labels; {columns.said}")
        for note in table.notes:
            print(f"  {note}")
        for finding in findings:
            print(
                f"{finding.severity:>8}  {finding.kind}: {finding.message}"
                + (" [fit drops them]" if finding.drop else "")
            )
        others_found = len(findings) - errors
        print(f"errors: {errors}; other findings: {others_found}" if findings else "no faults found")
    if errors:
        raise typer.Exit(1)


@app.command()
def fit(
    data: Data,
    text: Text = "",
    label: Label = "",
    test: Annotated[str, typer.Option(help="Labelled texts for the final proof; else a share of DATA is kept.")] = "",
    max_size: Annotated[str, typer.Option(help="Most bytes of the model's folder, such as 25MB.")] = "",
    max_latency: Annotated[str, typer.Option(help="Most time for one text (p50), such as 10ms.")] = "",
    floor: Annotated[list[str] | None, typer.Option(help="Least quality, such as f1_macro=0.85; repeatable.")] = None,
    keep: Annotated[
        float | None, typer.Option(help="Least share of the best candidate's quality, such as 0.98.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="How long the search may take.")] = 20.0,
    out: Annotated[Path | None, typer.Option(help="Folder to write (default: halfpint-DATA).")] = None,
    base: Annotated[str, typer.Option(help="Encoder to start from: a name, a folder, or none.")] = "all-minilm-l6-v2",
    metric: Annotated[str, typer.Option(help="What choices are made on (accuracy or macro F1 by the data).")] = "",
    drop_missing: Annotated[bool, typer.Option("--drop-missing", help="Drop rows without a label.")] = False,
    seed: Annotated[int, typer.Option(help="Of the split and of training.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace what halfpint wrote in OUT before.")] = False,
    quiet: Quiet = False,
) -> None:
    """Find the smallest classifier that meets the limits, and prove it."""
    from halfpint.data.prepare import Data as DataSettings
    from halfpint.progress import Log
    from halfpint.search.fit import Request
    from halfpint.search.fit import fit as search
    from halfpint.search.limits import Limits, parse_floor, parse_latency, parse_share, parse_size
    from halfpint.task import default_task, label_task

    limits = Limits(
        max_size_bytes=parse_size(max_size) if max_size else None,
        max_latency_ms=parse_latency(max_latency) if max_latency else None,
        floor=parse_floor(floor, default_task().metrics),
        keep=parse_share(keep),
        minutes=_positive(minutes, "--minutes"),
    )
    folder = out or Path(f"halfpint-{Path(data).name.split('.')[0]}")
    report = search(
        Request(
            task=label_task(default_task(), "fit"),
            data=DataSettings(source=data, test=test, text=text, label=label, drop_missing=drop_missing, seed=seed),
            limits=limits,
            out=folder,
            base=base,
            metric=metric,
            seed=seed,
            command=shlex.join(["halfpint", *sys.argv[1:]]),
            force=force,
        ),
        Log(quiet=quiet),
    )
    from halfpint.report.terminal import summary

    print(summary(report))
    if report["chosen"] is None:
        raise typer.Exit(EXIT_INFEASIBLE)


@app.command()
def evaluate(
    bundle: BundleFolder,
    data: Data,
    text: Text = "",
    label: Label = "",
    metric: Annotated[str, typer.Option(help="The metric that `interval` is of.")] = "accuracy",
    reference: cli_language.Reference = "",
    tokens: cli_language.Tokens = 32_768,
    json_: AsJson = False,
) -> None:
    """Judge a bundle: a classifier on labelled texts, a language model on running text; each figure has an interval."""
    from halfpint.bundle import need_task
    from halfpint.data.columns import find_columns
    from halfpint.data.examples import labelled
    from halfpint.data.read import read_table
    from halfpint.evaluate.evaluate import evaluate as judge
    from halfpint.models.pull_language import find_bundle
    from halfpint.progress import Log, plain

    opened = find_bundle(bundle)
    if opened.card.get("task") in ("predict", "chat"):
        cli_language.evaluate_text(opened, data, text, reference, tokens, json_)
        return
    if reference:
        raise HalfpintError("--reference", wanted="a language model for it", got=f"the classifier {bundle}")
    need_task(opened, "classify")
    table = read_table(data)
    columns = find_columns(table, text=text or None, label=label or None)
    if not json_:
        print(f"{data}: {len(table):,} rows; {columns.said}", file=sys.stderr)
    result = judge(opened, labelled(table, columns), primary=metric, log=Log(quiet=json_))
    if json_:
        print(json.dumps(plain(result), ensure_ascii=False))
        return
    from halfpint.report.terminal import evaluation

    print(evaluation(result))


@app.command()
def predict(
    bundle: BundleFolder,
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT...", help="Texts to classify.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Classify the rows of a file (CSV, TSV, JSONL, .gz; - is stdin).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where --file writes the rows with their labels (- is stdout).")
    ] = None,
    text: Text = "",
    top: Annotated[int, typer.Option(min=1, help="Labels to give for each text, likeliest first.")] = 1,
    json_: AsJson = False,
) -> None:
    """Classify texts, or the rows of a file; a language model gives the likeliest next words."""
    from halfpint.engines import open_engine
    from halfpint.models.pull_language import find_bundle
    from halfpint.progress import Log
    from halfpint.serve.batch import predict_file, predict_texts
    from halfpint.task import label_task, task_of

    if bool(texts) == bool(file) or (file and not out):
        raise HalfpintError(
            "halfpint predict",
            wanted='texts ("my card has not arrived"), or --file IN --out OUT',
            got="neither or both",
        )
    if (out and not file) or (json_ and file):
        wanted = "--file for --out" if out and not file else "texts for --json; the name of --out says its form"
        raise HalfpintError("halfpint predict", wanted=wanted, got="the other")
    opened = find_bundle(bundle)
    if opened.card.get("task") in ("predict", "chat") and texts:
        cli_language.predict_words(opened, texts, top, json_)
        return
    task = label_task(task_of(opened), "predict")
    engine = open_engine(opened)
    if file and out:
        rows = predict_file(engine, task, file, out, text=text or None, top=top, log=Log())
        print(f"{rows:,} rows written to {out}", file=sys.stderr)
        return
    for given, answer in zip(texts or [], predict_texts(engine, task, texts or [], top), strict=True):
        if json_:
            print(json.dumps({"text": given, **answer}, ensure_ascii=False))
        else:
            scores = "  ".join(f"{one['label']} {one['probability']:.3f}" for one in answer["scores"])
            print(f"{scores}  |  {given}")


@app.command()
def serve(
    bundle: BundleFolder,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    api_key: Annotated[str, typer.Option(envvar="HALFPINT_API_KEY", help="Key that requests must bring.")] = "",
    max_batch: Annotated[int, typer.Option(help="Most texts in one request.")] = 256,
    max_body: Annotated[str, typer.Option(help="Most bytes of one request.")] = "1MB",
    max_queue: Annotated[int, typer.Option(help="Most requests that wait; one more is told to come back.")] = 64,
    timeout: Annotated[float, typer.Option(help="Seconds for a request; 0 takes 30 for labels, 600 for text.")] = 0.0,
    slots: Annotated[int, typer.Option(help="Texts written at once; 0 takes 4 (language models).")] = 0,
    context: Annotated[int, typer.Option(help="Tokens of a prompt and its answer; 0 goes by model and memory.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads of the engine; 0 takes all cores.")] = 0,
) -> None:
    """Serve a bundle over HTTP, with a page: /v1/classify, or OpenAI's /v1/chat/completions and /v1/completions."""
    from halfpint.models.pull_language import find_bundle
    from halfpint.search.limits import parse_size
    from halfpint.serve.run import serve as run_server

    run_server(
        find_bundle(bundle).path,
        host=host,
        port=port,
        api_key=api_key or None,
        max_batch=max_batch,
        max_body_bytes=parse_size(max_body, "--max-body"),
        max_queue=max_queue,
        timeout_s=timeout or None,
        slots=slots or None,
        context=context or None,
        threads=threads or None,
    )


@app.command()
def init(
    data: Data,
    text: Text = "",
    label: Label = "",
    test: Annotated[str, typer.Option(help="Labelled texts for the final proof.")] = "",
    out: Annotated[Path, typer.Option(help="The recipe to write.")] = Path("recipe.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a recipe that is there.")] = False,
) -> None:
    """Write a recipe for DATA that `halfpint run` runs."""
    from halfpint.init import init_recipe

    print(init_recipe(data, text=text, label=label, test=test, out=out, force=force))


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe (TOML).")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting: stage.2.epochs=3; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write (default: the recipe's name).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds other files.")] = False,
    quiet: Quiet = False,
    json_: AsJson = False,
) -> None:
    """Run a recipe; finished stages are kept, an interrupted one resumes."""
    from halfpint.progress import Log, plain
    from halfpint.recipe import read_recipe
    from halfpint.run import run_recipe

    result = run_recipe(read_recipe(recipe, set_ or []), out or Path(recipe.stem), Log(quiet=quiet), force=force)
    if json_:
        print(json.dumps(plain(result), ensure_ascii=False))
        return
    from halfpint.report.terminal import ran

    print(ran(result))


@app.command()
def pull(name: Annotated[str, typer.Argument(metavar="NAME", help="A model of the catalogue, or a Hub name.")]) -> None:
    """Download a base model into the cache, its hash checked."""
    from halfpint.models.sources import locate
    from halfpint.progress import Log

    print(locate(name, Log()))


@app.command()
def report(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder that fit, run, pretrain, finetune, distil or compress wrote.")
    ],
    json_: AsJson = False,
) -> None:
    """Print the report of what a command made; of fit, run, pretrain and finetune write its page anew."""
    from halfpint.bundle import read_json
    from halfpint.report.distilled import shown
    from halfpint.report.html import write_report
    from halfpint.report.terminal import summary

    found = read_json(out / "report.json")
    has_page = {"candidates", "verdict"} <= set(found) or found.get("kind") == "language"
    if not has_page and {"verdict", "bundle", "stages"} <= set(found):
        return print(json.dumps(found, ensure_ascii=False) if json_ else shown(found))
    if not has_page:
        raise HalfpintError(f"{out}/report.json", wanted="a report of halfpint", got="another file")
    write_report(found, out)
    print(json.dumps(found, ensure_ascii=False) if json_ else summary(found))


cli_language.add(app)


_RESUMES = ("fit", "run", "pretrain", "finetune", "distil", "compress")


def _positive(value: float, place: str) -> float:
    if not 0 < value < float("inf"):
        raise HalfpintError(place, wanted="a number above 0", got=str(value))
    return value


def main() -> None:
    """Run the command line; errors are one message and an exit code."""
    # Threads that spin for long while they wait make training many times slower as soon as another program wants a
    # core; threads that never spin make it a third slower without one.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    words = sys.argv[1:]
    try:
        code = app(words or ["--help"], standalone_mode=False) or 0
        sys.stdout.flush()
    except HalfpintError as error:
        code = _told(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except OSError as error:
        if error.errno not in (*DISK_FAULTS, errno.EPIPE):
            raise
        if error.filename is None:  # standard output: what it does not take must not fail again when the process ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = _told(f"{error.filename or 'standard output'}: {error.strerror}", EXIT_BAD_INPUT)
    except Exception as error:
        # Words that typer does not understand: its exceptions have no public name, but each can say itself.
        say, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
        if say is None:
            raise
        said, command = str(say()), context.command_path if context else "halfpint"
        code = _told(f"{said}{'' if said[-1:] in '.?' else '.'} See: {command} --help", EXIT_BAD_INPUT)
    if code == EXIT_INTERRUPTED:
        again = " without --force" if "--force" in words and words[0] in ("fit", "run") else ""
        resumes = words[:1] and words[0] in _RESUMES
        todo = f"; give the same command again{again} to go on where it stopped" if resumes else ""
        print(f"\ninterrupted{todo}", file=sys.stderr)
    sys.exit(code)


def _told(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
