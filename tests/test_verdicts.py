"""Each sentence of `compress` and `distil` stands on its ground: without it, it is not printed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from halfpint.commands import (
    _compress_classifier,
    _compress_control,
    _compress_language,
    _distil_classifier,
    _distil_language,
    run,
)
from halfpint.commands._compress_control import NOTHING_ELSE, Control, compared, control_of, cuts
from halfpint.commands._learned_texts import data_key, may_know
from halfpint.compress.lossless import Lossless
from halfpint.compress.quantize import Quantize
from halfpint.compress.width import Width
from halfpint.engines import ScoredText
from halfpint.evaluate.kept import kl_difference
from halfpint.evaluate.perplexity import bits_difference
from halfpint.export.gguf import CODES, Gguf

CUT = [Width(ffn=0.3, heads=0.0), Quantize(bits=4.5), Gguf(type=CODES)]
PLAIN = CUT[1:]
RANDOM = np.random.default_rng(0)
NOISE = RANDOM.normal(0, 0.01, 32)


def windows(level: float, noise: float = 1.0) -> dict[str, Any]:
    values = level + noise * NOISE * np.linspace(-1, 1, 32)
    return {
        "name": "4.5 bits", "window_kl": values.tolist(), "kl": float(values.mean()), "file_bytes": 10**6,
        "reference_bytes": 4 * 10**6, "ln_ppl_ratio": 0.02, "ln_ppl_ratio_error": 0.004, "same_top1": 0.9,
        "windows": 32, "window": 512, "asked_tokens": 32 * 512, "text_tokens": 10**6,
    }  # fmt: skip


def against(level: float, *, method: str = "tuned", why: str = "", stages: Any = CUT) -> str:
    control = Control({**windows(level, noise=-1.0), "method": method}, why)
    return _compress_language.verdict(windows(0.1), control, stages)


def test_cuts_pay_beside_the_same_quantizer_where_the_interval_says_so() -> None:
    assert against(0.2).endswith("the steps are worth it.") and "Quantizing alone" in against(0.2)
    assert against(0.02).endswith("quantizing alone is better here; use it.")
    near = against(float(np.mean(windows(0.1)["window_kl"])) + 1e-4)
    assert "does not tell the two apart" in near and "worth" not in near and "better" not in near


@pytest.mark.parametrize("level", [0.2, 0.1, 0.02])
def test_beside_rounding_nothing_is_said_of_cuts(level: float) -> None:
    said = against(level, method="round", why="there was no time")
    assert "worth" not in said and "Rounding alone" in said
    assert said.endswith("Whether the cuts pay is not known: there was no time.")
    better_codes = against(level, method="round", stages=PLAIN)
    assert "worth" not in better_codes and "cuts" not in better_codes
    assert better_codes.endswith("this is better.") == (level > 0.1)


def test_without_a_control_the_reason_stands_there() -> None:
    said = compared(windows(0.1), Control(None, "Not compared with quantizing alone: no time"), CUT)
    assert said == "Not compared with quantizing alone: no time."


def test_differences_are_of_the_windows_that_both_read() -> None:
    one, other = windows(0.3), windows(0.1)
    value, low, high = kl_difference({**one, "window_kl": [*one["window_kl"], 50.0]}, other)
    assert value == pytest.approx(0.2) and low == pytest.approx(0.2) and high == pytest.approx(0.2)
    value, low, high = kl_difference(one, windows(0.1, noise=-1.0))
    assert low < value < high
    assert kl_difference(other, one)[0] == pytest.approx(-0.2)


class Run:
    """A run of which every stage takes no time; keeps what was made and by what."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, seconds: float, left_s: float, rounding_s: float = 0.0
    ) -> None:
        self.made: list[str] = []
        self.end = left_s
        self.costs = SimpleNamespace(exported=0.0, rounding=rounding_s)
        self.asked, self.start = SimpleNamespace(seed=0), None
        self.pipeline = self
        self.log = SimpleNamespace(say=lambda *rest, **named: None)
        card = {"stages": [{"use": "compress/quantize", "seconds": seconds}]}
        self.whole: Any = SimpleNamespace(bundle=SimpleNamespace(card=card))
        monkeypatch.setattr(_compress_control, "weight_bytes", lambda bundle: bundle)
        monkeypatch.setattr(_compress_control, "row_of", lambda run, name, bundle, tokens: {"name": name})

    def has_time(self, seconds: float) -> bool:
        return seconds < self.end

    def make(self, stages: list[Any], **named: Any) -> Any:
        self.made.append(f"{stages[0].bits:g} {stages[0].method}")
        return SimpleNamespace(bundle=int(stages[0].bits * 1e5))


