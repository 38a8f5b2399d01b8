"""What cannot be is told before any work: steps that do not fit together or the model, and text that will not do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from halfpint.compress.hidden import Hidden
from halfpint.compress.low_rank import LowRank
from halfpint.compress.quantize import Quantize
from halfpint.compress.width import Width
from halfpint.data.corpus_read import find_source, is_code
from halfpint.errors import HalfpintError
from halfpint.evaluate.kept import need_windows
from halfpint.export.gguf import CODES, Gguf
from halfpint.models.sizes import CAUSAL, resolve
from halfpint.pipeline import faults_in_order
from halfpint.stage import Stage

if TYPE_CHECKING:
    from halfpint.commands._compression import Compression

_ENDINGS = {"txt", "gz", "csv", "tsv", "tab", "json", "jsonl", "ndjson", "parquet", "raw", "tokens", "of"}


def refuse_test_split(source: str, *, below: bool = False) -> None:
    """Refuse a file or a folder that is a test split by its name.

    Args:
        below: or a folder of texts with one in it; of a folder of tables the training side alone is read.

    Raises:
        HalfpintError: it is one.
    """
    given = Path(source).expanduser()
    names = [given.name]
    if below and given.is_dir():
        names += [name for path, name in find_source(source).files if not is_code(path)]
    for name in names:
        if any(_is_test(part) for part in Path(name).parts):
            raise HalfpintError(
                "--data", wanted="text that nothing is judged by in the end", got=f"{name}, a test split by its name",
                todo="Give the training or validation text; where it is that, under another name.",
            )  # fmt: skip


def _is_test(name: str) -> bool:
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word and word not in _ENDINGS]
    return bool(words) and "test" in (words[0], words[-1])


def refuse_early(run: Compression, stages: Sequence[Stage]) -> None:
    """Refuse what a step would refuse only once those before it are done, and held text that is too short to judge by.

    Args:
        stages: as they will be made; of `--target` and `--keep`, which find theirs, none.

    Raises:
        HalfpintError: with what would do.
    """
    asked = run.asked
    model_type, objective = resolve(str(run.start.config.get("model_type")))
    if objective != CAUSAL:
        raise HalfpintError(
            str(run.start.path), wanted="a causal model", got=f"a {model_type}, a masked one",
            todo="An encoder is compressed once it is fine-tuned on a task, with that task's texts.",
        )  # fmt: skip
    if asked.target_bytes or asked.keep:
        stages = [
            Quantize(
                target_bytes=asked.target_bytes, method=asked.method, minutes=asked.minutes,
                packed=not asked.plain,
            ),
            Gguf(type=CODES),
        ]  # fmt: skip
    places = [f"step {number + 1}" for number in range(len(stages))]
    faults = faults_in_order(stages, places, run.start.kind)
    if faults:
        raise HalfpintError("halfpint compress", wanted="steps that fit together", got="; ".join(faults))
    is_reshaped = False
    for number, stage in enumerate(stages):
        if is_reshaped and isinstance(stage, Gguf) and any(isinstance(one, LowRank) for one in stages):
            raise HalfpintError(
                "--low-rank", wanted="it without --quantize for a language model", got="both",
                todo="A GGUF file has no place for two thin matrices; cut with --prune, or quantise alone.",
            )  # fmt: skip
        stage.check()
        if not is_reshaped or isinstance(stage, Gguf | LowRank):
            stage.fits(run.start)
        if isinstance(stage, Quantize) and not number and not asked.target_bytes:
            stage.check_memory(run.start)  # what is cut before it takes less
        is_reshaped = is_reshaped or isinstance(stage, Width | Hidden | LowRank)
    need_windows(run.start, run.judged)
    if asked.target_bytes or asked.keep:
        need_windows(run.start, run.held)
