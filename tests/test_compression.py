"""`halfpint compress` by the command that people type, at tiny size."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from halfpint import cli
from halfpint.bundle import Bundle, open_bundle
from halfpint.compress.width import Width
from halfpint.compression.run import refuse_if_worse
from halfpint.data.prepare import Data, prepare
from halfpint.errors import RefusedError
from halfpint.export import _gguf_architectures
from halfpint.export.gguf import Gguf
from halfpint.progress import SILENT
from halfpint.stage import Work

ROOT = Path(__file__).resolve().parents[1]
TICKETS = ROOT / "examples" / "tickets.csv"


def typed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    monkeypatch.setattr("sys.argv", ["halfpint", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.out, said.err


def test_a_language_model(
    bundles: Callable[[str], Bundle],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("xllamacpp")
    base, out = bundles("language").path, tmp_path / "small"
    words = ("compress", base, "--data", TICKETS, "--text", "text", "--out", out, "--json")
    code, said, errors = typed(
        capsys, monkeypatch, *words, "--prune", "ffn=0.3", "--quantize", "8", "--method", "round"
    )
    assert code == 0, errors
    report = json.loads(said)
    assert [one["use"] for one in report["stages"]] == ["compress/width", "compress/quantize", "export/gguf"]
    pruned, last = report["steps"]
    assert report["reference"]["file_bytes"] > pruned["file_bytes"] > last["file_bytes"] > 0
    assert pruned["kl"] > 0 and last["same_top1"] <= 1 and last["written_tokens_per_s"] > 0
    assert last["file_bytes"] == (out / "model.gguf").stat().st_size
    assert open_bundle(out).card["engine"] == "llama_cpp" and json.loads((out / "report.json").read_text()) == report
    code, told, _ = typed(capsys, monkeypatch, "report", out)
    assert code == 0 and report["verdict"] in told
    kept = ("evaluate", out, TICKETS, "--text", "text", "--reference", base, "--json")
    code, said, errors = typed(capsys, monkeypatch, *kept)
    assert code == 0, errors
    figures = json.loads(said)
    assert {"ln_ppl_ratio", "kl", "same_top1", "size_bytes", "tokens_per_s"} <= set(figures)
    assert figures["kl"] == pytest.approx(last["kl"], rel=0.5)
    code, said, errors = typed(capsys, monkeypatch, *kept, "--tokens", "300")
    assert code == 0, errors
    part = json.loads(said)
    assert 2 <= part["windows"] < figures["windows"] and part["windows"] * part["window"] <= 300
    assert part["text_tokens"] == figures["text_tokens"] > 300
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_what_was_interrupted_goes_on(
    bundles: Callable[[str], Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    done: list[str] = []
    cut = Width.run

    def counted(self: Width, bundle: Bundle | None, work: Work) -> Bundle:
        done.append("cut")
        return cut(self, bundle, work)

    def interrupted(self: Gguf, bundle: Bundle | None, work: Work) -> Bundle:
        raise KeyboardInterrupt

    monkeypatch.setattr(Width, "run", counted)
    out = tmp_path / "small"
    words = ("--data", TICKETS, "--text", "text", "--out", out, "--method", "round", "--prune", "ffn=0.3")
    base = bundles("language").path
    with monkeypatch.context() as patched:
        patched.setattr(Gguf, "run", interrupted)
        code, _, _ = typed(capsys, monkeypatch, "compress", base, *words, "--quantize", "8")
    assert code == 130 and [one.name for one in tmp_path.iterdir()] == ["small.unfinished"] and done == ["cut"]
    code, _, errors = typed(capsys, monkeypatch, "compress", base, *words, "--quantize", "8")
    assert code == 0 and done == ["cut"], errors
    assert [one.name for one in tmp_path.iterdir()] == ["small"]


def test_a_target_is_met(
    bundles: Callable[[str], Bundle],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("xllamacpp")
    base, out = bundles("language").path, tmp_path / "small"
    words = ("compress", base, "--data", TICKETS, "--text", "text", "--out", out, "--method", "round", "--json")
    code, _, errors = typed(capsys, monkeypatch, *words, "--target", "10KB")
    assert code == 2 and "--target: wanted at most 10,000 bytes" in errors and not out.exists()
    code, said, errors = typed(capsys, monkeypatch, *words, "--target", "190KB", "--plain", "--heal", "0.01")
    assert code == 0, errors
    report = json.loads(said)
    met = [one for one in report["points"] if "kl" in one]
    assert report["steps"][-1]["file_bytes"] <= 190_000 and len(met) >= 2
    assert all(one["file_bytes"] <= 190_000 for one in met)
    # Where 15 % of the layers lost more than the best way before it, 30 % were not tried; and the other way about.
    for kind in ("compress/depth", "compress/width"):
        small, large = (one for one in report["points"] if kind in one["name"])
        before = [one["kl"] for one in met[: met.index(small)]] if small in met else []
        assert ("skipped" in large) == any(small["kl"] > kl for kl in before), report["points"]


def test_a_target_is_met_by_a_packed_file(
    bundles: Callable[[str], Bundle],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Packed by default; what is taken out of it says the same."""
    pytest.importorskip("xllamacpp")
    base, out, plain = bundles("language").path, tmp_path / "small", tmp_path / "plain"
    words = ("compress", base, "--data", TICKETS, "--text", "text", "--method", "gptq", "--target", "120KB", "--json")
    code, said, errors = typed(capsys, monkeypatch, *words, "--out", out, "--heal", "0.01")
    assert code == 0, errors
    report = json.loads(said)
    last, control = report["steps"][-1], report["control"]
    assert [one["use"] for one in report["stages"]][-3:] == ["compress/quantize", "export/gguf", "compress/lossless"]
    assert 80_000 < last["file_bytes"] <= 120_000 < last["loaded_bytes"] and last["file_bytes"] == packed_bytes(out)
    assert control["file_bytes"] <= 1.005 * last["file_bytes"] and control["kl"] > last["kl"]
    code, _, errors = typed(capsys, monkeypatch, "export", out, "--pack", "--out", plain)
    assert code == 2 and "wanted a model that is not packed yet" in errors and not plain.exists()
    code, _, errors = typed(capsys, monkeypatch, "export", out, "--to", "compressed-tensors", "--out", plain)
    assert code == 2 and "got a packed GGUF file" in errors and not plain.exists()
    code, said, errors = typed(capsys, monkeypatch, "export", out, "--to", "gguf", "--out", plain)
    assert code == 0, errors
    assert (plain / "model.gguf").stat().st_size == last["loaded_bytes"]
    code, said, errors = typed(
        capsys, monkeypatch, "evaluate", plain, TICKETS, "--text", "text", "--reference", out, "--json"
    )
    assert code == 0 and json.loads(said)["kl"] == pytest.approx(0.0, abs=1e-6), errors