def test_the_control_of_cuts_goes_through_the_same_quantizer(monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = Run(monkeypatch, seconds=60, left_s=100)
    row = {**windows(0.1), "file_bytes": 456_000}
    found = control_of(run, run.whole, row, CUT, 1.0)
    assert found.row and (found.row["method"], found.why) == ("tuned", "") and run.made[-1] == "4.5 tuned"
    assert found.row["name"] == "4.5 bits, tuned"
    short: Any = Run(monkeypatch, seconds=60, left_s=50)
    found = control_of(short, short.whole, row, CUT, 1.0)
    assert found.row and found.row["method"] == "round" and "no time to quantize the whole model by tuned" in found.why
    none: Any = Run(monkeypatch, seconds=60, left_s=1)
    found = control_of(none, none.whole, row, CUT, 1.0)
    assert found.row is None and "Not compared" in found.why and not none.made
    slow: Any = Run(monkeypatch, seconds=1, left_s=100, rounding_s=40)
    found = control_of(slow, slow.whole, row, CUT, 1.0)
    assert found.row is None and "Not compared" in found.why and not slow.made


def test_codes_alone_are_compared_with_rounding_and_rounding_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = Run(monkeypatch, seconds=1, left_s=100)
    found = control_of(run, run.whole, {**windows(0.1), "file_bytes": 456_000}, PLAIN, 1.0)
    assert found.row and (found.row["method"], found.why) == ("round", "")
    rounding = [Quantize(bits=4.5, method="round"), Gguf(type=CODES)]
    assert control_of(run, run.whole, windows(0.1), rounding, 1.0) == Control(None, NOTHING_ELSE)
    tiny = control_of(run, run.whole, {**windows(0.1), "file_bytes": 1000}, CUT, 1.0)
    assert tiny.row is None and "cannot reach this size" in tiny.why
    assert cuts(CUT) and not cuts(PLAIN) and not cuts([*PLAIN, Lossless()])


def test_what_was_asked_for_and_not_kept_is_said() -> None:
    def said(ratio: float, error: float, **asked: Any) -> str:
        row = {**windows(0.1), "ln_ppl_ratio": ratio, "ln_ppl_ratio_error": error}
        return _compress_language.verdict(row, Control(None, "x"), CUT, **asked)

    allowed = -math.log(0.98)
    assert "not kept" in said(allowed + 0.01, 0.001, keep=0.98) and "not kept" not in said(allowed, 0.001, keep=0.98)
    assert "not kept" not in said(allowed + 0.0019, 0.001, keep=0.98)  # within the 95 % interval of its error
    assert "not kept" in said(allowed + 0.0021, 0.001, keep=0.98)
    assert "over the target" in said(0.0, 0.0, target=999_999) and "over" not in said(0.0, 0.0, target=10**6)
    assert "(standard error)" in said(0.0, 0.0)


@pytest.mark.parametrize(
    ("lost", "told", "untold"),
    [
        ((-0.02, -0.03, -0.01), "something was lost", "no loss"),
        ((-0.01, -0.03, 0.01), "show no loss", "something was lost"),
        ((0.02, 0.01, 0.03), "+0.0100 to +0.0300).", "loss"),
    ],
)
def test_what_a_classifier_kept_is_by_the_test_rows(lost: Any, told: str, untold: str) -> None:
    rows = [{"size_bytes": size, "test": {"accuracy": value, "rows": 50}} for size, value in ((9e6, 0.8), (3e6, 0.78))]
    said = _compress_classifier.verdict(rows[0], rows[1], lost, "accuracy")
    assert "0.7800 of 0.8000 on 50 test rows, by which no step was chosen (97.5% kept" in said
    assert told in said and untold not in said and "validation" not in said


def test_time_is_saved_where_every_repetition_says_so() -> None:
    slow, fast = ({"latency_p50_low_ms": low, "latency_p50_high_ms": high} for low, high in ((3.0, 4.0), (2.0, 2.9)))
    assert _compress_classifier.is_faster(fast, slow) and not _compress_classifier.is_faster(slow, fast)
    assert not _compress_classifier.is_faster({**fast, "latency_p50_high_ms": 3.1}, slow)


ROWS = {name: {"test": {"accuracy": value}} for name, value in (("teacher", 0.9), ("student", 0.8), ("control", 0.7))}


def taught(low: float, high: float, **more: Any) -> str:
    compared = {"student less control": {"test": [(low + high) / 2, low, high]}}
    return _distil_classifier.verdict(ROWS, compared, "accuracy", **more)


def test_what_a_teacher_is_worth_says_what_the_control_had_not() -> None:
    cut = taught(0.01, 0.03, begins="as the teacher began", has_layers=True)
    assert "the teacher, its trained layers and its answers together, is worth +0.0200" in cut
    both = taught(0.01, 0.03, begins="as the student", has_layers=True)
    assert "beside its layers, which both have, is worth" in both
    other = taught(0.01, 0.03, begins="as the student")
    assert "the teacher is worth" in other and "layers" not in other
    for said in (cut, both, other, taught(-0.01, 0.01), taught(-0.02, -0.01)):
        assert "over texts; one run of each" in said and "may have learned" not in said
    for low, high in ((0.0, 0.02), (-0.01, 0.01), (-0.02, -0.01)):
        assert "worth" not in taught(low, high) and ("did harm" in taught(low, high)) == (high < 0)


def test_a_teacher_that_may_know_the_test_texts_is_said_to() -> None:
    why = "nothing tells what it was trained on"
    assert f"may have learned some of these test texts ({why})." in taught(0.01, 0.03, may_know=why)
    inherited = taught(0.01, 0.03, may_know=why, has_layers=True)
    assert inherited.endswith("and the student began with its layers.")
    skipped = {name: ROWS[name] for name in ("teacher", "student")}
    said = _distil_classifier.verdict(skipped, {}, "accuracy", may_know=why)
    assert "is unknown" in said and "worth" not in said and why in said


@pytest.mark.parametrize(
    ("low", "high", "told"), [(-0.03, -0.01, "worth"), (-0.03, 0.01, "does not show"), (0.01, 0.03, "did harm")]
)
def test_a_language_teacher_is_worth_fewer_bits(low: float, high: float, told: str) -> None:
    rows = {name: {"test": {"bits_per_byte": 1.0}} for name in ("teacher", "student", "control")}
    said = _distil_language.verdict(rows, {"student less control": {"test": [(low + high) / 2, low, high]}})
    assert [words for words in ("worth", "does not show", "did harm") if words in said] == [told]
    assert "over documents; one run of each" in said and "may have learned" not in said and "layers" not in said
    compared = {"student less control": {"test": [(low + high) / 2, low, high]}}
    why = "nothing tells what it was trained on"
    known = _distil_language.verdict(rows, compared, may_know=why)
    assert known == f"{said} The teacher may have learned some of this held-out text ({why})."
    known = _distil_language.verdict(rows, compared, may_know="x", has_layers=True)
    assert known.endswith("(x), and the student began with its layers.")
    del rows["control"]
    assert "is unknown" in _distil_language.verdict(rows, {})


def test_what_a_model_was_trained_on_is_found_in_its_card_or_above_it(tmp_path: Path) -> None:
    chosen, trained, unknown = (tmp_path / name for name in ("out/best", "out/work/train-1", "elsewhere"))
    for folder, card in ((chosen, {"figures": {"data": "one"}}), (trained, {}), (unknown, {})):
        folder.mkdir(parents=True)
        (folder / "card.json").write_text(json.dumps(card))
    (tmp_path / "out" / "report.json").write_text(json.dumps({"data": {"fingerprint": "one"}}))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "card.json").write_text("{}")
    (corpus / "report.json").write_text(json.dumps({"data": {"key": "of a corpus"}}))
    assert data_key(corpus) == "of a corpus"
    assert [data_key(folder) for folder in (chosen, trained, tmp_path / "out", unknown)] == ["one", "one", "one", ""]
    assert may_know([chosen, trained], "one") == ""
    assert "another division" in may_know([chosen, trained], "two")
    assert "nothing tells" in may_know([chosen, unknown], "one")


