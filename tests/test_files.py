"""The one writer: whole or not at all, with the mode that the umask or the earlier file gives, into devices as well."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from halfpint.bundle import new_bundle, open_bundle
from halfpint.errors import HalfpintError
from halfpint.files import clear_temporary, new_file, new_folder, replace_folder, write_text, written
from halfpint.models.pull_language import base_bundle
from halfpint.models.sources import locate
from halfpint.progress import Log
from halfpint.workspace import check_output, refuse_other_files


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_umask_decides_for_what_is_new(umask: int, tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "text", "a")
    with written(tmp_path / "bytes") as file:
        file.write(b"a")
    with new_folder(tmp_path / "folder") as folder:
        for name in ("open", "private"):
            write_text(folder / name, "a")
        (folder / "private").chmod(0o600)  # as packages do that write to a temporary file of their own
        (folder / "below").mkdir(0o700)
    for path in ("new/text", "bytes", "folder/open", "folder/private"):
        assert mode(tmp_path / path) == 0o666 & ~umask, path
    for path in ("new", "folder", "folder/below"):
        assert mode(tmp_path / path) == 0o777 & ~umask, path


def test_a_bundle_is_readable_by_who_may_read_its_folder(umask: int, tmp_path: Path) -> None:
    with new_bundle(tmp_path / "bundle") as (folder, _):
        (folder / "model.safetensors").touch(0o600)
    assert {mode(path) for path in (tmp_path / "bundle").iterdir()} == {0o666 & ~umask}
    assert mode(tmp_path / "bundle") == 0o777 & ~umask


@pytest.mark.parametrize("before", [0o600, 0o640, 0o664])
def test_a_file_keeps_its_mode(before: int, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.touch()
    path.chmod(before)
    write_text(path, "new")
    assert (mode(path), path.read_text(encoding="utf-8")) == (before, "new")


def test_a_file_with_another_name_keeps_its_mode_too(tmp_path: Path) -> None:
    """Weights of a base model are linked into bundles, not copied."""
    (tmp_path / "weights").touch(0o600)
    with new_folder(tmp_path / "folder") as folder:
        os.link(tmp_path / "weights", folder / "weights")
    assert mode(tmp_path / "weights") == 0o600


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("old", encoding="utf-8")
    (tmp_path / "link").symlink_to("real/file")
    (tmp_path / "out").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "file").read_text(encoding="utf-8") == "new"
    with new_folder(tmp_path / "out") as folder:
        write_text(folder / "other", "a")
    assert (tmp_path / "out").is_symlink() and [path.name for path in (tmp_path / "real").iterdir()] == ["other"]


def test_devices_and_pipes_are_written_into(tmp_path: Path) -> None:
    write_text(Path(os.devnull), "nothing keeps it")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write_text(pipe, "through")
    reader.join(60)
    assert found == [b"through"] and stat.S_ISFIFO(pipe.stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_device_stays_one(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "full", "a")
    assert stat.S_ISCHR((tmp_path / "full").stat().st_mode) and (tmp_path / "full").is_symlink()


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    with new_folder(tmp_path / "folder") as folder:
        write_text(folder / "old", "old")
    with pytest.raises(ZeroDivisionError), new_file(tmp_path / "file") as scratch:
        scratch.write_text("half", encoding="utf-8")
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "folder") as folder:
        write_text(folder / "new", "half")
        raise ZeroDivisionError
    assert (tmp_path / "file").read_text(encoding="utf-8") == "old" and (tmp_path / "folder" / "old").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("swaps", [True, False])
def test_a_folder_takes_the_place_of_another(swaps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one step where the system can, in two where it cannot."""
    if not swaps:
        monkeypatch.setattr("halfpint.files._swapped", lambda one, other: False)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["old", "old/new"]


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    """And nothing of another one."""
    out, leaves = tmp_path / "out", []
    for target in (out, out / "file", tmp_path / "out-2"):
        writer = new_folder(target)
        leaves.append(writer.__enter__())
    clear_temporary(out)
    assert [path.exists() for path in leaves] == [False, False, True]


def test_names_that_are_long_or_no_utf8(tmp_path: Path) -> None:
    for name in ("é" * 120 + ".csv", os.fsdecode(b"caf\xe9.csv")):
        write_text(tmp_path / name, f"a {name[:8]}")
        assert (tmp_path / name).is_file()


def test_names_of_models_and_results_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    for use in (
        open_bundle,
        lambda name: locate(name, Log(quiet=True)),
        lambda name: base_bundle(name, tmp_path, Log(quiet=True)),
        lambda name: refuse_other_files(Path(name), force=True),
        lambda name: check_output(Path(name), {}, force=True),
    ):
        with pytest.raises(HalfpintError, match=r"caf\\udce9 is not in UTF-8\. Rename"):
            use(name)
    assert not list(tmp_path.iterdir())
