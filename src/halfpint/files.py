"""Files and folders, written whole or not at all: every one that halfpint leaves behind is written by this.

What is new gets the mode that the umask gives, what is replaced keeps its own. A link is followed, and what is no
regular file (a device, a pipe) is written straight into. What is moved into place is on the disk before it is.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import IO

from halfpint.errors import HalfpintError

try:
    import fcntl as _fcntl
except ImportError:  # a system without locks of this kind: two runs at once are not noticed there
    _locks: ModuleType | None = None
else:
    _locks = _fcntl

_PREFIX = ".halfpint-"  # of names that nobody gave
_NAME = 40  # characters of the name that a temporary one is for: names have 255 bytes at most
_STREAMS = re.compile(r"/dev/std(out|err)|/(dev|proc/self)/fd/\d+")
_SWAP, _HERE = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of Linux
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_held: ContextVar[frozenset[Path]] = ContextVar("_held", default=frozenset())
"""What is locked around here: a part of a command may ask again for what the command has, another thread may not."""


def at_home(name: str) -> str:
    """A path, or a name that may be one, with ~ at its beginning as the home folder."""
    try:
        return str(Path(name).expanduser()) if name.startswith("~") else name
    except RuntimeError:  # no such user: a folder of that name
        return name


def is_temporary(path: Path) -> bool:
    """Whether it is a temporary file or folder of a writer: of one that still writes, or of one that was killed."""
    return path.name.startswith(_PREFIX)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """The name under which to write the file `path`, for who writes by name; on leaving it is moved into place.

    When the body raises, an earlier file of that name is as it was.
    """
    if _is_stream(path):
        yield path
        return
    place = Path(os.path.realpath(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    scratch = _temporary(place)
    os.close(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        mode = stat.S_IMODE((place if place.exists() else scratch).stat().st_mode)
        yield scratch
        scratch.chmod(mode)  # again: packages that write by name may give it another one
        _to_disk(scratch)
        os.replace(scratch, place)
        _to_disk(place.parent)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """The file `path` to write bytes into; it appears once the body is done."""
    with new_file(path) as scratch, scratch.open("wb") as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, in UTF-8.

    Half of a surrogate pair, which stands in names of files that are no UTF-8, is written as JSON's escape for it.
    """
    with written(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill that takes the place of `target` on leaving; when the body raises nothing is left of it."""
    place = Path(os.path.realpath(target))
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = _temporary(place)
    folder.mkdir()
    try:
        yield folder
        replace_folder(folder, place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace_folder(source: Path, target: Path) -> None:
    """Move folder `source`, whose files are all ours, to `target`, taking the place of what is there."""
    target = Path(os.path.realpath(target))
    settle(source)
    if not target.exists():
        os.replace(source, target)
    elif _swapped(source, target):
        shutil.rmtree(source, ignore_errors=True)
    else:
        old = _temporary(target)
        os.replace(target, old)
        os.replace(source, target)
        shutil.rmtree(old, ignore_errors=True)
    _to_disk(target.parent)


def settle(folder: Path) -> None:
    """Give all files in a folder the mode of new ones, whatever wrote them, and see that they are on the disk."""
    probe = folder / f"{_PREFIX}mode"
    probe.mkdir()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.rmdir()
    for path in (*folder.rglob("*"), folder):
        about = path.lstat()
        # A file of several names is also somebody else's: its mode stays.
        if stat.S_ISDIR(about.st_mode) or (stat.S_ISREG(about.st_mode) and about.st_nlink == 1):
            wanted = mode if stat.S_ISDIR(about.st_mode) else mode & 0o666
            if stat.S_IMODE(about.st_mode) != wanted:
                path.chmod(wanted)
        if not stat.S_ISLNK(about.st_mode):
            _to_disk(path)


def clear_temporary(target: Path) -> None:
    """Remove what writers of `target` that were killed left beside it, and in it; nobody may be writing there."""
    ours = re.compile(re.escape(f"{_PREFIX}{target.name[:_NAME]}-") + "[0-9a-f]{16}")
    left = [path for path in _entries(target.parent) if ours.fullmatch(path.name)]
    if target.is_dir():
        left += [path for folder in (target, *_entries(target)) for path in _entries(folder) if is_temporary(path)]
    for path in left:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else _removed(path)


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Let no other process work on `target` meanwhile; the lock ends with the process, however that ends.

    Raises:
        HalfpintError: another one does; the message has its number.
    """
    place = Path(os.path.realpath(target))
    if place in _held.get() or _is_stream(place):
        yield
        return
    made = [folder for folder in (place.parent, *place.parent.parents) if not folder.exists()]
    file = place.with_name(f"{_PREFIX}{place.name[:_NAME]}.lock")
    handle, before = None, _held.get()
    try:
        handle = _lock(place, file)
        _held.set(before | {place})
        yield
    finally:
        _held.set(before)
        if handle is not None:
            _removed(file)  # before it is let go: who waits for it then makes a new one
            os.close(handle)
        for folder in made:
            with suppress(OSError):  # what is not empty stays
                folder.rmdir()


def _lock(place: Path, file: Path) -> int | None:
    """The descriptor that holds the lock, None where the system has no such thing."""
    while _locks is not None:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            if not place.is_dir():
                return None  # what cannot be written is refused by who writes
            handle = os.open(place, os.O_RDONLY)  # a volume: only the folder itself can be written
        try:
            _locks.flock(handle, _locks.LOCK_EX | _locks.LOCK_NB)
        except OSError as error:
            holder = "" if stat.S_ISDIR(os.fstat(handle).st_mode) else os.read(handle, 20).decode("ascii", "replace")
            os.close(handle)
            if error.errno in _NO_LOCKS:
                return None
            who = f"process {holder}" if holder.isdigit() else "another process"
            raise HalfpintError(
                str(place), wanted="an output that no other run works on", got=f"one that {who} works on",
                todo="Wait for it, stop it, or give another --out.", said=f"{place} is in use: {who} works on it.",
            ) from None  # fmt: skip
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            return handle
        with suppress(OSError):
            if os.path.samestat(os.fstat(handle), file.stat()):
                os.ftruncate(handle, 0)
                os.pwrite(handle, str(os.getpid()).encode(), 0)
                return handle
        os.close(handle)  # it was removed by who held it: begin again with a new one
    return None


def _is_stream(path: Path) -> bool:
    """Whether bytes go through it instead of staying in it: nothing can take its place."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return bool(_STREAMS.fullmatch(os.path.abspath(path))) or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _temporary(place: Path) -> Path:
    return place.with_name(f"{_PREFIX}{place.name[:_NAME]}-{secrets.token_hex(8)}")


def _swapped(one: Path, other: Path) -> bool:
    """Whether two folders changed places, in one step; False where the system cannot."""
    import ctypes

    swap = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    return swap is not None and swap(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _SWAP) == 0


def _to_disk(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # a file that its own writer may not read
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # some file systems have no such thing
            raise
    finally:
        os.close(handle)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _removed(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def refuse_unreadable_name(source: Path | str) -> None:
    """Refuse a name that no report, log or recipe could hold, and that some packages cannot open.

    Raises:
        HalfpintError: bytes in it are not UTF-8.
    """
    try:
        str(source).encode("utf-8")
    except UnicodeEncodeError:
        shown = str(source).encode("utf-8", "backslashreplace").decode("ascii", "backslashreplace")
        raise HalfpintError(
            shown,
            wanted="a file name in UTF-8",
            got="other bytes in it",
            todo="Rename the file (mv).",
            said=f"The name {shown} is not in UTF-8.",
        ) from None
