"""Sessions of ONNX Runtime, opened in one way for every engine that uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halfpint.errors import HalfpintError, need
from halfpint.machine import cores


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
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise HalfpintError(
            str(path),
            wanted="an ONNX model that ONNX Runtime reads",
            got=str(error)[:300],
            todo="Make the bundle again.",
        ) from error
