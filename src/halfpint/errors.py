"""What halfpint says when something is wrong: one message with the place, what was wanted, what was got, what to do."""

from __future__ import annotations

import difflib
import errno
import importlib
import importlib.util
from collections.abc import Iterable
from types import ModuleType

EXIT_BAD_INPUT = 2
EXIT_INFEASIBLE = 3
EXIT_FAULT = 70  # in halfpint itself: EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

DISK_FAULTS = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY,
    errno.ENAMETOOLONG, errno.ENOENT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EBUSY, errno.EXDEV,
    errno.ELOOP, errno.EPERM, errno.ESTALE,
)  # fmt: skip
"""Numbers of the file system's errors that a person can do something about."""

# import name -> (name on the package index, the extra that brings it)
_EXTRAS = {
    "torch": ("torch", "train"),
    "transformers": ("transformers", "train"),
    "sklearn": ("scikit-learn", "train"),
    "scipy": ("scipy", "train"),
    "cleanlab": ("cleanlab", "train"),
    "pyarrow": ("pyarrow", "train"),
    "datasets": ("datasets", "train"),
    "onnx": ("onnx", "train"),
    "safetensors": ("safetensors", "train"),
    "huggingface_hub": ("huggingface_hub", "train"),
    "gguf": ("gguf", "gguf"),
    "constriction": ("constriction", "gguf"),
    "xllamacpp": ("xllamacpp", "gguf"),
    "jinja2": ("jinja2", "gguf"),
    "llguidance": ("llguidance", "gguf"),
    "python_calamine": ("python-calamine", "excel"),
    "compressed_tensors": ("compressed-tensors", "compressed-tensors"),
}


class HalfpintError(Exception):
    """An error a person can act on.

    Args:
        place: where it happened: a file and row, a flag, a setting.
        wanted: what was expected there.
        got: what was found instead.
        todo: what to do about it.
        said: the same as a sentence, for what people meet often; without it the parts are put together.
    """

    exit_code = EXIT_BAD_INPUT
    form = "{place}: expected {wanted}, got {got}."

    def __init__(self, place: str, *, wanted: str, got: str, todo: str = "", said: str = "") -> None:
        self.place, self.wanted, self.got, self.todo = place, wanted, got, todo
        self.said = said or self.form.format(place=place, wanted=wanted, got=got)
        super().__init__(self.said + (f" {todo}" if todo else ""))


class SettingError(HalfpintError):
    """A setting has a value that it cannot have."""

    form = "{place} must be {wanted}, not {got}."


class DamagedError(HalfpintError):
    """A file of ours is cut off, or not as it was written: what made it can be done again."""


class RefusedError(HalfpintError):
    """A step gave a result that its gate does not let through; the message holds the figures."""


class TrainingStoppedError(HalfpintError):
    """Training stopped by itself (loss not finite or exploding); the last good checkpoint is kept."""


class DeadlineError(HalfpintError):
    """The time given to a step ran out before it had a usable result."""


def no_path(source: str, wanted: str, todo: str = "") -> HalfpintError:
    """There is nothing at a path; `wanted` is what could have been there."""
    return HalfpintError(
        source, wanted=wanted, got="no such path", todo=todo, said=f"There is no file or folder {source}."
    )


def no_rows(place: str, what: str = "has no rows") -> HalfpintError:
    """There is nothing to read in a table or text."""
    return HalfpintError(place, wanted="rows", got=f"what {what}", said=f"{place} {what}.")


def unreadable(place: str, why: str, todo: str = "") -> HalfpintError:
    """The system does not let a file be read."""
    return HalfpintError(
        place, wanted="a readable file or folder", got=why, todo=todo, said=f"{place} cannot be read: {why}."
    )


def damaged_gzip(place: str, error: Exception) -> HalfpintError:
    """A .gz file is cut off or is none."""
    said = f"{place} is damaged: it is not a whole gzip file ({error})."
    todo = "Download or copy it again."
    return HalfpintError(place, wanted="a whole gzip file", got=f"a damaged one ({error})", todo=todo, said=said)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or of a package says that there was no memory left."""
    said = str(error).lower()
    words = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "bad_alloc")
    return isinstance(error, MemoryError) or any(word in said for word in words)


def nearest(name: str, options: Iterable[str], otherwise: str = "") -> str:
    """A sentence with the nearest of `options` to `name`; when none is near `otherwise`, or all of them."""
    options = [str(option) for option in options]
    match = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if not match:
        lowered = {option.lower(): option for option in options}
        match = [lowered[hit] for hit in difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)]
    if match:
        return f"Did you mean {match[0]!r}?"
    if otherwise:
        return otherwise
    shown = ", ".join(options[:20]) + (", …" if len(options) > 20 else "")
    return f"There is: {shown}." if options else ""


def need(package: str, what: str) -> ModuleType:
    """Import `package`, or say which extra brings it; `what` is the thing that needs it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise _missing(package, what, f" ({error})") from error


def need_installed(package: str, what: str) -> None:
    """Raise as `need` does where `package` is not installed, without the seconds that importing it may take."""
    try:
        found = importlib.util.find_spec(package)
    except ImportError:
        found = None
    if found is None:
        raise _missing(package, what)


def _missing(package: str, what: str, why: str = "") -> HalfpintError:
    name, extra = _EXTRAS.get(package.split(".", maxsplit=1)[0], (package, "train"))
    return HalfpintError(
        what,
        wanted=f"the package {name}",
        got=f"an installation without it{why}",
        said=f"The package {name} is not installed{why}; it is needed for {what}.",
        todo=f"Install it with: pip install 'halfpint[{extra}]'",
    )
