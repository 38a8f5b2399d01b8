"""Engines run a bundle: one file an engine, each with `load(bundle, threads)`."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from halfpint import registry
from halfpint.bundle import Bundle
from halfpint.engines._generation import Continuation, Generation, Piece, TokenScore
from halfpint.engines._prompt import as_chat, prompt_of
from halfpint.engines._reading import Reading, remembers
from halfpint.engines._schema import Follower as TextBySchema
from halfpint.engines._schema import checked as checked_schema
from halfpint.engines._scored import Done, ScoredText, unsaid
from halfpint.errors import HalfpintError, is_out_of_memory
from halfpint.lookup import task_of
from halfpint.outputs import Outputs
from halfpint.task import label_task

__all__ = [
    "Continuation", "Engine", "Generation", "LanguageEngine", "Piece", "Probabilities", "Reading", "ScoredText",
    "TextBySchema", "TokenScore", "as_chat", "checked_schema", "open_engine", "open_language_engine", "prompt_of",
    "remembers", "softmax",
]  # fmt: skip

Probabilities = npt.NDArray[np.float32]


class Engine(Protocol):
    """A loaded model that gives labels."""

    labels: tuple[str, ...]

    def probabilities(self, texts: Sequence[str]) -> Outputs:
        """Probabilities of the labels, rows summing to 1, for each text in the order given (`task.Outputs`)."""
        ...


class LanguageEngine(Protocol):
    """A loaded language model.

    Attributes:
        context: tokens that it sees at once.
    """

    context: int

    def score(self, texts: Sequence[str], done: Done = unsaid) -> Sequence[ScoredText]:
        """The score of each text; `done` is told each share of the work, which come to 1."""
        ...

    def next_words(self, context: str, top: int = 5) -> list[tuple[str, float]]:
        """The likeliest words after `context` with their probabilities, the likeliest first."""
        ...

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of `text` alone; with `special`, names of special tokens in it are those tokens.

        It may be asked for in another thread while the engine writes; so may `constraint`.
        """
        ...

    def constraint(self, schema: Mapping[str, Any]) -> object:
        """What keeps a text to a JSON schema; made once, it is at hand when that text is written.

        Raises:
            HalfpintError: the schema cannot be kept to.
        """
        ...

    def count(self, text: str) -> int:
        """The tokens of `text`."""
        ...

    def write(self, prompt: str | Sequence[int], settings: Generation) -> Iterator[Piece]:
        """What goes on from a text, or from ids, a piece for each token."""
        ...

    def generate(self, prompt: str | Sequence[int], **settings: Any) -> Iterator[str]:
        """Pieces of text that go on from `prompt`; settings are those of `Generation`."""
        ...

    def check_writes(self, what: str) -> None:
        """Refuse `what` where the model does not write on.

        Raises:
            HalfpintError: a masked model.
        """
        ...

    def best(self, prompt: str | Sequence[int], n: int, settings: Generation) -> list[Continuation]:
        """At most `n` different texts that go on from `prompt`, best first."""
        ...


def open_engine(bundle: Bundle, *, threads: int | None = None, check: bool = True) -> Engine:
    """Load `bundle`, which gives labels, with the engine that its card names.

    Args:
        bundle: an opened bundle.
        threads: threads of the engine; None takes one a physical core of this process.
        check: whether it is asked for a text, to see that it has a label for each of its outputs.

    Raises:
        HalfpintError: it does not load, or has other labels than outputs.
    """
    task = label_task(task_of(bundle), str(bundle.path))
    with _damage_told(bundle):
        engine: Engine = _load(bundle, threads)
        if check:  # what does not fit together shows here, not at the first text of a user
            outputs = engine.probabilities(["a"])
            widths = {row.shape[-1] for one in outputs for row in np.atleast_2d(one)} - {len(engine.labels)}
            if widths:
                raise HalfpintError(
                    f"{bundle.path}/config.json: id2label",
                    wanted=f"{widths.pop()} labels, one for each output of the model", got=str(len(engine.labels)),
                    todo="Make the bundle again.",
                )  # fmt: skip
            task.rows(["a"], outputs, engine.labels)
    return engine


def open_language_engine(bundle: Bundle, *, threads: int | None = None) -> LanguageEngine:
    """Load `bundle`, a language model, with the engine that its card names.

    Raises:
        HalfpintError: it is no language model.
    """
    with _damage_told(bundle):
        engine = _load(bundle, threads)
    if not hasattr(engine, "next_words"):
        raise HalfpintError(
            str(bundle.path), wanted="a language model", got=f"a bundle of the task {bundle.card.get('task')!r}",
            todo="Give a bundle that `halfpint pretrain` made.",
            said=f"{bundle.path} is not a language model: its task is {bundle.card.get('task')!r}.",
        )  # fmt: skip
    found: LanguageEngine = engine
    return found


def _load(bundle: Bundle, threads: int | None) -> Any:
    module = registry.load("engines", str(bundle.card.get("engine")), place=f"{bundle.path}/card.json: engine")
    return module.load(bundle, threads)


@contextmanager
def _damage_told(bundle: Bundle) -> Iterator[None]:
    """Turn what engines and packages say of files that do not fit together into one error.

    Raises:
        HalfpintError: with what they said.
    """
    try:
        yield
    except (HalfpintError, MemoryError):
        raise
    except Exception as error:
        if is_out_of_memory(error) or getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            raise
        said = (str(error).strip() or "nothing more").splitlines()[0][:200]
        raise HalfpintError(
            str(bundle.path), wanted=f"a model for the task {bundle.card.get('task')!r} whose files fit together",
            got=f"{type(error).__name__}: {said}", todo="Make or copy the bundle again.",
        ) from error  # fmt: skip


def softmax(logits: npt.NDArray[Any]) -> Probabilities:
    """Softmax over the last axis, in float32."""
    shifted = np.exp(logits.astype(np.float32) - logits.max(axis=-1, keepdims=True))
    result: Probabilities = shifted / shifted.sum(axis=-1, keepdims=True)
    return result
