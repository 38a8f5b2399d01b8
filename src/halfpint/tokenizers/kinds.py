"""The kinds of tokenizers that can be trained, and what they are trained on.

Sources: byte-level BPE, A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.2,
with the way of splitting texts of Qwen2 (single digits, words with the space before; llama.cpp knows it as "qwen2");
unigram, see `unigram`; WordPiece, M. Schuster and K. Nakajima, "Japanese and Korean Voice Search", 2012, in the form of
BERT; byte fallback, T. Kudo and J. Richardson, "SentencePiece", 2018 (a character that is no token becomes its UTF-8
bytes, of which each is one).
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from halfpint.errors import HalfpintError, SettingError
from halfpint.progress import Bar
from halfpint.tokenizers.unigram import train_unigram

if TYPE_CHECKING:
    from halfpint.tokenizers.train import TokenizerSettings

END_OF_TEXT = "<|endoftext|>"  # after each document
PAD, START, END, UNKNOWN = "<|pad|>", "<|im_start|>", "<|im_end|>", "<unk>"
MASKED = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
FALLS_BACK = ("bpe", "unigram", "char")  # to bytes: they give back any text exactly

# How Qwen2 divides texts before it merges; llama.cpp has it under the name "qwen2".
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_LONGEST_TOKEN = 32  # bytes: rules of dashes are worth no tokens of their own
_COVERED = 0.9995  # share of the characters whose kinds become pieces of a unigram model; the others go by bytes
_MOST_CHARACTERS = 1000  # of WordPiece, the most frequent, as BERT's trainer has it
_HELD_OUT = 50  # one text in so many
_MOST_HELD = 1 << 21  # characters
_SNIFFED = 1 << 17
_MARK = "\uf8ff"  # private use: the beginning of a word while WordPiece is trained


def special_tokens(settings: TokenizerSettings) -> list[str]:
    """The special tokens in the order of their numbers, from 0."""
    if settings.purpose == "masked":
        return list(dict.fromkeys([*MASKED.values(), *settings.special_tokens]))
    unknown = [] if settings.kind in ("bpe", "char") else [UNKNOWN]
    return list(dict.fromkeys([END_OF_TEXT, PAD, START, END, *unknown, *settings.special_tokens]))


def _unknown(settings: TokenizerSettings) -> str:
    return MASKED["unk"] if settings.purpose == "masked" else UNKNOWN


def too_small(settings: TokenizerSettings, least: int, what: str) -> NoReturn:
    """Raise a HalfpintError: the vocabulary has no room for `what`, which takes `least` tokens."""
    raise SettingError(
        "vocab_size",
        wanted=f"at least {least:,}: {what}",
        got=f"{settings.vocab_size:,}",
        todo=f"Give {least:,} or more.",
    )


class TextsToLearn:
    """Texts to train on, read once; one in fifty is put aside, and of the first ones a sample is kept."""

    def __init__(self, texts: Iterable[str], *, own: bool, bar: Bar) -> None:
        self.texts, self.own, self.bar = texts, own, bar
        self.count = 0
        self.held: list[str] = []
        self.sample: list[str] = []
        self._held_chars = self._sample_chars = 0

    def __iter__(self) -> Iterator[str]:
        for number, text in enumerate(self.texts):
            self.bar.advance()
            if not isinstance(text, str):
                raise HalfpintError(f"text {number}", wanted="a str", got=type(text).__name__)
            if not text.strip():
                continue
            aside = self.own and self._held_chars < _MOST_HELD and self.count > 0
            if aside and zlib.crc32(text.encode("utf-8", "replace")) % _HELD_OUT == 0:
                self.held.append(text)
                self._held_chars += len(text)
                continue
            if self._sample_chars < _MOST_HELD:
                self.sample.append(text)
                self._sample_chars += len(text)
            self.count += 1
            yield text


_Trained = tuple[Any, list[str]]


def _bpe(texts: TextsToLearn, settings: TokenizerSettings) -> _Trained:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size, min_frequency=2, show_progress=False, max_token_length=_LONGEST_TOKEN,
        special_tokens=special_tokens(settings), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer, []


def _unigram(texts: TextsToLearn, settings: TokenizerSettings) -> _Trained:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    words: Counter[str] = Counter()
    for text in texts:
        words.update([word for word, _ in split.pre_tokenize_str(text)])
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for char in word:
            characters[char] += count
    alphabet, covered, total = [], 0, sum(characters.values())
    for char, count in sorted(characters.items(), key=lambda item: (-item[1], item[0])):
        if covered >= _COVERED * total and not char.isascii():
            continue
        alphabet.append(char)
        covered += count
    fixed = [_unknown(settings), *(token for token in special_tokens(settings) if token != _unknown(settings)), *_BYTES]
    size = settings.vocab_size - len(fixed)
    if size < len(alphabet):
        too_small(settings, len(fixed) + len(alphabet), f"{len(fixed)} fixed tokens and {len(alphabet):,} characters")
    pieces = train_unigram(words, size, sorted(alphabet)) if words else []
    # What is fixed must never be the likeliest way to write a text: below any sum of pieces of the same characters.
    least = round(min((score for _, score in pieces), default=0.0) * 32, 6)
    taken = set(fixed)
    vocabulary = [(token, least) for token in fixed] + [piece for piece in pieces if piece[0] not in taken]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer, []


def _char(texts: TextsToLearn, settings: TokenizerSettings) -> _Trained:
    from tokenizers import Tokenizer, decoders, models

    characters: Counter[str] = Counter()
    for text in texts:
        characters.update(text)
    fixed = [*special_tokens(settings), *_BYTES]
    frequent = sorted(characters, key=lambda char: (-characters[char], char))[: settings.vocab_size - len(fixed)]
    vocabulary = {token: number for number, token in enumerate([*fixed, *sorted(frequent)])}
    # A BPE without merges: every character by itself, and what is no token by its bytes.
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    rest = len(characters) - len(frequent)
    return tokenizer, [f"{rest:,} rare characters go by their bytes"] if rest else []


def _wordpiece(texts: TextsToLearn, settings: TokenizerSettings) -> _Trained:
    """WordPiece as BERT's trainer makes it: pairs merged by frequency, then told apart by where in a word they stand.

    That trainer numbers the endings (##s) in the order of a hash table, so that two runs differ. Here a mark stands
    before each word, a plain BPE is trained, which is the same in every run, and tokens with the mark begin words.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=settings.lowercase, strip_accents=settings.lowercase)
    words = pre_tokenizers.BertPreTokenizer()
    mark = pre_tokenizers.Metaspace(replacement=_MARK, prepend_scheme="always", split=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, mark])
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size + 2 * _MOST_CHARACTERS, min_frequency=2, show_progress=False,
        limit_alphabet=_MOST_CHARACTERS, initial_alphabet=[_MARK], max_token_length=_LONGEST_TOKEN,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    ordered = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    single = [token for token, _ in ordered if len(token) == 1 and token != _MARK]
    fixed = [*special_tokens(settings), *single, *(f"##{char}" for char in single)]
    if texts.count and len(fixed) > settings.vocab_size:
        too_small(settings, len(fixed), f"{len(single):,} characters, each at the beginning and within a word")
    pieces = [token[1:] if token[0] == _MARK else f"##{token}" for token, _ in ordered if token != _MARK]
    chosen = list(dict.fromkeys([*fixed, *pieces]))[: settings.vocab_size]
    vocabulary = {token: number for number, token in enumerate(chosen)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token=_unknown(settings), max_input_chars_per_word=100))
    made.normalizer, made.pre_tokenizer = tokenizer.normalizer, words
    made.decoder = decoders.WordPiece()
    return made, []