def test_healing_that_loses_is_left_out(
    bundles: Callable[[str], Bundle],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second of it, where the cut had cost next to nothing."""
    words = ("compress", bundles("language").path, "--data", TICKETS, "--text", "text", "--prune", "ffn=0.15")
    code, said, errors = typed(capsys, monkeypatch, *words, "--heal", "0.01", "--json", "--out", tmp_path / "cut")
    assert code == 0, errors
    report = json.loads(said)
    assert [one["use"] for one in report["stages"]] == ["compress/width"] and len(report["steps"]) == 1
    assert report["steps"][-1]["kl"] < 1e-4
    assert "it is left out" in report["points"][-1]["refused"] and "distil/heal" in report["points"][-1]["name"]


def packed_bytes(folder: Path) -> int:
    return (folder / "model.gguf.packed").stat().st_size


def test_a_classifier(
    bundles: Callable[[str], Bundle],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, out = bundles("finetuned").path, tmp_path / "small"
    words = (
        "compress",
        base,
        "--data",
        TICKETS,
        "--out",
        out,
        "--json",
        "--vocab",
        "--quantize",
        "8",
        "--prune",
        "ffn=0.5",
    )
    code, said, errors = typed(capsys, monkeypatch, *words)
    assert code == 0, errors
    rows = json.loads(said)["models"]
    assert set(rows) == {"before", "after", "8 bits alone"}
    assert rows["after"]["size_bytes"] < rows["8 bits alone"]["size_bytes"] < rows["before"]["size_bytes"]
    assert open_bundle(out, task="classify").card["engine"].startswith("onnx")


def test_another_split_than_that_of_fit_is_told(
    bundles: Callable[[str], Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made = tmp_path / "made"
    shutil.copytree(bundles("onnx").path, made / "best")
    words = ("compress", made, "--data", TICKETS, "--quantize", "8", "--force", "--out", tmp_path / "small")
    for fingerprint, is_told in (("another", True), (prepare(Data(source=str(TICKETS)), SILENT).key, False)):
        (made / "report.json").write_text(json.dumps({"data": {"fingerprint": fingerprint}}))
        code, said, errors = typed(capsys, monkeypatch, *words)
        assert code == 0, errors
        assert ("trained on another part" in said + errors) == is_told


def test_a_classifier_with_static_ranges(
    bundles: Callable[[str], Bundle],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, out = bundles("onnx").path, tmp_path / "small"
    words = ("compress", base, "--data", TICKETS, "--out", out, "--json", "--quantize", "8", "--static", "--seed", "3")
    code, said, errors = typed(capsys, monkeypatch, *words)
    assert code == 0, errors
    report = json.loads(said)
    (stage,) = report["stages"]
    assert (stage["use"], stage["seed"]) == ("compress/onnx_static", 3)
    assert report["models"]["after"]["size_bytes"] < report["models"]["before"]["size_bytes"]
    assert open_bundle(out, task="classify").card["stages"][-1]["matrices_8_bits"] == 12


def test_what_quantising_spoils_is_refused() -> None:
    whole = {"metrics": {"accuracy": 0.92}, "interval": [0.9, 0.94]}
    refuse_if_worse(whole, {"metrics": {"accuracy": 0.9}}, "accuracy")
    with pytest.raises(RefusedError, match=r"at least 0.9000.*got 0.8900, where the whole model has 0.9200"):
        refuse_if_worse(whole, {"metrics": {"accuracy": 0.89}}, "accuracy")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--quantize", "8", "--static"), "--static: wanted a classifier for it"),
        (("--quantize", "4", "--static"), "--static: wanted --quantize 8 with it, got '4'"),
        ((), "wanted --prune, --low-rank, --vocab, --quantize, --target or --keep"),
        (("--target", "1MB", "--prune", "depth=0.2"), "--target: wanted it without --prune, got both"),
        (("--keep", "0.98", "--target", "1MB"), "--target: wanted it without --keep"),
        (("--keep", "0.98", "--heal", "2"), "--keep: wanted it without --heal"),
        (("--quantize", "4", "--test", "held.csv"), "--test: wanted a classifier for it"),
        (("--keep", "1"), "--keep: wanted a share between 0 and 1"),
        (("--keep", "98"), "--keep: wanted a share above 0 and up to 1"),
        (("--prune", "dept=0.2"), "Did you mean 'depth'?"),
        (("--prune", "depth=2"), "--prune: wanted depth=0.2"),
        (("--quantize", "8", "--method", "rond"), "'rond'"),
        (("--quantize", "q4_9"), "q4_9"),
        (("--quantize", "4", "--data", "test.txt"), "a test split by its name"),
        (("--quantize", "4", "--data", "wiki_test-00000.parquet"), "a test split by its name"),
        (("--target", "1KB"), "the tokenizer and the embeddings alone"),
        (("--target", "1KB", "--plain"), "the tokenizer and the embeddings alone"),
        # What a later step would refuse is refused before the first one, healing among them, has begun.
        (("--prune", "depth=0.4", "--heal", "9", "--quantize", "q4_9"), "q4_9"),
        (("--prune", "depth=0.4", "--heal", "9", "--quantize", "2"), "bits: wanted"),
        (("--prune", "depth=0.4", "--heal", "9", "--vocab"), "compress/vocab needs"),
        (("--prune", "sparse=0.5", "--heal", "9"), "distil/heal needs"),
        (("--prune", "sparse=0.5", "--quantize", "4"), "compress/quantize needs"),
        (("--low-rank", "0.3", "--heal", "9", "--quantize", "4"), "--low-rank: wanted it without --quantize"),
        (("--quantize", "4", "--heal", "9"), "--heal: wanted --prune or --low-rank with it"),
    ],
)
def test_bad_input(
    words: Sequence[str], said: str, bundles: Callable[[str], Bundle], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    given = ("compress", bundles("language").path, "--data", TICKETS, "--out", tmp_path / "out", *words)
    code, _, errors = typed(capsys, monkeypatch, *given)
    assert code == 2 and said in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        ("sparse", ("--quantize", "4"), "got one with sparse weights"),
        ("sparse", ("--prune", "depth=0.4"), "got one with sparse weights"),
        ("quantized", ("--target", "1MB"), "got one that is quantised already"),
        ("compressed", ("--quantize", "4"), "got one that is quantised already"),
        ("masked", ("--prune", "depth=0.4"), "which does not"),
        ("gguf", ("--quantize", "4"), "got one of the kind"),
    ],
)
def test_a_model_that_will_not_do(
    kind: str, words: Sequence[str], said: str, bundles: Callable[[str], Bundle], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    given = ("compress", bundles(kind).path, "--data", TICKETS, "--text", "text", "--out", tmp_path / "out", *words)
    code, _, errors = typed(capsys, monkeypatch, *given)
    assert code == 2 and said in errors
    assert not list(tmp_path.iterdir())


def test_too_little_text_to_judge_by(
    bundles: Callable[[str], Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "few").mkdir()
    for number in range(8):
        (tmp_path / "few" / f"{number}.txt").write_text(f"The {number} sheep are in the field.\n")
    words = ("compress", bundles("language").path, "--data", tmp_path / "few", "--quantize", "4")
    code, _, errors = typed(capsys, monkeypatch, *words, "--out", tmp_path / "out")
    assert code == 2 and "text to judge by: wanted" in errors
    assert [one.name for one in tmp_path.iterdir()] == ["few"]


def test_low_rank_where_nothing_else_fits(
    bundles: Callable[[str], Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """An architecture that GGUF has no place for is cut all the same; what could not be compared is told."""
    monkeypatch.delitem(_gguf_architectures.ARCHITECTURES, "llama")
    out = tmp_path / "thin"
    words = ("compress", bundles("language").path, "--data", TICKETS, "--text", "text")
    code, _, errors = typed(capsys, monkeypatch, *words, "--out", out, "--prune", "depth=0.4", "--quantize", "8")
    assert code == 2 and "wanted an architecture of" in errors and not list(tmp_path.iterdir())
    code, said, errors = typed(capsys, monkeypatch, *words, "--out", out, "--low-rank", "0.4", "--json")
    assert code == 0, errors
    report = json.loads(said)
    assert report["control"] is None and "it was not compared" in report["verdict"]
    assert "wanted an architecture of" in report["verdict"] and report["energy"]["wh"] > 0
    assert report["steps"][0]["kl"] > 0 and open_bundle(out).config["model_type"] == "halfpint_factored"


@pytest.mark.parametrize("plain", [False, True])
def test_the_fewest_bits_that_keep_enough(
    plain: bool,
    bundles: Callable[[str], Bundle],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("xllamacpp")
    out = tmp_path / "small"
    words = (
        "compress",
        bundles("language").path,
        "--data",
        TICKETS,
        "--text",
        "text",
        "--out",
        out,
        "--method",
        "gptq",
    )
    share = 0.9997
    code, said, errors = typed(capsys, monkeypatch, *words, "--keep", share, *(["--plain"] if plain else []), "--json")
    assert code == 0, errors
    report = json.loads(said)
    made = [one for one in report["points"] if one["name"].endswith("gptq")]
    enough = [one for one in made if one["ln_ppl_ratio"] <= -math.log(share)]
    assert min(enough, key=lambda one: one["file_bytes"])["ln_ppl_ratio"] == pytest.approx(
        report["steps"][-1]["ln_ppl_ratio"],
        abs=5e-4,  # on other text than it was chosen by
    )
    assert [one["use"] for one in report["stages"]][:2] == ["compress/quantize", "export/gguf"]
    assert f"{share} asked for" in report["verdict"]
