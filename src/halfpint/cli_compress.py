"""The commands that make models smaller; `cli_language` takes them in. No logic lives here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def distil(
    teacher: Annotated[
        str,
        typer.Argument(metavar="TEACHER", help="A bundle, or OUT of fit or run; several with commas answer together."),
    ],
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Labelled texts (CSV, TSV, JSONL, Parquet); text for language models.")
    ],
    student: Annotated[
        str, typer.Option(help="layers=N or layers=1,6 of the teacher's, size=5M, a bundle, or a base model.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the bundle to, with report.json.")],
    method: Annotated[
        str,
        typer.Option(
            help="With commas, in order. Classifiers: hidden, logits, sequence (hidden,logits when not given). "
            "Language models: hidden, logits, sequence, on_policy, uld (logits)."
        ),
    ] = "",
    epochs: Annotated[int, typer.Option(min=0, help="Passes over the data in each method; 0 takes its own.")] = 0,
    minutes: Annotated[float, typer.Option(min=0, help="How long each method may train a language model.")] = 10.0,
    tokens: Annotated[str, typer.Option(help="Tokens of each such method, such as 2M, instead of --minutes.")] = "",
    temperature: Annotated[float, typer.Option(help="What the logits of both are divided by; 0: 2, and 1.")] = 0.0,
    divergence: Annotated[
        str, typer.Option(help="forward, reverse or js; forward when not given, js of on_policy.")
    ] = "",
    js_beta: Annotated[float, typer.Option(help="Of js: near 0 it is like forward, near 1 like reverse.")] = 0.5,
    label_share: Annotated[
        float, typer.Option(help="Share of the labels in the loss, beside the teacher; -1 takes the method's own.")
    ] = -1.0,
    rate: Annotated[float, typer.Option(min=0, help="Learning rate; 0 chooses.")] = 0.0,
    match: Annotated[str, typer.Option(help="What hidden learns: relations or states.")] = "relations",
    unlabelled: Annotated[str, typer.Option(help="A table of further texts, without labels.")] = "",
    copies: Annotated[int, typer.Option(min=0, help="Changed copies of each text for the teacher to answer.")] = 0,
    train_texts: Annotated[int, typer.Option(min=0, help="Learn from so many of the texts; 0 takes all.")] = 0,
    text: Annotated[str, typer.Option(help="Column with the texts (guessed when not given).")] = "",
    label: Annotated[str, typer.Option(help="Column with the labels (guessed when not given).")] = "",
    test: Annotated[str, typer.Option(help="Texts for the comparison; else a share of DATA is kept.")] = "",
    no_control: Annotated[
        bool, typer.Option("--no-control", help="Do not train the same student without a teacher as well.")
    ] = False,
    work: Annotated[Path | None, typer.Option(help="Folder for the teacher's answers and all else, kept.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split and of training.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle in OUT.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing while working.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Teach a smaller model what a larger one knows, and compare it with the same model taught without."""
    from halfpint.distil.teachers import folders
    from halfpint.distillation.request import Request
    from halfpint.distillation.run import distil as teach
    from halfpint.models.sizes import parse_parameters
    from halfpint.progress import Log, plain
    from halfpint.report.distilled import distilled

    request = Request(
        teachers=tuple(folders(teacher)), source=data, student=student, out=out, text=text, label=label, test=test,
        methods=tuple(name.strip() for name in method.split(",") if name.strip()), work=work, epochs=epochs,
        minutes=minutes, tokens=parse_parameters(tokens) if tokens else 0, temperature=temperature,
        divergence=divergence, js_beta=js_beta, label_share=label_share, learning_rate=rate, match=match,
        unlabelled=unlabelled, copies=copies, train_texts=train_texts, control=not no_control, seed=seed, force=force,
    )  # fmt: skip
    report = teach(request, Log(quiet=quiet or json_))
    print(json.dumps(plain(report), ensure_ascii=False) if json_ else distilled(report))


