"""Students of language models: draws that are right in the mean, kept once, and what is learned from them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle, new_bundle, open_bundle
from halfpint.data.token_store import TokenStore
from halfpint.distil import token_answers
from halfpint.distil._sampled import draw, sampled_loss
from halfpint.distil._zeros import hold_zeros
from halfpint.distil.heal import Heal
from halfpint.distil.student import Student
from halfpint.distil.token_answers import TokenAnswers, draws_for, store_for
from halfpint.distil.token_logits import TokenLogits
from halfpint.engines import open_engine, open_language_engine
from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError
from halfpint.models.sizes import CAUSAL
from halfpint.models.weights import WEIGHTS_FILE, weight_types
from halfpint.stage import Work
from halfpint.train import budget

torch = pytest.importorskip("torch", reason="distilling needs torch")

Make = Callable[..., Work]
Get = Callable[[str], Bundle]
FAST = {"batch_tokens": 256, "precision": "fp32"}


def generator(seed: int) -> Any:
    return torch.Generator().manual_seed(seed)


def skewed(vocabulary: int) -> Any:
    """A distribution with a long tail that has a fifth of the probability."""
    p = torch.arange(1, vocabulary + 1, dtype=torch.float64) ** -1.2
    return (p / p.sum()).float()


def test_draws_are_right_in_the_mean_and_the_likeliest_alone_are_not() -> None:
    p, draws, places = skewed(400), 50, 4000
    found = draw(p.expand(places, -1), draws, generator(0))
    assert found.sizes.sum() == len(found.ids) == len(found.counts)
    assert (np.add.reduceat(found.counts, np.cumsum(found.sizes) - found.sizes) == draws).all()
    kept = round(float(found.sizes.mean()))
    assert kept < draws
    mean = np.bincount(found.ids, weights=found.counts, minlength=400) / (draws * places)
    top = torch.zeros(400)
    top[:kept] = p[:kept] / p[:kept].sum()  # as many as are kept of the draws
    error = 4 * np.sqrt(p.numpy() * (1 - p.numpy()) / (draws * places))
    assert (np.abs(mean - p.numpy()) <= error + 1e-9).all()  # nothing but chance is left
    assert float((top - p).abs().sum()) > 10 * np.abs(mean - p.numpy()).sum()


def test_the_gradient_of_draws_is_that_of_the_whole_distribution_in_the_mean() -> None:
    p, places = skewed(60), 6000
    logits = torch.randn(60, generator=generator(1)).requires_grad_()
    whole = -(p * torch.log_softmax(logits, -1)).sum()
    (wanted,) = torch.autograd.grad(whole, logits)
    found = draw(p.expand(places, -1), 8, generator(2))
    loss = sampled_loss(logits.expand(places, -1), *found, 8) / places
    (sampled,) = torch.autograd.grad(loss, logits)
    assert float(loss.detach()) == pytest.approx(float(whole.detach()), rel=0.01)
    np.testing.assert_allclose(sampled, wanted, atol=4 * 0.5 / np.sqrt(8 * places))
    top = p * (torch.arange(60) < 6)
    (biased,) = torch.autograd.grad(-(top / top.sum() * torch.log_softmax(logits, -1)).sum(), logits)
    assert float((biased - wanted).abs().sum()) > 5 * float((sampled - wanted).abs().sum())


def test_a_student_of_the_likeliest_forgets_the_rest() -> None:
    """Trained to the end: of draws the student gets the distribution, of the top tokens one without a tail."""
    p = skewed(50)
    students = {}
    for name in ("draws", "top"):
        logits = torch.zeros(50, requires_grad=True)
        optimiser = torch.optim.Adam([logits], lr=0.05)
        for step in range(300):
            found = draw(p.expand(64, -1), 12, generator(step))
            if name == "draws":
                loss = sampled_loss(logits.expand(64, -1), *found, 12) / 64
            else:
                top = p * (torch.arange(50) < 8)
                loss = -(top / top.sum() * torch.log_softmax(logits, -1)).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        students[name] = torch.softmax(logits.detach(), -1)
    tail = float(p[8:].sum())
    assert float(students["draws"][8:].sum()) == pytest.approx(tail, rel=0.1)
    assert float(students["top"][8:].sum()) < 0.2 * tail


def test_draws_stand_at_their_places(bundles: Get, text_work: Make, tmp_path: Path) -> None:
    """What is kept for a token was drawn from what the teacher says after all before it, in windows too."""
    teacher = bundles("language")
    held = text_work(tmp_path / "made")
    model = load_model(teacher.path, CAUSAL)
    store = store_for(teacher, model, held)
    stage = TokenAnswers(teacher=str(teacher.path), draws=200, context=16)
    found = draws_for(stage, store, held)
    assert len(found) == len(store.tokens)
    for document in range(min(2, len(store))):
        begin, end = (int(store.offsets[document + side]) for side in (0, 1))
        ids = torch.from_numpy(store.document(document)[:40].astype(np.int64))[None]
        assert end - begin > 16  # longer than what the teacher sees
        with torch.inference_mode():
            p = torch.softmax(model(input_ids=ids[:, :16]).logits[0], -1).numpy()
            later = torch.softmax(model(input_ids=ids[:, 12:28]).logits[0], -1).numpy()  # the second window
        assert not len(found.at(np.array([begin])).ids)
        for place, told in ((1, p[0]), (7, p[6]), (15, p[14]), (16, later[3]), (23, later[10])):
            drawn = found.at(np.array([begin + place]))
            assert drawn.counts.sum() == 200
            share = np.bincount(drawn.ids, weights=drawn.counts / 200, minlength=p.shape[1])
            assert (np.abs(share - told) <= 5 * np.sqrt(told * (1 - told) / 200) + 0.02).all()
        whole = found.at(np.arange(begin + 1, end))
        assert (whole.sizes > 0).all()
    several = found.at(np.array([5, 6, 7]))
    one = [found.at(np.array([place])) for place in (5, 6, 7)]
    np.testing.assert_array_equal(several.ids, np.concatenate([part.ids for part in one]))


def test_asking_a_language_model_goes_on_where_it_was_stopped(
    bundles: Get, text_work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_answers, "_CHUNK_TOKENS", 1500)
    teacher = bundles("language")
    stage = TokenAnswers(teacher=str(teacher.path), draws=4)
    whole = stage.run(None, text_work(tmp_path / "whole"))
    held = text_work(tmp_path / "cut")
    drawn = TokenAnswers._told
    numbers: list[int] = []

    def stops(self: TokenAnswers, models: Any, store: TokenStore, windows: Any, number: int) -> Any:
        if len(numbers) == 2:
            raise KeyboardInterrupt
        numbers.append(number)
        return drawn(self, models, store, windows, number)

    monkeypatch.setattr(TokenAnswers, "_told", stops)
    with pytest.raises(KeyboardInterrupt):
        stage.run(None, held)
    monkeypatch.setattr(TokenAnswers, "_told", drawn)
    damaged = held.scratch / "chunks" / "0.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
    made = stage.run(None, held)
    assert numbers == [0, 1]
    for name in ("ids", "counts", "starts"):
        np.testing.assert_array_equal(np.load(made.path / f"{name}.npy"), np.load(whole.path / f"{name}.npy"))


def first_loss(stage: TokenLogits, parent: Bundle, held: Work) -> float:
    made = stage.run(parent, held)
    return float(made.card["stages"][-1]["history"][0]["loss"])


def test_draws_and_whole_distributions_tell_the_same(bundles: Get, text_work: Make, tmp_path: Path) -> None:
    """A student that is its teacher: no distance to the whole, and the teacher's entropy to draws from it."""
    teacher = bundles("language")
    shared: dict[str, Any] = {
        "teacher": str(teacher.path), "label_share": 0.0, "tokens": 256, "context": 32, "evaluations": 1, **FAST
    }  # fmt: skip
    for divergence in ("forward", "reverse", "js"):
        stage = TokenLogits(cached=False, divergence=divergence, **shared)
        assert first_loss(stage, teacher, text_work(tmp_path / divergence)) == pytest.approx(0, abs=1e-4)
    student = bundles("small-language")
    distance = first_loss(TokenLogits(cached=False, **shared), student, text_work(tmp_path / "whole"))
    own = first_loss(TokenLogits(draws=200, **shared), teacher, text_work(tmp_path / "own"))
    drawn = first_loss(TokenLogits(draws=200, **shared), student, text_work(tmp_path / "drawn"))
    assert distance > 0.005
    assert drawn - own == pytest.approx(distance, rel=0.35)


