"""What `halfpint compress` refuses, and that it says so before any work and leaves nothing behind."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from halfpint.bundle import Bundle, open_bundle
from halfpint.commands._compress_classifier import refuse_if_worse
from halfpint.commands._compress_refusals import refuse_test_split
from halfpint.data.prepare import Data, prepare
from halfpint.errors import HalfpintError, RefusedError
from halfpint.evaluate.evaluate import evaluate
from halfpint.export import _gguf_architectures
from halfpint.progress import SILENT

Typed = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parents[1]
TICKETS = ROOT / "examples" / "tickets.csv"


def test_another_split_than_that_of_fit_is_told(
    bundles: Callable[[str], Bundle], tmp_path: Path, typed: Typed,
) -> None:  # fmt: skip
    made = tmp_path / "made"
    shutil.copytree(bundles("onnx").path, made / "best")
    words = ("compress", made, "--data", TICKETS, "--quantize", "8", "--force", "--out", tmp_path / "small")
    for fingerprint, is_told in (("another", True), (prepare(Data(source=str(TICKETS)), SILENT).key, False)):
        (made / "report.json").write_text(json.dumps({"data": {"fingerprint": fingerprint}}))
        code, said, errors = typed(*words)
        assert code == 0, errors
        assert ("trained on another part" in said + errors) == is_told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--quantize", "4"), "--quantize: expected 8 for a classifier, got 4"),
        (("--quantize", "8", "--importance", TICKETS), "--importance: expected a language model, and"),
        ((), "Say what to do: --prune, --low-rank, --vocab, --quantize, --target or --keep"),
    ],
)
def test_what_no_classifier_can_be_asked_for(
    words: tuple[str, ...], said: str, bundles: Callable[[str], Bundle], tmp_path: Path, typed: Typed
) -> None:
    """It is refused before the data is read."""
    given = ("compress", bundles("onnx").path, "--data", tmp_path / "none.csv", "--out", tmp_path / "out", *words)
    code, _, errors = typed(*given)
    assert code == 2 and said in errors and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("renamed", "code", "said"), [("Delivery", 2, "Delivery"), ("", 0, "")])
def test_a_classifier_is_judged_by_its_labels_by_name(
    renamed: str, code: int, said: str, bundles: Callable[[str], Bundle], tmp_path: Path, typed: Typed
) -> None:
    """Data without its first label gives the others no other place; a label that it does not know is refused."""
    first = bundles("onnx").labels[0]
    with TICKETS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    column = rows[0].index("category")
    kept = [rows[0]]
    for row in rows[1:]:
        if row[column] == first:
            row[column] = renamed
        if row[column]:
            kept.append(row)
    with (tmp_path / "some.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(kept)
    out = tmp_path / "out"
    words = ("compress", bundles("onnx").path, "--data", tmp_path / "some.csv", "--quantize", "8", "--out", out)
    found, _, errors = typed(*words)
    assert found == code and said in errors
    if not code:
        told = json.loads((out / "report.json").read_text(encoding="utf-8"))
        validation = prepare(Data(source=str(tmp_path / "some.csv")), SILENT).validation
        alone = evaluate(bundles("onnx"), validation, log=SILENT)
        assert next(iter(told["models"].values()))["metrics"]["accuracy"] == alone["accuracy"] > 0.2


def test_what_quantising_spoils_is_refused() -> None:
    whole = {"metrics": {"accuracy": 0.92}, "interval": [0.9, 0.94]}
    refuse_if_worse(whole, {"metrics": {"accuracy": 0.9}}, "accuracy")
    with pytest.raises(RefusedError, match=r"at least 0.9000.*got 0.8900, where the whole model has 0.9200"):
        refuse_if_worse(whole, {"metrics": {"accuracy": 0.89}}, "accuracy")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--quantize", "8", "--static"), "--static needs a classifier"),
        (("--quantize", "4", "--static"), "--static: expected --quantize 8 with it, got '4'"),
        ((), "Say what to do: --prune, --low-rank, --vocab, --quantize, --target or --keep"),
        (("--target", "1MB", "--prune", "depth=0.2"), "--target: expected it without --prune, got both"),
        (("--keep", "0.98", "--target", "1MB"), "--target: expected it without --keep"),
        (("--keep", "0.98", "--heal", "2"), "--keep: expected it without --heal"),
        (("--quantize", "4", "--test", "held.csv"), "--test needs a classifier"),
        (("--keep", "1"), "--keep must be a share between 0 and 1"),
        (("--keep", "98"), "--keep must be a share above 0 and up to 1"),
        (("--prune", "dept=0.2"), "Did you mean 'depth'?"),
        (("--prune", "depth=2"), "--prune must be depth=0.2"),
        (("--quantize", "8", "--method", "rond"), "'rond'"),
        (("--quantize", "q4_9"), "q4_9"),
        (("--quantize", "4", "--data", "test.txt"), "a test split by its name"),
        (("--quantize", "4", "--data", "wiki_test-00000.parquet"), "a test split by its name"),
        (("--quantize", "4", "--data", "data/test"), "a test split by its name"),
        (("--target", "1KB"), "the tokenizer and the embeddings alone"),
        (("--target", "1KB", "--plain"), "the tokenizer and the embeddings alone"),
        # What a later step would refuse is refused before the first one, healing among them, has begun.
        (("--prune", "depth=0.4", "--heal", "9", "--quantize", "q4_9"), "q4_9"),
        (("--prune", "depth=0.4", "--heal", "9", "--quantize", "2"), "bits: expected"),
        (("--prune", "depth=0.4", "--heal", "9", "--vocab"), "compress/vocab needs"),
        (("--prune", "sparse=0.5", "--heal", "9"), "distil/heal needs"),
        (("--prune", "sparse=0.5", "--quantize", "4"), "compress/quantize needs"),
        (("--low-rank", "0.3", "--heal", "9", "--quantize", "4"), "--low-rank: expected it without --quantize"),
        (("--quantize", "4", "--heal", "9"), "--heal: expected --prune or --low-rank with it"),
        (("--prune", "depth=0.4", "--lora"), "--lora: expected --heal with it"),
        (("--prune", "depth=0.4", "--importance", "none.gguf"), "--importance: expected a language model, and"),
        (("--prune", "depth=0.4", "--quantize", "q4_0", "--importance", TICKETS), "got something cut before"),
        (("--quantize", "q4_0", "--method", "round", "--importance", TICKETS), "expected an importance matrix as GGUF"),
        (("--prune", "sparse=0.5", "--heal", "1", "--lora"), "--lora: expected weights that were not pruned to zero"),
        (("--quantize", "4", "--importance", "none.gguf"), "got none.gguf"),
        (("--quantize", "4", "--importance", TICKETS), "importance must be none, as the method measures its own"),
    ],
)
def test_bad_input(
    words: Sequence[str], said: str, bundles: Callable[[str], Bundle], tmp_path: Path,
    typed: Typed,
) -> None:  # fmt: skip
    given = ("compress", bundles("language").path, "--data", TICKETS, "--out", tmp_path / "out", *words)
    code, _, errors = typed(*given)
    assert code == 2 and said in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        ("sparse", ("--quantize", "4"), "got one with sparse weights"),
        ("sparse", ("--prune", "depth=0.4"), "got one with sparse weights"),
        ("quantized", ("--target", "1MB"), "not quantised or exported yet"),
        ("compressed", ("--quantize", "4"), "not quantised or exported yet"),
        ("masked", ("--prune", "depth=0.4"), "a masked one"),
        ("gguf", ("--quantize", "4"), "got one of the kind"),
    ],
)
def test_a_model_that_will_not_do(
    kind: str, words: Sequence[str], said: str, bundles: Callable[[str], Bundle], tmp_path: Path,
    typed: Typed,
) -> None:  # fmt: skip
    given = ("compress", bundles(kind).path, "--data", TICKETS, "--text", "text", "--out", tmp_path / "out", *words)
    code, _, errors = typed(*given)
    assert code == 2 and said in errors
    assert not list(tmp_path.iterdir())


def test_too_little_text_to_judge_by(
    bundles: Callable[[str], Bundle], tmp_path: Path, typed: Typed,
) -> None:  # fmt: skip
    (tmp_path / "few").mkdir()
    for number in range(8):
        (tmp_path / "few" / f"{number}.txt").write_text(f"The {number} sheep are in the field.\n")
    words = ("compress", bundles("language").path, "--data", tmp_path / "few", "--quantize", "4")
    code, _, errors = typed(*words, "--out", tmp_path / "out")
    assert code == 2 and "text to judge by: expected" in errors
    assert [one.name for one in tmp_path.iterdir()] == ["few"]


def test_low_rank_where_nothing_else_fits(
    bundles: Callable[[str], Bundle], tmp_path: Path, typed: Typed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """An architecture that GGUF has no place for is cut all the same; what could not be compared is told."""
    rest = {name: one for name, one in _gguf_architectures.ARCHITECTURES.items() if name != "llama"}
    monkeypatch.setattr(_gguf_architectures, "ARCHITECTURES", rest)
    out = tmp_path / "thin"
    words = ("compress", bundles("language").path, "--data", TICKETS, "--text", "text")
    code, _, errors = typed(*words, "--out", out, "--prune", "depth=0.4", "--quantize", "8")
    assert (
        code == 2
        and "GGUF files of the architecture llama cannot be written here" in errors
        and not list(tmp_path.iterdir())
    )
    code, said, errors = typed(*words, "--out", out, "--low-rank", "0.4", "--json")
    assert code == 0, errors
    report = json.loads(said)
    assert report["control"] is None and "Not compared with quantizing alone" in report["verdict"]
    assert (
        "GGUF files of the architecture llama cannot be written here" in report["verdict"]
        and report["energy"]["wh"] > 0
    )
    assert report["steps"][0]["kl"] > 0 and open_bundle(out).config["model_type"] == "halfpint_factored"


@pytest.mark.parametrize(
    ("name", "is_test"),
    [
        ("test.txt.gz", True), ("wiki.test.tokens", True), ("test-00000-of-00001.parquet", True), ("test", True),
        ("test_2.csv", True), ("latest.txt", False), ("contest.csv", False), ("train.tsv", False), ("tests", False),
        ("unit-test-tickets.csv", False), ("validation.jsonl", False),
    ],
)  # fmt: skip
def test_names_of_test_splits(name: str, is_test: bool, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "test_code.py").write_text("assert True")
    (folder / name).write_text("a text")
    for source, below in ((folder / name, False), (folder, True)):
        if is_test:
            with pytest.raises(HalfpintError, match="a test split by its name"):
                refuse_test_split(str(source), below=below)
        else:
            refuse_test_split(str(source), below=below)
