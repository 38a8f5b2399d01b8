"""The gate of GGUF exports: llama.cpp divides, renders, stops and predicts as PyTorch does, or the file is refused.

Run as `python -m halfpint.evaluate.gguf_parity TRAINED MODEL.gguf TYPE`, in a process of its own: it prints the figures
as one line of JSON, or why the file is refused.
"""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halfpint.bundle import read_json
from halfpint.engines.llama_cpp import LlamaCppEngine
from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError, RefusedError, need
from halfpint.evaluate._distributions import WINDOW, check_bounds, compare_distributions, logits_of
from halfpint.evaluate._varied_strings import prose, varied_strings
from halfpint.machine import end_with_parent
from halfpint.tokenizers.load import open_tokenizer

STRINGS = 12_000
_RENDER_S = 300

BOUNDS = {
    "f32": (1e-3, 0.99),
    "f16": (1e-3, 0.99),
    "q8_0": (1e-2, 0.90),
    "q4_1": (0.3, 0.70),
    "q4_0": (0.5, 0.65),
    "codes": (0.05, 0.80),
}
"""By type: the largest mean KL divergence (nats) from PyTorch in fp32, the smallest share of the same likeliest token.

f32 and f16 leave room for llama.cpp's keys and values, which are f16. The others are what a small model may lose, as
small ones lose most: SmolLM2-135M has 0.00004 and 1.00 as f16, 0.007 and 0.97 as q8_0, 0.37 and 0.71 as q4_0 (of
weights that had been q4_1 before). Whether that is good enough is for a metric on the task to say; what the bounds keep
out is a file that is wrong. Codes are held against PyTorch with the values that they stand for, so what differs is
llama.cpp's rounding of what comes into each layer alone.
"""
_LOSSY = ("q4_1", "q4_0")  # whose perplexity may leave the interval: it is told
_CHATS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Where is  my\nparcel? 🙂 "}],
    [
        {"role": "user", "content": "a <b> {c} 'd' \"e\""},
        {"role": "assistant", "content": "ünïcödé 文字"},
        {"role": "user", "content": "2 + 2?"},
    ],
)


def check_gguf(trained: Path, exported: Path, type_: str) -> dict[str, Any]:
    """Compare the GGUF file `exported` with the model in folder `trained`.

    Returns:
        strings: how many had the same ids; chats: how many were rendered alike; stops: ids that end a text;
        more_stops: control tokens that llama.cpp ends at besides; kl_mean, kl_worst: KL divergence in nats of its
        distributions from PyTorch's over `positions`; same_top_1: share of the same likeliest token; perplexity of the
        same text a token, perplexity_trained and its 95 % perplexity_interval.

    Raises:
        RefusedError: one of them is not as it should be; with figures.
    """
    engine = LlamaCppEngine(exported)
    figures: dict[str, Any] = {"strings": check_ids(trained, engine)}
    figures["chats"] = check_chats(trained, exported)
    figures |= check_stops(trained, engine)
    return figures | check_distributions(trained, engine, type_)


def _refused(wanted: str, got: str) -> RefusedError:
    return RefusedError(
        "export gguf", wanted=wanted, got=got, todo="The export is refused; the trained bundle is kept."
    )  # fmt: skip


def check_ids(trained: Path, engine: LlamaCppEngine) -> int:
    """Number of varied strings whose ids, with what is put around them, are those of the trained tokenizer.

    Raises:
        RefusedError: some are others.
    """
    tokenizer = open_tokenizer(trained)
    texts = varied_strings(STRINGS)
    if type(tokenizer.normalizer).__name__ == "Replace":  # U+2581 is a space there, and comes back as one
        texts = [text for text in texts if "\u2581" not in text]
    elif tokenizer.normalizer is not None:  # NFC, which llama.cpp leaves to whoever gives it the text
        texts = [unicodedata.normalize("NFC", text) for text in texts]
    wrong = []
    for start in range(0, len(texts), 1000):
        some = texts[start : start + 1000]
        for text, encoding in zip(some, tokenizer.encode_batch(some), strict=True):
            ids = engine.model.encode(text, add_special=True)
            if ids != encoding.ids:
                wrong.append((text, encoding.ids, ids))
    if wrong:
        text, wanted, got = min(wrong, key=lambda entry: len(entry[0]))
        raise _refused(
            f"the tokenizer's ids for {len(texts):,} strings",
            f"others for {len(wrong):,}, such as {text[:60]!r}: {wanted[:12]} and {got[:12]}",
        )
    return len(texts)