def test_a_new_student_has_the_tokens_of_its_teacher(bundles: Get, text_work: Make, tmp_path: Path) -> None:
    teacher = bundles("language")
    made = Student(size="90k").run(teacher, text_work(tmp_path / "made"))
    model = load_model(made.path, CAUSAL)
    entry = made.card["stages"][-1]
    assert entry["parameters"] == sum(p.numel() for p in model.parameters()) == pytest.approx(90_000, rel=0.1)
    assert model.config.vocab_size == teacher.config["vocab_size"] and made.card["engine"] == "torch_lm"
    assert model.config.eos_token_id == teacher.config["eos_token_id"]
    same = model.config.hidden_size <= teacher.config["hidden_size"]
    assert entry["embeddings_begun"] == same


def test_a_student_comes_nearer(bundles: Get, text_work: Make, tmp_path: Path) -> None:
    teacher, student = bundles("language"), bundles("small-language")
    stage = TokenLogits(teacher=str(teacher.path), tokens=8192, learning_rate=3e-3, draws=20, **FAST)
    made = stage.run(student, text_work(tmp_path / "made"))
    entry = made.card["stages"][-1]
    assert entry["nats_per_token"] < entry["nats_before"] - 0.02
    assert entry["teacher"] == teacher.fingerprint
    assert open_bundle(made.path).card["engine"] == "torch_lm"


