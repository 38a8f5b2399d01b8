"""The commands that let a language model write; `cli_language` takes them in. No logic lives here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of a language model, or a base model's name.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Most tokens to write.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")]
TopK = Annotated[int, typer.Option(min=0, help="Choose among so many of the likeliest; 0 among all.")]
TopP = Annotated[float, typer.Option(help="Choose among the likeliest that have this probability together.")]
MinP = Annotated[float, typer.Option(help="Leave out what is less likely than this share of the likeliest.")]
Penalty = Annotated[float, typer.Option(help="Above 1: what was written is less likely again.")]
Stop = Annotated[list[str] | None, typer.Option(help="Text at which to end; repeatable.")]
Seed = Annotated[int, typer.Option(help="The same seed writes the same text.")]
Schema = Annotated[str, typer.Option(help="JSON schema (a file, or itself) that the output keeps to; {}: any object.")]
System = Annotated[str, typer.Option(help="What the model is told before the first message.")]


def generate(
    bundle: Model,
    prompt: Annotated[
        str, typer.Argument(metavar="[PROMPT]", help="Text to go on from, or a message; - reads standard input.")
    ] = "",
    max_tokens: MaxTokens = 200,
    temperature: Temperature = 0.8,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    repetition_penalty: Penalty = 1.0,
    stop: Stop = None,
    seed: Seed = 0,
    n_best: Annotated[
        int, typer.Option(min=1, help="So many texts, best first: drawn, or by beam search at --temperature 0.")
    ] = 1,
    logprobs: Annotated[
        int | None, typer.Option(min=0, help="Tell each token's log-probability, and so many of the likeliest there.")
    ] = None,
    json_schema: Schema = "",
    chat: Annotated[
        bool | None, typer.Option("--chat/--no-chat", help="PROMPT is a message to answer (default for chat models).")
    ] = None,
    system: System = "",
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Let a language model go on with a text, or answer a message, piece by piece as it comes."""
    from halfpint.engines import Generation
    from halfpint.generation import as_chat, read_schema, scores_shown
    from halfpint.generation import generate as write
    from halfpint.models.pull_language import find_bundle

    settings = Generation(
        max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        repetition_penalty=repetition_penalty, seed=seed, stop=tuple(stop or ()), schema=read_schema(json_schema),
        logprobs=logprobs,
    )  # fmt: skip
    opened = find_bundle(bundle)
    text = sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt
    streams = n_best == 1 and not json_
    echo = "" if as_chat(opened, chat) or json_schema else text
    begun = not echo

    def tell(piece: str) -> None:
        nonlocal begun
        print(piece if begun else echo + piece, end="", flush=True)
        begun = True

    found = write(opened, text, settings, best=n_best, chat=chat, system=system, tell=tell if streams else None)
    if json_:
        print(json.dumps({"prompt": text, **found.figures(scores=logprobs is not None)}, ensure_ascii=False))
        return
    if streams:
        print("" if begun else echo)
    for one in found.texts:
        if n_best > 1:
            print(f"{one.mean_log_probability:9.3f}  {one.text}")
        for line in scores_shown(one.tokens) if logprobs is not None else ():
            print(line)


def chat(
    bundle: Model,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.8,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    repetition_penalty: Penalty = 1.0,
    stop: Stop = None,
    seed: Seed = 0,
    json_schema: Schema = "",
    system: System = "",
) -> None:
    """Talk with a language model in the terminal; from a pipe, each line is a message. /help lists its commands."""
    from halfpint.chat import converse
    from halfpint.engines import Generation
    from halfpint.generation import read_schema
    from halfpint.models.pull_language import find_bundle

    settings = Generation(
        max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        repetition_penalty=repetition_penalty, seed=seed, stop=tuple(stop or ()), schema=read_schema(json_schema),
    )  # fmt: skip
    converse(find_bundle(bundle), settings, system)


def add(app: typer.Typer) -> None:
    """Put the commands into the program."""
    for command in (generate, chat):
        app.command()(command)