def check_chats(trained: Path, exported: Path) -> int:
    """Number of chats that llama.cpp's server, which has its own Jinja, renders as transformers does; 0: no template.

    A start token that the server puts there by itself is not compared.

    Raises:
        RefusedError: one is rendered otherwise.
    """
    transformers = need("transformers", "checking a chat template")
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained, local_files_only=True)
    if not tokenizer.chat_template:
        return 0
    rendered = [
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in _CHATS
    ]  # fmt: skip
    first = tokenizer.bos_token or ""
    for chat, wanted, got in zip(_CHATS, rendered, _rendered(exported), strict=True):
        if wanted.removeprefix(first) != got.removeprefix(first):
            raise _refused(f"the chat {chat} rendered as {wanted!r}", repr(got))
    return len(_CHATS)


def _rendered(exported: Path) -> list[str]:
    """The chats as llama.cpp's server renders them, from a server on this machine that lives as long as this call."""
    need("xllamacpp", "checking a chat template")
    words = [sys.executable, "-m", "halfpint.evaluate._llama_chats", str(exported), json.dumps(_CHATS)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_RENDER_S)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise _refused("chats rendered by llama.cpp's server", f"an end with status {done.returncode} ({last})")
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def check_stops(trained: Path, engine: LlamaCppEngine) -> dict[str, list[int]]:
    """The ids that end a text: those of the model, and control tokens that llama.cpp ends at besides, by their names.

    Raises:
        RefusedError: it does not end at one of the model's, or at what may be text.
    """
    wanted: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        if (trained / name).is_file():
            held = read_json(trained / name).get("eos_token_id")
            wanted |= set(held if isinstance(held, list) else [] if held is None else [held])
    more = sorted(engine.model.ends - wanted)
    text = [token for token in more if not engine.model.is_control(token)]
    if not wanted <= engine.model.ends or text:
        raise _refused(f"a stop at the ids {sorted(wanted)}", f"one at {sorted(engine.model.ends)}")
    return {"stops": sorted(wanted), "more_stops": more}


def check_distributions(trained: Path, engine: LlamaCppEngine, type_: str) -> dict[str, Any]:
    """How far llama.cpp's next-token distributions are from PyTorch's.

    Raises:
        RefusedError: further than `BOUNDS` has it.
    """
    reference = logits_of(load_model(trained, engine.objective))
    ids = open_tokenizer(trained).encode(prose(), add_special_tokens=False).ids
    before = [] if engine.model.start is None else [engine.model.start]
    figures = compare_distributions(reference, engine.model.logits, ids, min(WINDOW, engine.context), before)
    told = check_bounds(figures, BOUNDS[type_], may_leave=type_ in _LOSSY)
    if told:
        most, least = BOUNDS[type_]
        raise _refused(
            f"{type_} with a mean KL divergence up to {most}, the same top token for {least:.0%} and a perplexity "
            "within the interval of the trained one's", told,
        )  # fmt: skip
    return figures


def main(arguments: Sequence[str]) -> int:
    """Check, print, and give the exit status."""
    trained, exported, type_ = arguments
    try:
        found = check_gguf(Path(trained), Path(exported), type_)
    except HalfpintError as error:
        names = ("place", "wanted", "got", "todo")
        print(json.dumps({"refused": {name: getattr(error, name) for name in names}}))
        return error.exit_code
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(sys.argv[1:]))