def _word(texts: TextsToLearn, settings: TokenizerSettings) -> _Trained:
    """Words and line feeds. Where the texts have spaces around their punctuation (WikiText), words are what is between
    spaces; elsewhere punctuation is cut off."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordLevel(unk_token=_unknown(settings)))
    iterator = iter(texts)
    first, chars = [], 0
    for text in iterator:
        first.append(text)
        chars += len(text)
        if chars >= _SNIFFED:
            break
    apart = _has_spaces_around_punctuation("".join(first)[:_SNIFFED])
    kept = Regex(r"\n|[^\s]+" if apart else r"\n|\w+|[^\w\s]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(kept, "removed", invert=True)
    if settings.lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    special = special_tokens(settings)
    # A special token may be a word too (<unk> in WikiText), and would count twice: more are learned, and cut here.
    trainer = trainers.WordLevelTrainer(vocab_size=settings.vocab_size + len(special), show_progress=False)

    def all_texts() -> Iterator[str]:
        yield from first
        yield from iterator

    tokenizer.train_from_iterator(all_texts(), trainer)
    ordered = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    chosen = list(dict.fromkeys([*special, *(word for word, _ in ordered)]))[: settings.vocab_size]
    vocabulary = {word: number for number, word in enumerate(chosen)}
    tokenizer.model = models.WordLevel(vocabulary, unk_token=_unknown(settings))
    how = "white space (the texts have it around punctuation too)" if apart else "white space and punctuation"
    return tokenizer, [f"words are divided by {how}; a line feed is a token"]


def _has_spaces_around_punctuation(text: str) -> bool:
    marks = len(re.findall(r"[,.;:!?]", text))
    alone = len(re.findall(r"(?<=\s)[,.;:!?](?=\s)", text))
    return marks > 0 and alone > 0.8 * marks


TRAINERS: dict[str, Callable[[TextsToLearn, TokenizerSettings], _Trained]] = {
    "bpe": _bpe,
    "unigram": _unigram,
    "wordpiece": _wordpiece,
    "word": _word,
    "char": _char,
}
