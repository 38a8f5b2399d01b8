"""Errors that people meet often are sentences, and keep their parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halfpint.errors import HalfpintError, SettingError, need
from halfpint.terminal import amount

ONE_LABEL = "text,label\nno parcel came,post\nthe parcel is late,post\n"


def test_the_parts_of_an_error_are_kept_beside_its_sentence() -> None:
    error = HalfpintError("a.csv", wanted="a file", got="none", todo="Give one.", said="There is no file a.csv.")
    assert str(error) == "There is no file a.csv. Give one."
    assert (error.place, error.wanted, error.got, error.todo) == ("a.csv", "a file", "none", "Give one.")
    plain = HalfpintError("a.csv", wanted="a file", got="none")
    assert str(plain) == plain.said == "a.csv: expected a file, got none."
    setting = SettingError("--top", wanted="1 or more", got="0", todo="Leave it out.")
    assert str(setting) == "--top must be 1 or more, not 0. Leave it out."


def test_a_missing_package_is_named_with_its_extra() -> None:
    with pytest.raises(HalfpintError, match=r"^The package none_such is not installed .*; it is needed for a test\. "
                       r"Install it with: pip install 'halfpint\[train\]'"):  # fmt: skip
        need("none_such", "a test")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("fit", "post.csv"), "There is no file or folder post.csv. Did you mean 'posts.csv'?"),
        (("fit", "empty.csv"), "empty.csv is empty."),
        (("fit", "header.csv"), "header.csv has only its header, text, label."),
        (("fit", "folder"), "There is no table in the folder folder: it is empty."),
        (("fit", "posts.csv", "--base", "none"), "posts.csv cannot be used as it is: only the label 'post', where two"),
        (("fit", "posts.csv", "--label", "lable"), "no column 'lable' for --label. Did you mean 'label'?"),
        (("fit", "posts.csv", "--minutes", "0"), "--minutes must be a number above 0, not 0."),
        (("fit", "posts.csv", "--max-size", "25XB"), "--max-size must be a size such as 25MB or 800KB, not '25XB'."),
        (("predict", "nowhere", "a"), "There is no folder nowhere. Give OUT/best of"),
        (("predict", "folder", "a"), "There is no card.json in the folder folder."),
        (("predict", "folder"), 'Give a text, such as "my card has not arrived", or --file with a table of texts.'),
        (("predict", "folder", "a", "--file", "posts.csv"), "Give texts or --file, not both."),
        (("predict", "folder", "--file", "-"), "Add --out FILE to say where the labelled rows go."),
        (("predict", "folder", "a", "--no-header"), "--no-header needs --file, not texts."),
        (("predict", "folder", "posts.csv"), "'posts.csv' is a file, not a text. Did you mean --file posts.csv?"),
        (("predict", "run", "a"), "There is no card.json in the folder run. Did you mean run/best?"),
        (("export", "run"), "There is no card.json in the folder run. Did you mean run/best?"),
        (("report", "nowhere"), "There is no folder nowhere. Give the output folder of a finished"),
        (("report", "folder"), "There is no report.json in the folder folder. Give the output folder of a finished"),
        (("fill", "folder", "a"), "There is no card.json in the folder folder."),
        (("import", "none.arpa"), "There is no file or folder none.arpa."),
        (("pretrain", "short.txt"), "short.txt has no text worth learning from: 1 × too short, of 1 document."),
        (("label", "a"), "There is no command 'label'. Did you mean predict? See: halfpint --help"),
        (("train", "a"), "There is no command 'train'. Did you mean finetune, fit or pretrain? See: halfpint --help"),
        (("classify", "a"), "There is no command 'classify'. Did you mean fit or predict? See: halfpint --help"),
        (("xyz",), "There is no command 'xyz'. See: halfpint --help"),
        (("help", "none.csv"), "There is no file 'none.csv'. Give a command first; see: halfpint --help"),
        (("serve", "folder", "--port", "99999"), "There is no card.json in the folder folder."),
        (("run", "none.toml"), "There is no file or folder none.toml. `halfpint init DATA` writes one."),
        (("pull", "none"), "There is no base model 'none': no folder, no name in the catalogue, and no Hub name"),
        (("export", "folder", "--to", "gguff", "--out", "o"), "--to must be gguf or compressed-tensors or arpa, not"),
        (("init", "posts.csv", "--out", "posts.csv"), "The file posts.csv exists already."),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_what_people_meet_is_a_sentence(
    words: tuple[str, ...], sentence: str, typed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "run" / "best").mkdir(parents=True)
    (tmp_path / "run" / "best" / "card.json").write_text("{}")
    (tmp_path / "short.txt").write_text("hello")
    for name, content in (("empty", ""), ("header", "text,label\n"), ("posts", ONE_LABEL)):
        (tmp_path / f"{name}.csv").write_text(content, encoding="utf-8")
    code, _, errors = typed(*words)
    assert code == 2 and sentence in errors, errors


def test_amounts() -> None:
    assert [amount(number, "row") for number in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
    assert amount(2, "query", "queries") == "2 queries"
