"""docs/models.md: how to choose a small model, and all that are known by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from halfpint.bundle import Kind
from halfpint.models.known import ENCODER_DECODER, Known, known_models, sources
from halfpint.models.known_shape import served

Table = Callable[[tuple[str, ...], Sequence[tuple[str, ...]]], list[str]]
CONTEXT = 4096
TITLES = {
    Kind.LANGUAGE: "Language models",
    Kind.ENCODER: "Encoders",
    ENCODER_DECODER: "Encoder-decoders (known, but not taken yet)",
}
INTRODUCTION = """# Choosing a model

`halfpint models` lists small models that are known by name, up to some four billion parameters, with what each costs
*on your machine* before anything is downloaded:

```sh
halfpint models --task chat --max-ram 2GB --language de --licence commercial
halfpint models --task embed --json
halfpint models qwen3-0.6b
```

1. **What is it for?** For labels and tags begin with an encoder (`halfpint fit DATA`, which also tells when counting
   words is enough); for answers with a chat model; for one kind of text of your own with a base model (task
   `complete`).
2. **May you use it?** `--licence commercial` keeps what its licence lets you use commercially, also with conditions
   (\\*): read them. A licence that no source told is unknown, and is left out.
3. **Does it know your language?** `--language` takes a code and keeps models whose sources list it.
4. **Does it fit?** `--max-ram` and `--min-tokens-per-s` are foretold: memory is weights and cache, speed is at most
   one reading of all weights for each token.
5. Take the smallest that is left, measure it on your texts, and go on to the next only where it is not enough.

A download is refused before it begins where the model cannot be taken (an encoder-decoder) or where its weights do
not fit this machine's memory. The names below are those that `halfpint pull`, `--base` and `halfpint finetune` take.
""".splitlines()


def lines(table: Table) -> Iterator[str]:
    """The page, line by line; `table` makes a table in Markdown."""
    yield from (*INTRODUCTION, "")
    models = known_models().values()
    for kind, title in TITLES.items():
        found = sorted((one for one in models if one.kind == kind), key=lambda one: (one.parameters, one.name))
        yield from (f"## {title}", "")
        head = (
            "name",
            "parameters",
            "GB in 8-bit",
            "licence",
            "context",
            "languages",
            "tasks",
            "on the Hub",
            "elsewhere",
        )
        yield from (*table(head, [_row(one) for one in found]), "")
    yield "~ the number of its family, or rounded. \\* commercial use with conditions, ! not for commercial use."
    yield f"Memory: weights in 8-bit and a cache of {CONTEXT:,} tokens, without the program; + the cache is not known."
    yield from ("", "## Where the facts are from", "")
    yield "`halfpint models NAME` says which source each fact of a model is from. The sources:"
    yield ""
    yield from (f"- {source}" for source in sorted(sources().values()))


def _row(model: Known) -> tuple[str, ...]:
    marks = {"conditions": " \\*", "no": " !"}
    places = {"Ollama": model.ollama, "NVIDIA NIM": model.nim, "Azure": model.azure}
    count = model.languages_in_all or len(model.languages)
    listed = ", ".join(model.languages)
    costs = served(model, "8-bit", CONTEXT)
    plus = "+" if costs.cache is None else ""
    return (
        f"`{model.name}`",
        f"{'' if model.exact else '~'}{model.parameters:,}",
        f"{costs.memory / 1e9:.2f}{plus}",
        model.licence + marks.get(model.commercial, ""),
        f"{model.context:,}" if model.context else "unknown",
        (listed if 0 < len(model.languages) == count <= 8 else str(count)) if count else "unknown",
        ", ".join(model.tasks),
        model.hub,
        "; ".join(f"{place} {name}" for place, name in places.items() if name != "unknown") or "unknown",
    )
