"""Stage: a smaller vocabulary. Half of a small encoder is token embeddings; most tokens never occur in one job."""

from __future__ import annotations

import copy
import json
import shutil
import string
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from halfpint.bundle import Bundle, Kind
from halfpint.compress.tensors import cut_embedding, encoder_config, refuse_if_no_smaller
from halfpint.errors import HalfpintError, RefusedError
from halfpint.stage import Stage, Work
from halfpint.tokenizers.load import open_tokenizer

_AT_ONCE = 4096  # texts


@dataclass(frozen=True, kw_only=True)
class Vocab(Stage):
    """Keep the tokens that the training texts use, every single character, then the most common of the rest.

    A word whose token went is spelled in shorter pieces, so no text becomes unreadable to the model.

    Args:
        size: tokens kept; more are kept when the training texts use more.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.ENCODER, Kind.CLASSIFIER, Kind.ONNX)
    gives: ClassVar[Kind] = Kind.SAME

    size: int = 8000

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Write a bundle with a smaller tokenizer and embedding, all ids numbered anew."""
        assert bundle is not None
        started = time.monotonic()
        reader = open_tokenizer(bundle.path)
        tokenizer = json.loads((bundle.path / "tokenizer.json").read_text(encoding="utf-8"))
        if tokenizer["model"].get("type") != "WordPiece":
            raise HalfpintError(
                self.use, wanted="a WordPiece tokenizer", got=f"{tokenizer['model'].get('type')}",
                todo="Leave this step out for this model.",
            )  # fmt: skip
        used = self._used(reader, work)
        old = tokenizer["model"]["vocab"]
        specials = {token["content"] for token in tokenizer["added_tokens"]}
        kept = choose_tokens(old, used, specials, self.size)
        place = {token: number for number, token in enumerate(kept)}
        reindex_tokenizer(tokenizer, place)
        config = copy.deepcopy(bundle.config)
        inner = encoder_config(config)
        rows = [old[token] for token in kept]
        inner["vocab_size"] = len(kept)
        for holder in (config, inner):
            if holder.get("pad_token_id") is not None:
                holder["pad_token_id"] = place[_token_of(old, int(holder["pad_token_id"]))]
        with self.new_bundle(work, bundle) as (folder, card):
            cut_embedding(bundle, folder, rows, config)
            (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
            if (bundle.path / "tokenizer_config.json").is_file():
                shutil.copyfile(bundle.path / "tokenizer_config.json", folder / "tokenizer_config.json")
            before, after = (
                sum((at / file.name).stat().st_size for file in folder.iterdir()) for at in (bundle.path, folder)
            )
            refuse_if_no_smaller(self.use, before, after)
            found = self._proved(reader, open_tokenizer(folder), work)
            card["stages"].append(
                self.entry(started, tokens=len(kept), tokens_before=len(old), used=len(used), **found)
            )
        return Bundle(work.target)

    def _proved(self, before: Any, after: Any, work: Work) -> dict[str, float]:
        """Shares of the tokens of texts that chose nothing: unknown before and after, and more pieces than before.

        Raises:
            RefusedError: a training text is read otherwise than before.
        """
        for texts in _batches(work.documents.train):
            for one, other in zip(*(reader.encode_batch_fast(texts) for reader in (before, after)), strict=True):
                if one.tokens != other.tokens:
                    raise RefusedError(
                        self.use, wanted="every training text read as before", got=f"{other.tokens[:20]}",
                        todo="Leave this step out for this model.",
                    )  # fmt: skip
        counts = {}
        for name, reader in (("before", before), ("after", after)):
            tokens = Counter(
                token for texts in _batches(work.documents.validation) for one in reader.encode_batch_fast(texts)
                for token in one.tokens
            )  # fmt: skip
            counts[name] = (sum(tokens.values()), tokens[json.loads(reader.to_str())["model"]["unk_token"]])
        whole = max(1, counts["before"][0])
        return {
            "unknown_before": counts["before"][1] / whole, "unknown": counts["after"][1] / max(1, counts["after"][0]),
            "longer": counts["after"][0] / whole - 1,
        }  # fmt: skip

    @staticmethod
    def _used(tokenizer: Any, work: Work) -> Counter[str]:
        used: Counter[str] = Counter()
        for texts in _batches(work.documents.train):
            for encoding in tokenizer.encode_batch_fast(texts):
                used.update(encoding.ids)
        return Counter({tokenizer.id_to_token(number): count for number, count in used.items()})


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), _AT_ONCE):
        yield list(texts[start : start + _AT_ONCE])


def choose_tokens(vocabulary: dict[str, int], used: Counter[str], specials: set[str], size: int) -> list[str]:
    """The tokens that stay, in the order of their old ids.

    Specials, used tokens and single characters (ASCII, and what used tokens are spelled with) stay whatever `size` is;
    then whole words by old id, which in BERT's vocabularies runs from common to rare.
    """
    letters = set(string.ascii_letters + string.digits + string.punctuation).union(*(set(token) for token in used))
    kept = {token for token in vocabulary if token in specials or token in used}
    kept |= {token for token in vocabulary if len(token.removeprefix("##")) == 1 and token[-1] in letters}
    for token in sorted(vocabulary, key=vocabulary.__getitem__):
        if len(kept) >= size:
            break
        if token.isascii() and not token.startswith("["):
            kept.add(token)
    return sorted(kept, key=vocabulary.__getitem__)


def reindex_tokenizer(tokenizer: dict[str, Any], place: dict[str, int]) -> None:
    """Give every id in a tokenizer.json its new number: the model's, the added tokens', the post-processor's."""
    tokenizer["model"]["vocab"] = place
    tokenizer["padding"] = tokenizer["truncation"] = None
    for token in tokenizer["added_tokens"]:
        token["id"] = place[token["content"]]
    processor = tokenizer.get("post_processor") or {}
    for side in ("sep", "cls"):
        if side in processor:
            processor[side][1] = place[processor[side][0]]
    for name, special in processor.get("special_tokens", {}).items():
        special["ids"] = [place[token] for token in special.get("tokens", [name])]


def _token_of(vocabulary: dict[str, int], number: int) -> str:
    return next(token for token, index in vocabulary.items() if index == number)
