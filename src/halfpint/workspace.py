"""Where a command works and what it leaves: OUT, the unfinished work, errors of the disk, the energy that was spent.

A command that makes one bundle works beside OUT, in the folder OUT.unfinished, and moves the bundle there once it is
whole (`open_workspace`). One that tries several (`fit`, `run`) works inside OUT and leaves the best one there.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfpint.bundle import CARD, REPORTS, Bundle, open_bundle, other_files, write_json
from halfpint.energy import energy_spent
from halfpint.errors import DISK_FAULTS, HalfpintError, SettingError
from halfpint.files import clear_temporary, locked, new_folder, refuse_unreadable_name
from halfpint.machine import available_disk_bytes, cpu_model, describe
from halfpint.progress import Log

REQUEST, REPORT, EVENTS = "request.json", "report.json", "events.jsonl"
OURS = ("best", "strongest", "work", "plan.json", "recipe.toml", REPORT, "report.html", EVENTS, REQUEST)
UNFINISHED = ".unfinished"
_TOOK_LONG = (CARD, "checkpoint")  # what is worth going on from
_LEAST_FREE = 200_000_000
_MADE = re.compile(r"(unfinished-)?[\w-]+-[0-9a-f]{12}(\..+)?|data|corpus|base|teacher|\.halfpint-.+")
"""Names in the folder `work` of a run: what stages make and measure, data, base models."""


@dataclass
class Workspace:
    """The folders of one run of a command.

    Attributes:
        out: what it leaves.
        folder: where it works.
        log: where it says what it does; its events go to `events` once `begin` was called.
    """

    out: Path
    folder: Path
    log: Log

    @property
    def events(self) -> Path:
        """The events of all parts of the run."""
        return self.folder / EVENTS

    def begin(self) -> None:
        """Make the folder to work in and write events there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log.events = self.events

    def spent(self) -> dict[str, Any]:
        """ "seconds", "energy" and "machine" of all parts of the run, between interruptions, for its report."""
        energy = energy_spent(self.events)
        kept = {name: energy[name] for name in ("wh", "co2e_g", "source") if name in energy}
        return {"machine": describe(), "seconds": round(energy.get("seconds", 0.0), 1), "energy": kept}

    def finish(self, bundle: Bundle, report: Mapping[str, Any]) -> dict[str, Any]:
        """Put the bundle into OUT with its report beside it; gives the report, with what the run took."""
        whole = {**report, "bundle": str(self.out), **self.spent()}
        with new_folder(self.out) as folder:
            shutil.copytree(bundle.path, folder, dirs_exist_ok=True)
            write_json(folder / REPORTS[0], whole)
        return whole

    def clear(self) -> None:
        """Remove the folder that it worked in."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _has(self, names: Sequence[str]) -> bool:
        """Whether a stage left one of `names`: what was pulled to begin with is a folder deeper."""
        return any(any(self.folder.glob(f"{below}{name}")) for name in names for below in ("", "*/"))


@contextmanager
def open_workspace(
    out: Path, log: Log, *, force: bool, folder: Path | None = None, keep: Sequence[str] = (), lock: bool = True
) -> Iterator[Workspace]:
    """A workspace for one bundle at `out`; what is unfinished stays, and the same command goes on from there.

    What a failure leaves that took no time is removed again, if it was not there before.

    Args:
        force: replace a bundle that is there.
        keep: names of files that took long too.
        folder: where to work; None takes OUT.unfinished.
        lock: keep other runs away; of several processes of one run the first does it.

    Raises:
        HalfpintError: `out` holds something else, another run works on it, or the disk does not do.
    """
    space = Workspace(out, folder or out.with_name(out.name + UNFINISHED), log)
    if out.absolute() in (space.folder.absolute(), *space.folder.absolute().parents):
        raise SettingError("--work", wanted="a folder outside --out, which is replaced", got=str(space.folder))
    with disk_errors(out), locked(out) if lock else nullcontext():
        refuse_other_files(out, force=force)
        if lock:
            clear_temporary(out)
            clear_temporary(space.folder)
        fresh, before = not space.folder.exists(), log.events
        try:
            yield space
        except HalfpintError:
            if fresh and not space._has((*_TOOK_LONG, *keep)):
                space.clear()
            raise
        finally:
            log.events = before


def check_output(folder: Path, request: Mapping[str, Any], *, force: bool, free_bytes: int = _LEAST_FREE) -> bool:
    """Whether an unfinished run of the same request is in `folder`, to be resumed. Nothing is written.

    Raises:
        HalfpintError: the folder is not empty (and not an unfinished run of this request), `force` would replace what
            `fit` did not write, or the device has too little room.
    """
    refuse_unreadable_name(folder)
    if folder.exists() and not folder.is_dir():
        raise HalfpintError(
            f"--out {folder}",
            wanted="a folder",
            got="a file",
            todo="Give another name.",
            said=f"--out {folder} is a file; a folder is needed.",
        )
    resume = False
    if folder.is_dir() and any(folder.iterdir()) and not force:
        there = request_in(folder)
        if there is not None and "task" in request:
            there = {"task": request["task"], **there}  # runs that did not keep its name yet go on
        resume = bool(there == _plain(request) and not (folder / REPORT).exists())
        if not resume:
            got = "a finished run" if (folder / REPORT).exists() else "files of something else"
            if isinstance(there, dict) and not (folder / REPORT).exists():
                changed = sorted(key for key in {*there, *request} if there.get(key) != _plain(request).get(key))
                got = f"the unfinished run of another request (other: {', '.join(changed)})"
            raise HalfpintError(
                f"--out {folder}", wanted="an empty or new folder", got=f"one that holds {got}",
                todo="Give another --out, or --force to replace what halfpint wrote there.",
                said=f"The folder {folder} is not empty: it holds {got}.",
            )  # fmt: skip
    if force and folder.is_dir():
        _refuse_to_replace(folder)
    _need_room(folder, free_bytes)
    return resume


def request_in(folder: Path) -> dict[str, Any] | None:
    """The request of the run that wrote a folder, None where no run of ours did."""
    try:
        there = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return there if isinstance(there, dict) and "halfpint" in there else None


def _refuse_to_replace(folder: Path) -> None:
    """Refuse a folder of which `force` would remove what no run of ours wrote.

    Raises:
        HalfpintError: with the first file that is somebody else's.
    """
    theirs = [name for name in OURS if os.path.lexists(folder / name)]
    # A run writes its request first, and --force removes it last.
    if not theirs or request_in(folder) is not None:
        theirs = [f"work/{path.name}" for path in _entries(folder / "work") if not _MADE.fullmatch(path.name)]
        best = Bundle(folder / "best")
        theirs += [f"best/{name}" for name in (other_files(best) if (best.path / CARD).is_file() else ())]
    if theirs:
        raise HalfpintError(
            f"--out {folder}", wanted="a folder whose parts --force may replace",
            got=f"a {theirs[0]} of something else", todo="Give another --out, or move it away.",
            said=f"--force would remove {theirs[0]} in {folder}, which halfpint did not write.",
        )  # fmt: skip


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _need_room(folder: Path, free_bytes: int) -> None:
    free = available_disk_bytes(folder)
    if free < free_bytes:
        raise HalfpintError(
            f"--out {folder}", wanted=f"{free_bytes / 1e6:,.0f} MB free on the device", got=f"{free / 1e6:,.0f} MB",
            todo="Make room or give another --out.",
            said=f"There is too little room for {folder}: {free / 1e6:,.0f} MB are free, and {free_bytes / 1e6:,.0f} "
            "MB are needed.",
        )  # fmt: skip


def refuse_other_files(out: Path, *, force: bool) -> None:
    """Refuse a folder to write a bundle to that holds anything, unless that is a bundle and `force` is given; and a
    device without room.

    Raises:
        HalfpintError: with what is there.
    """
    refuse_unreadable_name(out)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (force and (out / CARD).is_file()))):
        todo = "Give another --out, or --force." if (out / CARD).is_file() else "Give another --out."
        got = "a bundle that is there" if (out / CARD).is_file() else "other files"
        raise HalfpintError(
            f"--out {out}", wanted="a new or empty folder", got=got, todo=todo, said=f"{out} exists already: {got}."
        )
    others = other_files(Bundle(out)) if (out / CARD).is_file() else []
    if others:
        raise HalfpintError(
            f"--out {out}", wanted="a bundle and nothing else, which --force may replace", got=f"{others[0]} besides",
            todo="Move it away, or give another --out.",
            said=f"--force would remove {others[0]} in {out}, which halfpint did not write.",
        )  # fmt: skip
    _need_room(out, _LEAST_FREE)


def open_output(folder: Path, request: Mapping[str, Any], *, force: bool, free_bytes: int = _LEAST_FREE) -> bool:
    """Make `folder` ready for `request`; gives whether an unfinished run of the same request is there to be resumed.

    With `force` what halfpint wrote there before goes; other files stay.

    Raises:
        HalfpintError: as `check_output`, or the folder cannot be written.
    """
    resume = check_output(folder, request, force=force, free_bytes=free_bytes)
    try:
        for name in OURS if force else ():
            path = folder / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / REQUEST, _plain(request))
    except OSError as error:
        raise disk_error(error, folder) from None
    return resume


def _plain(request: Mapping[str, Any]) -> Any:
    """The request as its file holds it."""
    return json.loads(json.dumps(request, sort_keys=True))


def disk_error(error: OSError, folder: Path) -> HalfpintError:
    """What to say of an error of the file system."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HalfpintError(
            str(error.filename or folder), wanted="room on the device", got="none left",
            todo="What was written before stays whole. Make room and give the same command again: it resumes.",
            said=f"There is no room left on the device of {os.fsdecode(error.filename or folder)}.",
        )  # fmt: skip
    place, todo = error.filename or folder, ""
    if error.errno == errno.EFBIG:
        todo = "Files may not be as large as that here: see `ulimit -f`."
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        todo = "Too few files may be open at once: see `ulimit -n`."
    elif error.errno == errno.ENOENT and not Path(os.fsdecode(place)).parent.exists():
        todo = "Was it removed while halfpint worked there? Give the same command again."
    return HalfpintError(
        os.fsdecode(place),
        wanted="to read or write there",
        got=error.strerror or str(error),
        todo=todo,
        said=f"{os.fsdecode(place)} cannot be read or written: {(error.strerror or str(error)).lower()}.",
    )


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the file system into ones that say what to do."""
    try:
        yield
    except HalfpintError:
        raise
    except Exception as error:
        # Packages written in Rust (safetensors) have exceptions of their own, with the number in their text.
        number = re.search(r"\(os error (\d+)\)", str(error))
        found = error if isinstance(error, OSError) else OSError(int(number[1]) if number else None, str(error))
        if isinstance(error, OSError) and error.errno is None and re.search(r"requested and \d+ written", str(error)):
            found = OSError(errno.ENOSPC, "")  # NumPy's words for a write that was cut short
        if found.errno in DISK_FAULTS:
            raise disk_error(found, folder) from error
        raise


def write_figures(
    bundle: Path,
    primary: str,
    validation: Mapping[str, Any],
    test: Mapping[str, Any],
    data: str,
    metrics: Sequence[str],
) -> None:
    """Tell in a bundle's card how it did.

    Args:
        validation: "metrics" and the "interval" of the primary one, which are not told where it was "learned_from".
        test: what `evaluate` gives.
        data: the hash of what was learned from.
        metrics: of the test that are written.
    """
    card = dict(open_bundle(bundle).card)
    told = ("rows", *metrics, "interval", "latency_p50_ms", "texts_per_s")
    chosen_by = {primary: validation["metrics"][primary], "interval": validation["interval"]}
    card["figures"] = {
        "validation": None if validation.get("learned_from") else chosen_by,
        "test": {key: test[key] for key in told},
        "energy_wh_per_1000": test["energy_wh_per_1000"],
        "energy_source": test["energy_source"],
        "data": data,
        "machine": cpu_model(),
    }
    write_json(bundle / CARD, card)


def copy_bundle(source: Path, target: Path) -> None:
    """Copy a bundle's folder whole or not at all."""
    with new_folder(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
