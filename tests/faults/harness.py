"""Accidents on purpose: tiny runs that are killed, limited, robbed of their folder or of room on the disk, and doubled,
and then typed again.

Whatever happens, a command ends with a clear error or not at all, loses nothing, and finishes when the same line is
typed again, with the same model. `make faults` runs all of it; a short form is part of the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TICKETS = ROOT / "examples" / "tickets.csv"
PATIENCE_S = 600
DEVICE = "240m"  # of memory: a command begins where 200 MB are free
CLEAR = (0, 2)  # exit codes of a run that met an accident: it did without what was missing, or said what was
LIMITS: Mapping[str, tuple[int, int]] = {
    "file size": (resource.RLIMIT_FSIZE, 6_000), "open files": (resource.RLIMIT_NOFILE, 14),
    "memory": (resource.RLIMIT_AS, 700_000_000),
}  # fmt: skip
TEXT = ("--text", "text")
TINY = ("--size", "200K", "--vocab", "300", "--context", "32", "--tokens", "20K", "--as-it-is")


@dataclass(frozen=True)
class Life:
    """One command line that makes something at `out`.

    Attributes:
        words: what is typed, without --out.
    """

    words: tuple[str, ...]
    folder: Path

    @property
    def out(self) -> Path:
        """The folder that it writes."""
        return self.folder / "out"

    def start(self, limit: tuple[int, int] | None = None) -> subprocess.Popen[str]:
        """The command as a process, in a group of its own, with a limit of the system."""
        words = [sys.executable, "-m", "halfpint", *self.words, "--out", str(self.out)]
        if limit:
            code = f"import os, resource, sys; resource.setrlimit({limit[0]}, ({limit[1]},) * 2); "
            words = [sys.executable, "-c", f"{code}os.execv(sys.argv[1], sys.argv[1:])", *words]
        return subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )  # fmt: skip

    def finish(self, reference: Mapping[str, str] | None, what: str) -> dict[str, str]:
        """Type it (again) until its end, which has to be that of an undisturbed run; gives the model's files."""
        done = self.start()
        _, told = done.communicate(timeout=PATIENCE_S)
        was_done = "a bundle that is there" in told or "a finished run" in told
        assert done.returncode == 0 or (done.returncode == 2 and was_done), f"{what}: {done.returncode}: {told}"
        found = model_in(self.out)
        assert reference is None or found == reference, f"{what}: another model: {found} for {dict(reference)}"
        left = [path.name for path in self.folder.iterdir() if path.name not in ("out", "out.unfinished")]
        assert not left, f"{what}: left behind: {left}"
        return found

    def clear(self) -> None:
        """Take away all that it wrote."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def model_in(out: Path) -> dict[str, str]:
    """The hashes of the model's files in what a command wrote, by name; each is checked."""
    from halfpint.bundle import open_bundle

    bundle = open_bundle(out / "best" if (out / "best").is_dir() else out)
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))
    return {name: sha for name, sha in bundle.card["files"].items() if name != "README.md"}


def ended(running: subprocess.Popen[str], what: str) -> str:
    """The end of a run that met an accident: clear words, no traceback; gives them."""
    _, told = running.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in told, f"{what}: {told}"
    assert running.returncode in CLEAR, f"{what}: exit code {running.returncode}: {told}"
    assert running.returncode == 0 or "error: " in told, f"{what}: {told}"
    return told


def killed(life: Life, after_s: float) -> None:
    """End it by force after some seconds, with all its children."""
    running = life.start()
    try:
        running.wait(after_s)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
    running.communicate(timeout=PATIENCE_S)


def robbed(life: Life, after_s: float) -> None:
    """Remove its folders while it runs."""
    running = life.start()
    time.sleep(after_s)
    for folder in (life.out, life.out.with_name("out.unfinished")):
        shutil.rmtree(folder, ignore_errors=True)
    ended(running, f"robbed after {after_s:.2f} s")
    if running.returncode:
        shutil.rmtree(life.out, ignore_errors=True)  # what it wrote after its folder was gone


def doubled(life: Life) -> None:
    """Type it twice: the second is refused with the number of the first, which finishes."""
    first = _begun(life, lambda: any(lock.stat().st_size for lock in life.folder.glob(".halfpint-*.lock")))
    os.kill(first.pid, signal.SIGSTOP)  # it is quick: it must not end before the second one looks
    second = life.start()
    told = ended(second, "doubled")
    os.kill(first.pid, signal.SIGCONT)
    assert second.returncode == 2 and f"process {first.pid} works on" in told, told
    ended(first, "the first of two")
    assert first.returncode == 0


