"""Sessions of ONNX Runtime, opened in one way for every engine that uses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from halfpint.errors import HalfpintError, need
from halfpint.machine import cores

_MANY = 4  # inputs that are worth a second session
_SLOWER = ("SkipLayerNormFusion",)  # sums and norms in one: without it 1.1 to 1.2 times the texts in int8 (LOG.md)


class Sessions:
    """A model for single inputs, which all threads work on, and for many, each of which has a thread of its own.

    Products of a small model are too small to be shared well: two threads with a batch each are faster than two on one.

    Args:
        path: the model.
        threads: None takes one a core.
    """

    def __init__(self, path: Path, threads: int | None) -> None:
        self._path, self._threads = path, threads or cores()
        self._shared = open_session(path, self._threads)
        self._alone: Any = None

    def run(self, inputs: Sequence[Mapping[str, Any]]) -> list[Any]:
        """The first output for each of the inputs, in their order."""
        if self._threads == 1 or len(inputs) < _MANY:
            return [self._shared.run(None, one)[0] for one in inputs]
        if self._alone is None:
            self._alone = open_session(self._path, 1)
        with ThreadPoolExecutor(self._threads) as pool:
            return list(pool.map(lambda one: self._alone.run(None, one)[0], inputs))


def open_session(path: Path, threads: int | None = None) -> Any:
    """An ONNX Runtime session on the CPU.

    Raises:
        HalfpintError: ONNX Runtime does not read the file.
    """
    runtime = need("onnxruntime", "running an ONNX bundle")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or cores()
    options.inter_op_num_threads = 1
    # Idle worker threads that spin would eat the core that tokenises the next batch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(_SLOWER)
        )
    except Exception as error:
        raise HalfpintError(
            str(path),
            wanted="an ONNX model that ONNX Runtime reads",
            got=str(error)[:300],
            todo="Make the bundle again.",
        ) from error
