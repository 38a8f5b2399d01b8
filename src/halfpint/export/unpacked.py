"""Stage: a packed GGUF file as the plain one, for llama.cpp and what is built on it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from halfpint.bundle import Bundle, Kind, copy_files
from halfpint.models.packed_gguf import GGUF_FILE, PACKED_FILE, unpack
from halfpint.stage import Stage, Work


@dataclass(frozen=True, kw_only=True)
class Unpacked(Stage):
    """Write the model.gguf that compress/lossless packed, bit for bit, its hash checked."""

    needs: ClassVar[tuple[Kind, ...]] = (Kind.PACKED,)
    gives: ClassVar[Kind] = Kind.GGUF
    uses_data: ClassVar[bool] = False

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Write the bundle with the plain file."""
        assert bundle is not None
        started = time.monotonic()
        with self.new_bundle(work, bundle) as (folder, card):
            copy_files(bundle, folder, PACKED_FILE)
            with (folder / GGUF_FILE).open("wb") as out:
                unpack(bundle.path / PACKED_FILE, out)
            card["stages"].append(self.entry(started))
        return Bundle(work.target)
