"""halfpint from Python: the page docs/python.md as it is, results in a notebook, models of every kind."""

from __future__ import annotations

import doctest
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import halfpint as hp
from halfpint.bundle import Bundle

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"


def test_the_page_is_true(few_rows: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tickets.csv").write_bytes(few_rows(300).read_bytes())
    # A fence ends what is expected, as a prompt does.
    text = PAGE.read_text(encoding="utf-8").replace("```", "")
    test = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) > 15
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(test, out=told.append).failed == 0, "".join(told)


def test_a_classifier_answers(bundles: Callable[[str], Bundle]) -> None:
    model = hp.load(str(bundles("onnx-linear").path), threads=1)
    one, two = model(["Where is my parcel?", "I cannot log in"], top=3)
    assert (one.text, two.text) == ("Where is my parcel?", "I cannot log in") and one.gap is None
    assert one.label == one.scores[0].label in model.labels and len(two.scores) == 3
    assert 0 < one.probability == one.scores[0].probability <= 1
    assert model([]) == [] and len(model("one text")) == 1
    assert model.task == "classify" and model.size_bytes > 0 and str(model.path) in repr(model)
    assert all(label in model._repr_html_() for label in model.labels)
    for refused in (lambda: model.next_words("a"), lambda: model.generate("a")):
        with pytest.raises(hp.HalfpintError, match="language model"):
            refused()


def test_a_language_model_writes(bundles: Callable[[str], Bundle]) -> None:
    model = hp.load(bundles("language").path, threads=1)
    text = model.generate("My order", max_tokens=5, seed=1)
    assert text and text == "".join(model.stream("My order", max_tokens=5, seed=1)) and model.labels == ()
    words = model.next_words("My order", top=3)
    assert len(words) == 3 and words[0].probability >= words[1].probability
    answer = model("My order", top=2)[0]
    assert list(answer.scores) == words[:2] and answer.label == words[0].label
    with pytest.raises(hp.HalfpintError, match="Did you mean 'temperature'"):
        model.generate("My order", temprature=1)
    written = hp.generate(bundles("language").path, "My order", max_tokens=5, seed=1, quiet=True)
    assert written.text == text and str(written) == "My order" + text and written.texts == [text]
    assert json.loads(written.as_json())["text"] == text and "My order" in written._repr_html_()


def test_a_masked_model_fills_each_gap(bundles: Callable[[str], Bundle]) -> None:
    answers = hp.load(bundles("masked").path, threads=1)(["my [MASK] is [MASK]", "one [MASK]"], top=2)
    assert [(answer.text, answer.gap) for answer in answers] == [
        ("my [MASK] is [MASK]", 1), ("my [MASK] is [MASK]", 2), ("one [MASK]", None),
    ]  # fmt: skip
    assert all(len(answer.scores) == 2 for answer in answers)


def test_results_in_a_notebook(
    bundles: Callable[[str], Bundle], few_rows: Callable[[int], Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("text,label\n" + "".join(f"text <{number}>,a\n" for number in range(30)), encoding="utf-8")
    checked = hp.check(bad)
    assert checked.exit_code == 1 and "<td" in checked._repr_html_() and "one_class" in str(checked)
    answered = hp.predict(bundles("onnx-linear").path, "a <b> text")
    assert "a &lt;b&gt; text" in answered._repr_html_() and json.loads(answered.as_json())["text"] == "a <b> text"
    drafted = hp.init(few_rows(60), out=tmp_path / "recipe.toml")
    assert drafted._repr_html_().startswith("<pre>") and drafted.file.is_file()