def compress(
    model: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle, a base model, or OUT of fit or run.")],
    data: Annotated[
        str,
        typer.Option(help="Text to calibrate on, or a classifier's labelled texts; a part is held back to judge by."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the bundle to, with report.json.")],
    prune: Annotated[
        list[str] | None,
        typer.Option(help="depth=0.2, width=0.25, ffn=0.25, heads=0.25, hidden=0.25 or sparse=0.5; repeatable."),
    ] = None,
    low_rank: Annotated[float, typer.Option(min=0, max=0.99, help="Share of the weights that low rank saves.")] = 0.0,
    vocab: Annotated[bool, typer.Option("--vocab", help="Drop tokens that the data has not (classifiers).")] = False,
    heal: Annotated[
        float, typer.Option(min=0, help="Distil from the whole model after cutting: minutes (classifiers: passes).")
    ] = 0.0,
    lora: Annotated[bool, typer.Option("--lora", help="Heal with adapters instead of all weights.")] = False,
    quantize: Annotated[
        str, typer.Option(help="Bits a weight, such as 4, or types such as q4_0,embeddings=q8_0.")
    ] = "",
    static: Annotated[
        bool, typer.Option("--static", help="A classifier's 8 bits with ranges fixed on its texts: alike in any batch.")
    ] = False,
    method: Annotated[str, typer.Option(help="Of quantising: round, gptq or tuned.")] = "tuned",
    importance: Annotated[
        str, typer.Option(help="An importance matrix of llama.cpp's (GGUF), for --method round.")
    ] = "",
    minutes: Annotated[float, typer.Option(help="How long tuning may take.")] = 10.0,
    target: Annotated[str, typer.Option(help="Find the best way to at most so many bytes, such as 60MB.")] = "",
    keep: Annotated[
        float | None,
        typer.Option(help="Find the fewest bits that keep this share of the perplexity's inverse, such as 0.98."),
    ] = None,
    packed: Annotated[
        bool,
        typer.Option("--packed", help="Bits of --quantize are those of a packed file, which halfpint alone reads."),
    ] = False,
    plain_file: Annotated[
        bool, typer.Option("--plain", help="--target or --keep is for a file that llama.cpp reads, not a packed one.")
    ] = False,
    text: Annotated[str, typer.Option(help="Column with the texts (guessed when not given).")] = "",
    label: Annotated[str, typer.Option(help="Column with the labels (guessed when not given).")] = "",
    test: Annotated[
        str, typer.Option(help="The test file that fit was given, so that the same texts are held back (classifiers).")
    ] = "",
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle in OUT.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing while working.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Make a model smaller: prune, low rank, heal, quantise; and tell what it kept, beside fewer bits alone."""
    from halfpint.compression.request import Request
    from halfpint.compression.run import compress as make
    from halfpint.errors import EXIT_INFEASIBLE
    from halfpint.progress import Log, plain
    from halfpint.report.compressed import compressed
    from halfpint.search.limits import parse_share, parse_size

    request = Request(
        model=model, data=data, out=out, prune=tuple(prune or ()), low_rank=low_rank, vocab=vocab, heal=heal,
        quantize=quantize, method=method, minutes=minutes, text=text, label=label, test=test, seed=seed, force=force,
        static=static, packed=packed, plain=plain_file, lora=lora, importance=importance, keep=parse_share(keep) or 0.0,
        target_bytes=parse_size(target, "--target") if target else 0,
    )  # fmt: skip
    report = make(request, Log(quiet=quiet or json_))
    print(json.dumps(plain(report), ensure_ascii=False) if json_ else compressed(report))
    if report.get("is_met") is False:
        raise typer.Exit(EXIT_INFEASIBLE)


def add(app: typer.Typer) -> None:
    """Put the commands into the program."""
    for command in (distil, compress):
        app.command()(command)