def disk_full(name: str, life: Life, reference: Mapping[str, str]) -> str:
    """Fill its device while it runs, then make room; gives what came of it, or why it could not be tried.

    The device is one of its own in memory, which root may mount, and others in a name space of their own.
    """
    inside = ["unshare", "-rm", sys.executable, __file__, name, "--only-full", json.dumps(dict(reference))]
    for words in (["mount", "-t", "tmpfs", "-o", f"size={DEVICE}", "tmpfs", str(life.folder)], inside):
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        except FileNotFoundError as error:
            done = subprocess.CompletedProcess(words, 127, "", str(error))
        if done.returncode == 0:
            return _filled(life, reference) if words is not inside else done.stdout.strip()
        assert "AssertionError" not in done.stderr, done.stderr
    return f"no full disk was tried: {(done.stderr.strip() or 'no device of its own').splitlines()[-1]}"


def _filled(life: Life, reference: Mapping[str, str]) -> str:
    ballast = life.folder / "ballast"
    try:
        running = _begun(life, lambda: life.out.exists() or life.out.with_name("out.unfinished").exists())
        os.kill(running.pid, signal.SIGSTOP)
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass
        os.kill(running.pid, signal.SIGCONT)
        told = ended(running, "disk full")
        assert running.returncode == 2 and "There is no room left on the device" in told, told
        ballast.unlink()
        life.finish(reference, "disk full")
    finally:
        subprocess.run(["umount", "-l", str(life.folder)], check=False)
    return "disk full, and finished"


def _begun(life: Life, has_begun: Callable[[], bool]) -> subprocess.Popen[str]:
    """The command as a process that has begun."""
    first, end = life.start(), time.monotonic() + PATIENCE_S
    while not has_begun():
        assert first.poll() is None and time.monotonic() < end, first.communicate()[1]
        time.sleep(0.005)
    return first


def lives(folder: Path, names: Sequence[str]) -> dict[str, Callable[[], Life]]:
    """The command lines by name; those that need a model have one made."""

    def life(name: str, *words: str) -> Life:
        (folder / name).mkdir()
        return Life(words, folder / name)

    def on_a_model(name: str, *words: str) -> Life:
        teacher = folder / "teacher"
        if not teacher.is_dir():
            teacher.mkdir()
            Life(("pretrain", str(TICKETS), *TEXT, *TINY), teacher).finish(None, "teacher")
        model = str(teacher / "out")
        return life(name, *(model if word == "MODEL" else word for word in words))

    known: dict[str, Callable[[], Life]] = {
        "ngram": lambda: life("ngram", "pretrain", str(TICKETS), *TEXT, "--arch", "ngram", "--order", "2"),
        "fit": lambda: life("fit", "fit", str(TICKETS), "--base", "none"),
        "pretrain": lambda: life("pretrain", "pretrain", str(TICKETS), *TEXT, *TINY),
        "distil": lambda: on_a_model(
            "distil", "distil", "MODEL", str(TICKETS), *TEXT, "--student", "layers=1", "--tokens", "10K"
        ),
        "compress": lambda: on_a_model(
            "compress", "compress", "MODEL", "--data", str(TICKETS), *TEXT, "--quantize", "8", "--method", "round"
        ),
    }
    return {name: known[name] for name in names}


def try_all(
    name: str, life: Life, moments: int, seed: int, limits: Sequence[str], say: Callable[[str], None]
) -> None:  # fmt: skip
    """Everything that may happen to one command."""
    started = time.monotonic()
    reference = life.finish(None, "undisturbed")
    took = time.monotonic() - started
    say(f"undisturbed: {took:.1f} s")
    random_ = random.Random(seed)
    for moment in sorted(random_.uniform(0.15, 1.0) * took for _ in range(moments)):
        life.clear()
        killed(life, moment)
        life.finish(reference, f"killed after {moment:.2f} s")
        say(f"killed after {moment:.2f} s and finished")
    for moment in sorted(random_.uniform(0.3, 0.95) * took for _ in range(max(1, moments // 5))):
        life.clear()
        robbed(life, moment)
        life.finish(reference if life.out.is_dir() else None, f"robbed after {moment:.2f} s")
        say(f"robbed after {moment:.2f} s and finished")
    for limit in limits:
        life.clear()
        if limit == "memory":  # numerical libraries end the process themselves: all that matters is what is left
            assert "Traceback" not in life.start(LIMITS[limit]).communicate(timeout=PATIENCE_S)[1]
        else:
            ended(life.start(LIMITS[limit]), f"little {limit}")
        life.finish(reference, f"little {limit}")
        say(f"little {limit}, and finished")
    life.clear()
    say(disk_full(name, life, reference))
    life.clear()
    doubled(life)
    life.finish(reference, "doubled")
    say("doubled")


def main() -> None:
    """Run the harness over some commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lives", nargs="*", default=["ngram", "fit", "pretrain", "distil", "compress"])
    parser.add_argument("--moments", type=int, default=20, help="kills per command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-full", metavar="JSON", help="fill the disk alone; the files that come of an end")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="halfpint-faults-") as folder:
        for name, make in lives(Path(folder), asked.lives).items():
            life = make()
            if asked.only_full:
                print(disk_full(name, life, json.loads(asked.only_full)))
                return
            try_all(name, life, asked.moments, asked.seed, tuple(LIMITS), partial(print, f"{name}:", flush=True))
            shutil.rmtree(life.folder)


if __name__ == "__main__":
    main()
