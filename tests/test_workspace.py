"""The folders that commands write to: whose files are whose."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from halfpint.bundle import new_bundle
from halfpint.errors import HalfpintError
from halfpint.files import locked
from halfpint.progress import SILENT
from halfpint.workspace import OURS, check_output, copy_bundle, disk_errors, open_output, open_workspace

REQUEST: Mapping[str, Any] = {"halfpint": "0.1.0", "data": {"source": "x.csv"}, "seed": 0, "limits": {"keep": None}}


def test_a_new_or_empty_folder_is_made_ready(tmp_path: Path) -> None:
    assert open_output(tmp_path / "new" / "deep", REQUEST, force=False) is False
    assert json.loads((tmp_path / "new" / "deep" / "request.json").read_text(encoding="utf-8")) == REQUEST
    (tmp_path / "empty").mkdir()
    assert open_output(tmp_path / "empty", REQUEST, force=False) is False


def test_the_same_request_is_resumed_and_no_other(tmp_path: Path) -> None:
    out = tmp_path / "out"
    open_output(out, REQUEST, force=False)
    (out / "work").mkdir()
    assert check_output(out, REQUEST, force=False) is True
    assert open_output(out, REQUEST, force=False) is True
    with pytest.raises(HalfpintError, match=r"the unfinished run of another request \(other: seed\)"):
        check_output(out, {**REQUEST, "seed": 1}, force=False)
    (out / "report.json").write_text("{}", encoding="utf-8")
    with pytest.raises(HalfpintError, match=r"it holds a finished run.*--force"):
        check_output(out, REQUEST, force=False)


def test_files_of_others_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine", encoding="utf-8")
    with pytest.raises(HalfpintError, match="files of something else"):
        open_output(tmp_path, REQUEST, force=False)
    with pytest.raises(HalfpintError, match="is a file; a folder is needed"):
        open_output(tmp_path / "thesis.tex", REQUEST, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_force_replaces_ours_and_keeps_the_rest(tmp_path: Path) -> None:
    open_output(tmp_path, REQUEST, force=False)
    for found in OURS:
        path = tmp_path / found
        if found == "request.json":
            continue
        if "." in found:
            path.write_text("{}", encoding="utf-8")
        else:
            path.mkdir()
    (tmp_path / "work" / "train-majority-0123456789ab").mkdir()
    (tmp_path / "thesis.tex").write_text("mine", encoding="utf-8")
    assert open_output(tmp_path, {**REQUEST, "seed": 1}, force=True) is False
    assert sorted(path.name for path in tmp_path.iterdir()) == ["request.json", "thesis.tex"]
    assert json.loads((tmp_path / "request.json").read_text(encoding="utf-8"))["seed"] == 1


@pytest.mark.parametrize("theirs", ["work", "best", "events.jsonl"])
def test_force_replaces_nothing_in_a_folder_of_others(theirs: str, tmp_path: Path) -> None:
    """`--out . --force` in a project that happens to have a folder called work."""
    path = tmp_path / theirs
    if "." in theirs:
        path.write_text("mine", encoding="utf-8")
    else:
        path.mkdir()
        (path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(HalfpintError, match=f"would remove {theirs} in"):
        open_output(tmp_path, REQUEST, force=True)
    assert [found.name for found in tmp_path.iterdir()] == [theirs]
    assert not path.is_dir() or (path / "mine.txt").is_file()


def test_force_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine.txt").write_text("mine", encoding="utf-8")
    out = tmp_path / "out"
    open_output(out, REQUEST, force=False)
    (out / "best").symlink_to(tmp_path / "elsewhere")
    open_output(out, REQUEST, force=True)
    assert (tmp_path / "elsewhere" / "mine.txt").is_file()
    assert not (out / "best").exists()


def test_a_full_device_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(HalfpintError, match="MB are free"):
        open_output(tmp_path / "out", REQUEST, force=False, free_bytes=10**18)
    assert not (tmp_path / "out").exists()


def test_a_bundle_is_copied_whole(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "best"
    source.mkdir()
    (source / "new").write_text("new", encoding="utf-8")
    target.mkdir()
    (target / "old").write_text("old", encoding="utf-8")
    copy_bundle(source, target)
    assert [path.name for path in target.iterdir()] == ["new"]
    with pytest.raises(OSError, match="nowhere"):
        copy_bundle(tmp_path / "nowhere", target)
    assert [path.name for path in target.iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "source"]


@pytest.mark.parametrize("request_file", ["{}", "[]", "", '{"seed": 1}', "[" * 100_000])
def test_a_request_that_no_run_wrote_frees_nothing(request_file: str, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text(request_file, encoding="utf-8")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("mine", encoding="utf-8")
    for force in (True, False):
        with pytest.raises(HalfpintError, match="--out"):
            open_output(tmp_path, REQUEST, force=force)
    assert (tmp_path / "work" / "thesis.txt").is_file()


def test_force_spares_what_a_person_put_among_our_files(tmp_path: Path) -> None:
    open_output(tmp_path, REQUEST, force=False)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(HalfpintError, match=r"would remove work/thesis\.txt"):
        open_output(tmp_path, REQUEST, force=True)
    (tmp_path / "work" / "thesis.txt").unlink()
    with new_bundle(tmp_path / "best") as (folder, _):
        (folder / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "best" / "labels.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(HalfpintError, match=r"would remove best/labels\.csv"):
        open_output(tmp_path, REQUEST, force=True)
    with pytest.raises(HalfpintError, match=r"would remove labels\.csv"), open_workspace(
        tmp_path / "best", SILENT, force=True
    ):  # fmt: skip
        pass
    assert (tmp_path / "best" / "labels.csv").is_file()


def _hold(out: Path, ready: Any, end: Any) -> None:
    with open_workspace(out, SILENT, force=True) as space:
        space.begin()
        ready.set()
        end.wait(60)


@pytest.mark.parametrize("killed", [False, True])
def test_a_second_run_on_the_same_out_is_refused(killed: bool, tmp_path: Path) -> None:
    """With the number of the first one, also with force; once that ended, however, the next may."""
    context = multiprocessing.get_context("fork")
    ready, end, out = context.Event(), context.Event(), tmp_path / "deep" / "out"
    first = context.Process(target=_hold, args=(out, ready, end))
    first.start()
    assert ready.wait(60)
    for force in (False, True):
        with pytest.raises(HalfpintError, match=f"in use: process {first.pid} works on it"), open_workspace(
            out, SILENT, force=force
        ):  # fmt: skip
            pass
    assert (tmp_path / "deep" / "out.unfinished").is_dir(), "the work of the first one is as it was"
    first.kill() if killed else end.set()
    first.join(60)
    with open_workspace(out, SILENT, force=False):
        pass
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out.unfinished"]


def test_a_refused_command_leaves_nothing_though_a_base_was_pulled(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for made, stays in (("base/0123", False), ("train-x-0123", True)):
        with pytest.raises(HalfpintError, match="refused"), open_workspace(out, SILENT, force=False) as space:
            with new_bundle(space.folder / made) as (_, card):
                card["task"] = "classify"
            raise HalfpintError("here", wanted="another", got="this", todo="It is refused.")
        assert space.folder.exists() == stays


def test_work_inside_what_is_replaced_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        pytest.raises(HalfpintError, match="a folder outside --out"),
        open_workspace(out, SILENT, force=False, folder=out / "work"),
    ):
        pass


def test_a_lock_that_is_let_go_leaves_no_folders(tmp_path: Path) -> None:
    with open_workspace(tmp_path / "new" / "deep" / "out", SILENT, force=False):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EFBIG, "ulimit -f"), (errno.EMFILE, "ulimit -n"), (errno.ENOENT, "removed while"), (errno.ENOSPC, "room")],
)
def test_errors_of_the_disk_say_what_to_do(number: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(HalfpintError, match=words), disk_errors(tmp_path):
        raise OSError(number, os.strerror(number), str(tmp_path / "gone" / "file"))
    with pytest.raises(HalfpintError, match=words), disk_errors(tmp_path / "gone" / "out"):
        raise RuntimeError(f"I/O error: it says so (os error {number})")


def _locking(place: Path, ready: Any, end: Any) -> None:
    with locked(place):
        ready.set()
        end.wait(60)


def test_no_command_writes_where_another_run_works(tmp_path: Path, typed: Callable[..., tuple[int, str, str]]) -> None:
    """Each says so before it looks at anything else, and leaves what is there."""
    context = multiprocessing.get_context("fork")
    ready, end, out = context.Event(), context.Event(), tmp_path / "out.csv"
    first = context.Process(target=_locking, args=(out, ready, end))
    first.start()
    assert ready.wait(60)
    file = tmp_path / "in.csv"
    for words in (
        ("tokenizer", file, "--out", out), ("import", file, "--out", out),
        ("export", tmp_path, "--to", "arpa", "--out", out),
        ("distil", tmp_path, file, "--student", "layers=1", "--out", tmp_path / "other", "--work", out),
        ("predict", tmp_path, "--file", file, "--out", out), ("init", file, "--out", out),
        ("pretrain", file, "--out", out), ("compress", tmp_path, "--data", file, "--out", out),
    ):  # fmt: skip
        code, _, errors = typed(*words)
        assert code == 2 and f"{out} is in use" in errors, errors
        assert f"process {first.pid} works on" in errors
    assert not out.exists()
    end.set()
    first.join(60)
    assert not list(tmp_path.iterdir())


def test_a_part_of_a_command_may_ask_for_what_the_command_has(tmp_path: Path) -> None:
    with locked(tmp_path / "out"):
        with locked(tmp_path / "out"):
            pass
        assert list(tmp_path.glob(".halfpint-*.lock")), "the inner one does not let go"
        with ThreadPoolExecutor() as pool, pytest.raises(HalfpintError, match=f"process {os.getpid()} works on"):
            pool.submit(_locking, tmp_path / "out", None, None).result()
    assert not list(tmp_path.iterdir())


def test_runs_that_did_not_keep_the_name_of_their_task_go_on(tmp_path: Path) -> None:
    open_output(tmp_path, REQUEST, force=False)
    assert check_output(tmp_path, {**REQUEST, "task": "one"}, force=False) is True
    open_output(tmp_path, {**REQUEST, "task": "one"}, force=False)
    with pytest.raises(HalfpintError, match=r"another request \(other: task\)"):
        check_output(tmp_path, {**REQUEST, "task": "two"}, force=False)