@pytest.mark.parametrize(("settings", "is_kept"), [({"tokens": 512}, False), ({"minutes": 0, "epochs": 1}, True)])
def test_answers_are_kept_where_all_are_needed(
    settings: dict[str, int],
    is_kept: bool,
    bundles: Get,
    text_work: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Training that sees a part of the text asks about that part alone."""
    asked: list[bool] = []
    kept = TokenLogits._kept

    def answers(self: TokenLogits, *given: Any) -> Any:
        asked.append(True)
        return kept(self, *given)

    monkeypatch.setattr(TokenLogits, "_kept", answers)
    stage = TokenLogits(teacher=str(bundles("language").path), draws=4, **FAST, **settings)
    made = stage.run(bundles("small-language"), text_work(tmp_path / "made"))
    assert bool(asked) == is_kept and made.card["stages"][-1]["train_tokens"] > 1024


def test_what_the_teacher_is_asked_is_not_the_students_time(
    bundles: Get, text_work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The minutes of a method are those of training: else much text would leave nothing of them."""
    asked: list[float] = []
    begun: list[float] = []
    kept, left = TokenLogits._kept, budget.seconds_left

    def answers(self: TokenLogits, *given: Any) -> Any:
        found = kept(self, *given)
        asked.append(time.monotonic())
        return found

    def counted(stage: Any, held: Work, started: float) -> float:
        begun.append(started)
        return left(stage, held, started)

    monkeypatch.setattr(TokenLogits, "_kept", answers)
    monkeypatch.setattr(budget, "seconds_left", counted)
    stage = TokenLogits(teacher=str(bundles("language").path), minutes=0.02, draws=4, **FAST)
    stage.run(bundles("small-language"), text_work(tmp_path / "made"))
    assert asked and begun and min(begun) >= asked[0]


def test_language_settings_that_cannot_be_are_refused(
    bundles: Get, work: Make, text_work: Make, tmp_path: Path
) -> None:
    for settings, wanted in (
        ({"divergence": "js"}, "expected forward with cached = true"),
        ({"draws": 256}, "draws must be a number from 1 to 255"),
        ({"label_share": -0.1}, "label_share must be a share from 0 to 1"),
        ({"temperature": 1000.0}, "temperature must be a number from 0.05 to 100"),
    ):
        with pytest.raises(HalfpintError, match=wanted):
            TokenLogits(**settings)
    with pytest.raises(HalfpintError, match="expected a causal Transformer language model"):
        TokenLogits(teacher=str(bundles("ngram").path)).run(bundles("language"), text_work(tmp_path / "made"))
    with pytest.raises(HalfpintError, match="expected a corpus of documents"):
        TokenLogits(teacher=str(bundles("language").path)).run(
            bundles("small-language"), work(tmp_path / "made", train=[], validation=[])
        )
    assert not (tmp_path / "made").exists()


def test_zeros_of_pruning_stay(bundles: Get) -> None:
    model = load_model(bundles("language").path, CAUSAL)
    name, weight = next((name, p) for name, p in model.named_parameters() if name.endswith("q_proj.weight"))
    with torch.no_grad():
        weight[weight.abs() < weight.abs().median()] = 0
    zeros = weight == 0
    with pytest.raises(HalfpintError, match="a model without weights that were pruned to zero"):
        hold_zeros(model, "here", lora=True)
    assert hold_zeros(model, "here") == int(zeros.sum()), name
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        ids = torch.randint(0, 300, (2, 16))
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert (weight[zeros] == 0).all() and (weight[~zeros] != 0).all()


@pytest.mark.parametrize("lora", [False, True])
def test_healing_a_language_model(lora: bool, bundles: Get, text_work: Make, tmp_path: Path) -> None:
    student = bundles("small-language")
    stage = Heal(tokens=4096, lora=lora, batch_tokens=256, learning_rate=3e-3, context=64)
    made = stage.run(student, text_work(tmp_path / "made"))  # its teacher is found beside it
    entry = made.card["stages"][-1]
    assert (entry["use"], entry["by"]) == ("distil/heal", "distil/token_logits")
    assert entry["teacher"] == bundles("language").fingerprint
    assert entry["nats_per_token"] < entry["nats_before"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_healing_takes_no_more_bytes(dtype: str, bundles: Get, text_work: Make, tmp_path: Path) -> None:
    """Training is in fp32; what is written is in the numbers that were there."""
    small = bundles("small-language")
    with new_bundle(tmp_path / "small", small) as (folder, card):
        for file in small.path.iterdir():
            if file.suffix != ".safetensors" and file.name != "card.json":
                shutil.copyfile(file, folder / file.name)
        load_model(small.path, "causal").to(getattr(torch, dtype)).save_pretrained(folder)
        card.update(task=small.card["task"], engine="torch_lm")
    student = Bundle(tmp_path / "small")
    stage = Heal(teacher=str(bundles("language").path), tokens=1024, learning_rate=3e-3, context=64)
    made = stage.run(student, text_work(tmp_path / "made"))
    assert weight_types(made) == weight_types(student)
    assert (made.path / WEIGHTS_FILE).stat().st_size == (student.path / WEIGHTS_FILE).stat().st_size
    entry = made.card["stages"][-1]
    assert entry["nats_per_token"] < entry["nats_before"]
    assert open_language_engine(made, threads=1).score(["My order has not arrived."])[0].log_probabilities.size


@pytest.mark.parametrize("lora", [False, True])
def test_healing_a_classifier(lora: bool, bundles: Get, work: Make, tmp_path: Path) -> None:
    student = bundles("student")
    made = Heal(epochs=2, learning_rate=1e-3, lora=lora).run(student, work(tmp_path / "made"))
    entry = made.card["stages"][-1]
    assert (entry["use"], entry["by"]) == ("distil/heal", "distil/logits")
    assert entry["history"][-1]["loss"] < entry["history"][0]["loss"]
    texts = ["Where is my parcel?", "I was charged twice"]
    assert open_engine(made, threads=1).probabilities(texts).shape == (2, len(student.labels))
