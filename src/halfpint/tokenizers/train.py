"""Training a tokenizer for a language model, and saying what it does to texts it has not seen; `kinds` has the ways."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence, Sized
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from halfpint.bundle import write_json
from halfpint.errors import HalfpintError, nearest
from halfpint.files import write_text
from halfpint.progress import Log
from halfpint.tokenizers.kinds import (
    END,
    END_OF_TEXT,
    FALLS_BACK,
    MASKED,
    PAD,
    START,
    TRAINERS,
    UNKNOWN,
    TextsToLearn,
    special_tokens,
    too_small,
)

KINDS = tuple(TRAINERS)
PURPOSES = ("causal", "masked")
# ChatML: what is between the marks of a turn's start and end is the role, a line feed and what was said.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

_ENOUGH = (
    0.9  # of the vocabulary asked for: a byte-level BPE that finds as much is told of, one that finds less is refused
)
_MOST_MEASURED = 1 << 21  # characters


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """What tokenizer to train.

    Args:
        kind: bpe (byte-level; any text comes back exactly), unigram and char (byte fallback; exactly too), wordpiece
            and word (lossy: spaces, unknown words and, with `lowercase`, capitals do not come back).
        vocab_size: tokens of the vocabulary, special ones too. char takes as many as the text has, and no more.
        purpose: causal (`<|endoftext|>` between documents, ChatML) or masked ([CLS] and [SEP] around a text, [MASK]).
        lowercase: wordpiece and word alone: fold capitals.
        special_tokens: more names that are always one token.
    """

    kind: str = "bpe"
    vocab_size: int = 8192
    purpose: str = "causal"
    lowercase: bool = False
    special_tokens: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenizerReport:
    """What was trained and how short it makes texts.

    Attributes:
        vocab_size: tokens in the vocabulary, special ones too.
        lossless: whether decoding gives any text back exactly.
        bytes_per_token: UTF-8 bytes of the measured texts by their tokens.
        tokens_per_word: tokens by words between white space.
        unknown_share: of the tokens, those that stand for something the vocabulary does not have.
        measured_on: "held-out texts", or "training texts" where there were too few to keep some.
        sha256: of tokenizer.json.
        notes: what a person should know.
    """

    kind: str
    purpose: str
    vocab_size: int
    lossless: bool
    bytes_per_token: float
    tokens_per_word: float
    unknown_share: float
    measured_on: str
    measured_bytes: int
    texts: int
    sha256: str
    seconds: float
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return {**asdict(self), "notes": list(self.notes)}


def train_tokenizer(
    texts: Iterable[str], settings: TokenizerSettings, folder: Path, log: Log, *, held_out: Iterable[str] = ()
) -> TokenizerReport:
    """Train a tokenizer and write tokenizer.json, tokenizer_config.json and, for causal models, chat_template.jinja.

    `AutoTokenizer.from_pretrained(folder)` opens it. The same texts give the same files, to the byte.

    Args:
        texts: read once, in order.
        held_out: texts to measure on; where there are none, one text in fifty, chosen by its content, is kept for that.

    Raises:
        HalfpintError: an unknown kind or purpose, no text, a vocabulary too small for the characters, or one larger
            than the texts have tokens for. A byte-level BPE is forgiven a vocabulary that is short by a tenth.
    """
    started = time.monotonic()
    _refuse_bad(settings)
    held = _first_chars(held_out)
    with log.bar(f"reading texts for {settings.kind}", len(texts) if isinstance(texts, Sized) else 0) as bar:
        source = TextsToLearn(texts, own=not held, bar=bar)
        tokenizer, notes = TRAINERS[settings.kind](source, settings)
    if not source.count:
        raise HalfpintError("texts", wanted="text to train a tokenizer on", got="none", todo="Give files with text.")
    special = special_tokens(settings)
    tokenizer.add_special_tokens(special)
    if settings.purpose == "masked":
        _surround(tokenizer)
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    notes = [*notes, *_check_size(settings, size)]
    lossless = settings.kind in FALLS_BACK
    if not lossless:
        notes.append(f"{settings.kind} is lossy: decoding does not give the text back exactly")
    measured = held or source.held
    where = "held-out texts" if measured else "training texts"
    figures = _measure(tokenizer, measured or source.sample)
    content = tokenizer.to_str(pretty=True)
    write_text(folder / "tokenizer.json", content)
    write_json(folder / "tokenizer_config.json", _config(settings))
    if settings.purpose == "causal":
        write_text(folder / "chat_template.jinja", CHAT_TEMPLATE)
    report = TokenizerReport(
        kind=settings.kind, purpose=settings.purpose, vocab_size=size, lossless=lossless, measured_on=where,
        texts=source.count, sha256=sha256(content.encode("utf-8")).hexdigest(), notes=tuple(notes),
        seconds=round(time.monotonic() - started, 3), **figures,
    )  # fmt: skip
    log.say(
        f"tokenizer {settings.kind}: {size:,} tokens; {report.bytes_per_token:.2f} bytes per token and "
        f"{report.tokens_per_word:.2f} tokens per word on {where}", kind="tokenizer", report=report.as_dict(),
    )  # fmt: skip
    for note in notes:
        log.say(f"  {note}", kind="finding")
    return report


def _refuse_bad(settings: TokenizerSettings) -> None:
    for name, options in (("kind", KINDS), ("purpose", PURPOSES)):
        got = getattr(settings, name)
        if got not in options:
            raise HalfpintError(
                f"tokenizer {name}", wanted=" or ".join(options), got=repr(got), todo=nearest(got, options)
            )
    if settings.lowercase and settings.kind not in ("wordpiece", "word"):
        raise HalfpintError(
            "tokenizer lowercase", wanted="the kind wordpiece or word", got=settings.kind,
            todo="The other kinds give back every text as it was.",
        )  # fmt: skip
    empty = [token for token in settings.special_tokens if not token.strip()]
    if empty:
        raise HalfpintError("special_tokens", wanted="names with letters or signs", got=repr(empty[0]))
    fixed = len(special_tokens(settings)) + (256 if settings.kind in FALLS_BACK else 1)
    if settings.vocab_size < fixed:
        too_small(settings, fixed, "the special tokens" + (" and 256 bytes" if settings.kind in FALLS_BACK else ""))


def _check_size(settings: TokenizerSettings, size: int) -> list[str]:
    """What to say of a vocabulary of another size than the one asked for."""
    if size >= settings.vocab_size or settings.kind == "char":
        return []
    if settings.kind == "bpe" and size >= _ENOUGH * settings.vocab_size:
        return [f"the texts have pairs for {size:,} tokens, {settings.vocab_size:,} were asked for"]
    raise HalfpintError(
        "vocab_size", wanted=f"{settings.vocab_size:,} tokens", got=f"texts that have enough for {size:,}",
        todo=f"Give more text, or a vocabulary of {size:,} or fewer.",
        said=f"The text is too short for a vocabulary of {settings.vocab_size:,} tokens: it has {size:,}.",
    )  # fmt: skip


def _config(settings: TokenizerSettings) -> dict[str, Any]:
    """tokenizer_config.json: which special token is what."""
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if settings.purpose == "masked":
        config |= {f"{name}_token": token for name, token in MASKED.items()}
        extra = list(settings.special_tokens)
        config["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    else:
        config |= {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": PAD}
        if UNKNOWN in special_tokens(settings):
            config["unk_token"] = UNKNOWN
        extra = [START, END, *settings.special_tokens]
        config["model_input_names"] = ["input_ids", "attention_mask"]
    return {**config, "extra_special_tokens": extra} if extra else config


def _surround(tokenizer: Any) -> None:
    """[CLS] before and [SEP] after each text, as BERT has it."""
    from tokenizers import processors

    first, last = MASKED["cls"], MASKED["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)],
    )


def _first_chars(texts: Iterable[str]) -> list[str]:
    found, chars = [], 0
    for text in texts:
        if text.strip():
            found.append(text)
            chars += len(text)
        if chars >= _MOST_MEASURED:
            break
    return found


def _measure(tokenizer: Any, texts: Sequence[str]) -> dict[str, Any]:
    unknown = {tokenizer.token_to_id(name) for name in (UNKNOWN, MASKED["unk"])}
    tokens = strange = 0
    for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
        ids = encoding.ids
        tokens += len(ids)
        strange += sum(ids.count(token) for token in unknown if token is not None)
    size, words = sum(len(text.encode("utf-8")) for text in texts), sum(len(text.split()) for text in texts)
    return {
        "bytes_per_token": round(size / max(tokens, 1), 4),
        "tokens_per_word": round(tokens / max(words, 1), 4),
        "unknown_share": round(strange / max(tokens, 1), 6),
        "measured_bytes": size,
    }