def test_what_was_judged_by_less_text_and_loads_larger_is_said_to() -> None:
    plain = _compress_language.verdict(windows(0.1), Control(None, "x"), CUT)
    assert "judged by" not in plain and "once it is loaded" not in plain and "asked for" not in plain
    assert "over the target" not in plain
    less = _compress_language.verdict({**windows(0.1), "asked_tokens": 32_768}, Control(None, "x"), CUT)
    assert "judged by 16,384 tokens instead of 32,768, as no time was left for more" in less
    short = {**windows(0.1), "asked_tokens": 32_768, "text_tokens": 16_500}  # the text has no more
    assert "judged by" not in _compress_language.verdict(short, Control(None, "x"), CUT)
    packed = _compress_language.verdict({**windows(0.1), "loaded_bytes": 3 * 10**6}, Control(None, "x"), CUT)
    assert "; 3.0 MB once it is loaded" in packed


@pytest.mark.parametrize(("rows", "is_few"), [(1, True), (99, True), (100, False)])
def test_run_says_of_few_test_texts_what_fit_says(rows: int, is_few: bool, tmp_path: Path) -> None:
    test = {"accuracy": 1.0, "interval": [0.05, 1.0], "rows": rows}
    made = SimpleNamespace(stages=(SimpleNamespace(use="train/tfidf_linear"),), seconds=1.0)
    unused: Any = None
    for learned in ({}, {"learned_from": True}):
        found = {"metrics": {"accuracy": 1.0}, "interval": [0.5, 1.0], **learned}
        figures = {"validation": found, "test": test}
        said = run._classifier_report(unused, made, figures, "accuracy", tmp_path)["verdict"]  # type: ignore[arg-type]
        assert said.startswith(f"On {rows} test text{'s' if rows > 1 else ''}: accuracy 1.0000 (0.0500 to 1.0000).")
        assert ("prove little" in said) == is_few
        assert ("their figures prove nothing" in said) == bool(learned)


def test_paired_intervals_are_of_95_percent() -> None:
    """About 1.96 standard errors to each side: 90 % would be 1.64, 99 % 2.58."""
    random = np.random.default_rng(3)
    one, other = random.normal(0.3, 0.05, 200), random.normal(0.2, 0.05, 200)
    wanted = 2 * 1.96 * float((one - other).std(ddof=1)) / math.sqrt(200)
    _, low, high = kl_difference({"window_kl": one.tolist()}, {"window_kl": other.tolist()})
    assert high - low == pytest.approx(wanted, rel=0.12)
    scored = [[ScoredText(np.full(100, -value), 20, 100) for value in values] for values in (one, other)]
    _, low, high = bits_difference(scored[0], scored[1])
    assert high - low == pytest.approx(wanted / math.log(2), rel=0.12)
