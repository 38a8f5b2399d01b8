"""Stage: a GGUF bundle whose file takes fewer bytes on the disk and is the same, bit for bit, once it is loaded."""

from __future__ import annotations

import time
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import ClassVar

from halfpint.bundle import Bundle, Kind, copy_files
from halfpint.errors import RefusedError, need_installed
from halfpint.models.packed_gguf import GGUF_FILE, PACKED_FILE, pack, unpack
from halfpint.stage import Stage, Work

_LEAST = 0.01  # of the bytes: for less it is not worth unpacking at each start


@dataclass(frozen=True, kw_only=True)
class Lossless(Stage):
    """Code model.gguf's bytes by how often each occurs (models/packed_gguf); halfpint's engine and server read it.

    Loading takes about three seconds for 100 MB more, and nothing after that. Other programs do not read it.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.GGUF,)
    gives: ClassVar[Kind] = Kind.PACKED
    uses_data: ClassVar[bool] = False

    def check(self) -> None:
        """Refuse an installation that cannot pack, before anything is made for it."""
        need_installed("constriction", "packed codes")

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Write the bundle with the packed file, unpacked once to be sure."""
        assert bundle is not None
        started = time.monotonic()
        with self.new_bundle(work, bundle) as (folder, card):
            copy_files(bundle, folder, GGUF_FILE)
            before, after = pack(bundle.path / GGUF_FILE, folder / PACKED_FILE)
            if after > (1 - _LEAST) * before:
                raise RefusedError(
                    self.use, wanted=f"{_LEAST:.0%} fewer bytes or more", got=f"{after:,} of {before:,}",
                    todo="Leave this step out: these weights have no redundancy.",
                )  # fmt: skip
            with TemporaryFile() as out:
                unpack(folder / PACKED_FILE, out)  # checks the hash
            card["stages"].append(self.entry(started, bytes_before=before, bytes_after=after))
        return Bundle(work.target)
