"""Texts that a model learned from or was chosen by, kept in its bundle as short hashes: `evaluate` recognises them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfpint.bundle import LEARNED, Bundle, folder_bytes
from halfpint.data.dedup import normalise
from halfpint.errors import DamagedError

_MAGIC = b"learned1"
_SALT = 8  # bytes
_WIDTH = 5  # bytes of a hash: of 13,000 one equals that of another text in 1 of 80 million cases
_EVERY = 1 << 8 * _WIDTH
_MOST, _LEAST, _SHARE = 65_536, 1_024, 20  # bytes of the file: a twentieth of the bundle's other files, within these

_Hashes = NDArray[np.uint64]
_Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LearnedTexts:
    """Hashes of texts: all, or those below a limit, which are a sample by chance.

    Attributes:
        salt: what the hashes are keyed with: hashes of other data cannot be looked up among them.
        limit: the hashes below it are all there; 2 ** 40 where none was left out.
        hashes: sorted, each once.
    """

    salt: bytes
    limit: int
    hashes: _Hashes

    @classmethod
    def of(cls, texts: Sequence[str], key: str, before: LearnedTexts | None = None) -> LearnedTexts:
        """Those of `texts`, and of the model that was gone on from.

        Args:
            key: of the data: the salt comes from it, so that the same training gives the same bundle.
        """
        salt = before.salt if before else sha256(key.encode()).digest()[:_SALT]
        found = np.unique(_hashed(texts, salt))
        if before is None:
            return cls(salt, _EVERY, found)
        return cls(salt, before.limit, np.union1d(before.hashes, found[found < before.limit]))

    def cut(self, most_bytes: int) -> LearnedTexts:
        """At most what a file of so many bytes holds: those with the least hashes."""
        most = max((most_bytes - len(_MAGIC) - _SALT - 8) // _WIDTH, 0)
        if len(self.hashes) <= most:
            return self
        return LearnedTexts(self.salt, int(self.hashes[most]), self.hashes[:most])

    def known(self, texts: Sequence[str]) -> tuple[_Mask, _Mask]:
        """Of each text whether it can be told, and whether it is one of those learned from."""
        found = _hashed(texts, self.salt)
        return found < self.limit, np.isin(found, self.hashes)

    def to_bytes(self) -> bytes:
        """The file: a mark, the salt, the limit (uint64, little-endian), the hashes (5 bytes each, big-endian)."""
        wide = self.hashes.astype(">u8").view(np.uint8).reshape(-1, 8)
        return _MAGIC + self.salt + self.limit.to_bytes(8, "little") + wide[:, 8 - _WIDTH :].tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, place: str) -> LearnedTexts:
        """What `to_bytes` gave.

        Raises:
            DamagedError: it is nothing of the kind.
        """
        begins = len(_MAGIC) + _SALT + 8
        if data[: len(_MAGIC)] != _MAGIC or len(data) > _MOST or (len(data) - begins) % _WIDTH or len(data) < begins:
            raise DamagedError(
                place, wanted="hashes of texts", got="something else",
                todo="Delete that file: only what `evaluate` says of known texts depends on it.",
            )  # fmt: skip
        narrow = np.frombuffer(data, np.uint8, offset=begins).reshape(-1, _WIDTH)
        wide = np.zeros((len(narrow), 8), np.uint8)
        wide[:, 8 - _WIDTH :] = narrow
        limit = int.from_bytes(data[begins - 8 : begins], "little")
        return cls(data[len(_MAGIC) : begins - 8], limit, wide.view(">u8").reshape(-1).astype(np.uint64))


def learned_texts(bundle: Bundle) -> LearnedTexts | None:
    """What a bundle says of the texts that it learned from; None where it says nothing."""
    file = bundle.path / LEARNED
    if LEARNED not in bundle.card.get("files", {}) or file.is_symlink() or not file.is_file():
        return None
    with file.open("rb") as opened:
        return LearnedTexts.from_bytes(opened.read(_MOST + 1), str(file))


def keep_learned_texts(folder: Path, texts: Sequence[str], key: str, parent: Bundle | None) -> None:
    """Write the hashes of `texts`, and of those that the parent learned from, into the folder of a new bundle."""
    found = learned_texts(parent) if parent else None
    if texts:
        found = LearnedTexts.of(texts, key, found)
    if found is not None and len(found.hashes):
        most = min(max(folder_bytes(folder) // _SHARE, _LEAST), _MOST)
        (folder / LEARNED).write_bytes(found.cut(most).to_bytes())


def _hashed(texts: Sequence[str], salt: bytes) -> _Hashes:
    """The hash of each text, normalised: shape (texts,)."""
    found = (
        blake2b(normalise(text).encode("utf-8", "surrogatepass"), digest_size=_WIDTH, key=salt).digest()
        for text in texts
    )
    return np.fromiter((int.from_bytes(one, "big") for one in found), np.uint64, len(texts))
