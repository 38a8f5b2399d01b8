"""The commands of language models; `cli` takes them in. No logic lives here."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halfpint import cli_chat, cli_compress

if TYPE_CHECKING:
    from halfpint.bundle import Bundle

Texts = Annotated[
    list[str],
    typer.Argument(
        metavar="TEXT...", help="Text files, JSONL, Parquet, CSV, each also .gz, folders, Hub names, or python-stdlib."
    ),
]
Column = Annotated[str, typer.Option(help="Column with the texts, of tables (guessed when not given).")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other setting of the training (docs/stages.md): batch_tokens=1024; repeatable."),
]
Reference = Annotated[str, typer.Option(help="A bundle or base model that a language model comes from: what it kept.")]
Tokens = Annotated[int, typer.Option(min=0, help="Tokens to read with --reference, from the front; 0 reads all.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what halfpint wrote in OUT before.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing while working.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def tokenizer(
    texts: Texts,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    kind: Annotated[str, typer.Option(help="bpe, unigram, wordpiece, word or char.")] = "bpe",
    vocab: Annotated[int, typer.Option(help="Tokens in the vocabulary.")] = 8192,
    masked: Annotated[bool, typer.Option("--masked", help="With [CLS], [SEP] and [MASK], for masked models.")] = False,
    lowercase: Annotated[bool, typer.Option("--lowercase", help="Fold capitals (wordpiece and word).")] = False,
    text: Column = "",
    force: Force = False,
    json_: AsJson = False,
) -> None:
    """Train a tokenizer on text and say how short it makes texts."""
    from halfpint.language import make_tokenizer
    from halfpint.progress import Log
    from halfpint.tokenizers.train import TokenizerSettings

    purpose = "masked" if masked else "causal"
    settings = TokenizerSettings(kind=kind, vocab_size=vocab, purpose=purpose, lowercase=lowercase)
    report = make_tokenizer(tuple(texts), text, settings, out, Log(quiet=json_), force=force)
    if json_:
        print(json.dumps(report.as_dict(), ensure_ascii=False))
        return
    print(
        f"{out}: {kind}, {report.vocab_size:,} tokens; {report.bytes_per_token:.2f} bytes a token, "
        f"{report.tokens_per_word:.2f} tokens a word on {report.measured_on}; "
        + ("any text comes back exactly" if report.lossless else "spaces and unknown words do not come back")
    )
    for note in report.notes:
        print(f"  {note}")


def pretrain(
    texts: Texts,
    out: Annotated[Path, typer.Option(help="Folder to write the bundle to.")],
    arch: Annotated[str, typer.Option(help="ngram, or an architecture: llama, qwen3, gemma3, gpt2, bert, …")] = "llama",
    objective: Annotated[str, typer.Option(help="causal or masked (by the architecture when not given).")] = "",
    size: Annotated[str, typer.Option(help="Parameters, such as 10M; depth, width and rate follow from it.")] = "10M",
    minutes: Annotated[float, typer.Option(help="How long it may take.")] = 20.0,
    tokens: Annotated[str, typer.Option(help="Tokens to train on, such as 50M, instead of --minutes.")] = "",
    vocab: Annotated[int, typer.Option(help="Tokens in the vocabulary; 0 takes it from the size.")] = 0,
    tokenizer: Annotated[
        str, typer.Option(help="bpe, unigram, wordpiece, word or char; else bpe, and wordpiece for a masked objective.")
    ] = "",
    context: Annotated[int, typer.Option(help="Tokens in a sequence.")] = 256,
    order: Annotated[int, typer.Option(help="Words in the longest sequence counted (ngram, --counts).")] = 5,
    smoothing: Annotated[str, typer.Option(help="kneser-ney, or none for plain counts (ngram).")] = "kneser-ney",
    prune: Annotated[str, typer.Option(help='Counts up to which sequences are dropped, such as "0 0 1" (ngram).')] = "",
    counts: Annotated[
        bool,
        typer.Option(
            "--counts",
            help="Let counts of its tokens, and what was read before, foretell too: better, in halfpint alone.",
        ),
    ] = False,
    validation: Annotated[str, typer.Option(help="Text to choose by; else a share of TEXT is kept.")] = "",
    text: Column = "",
    language: Annotated[str, typer.Option(help="Keep documents of this language only, such as en.")] = "",
    as_it_is: Annotated[bool, typer.Option("--as-it-is", help="Neither drop duplicates nor filter.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the split and of training.")] = 0,
    set_: Changes = None,
    force: Force = False,
    quiet: Quiet = False,
    json_: AsJson = False,
) -> None:
    """Make a language model from text: counted (ngram), or a Transformer trained from scratch."""
    from halfpint.data.corpus import CorpusData
    from halfpint.errors import HalfpintError
    from halfpint.language import pretrain as make
    from halfpint.models.sizes import CAUSAL, parse_parameters, resolve
    from halfpint.progress import Log, plain
    from halfpint.recipe import changed
    from halfpint.report.terminal import pretrained
    from halfpint.stage import Stage
    from halfpint.train import ranks
    from halfpint.train.mix import Mix
    from halfpint.train.ngram import Ngram
    from halfpint.train.pretrain import Pretrain

    stages: list[Stage]
    unused = _COUNTED_ALONE if counts else (*_COUNTED_ALONE, "--order")
    _refuse_unused(sys.argv[1:], _TRAINED_ALONE if arch == "ngram" else unused, arch)
    if arch == "ngram":  # counts want every line, as it is
        data = CorpusData(
            sources=tuple(texts), text=text, validation=validation, validation_share=0.0, clean=False, seed=seed
        )
        stages = [Ngram(order=order, smoothing=smoothing, prune=prune)]
    else:
        data = CorpusData(
            sources=tuple(texts), text=text, validation=validation, clean=not as_it_is, language=language, seed=seed
        )
        total = parse_parameters(tokens, "--tokens") if tokens else 0
        trained = Pretrain(
            arch=arch, objective=objective, size=size, minutes=minutes, tokens=total, vocabulary=vocab, context=context,
            tokenizer=tokenizer, seed=seed,
        )  # fmt: skip
        trained = changed(trained, set_ or [])
        if counts and resolve(trained.arch, trained.objective)[1] != CAUSAL:
            raise HalfpintError("--counts", wanted="a causal model", got=f"--arch {arch}, which is masked")
        stages = [trained, Mix(order=order)] if counts else [trained]
    command = shlex.join(["halfpint", *sys.argv[1:]])
    result = make(data, stages, out, Log(quiet=quiet or json_), force=force, command=command)
    if not ranks.is_first():
        return
    print(json.dumps(plain(result), ensure_ascii=False) if json_ else pretrained(result))


def finetune(
    base: Annotated[str, typer.Argument(metavar="BASE", help="A bundle, or a base model by name or folder.")],
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Conversations (JSON, JSONL or Parquet, each also .gz), or text.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder to write the bundle to.")] = None,
    task: Annotated[str, typer.Option(help="chat, on conversations; predict, on the text of a domain.")] = "chat",
    lora: Annotated[bool, typer.Option("--lora", help="Train low-rank adapters alone.")] = False,
    merge: Annotated[
        bool, typer.Option("--merge/--no-merge", help="Adapters go into the weights alone, or into adapter/ as well.")
    ] = True,
    minutes: Annotated[float, typer.Option(help="How long it may take; 0 goes by --epochs.")] = 0.0,
    epochs: Annotated[int, typer.Option(min=0, help="Passes over the data; 0: 3 of conversations, 1 of text.")] = 0,
    context: Annotated[int, typer.Option(min=0, help="Tokens in a sequence; 0 takes it from the data.")] = 0,
    template: Annotated[str, typer.Option(help="chatml, for models without a chat template of their own.")] = "",
    validation: Annotated[str, typer.Option(help="What to choose by; else a share of DATA is kept.")] = "",
    text: Column = "",
    drop_faulty: Annotated[bool, typer.Option("--drop-faulty", help="Leave faulty conversations out.")] = False,
    show_mask: Annotated[
        bool, typer.Option("--show-mask", help="Show a conversation with what the loss counts marked, and stop.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the split and of training.")] = 0,
    set_: Changes = None,
    force: Force = False,
    quiet: Quiet = False,
    json_: AsJson = False,
) -> None:
    """Teach a language model to answer, on conversations (the loss counts what the assistant says), or a domain."""
    from halfpint.data.conversations import ChatData
    from halfpint.data.corpus import CorpusData
    from halfpint.errors import HalfpintError, nearest
    from halfpint.language import finetune as teach
    from halfpint.language import mask_shown
    from halfpint.progress import Log, plain
    from halfpint.recipe import changed
    from halfpint.report.terminal import pretrained
    from halfpint.stage import Stage
    from halfpint.train.adapt import Adapt
    from halfpint.train.chat import Chat

    settings: ChatData | CorpusData
    stage: Stage
    if task == "chat":
        settings = ChatData(source=data, validation=validation, drop_faulty=drop_faulty, seed=seed)
        stage = Chat(
            lora=lora, minutes=minutes, epochs=epochs or Chat.epochs, context=context, template=template, seed=seed,
            merge=merge,
        )  # fmt: skip
        if show_mask:
            print(mask_shown(base, settings, template, Log(quiet=quiet), colour=sys.stdout.isatty()))
            return
    elif task == "predict":
        given = {
            "--template": template, "--drop-faulty": drop_faulty, "--show-mask": show_mask, "--no-merge": not merge,
        }  # fmt: skip
        if any(given.values()):
            name = next(name for name, value in given.items() if value)
            raise HalfpintError(name, wanted="--task chat for it", got="--task predict")
        settings = CorpusData(sources=(data,), text=text, validation=validation, seed=seed)
        stage = Adapt(lora=lora, minutes=minutes, epochs=epochs or Adapt.epochs, context=context, seed=seed)
    else:
        todo = nearest(task, ("chat", "predict"), "For labels: halfpint fit DATA.")
        raise HalfpintError("--task", wanted="chat or predict", got=repr(task), todo=todo)
    if out is None:
        raise HalfpintError("--out", wanted="a folder to write to", got="none")
    command = shlex.join(["halfpint", *sys.argv[1:]])
    stage = changed(stage, set_ or [])
    result = teach(base, settings, stage, out, Log(quiet=quiet or json_), force=force, command=command)
    print(json.dumps(plain(result), ensure_ascii=False) if json_ else pretrained(result))


def export(
    bundle: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="A language model: a bundle, or a base model's name.")
    ],
    out: Annotated[Path, typer.Option(help="Folder, or file (arpa), to write.")],
    to: Annotated[
        str,
        typer.Option(
            help="gguf, for llama.cpp; compressed-tensors (4 or 8 bits), for vLLM; arpa, of counted models, for KenLM."
        ),
    ] = "gguf",
    type_: Annotated[
        str,
        typer.Option(
            "--type",
            help="Weights: f32, f16, q8_0 (of GGUF when not given), q4_1 or q4_0; compressed-tensors: q8_0 or q4_0, "
            "of a model that is not quantised.",
        ),
    ] = "",
    nearest_: Annotated[
        bool,
        typer.Option(
            "--nearest", help="compressed-tensors: offsets of q4_1 may go to the nearest that the format has."
        ),
    ] = False,
    pack: Annotated[
        bool, typer.Option("--pack", help="GGUF: fewer bytes on the disk, bit for bit the same when halfpint loads it.")
    ] = False,
    merge_unknown: Annotated[
        bool,
        typer.Option("--merge-unknown", help="ARPA: the word <unk> of the text, as in WikiText, is the unknown word."),
    ] = False,
    force: Force = False,
    json_: AsJson = False,
) -> None:
    """Write a language model for another program, proven to say the same there; a packed one as it is, unpacked."""
    from halfpint.compress.lossless import Lossless
    from halfpint.errors import HalfpintError, nearest
    from halfpint.export.compressed_tensors import CompressedTensors
    from halfpint.export.gguf import Gguf
    from halfpint.language import export as write
    from halfpint.language import write_arpa
    from halfpint.models.compressed_tensors import METHOD
    from halfpint.progress import Log, plain
    from halfpint.report.terminal import pretrained
    from halfpint.stage import Stage

    if to not in _EXPORTS:
        raise HalfpintError("--to", wanted=" or ".join(_EXPORTS), got=repr(to), todo=nearest(to, _EXPORTS))
    given = {"--merge-unknown": merge_unknown, "--type": type_, "--pack": pack, "--nearest": nearest_}
    for name, wanted in _OF_EXPORT.items():
        if given[name] and to not in wanted:
            raise HalfpintError(name, wanted=f"--to {' or '.join(wanted)} for it", got=f"--to {to}")
    if to == METHOD and type_ not in ("", *_ROUNDED):
        raise HalfpintError("--type", wanted=" or ".join(_ROUNDED), got=repr(type_), todo=nearest(type_, _ROUNDED))
    if to == "arpa":
        result = write_arpa(bundle, out, merge_unknown=merge_unknown, force=force)
        print(json.dumps(plain(result)) if json_ else f"{out}: {result['size_bytes']:,} bytes")
        return
    stages: list[Stage] = [CompressedTensors(nearest=nearest_)] if to == METHOD else [Gguf(type=type_ or Gguf.type)]
    stages += [Lossless()] if pack else []
    result = write(bundle, stages, out, Log(quiet=json_), force=force, rounded_to=type_)
    print(json.dumps(plain(result), ensure_ascii=False) if json_ else pretrained(result))


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="An ARPA file of KenLM or another program, or its .gz.")],
    out: Annotated[Path, typer.Option(help="Folder to write the bundle to.")],
    force: Force = False,
    json_: AsJson = False,
) -> None:
    """Make a bundle of an n-gram model that another program wrote."""
    from halfpint.language import read_arpa
    from halfpint.progress import plain
    from halfpint.report.terminal import pretrained

    result = read_arpa(Path(file), out, force=force)
    print(json.dumps(plain(result), ensure_ascii=False) if json_ else pretrained(result))


def evaluate_text(bundle: Bundle, data: str, text: str, reference: str, tokens: int, json_: bool) -> None:
    """What `evaluate` does with a language model: its figures, and with a reference what it kept of that."""
    from halfpint.data.corpus import CorpusData
    from halfpint.language import evaluate_text as judge
    from halfpint.progress import Log, plain
    from halfpint.report.compressed import kept_of
    from halfpint.report.terminal import language

    source = CorpusData(sources=(data,), text=text)
    figures = judge(bundle, source, Log(quiet=json_), reference=reference, tokens=tokens)
    told = kept_of if reference else language
    print(json.dumps(plain(figures), ensure_ascii=False) if json_ else told(figures))


def predict_words(bundle: Bundle, texts: list[str], top: int, json_: bool) -> None:
    """What `predict` does with a language model: the likeliest next words after each text, or for each [MASK] in it."""
    from halfpint.engines import open_language_engine

    engine: Any = open_language_engine(bundle)
    for given in texts:
        masked = getattr(engine, "objective", "") == "masked"
        gaps = engine.fill(given, top) if masked else [engine.next_words(given, top)]  # each [MASK] in turn
        for number, words in enumerate(gaps, start=1):
            place = {"gap": number} if len(gaps) > 1 else {}
            if json_:
                found = [{"word": word, "probability": round(chance, 6)} for word, chance in words]
                print(json.dumps({"text": given, **place, "words": found}, ensure_ascii=False))
            else:
                which = f"[MASK] {number}: " if place else ""
                print(which + "  ".join(f"{word} {chance:.3f}" for word, chance in words) + f"  |  {given}")


_EXPORTS = ("gguf", "compressed-tensors", "arpa")
_OF_EXPORT = {
    "--merge-unknown": ("arpa",), "--type": ("gguf", "compressed-tensors"), "--pack": ("gguf",),
    "--nearest": ("compressed-tensors",),
}  # fmt: skip
_ROUNDED = ("q8_0", "q4_0")
_TRAINED_ALONE = (
    "--objective", "--size", "--minutes", "--tokens", "--vocab", "--tokenizer", "--context", "--counts", "--language",
    "--as-it-is", "--set",
)  # fmt: skip
_COUNTED_ALONE = ("--smoothing", "--prune")


def _refuse_unused(words: list[str], unused: tuple[str, ...], arch: str) -> None:
    """Refuse options that the architecture has no use for."""
    from halfpint.errors import HalfpintError

    given = [name for name in unused if any(word == name or word.startswith(f"{name}=") for word in words)]
    if given:
        wanted = "a Transformer for it" if arch == "ngram" else "--arch ngram for it"
        raise HalfpintError(given[0], wanted=wanted, got=f"--arch {arch}", todo="Leave it out.")


def add(app: typer.Typer) -> None:
    """Put the commands into the program."""
    for command in (tokenizer, pretrain, finetune, export):
        app.command()(command)
    app.command("import")(import_)
    cli_chat.add(app)
    cli_compress.add(app)
