"""What opening a bundle refuses: files that are damaged, that lie elsewhere, or that nobody lists."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from halfpint.bundle import Bundle, copy_files, file_sha256, new_bundle, open_bundle, write_json
from halfpint.engines import open_engine
from halfpint.errors import HalfpintError
from halfpint.models.pull import Pull
from halfpint.models.pull_language import pull_language
from halfpint.progress import SILENT
from halfpint.stage import Work

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def changed(bundles: Callable[[str], Bundle], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a bundle in which one file is changed, its hash in the card too."""

    def make(kind: str, name: str, change: Callable[[bytes], bytes]) -> Path:
        folder = Path(shutil.copytree(bundles(kind).path, tmp_path / "changed"))
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        if name != "card.json":
            card["files"][name] = file_sha256(folder / name)
            write_json(folder / "card.json", card)
        return folder

    return make


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half": half, "empty": lambda _: b"", "zeros": lambda content: bytes(len(content)), "deep": lambda _: b"[" * 10**5,
    "levels": lambda _: b'{"a":' * 300 + b"1" + b"}" * 300,
    "object": lambda _: b"{}",
}  # fmt: skip
FILES = (
    ("linear", "model.safetensors"), ("linear", "features.txt"), ("linear", "config.json"), ("onnx-linear", "idf.npy"),
    ("onnx-linear", "features.txt"), ("onnx-linear", "config.json"), ("onnx-linear", "model.onnx"),
    ("classifier", "model.safetensors"), ("classifier", "config.json"), ("classifier", "tokenizer.json"),
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("kind", "name"), FILES)
def test_a_damaged_file_whose_hash_fits(
    kind: str, name: str, damage: str, changed: Callable[..., Path]
) -> None:  # fmt: skip
    folder = changed(kind, name, DAMAGES[damage])
    with pytest.raises(HalfpintError) as told:
        open_engine(open_bundle(folder))
    assert str(folder) in str(told.value) and len(str(told.value)) < 700


def test_labels_that_are_fewer_than_the_outputs(changed: Callable[..., Path]) -> None:
    def fewer(content: bytes) -> bytes:
        config = json.loads(content)
        del config["id2label"][str(len(config["id2label"]) - 1)]
        return json.dumps(config).encode()

    with pytest.raises(HalfpintError, match="8 labels, one for each output of the model, got 7"):
        open_engine(open_bundle(changed("onnx-linear", "config.json", fewer)))


def test_a_card_that_names_another_task(changed: Callable[..., Path]) -> None:
    folder = changed("linear", "card.json", lambda content: content.replace(b'"task": "classify"', b'"task": "tag"'))
    with pytest.raises(HalfpintError, match="a model for the task 'tag' whose files fit together"):
        open_engine(open_bundle(folder))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    with new_bundle(tmp_path / "small") as (folder, _):
        (folder / "config.json").write_text("{}", encoding="utf-8")
        (folder / "below").mkdir()
        (folder / "below" / "part.txt").touch()
    return tmp_path / "small"


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret", "below/../../secret", "..\\secret", "", ".", "below//part.txt", "a\0b", "link"]
)
def test_a_card_that_lists_what_lies_elsewhere(name: str, small: Path) -> None:
    secret = small.parent / "secret"
    secret.write_text("mine", encoding="utf-8")
    (small / "link").symlink_to(secret)
    card = json.loads((small / "card.json").read_text(encoding="utf-8"))
    card["files"][name] = file_sha256(secret)
    write_json(small / "card.json", card)
    with pytest.raises(HalfpintError, match="names of files in the bundle's folder"):
        open_bundle(small)


@pytest.mark.parametrize("name", ["chat_template.jinja", "adapter.safetensors", "below/tokenizer.json", "vocab.txt"])
def test_a_file_that_would_be_used_and_is_not_listed(name: str, small: Path) -> None:
    (small / name).write_text("{}", encoding="utf-8")
    with pytest.raises(HalfpintError, match=r"card\.json does not list it"):
        open_bundle(small)


def test_only_listed_files_are_copied(small: Path, tmp_path: Path) -> None:
    """A link in a bundle does not publish what it leads to, nor are notes of a person part of a model."""
    (tmp_path / "secret").write_text("mine", encoding="utf-8")
    (small / "notes.md").symlink_to(tmp_path / "secret")
    (small / "labels.csv").touch()
    (small / "report.html").touch()
    copy_files(open_bundle(small), tmp_path / "flat")
    copy_files(open_bundle(small), tmp_path / "whole", "conf*", nested=True)
    copies = [path for name in ("flat", "whole") for path in sorted((tmp_path / name).rglob("*"))]
    assert [path.relative_to(tmp_path).as_posix() for path in copies] == [
        "flat/config.json",
        "whole/below",
        "whole/below/part.txt",
    ]


