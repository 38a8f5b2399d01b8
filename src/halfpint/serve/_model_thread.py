"""A thread of its own for a model: it loads the model there and then does with it what a subclass says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Literal, TypeVar

from halfpint.progress import Log

State = Literal["loading", "ok", "failed", "stopped"]
Model = TypeVar("Model")

_STOP_WAIT_S = 2.0


class ModelThread(Generic[Model]):
    """Loads a model in a thread, so that a server answers from its first moment on.

    Args:
        load: loads the model; called in the thread.
        log: where a failed load is told.
        on_ready: called in the thread once the model is loaded.

    Attributes:
        state: "loading", then "ok" or "failed"; "stopped" after `stop`.
        model: the loaded model; None before.
        failure: why it was not loaded.
        changed: guards what the thread and others share, and tells of changes.
    """

    def __init__(self, load: Callable[[], Model], *, log: Log, on_ready: Callable[[], None] | None = None) -> None:
        self._load, self._log, self._on_ready = load, log, on_ready
        self._thread: threading.Thread | None = None
        self.changed = threading.Condition()
        self.state: State = "loading"
        self.model: Model | None = None
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Begin to load the model."""
        # A daemon, so that a model that hangs cannot keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="halfpint-model", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the call it is in; waits a few seconds for that."""
        with self.changed:
            self.state = "stopped"
            self.changed.notify_all()
        if self._thread is not None:
            self._thread.join(_STOP_WAIT_S)

    def loaded(self) -> bool:
        """Wait until the model is loaded, failed to load or was stopped; gives whether it did not fail."""
        with self.changed:
            while self.state == "loading":
                self.changed.wait()
            return self.state != "failed"

    def use(self, model: Model) -> None:
        """What the thread does with the loaded model until it is stopped."""
        raise NotImplementedError

    def _run(self) -> None:
        try:
            self.model = self._load()
        except BaseException as error:  # a panic of a Rust tokenizer is no Exception
            with self.changed:
                if self.state != "loading":
                    return
                self.state, self.failure = "failed", error
                self.changed.notify_all()
            self._log.say(f"The model was not loaded: {error}", kind="load_failed", error=type(error).__name__)
            return
        with self.changed:
            if self.state != "loading":
                return
            self.state = "ok"
            self.changed.notify_all()
        if self._on_ready is not None:
            self._on_ready()
        self.use(self.model)