def test_a_report_is_no_part_of_a_bundle(small: Path) -> None:
    """Bundles of version 0.1.0 may list it: deleting it, or writing it again, damages nothing."""
    card = json.loads((small / "card.json").read_text(encoding="utf-8"))
    card["files"] |= {"report.json": "0" * 64, "report.html": "0" * 64}
    write_json(small / "card.json", card)
    (small / "report.json").write_text("{}", encoding="utf-8")
    assert open_bundle(small).path == small


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_kernels_from_elsewhere(
    key: str, tiny_language: Path, tiny_encoder: Path, work: Callable[..., Work], tmp_path: Path
) -> None:  # fmt: skip
    """Base models lose their names, wherever they stand in the configuration; a bundle with one is refused."""
    for source, folder in ((tiny_language, "language"), (tiny_encoder, "encoder")):
        given = Path(shutil.copytree(source, tmp_path / folder))
        config = json.loads((given / "config.json").read_text(encoding="utf-8"))
        evil = {**config, key: "evil/kernel@main:run", "text_config": {key: "evil/kernel", "kept": [1, {"a": "b/c"}]}}
        (given / "config.json").write_text(json.dumps(evil), encoding="utf-8")
    made = (
        pull_language(str(tmp_path / "language"), tmp_path / "one", SILENT),
        Pull(base=str(tmp_path / "encoder")).run(None, work(tmp_path / "two")),
    )
    for bundle in made:
        assert "evil" not in (bundle.path / "config.json").read_text(encoding="utf-8")
        assert open_bundle(bundle.path).config["text_config"] == {"kept": [1, {"a": "b/c"}]}
    assert "evil" in (tmp_path / "language" / "config.json").read_text(encoding="utf-8"), "the source is as it was"
    write_json(made[0].path / "config.json", {**made[0].config, key: "evil/kernel"})
    card = {**made[0].card, "files": {"config.json": file_sha256(made[0].path / "config.json")}}
    write_json(made[0].path / "card.json", card)
    with pytest.raises(HalfpintError, match="runs no code from elsewhere"):
        open_bundle(made[0].path)


def test_a_link_in_a_base_model_publishes_nothing(tiny_language: Path, tmp_path: Path) -> None:
    given = Path(shutil.copytree(tiny_language, tmp_path / "given"))
    (tmp_path / "secret").write_text("mine", encoding="utf-8")
    (given / "notes.txt").symlink_to(tmp_path / "secret")
    made = pull_language(str(given), tmp_path / "made", SILENT)
    assert "notes.txt" not in made.card["files"] and not (made.path / "notes.txt").exists()


def test_the_commands_tell_of_a_damaged_bundle(
    bundles: Callable[[str], Bundle], few_rows: Callable[[int], Path], tmp_path: Path, typed: Typed
) -> None:
    table, broken = few_rows(20), Path(shutil.copytree(bundles("int8").path, tmp_path / "broken"))

    def refused(*words: object) -> str:
        code, out, err = typed(*words)
        assert code == 2 and "Traceback" not in out + err, err
        return err.splitlines()[-1]

    content = bytearray((broken / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (broken / "model.onnx").write_bytes(content)
    for words in (("predict", broken, "hello"), ("evaluate", broken, table), ("serve", broken, "--port", "0")):
        told = refused(*words)
        assert str(broken / "model.onnx") in told and "damaged or was changed" in told
    (broken / "model.onnx").unlink()
    assert "its file model.onnx is missing" in refused("predict", broken, "hello")
    (broken / "card.json").write_text("{", encoding="utf-8")
    told = refused("predict", broken, "hello")
    assert str(broken / "card.json") in told and "is damaged" in told


def test_the_commands_tell_of_a_task_that_is_not_known(
    bundles: Callable[[str], Bundle], few_rows: Callable[[int], Path], tmp_path: Path, typed: Typed
) -> None:
    with new_bundle(tmp_path / "tagger", bundles("int8")) as (folder, card):
        copy_files(bundles("int8"), folder)
        card["task"] = "ranking"
    for words in (("predict", "hello"), ("evaluate", few_rows(20)), ("serve", "--port", "0")):
        code, _, err = typed(words[0], tmp_path / "tagger", *words[1:])
        assert code == 2 and "tagger/card.json: task" in err and "'ranking'" in err
