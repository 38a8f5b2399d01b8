"""What the training stages learn: losses as their formulas say, better than the baseline, the same in every process."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import entropy

from halfpint.bundle import Bundle, open_bundle
from halfpint.data.examples import Example
from halfpint.data.prepare import Prepared
from halfpint.engines import open_engine
from halfpint.engines.torch_classifier import load_model, logits
from halfpint.models.pull import Pull
from halfpint.outputs import Encoded
from halfpint.progress import Log
from halfpint.search.speed import training_speed
from halfpint.stage import Work
from halfpint.tasks.classify import TASK, Classify
from halfpint.train import encoders
from halfpint.train.batches import epoch_batches
from halfpint.train.finetune import Finetune, _disagreement
from halfpint.train.frozen_linear import FrozenLinear
from halfpint.train.majority import Majority
from halfpint.train.tfidf_linear import TfidfLinear

pytest.importorskip("torch", reason="training needs torch")

Make = Callable[..., Work]


def keyword_examples(number: int, seed: int) -> list[Example]:
    """Texts of common words in which one word tells the label."""
    random = np.random.default_rng(seed)
    filler = ["the", "to", "and", "my", "i", "of", "it", "is", "for", "in", "on", "you", "this", "was", "not", "but"]
    tells = {"billing": "invoice", "delivery": "parcel", "login": "password"}
    found = []
    for row in range(number):
        label = sorted(tells)[row % 3]
        words = random.choice(filler, 6).tolist()
        words.insert(int(random.integers(0, 7)), tells[label])
        found.append(Example(" ".join(words), label, row + 2))
    return found


def softmax(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    raised = np.exp(values - values.max(axis=1, keepdims=True))
    result: npt.NDArray[Any] = raised / raised.sum(axis=1, keepdims=True)
    return result


@pytest.mark.parametrize("refit", [True, False])
def test_finetuning_learns(refit: bool, bundles: Callable[[str], Bundle], work: Make, tmp_path: Path) -> None:
    train, held = keyword_examples(120, 0), keyword_examples(60, 1)
    labels = TASK.labels(train)
    stage = Finetune(
        epochs=8, learning_rate=3e-3, head_learning_rate=1e-2, batch_size=16, precision="fp32", refit_head=refit
    )
    made = stage.run(bundles("encoder"), work(tmp_path / "made", train=train, validation=held, labels=labels))
    probabilities = open_engine(made, threads=1).probabilities([example.text for example in held])
    accuracy = TASK.score("accuracy", held, probabilities, labels)
    assert accuracy == (np.asarray(probabilities).argmax(axis=1) == TASK.targets(held, labels)).mean()
    majority = max(Counter(example.label for example in held).values()) / len(held)
    assert accuracy > majority + 0.4
    entry = made.card["stages"][-1]
    assert entry["best_score"] == entry["finish"]["as trained"] == max(row["score"] for row in entry["history"])
    assert len(entry["finish"]) == (2 if refit else 1)
    assert max(entry["finish"].values()) == pytest.approx(accuracy)  # the best that was tried is what is kept
    assert [row["epoch"] for row in entry["history"]] == list(range(1, 9))
    assert entry["history"][-1]["loss"] < entry["history"][0]["loss"]
    assert not (tmp_path / "unfinished-made").exists()


@pytest.mark.parametrize("labels", [("billing", "delivery", "login"), ("billing", "login")])
def test_heads_learn(labels: tuple[str, ...], bundles: Callable[[str], Bundle], work: Make, tmp_path: Path) -> None:
    """A linear head on random states finds the words too. Of two labels scikit-learn keeps one row of weights."""
    train, held = (
        [example for example in keyword_examples(number, seed) if example.label in labels]
        for number, seed in ((360, 0), (60, 1))
    )
    targets = TASK.targets(held, labels)
    for stage, parent, least in ((TfidfLinear(), None, 0.95), (FrozenLinear(), bundles("encoder"), 0.75)):
        target = tmp_path / stage.use.replace("/", "-")
        made = stage.run(parent, work(target, train=train, validation=held, labels=labels))
        probabilities = open_engine(made, threads=1).probabilities([example.text for example in held])
        assert (probabilities.argmax(axis=1) == targets).mean() > least, stage.use


def test_a_head_is_what_scikit_learn_finds() -> None:
    from sklearn.linear_model import LogisticRegression

    from halfpint.train._head import _logistic

    random = np.random.default_rng(0)
    inputs = random.normal(size=(150, 6)).astype(np.float32)
    targets = (inputs[:, 0] + 0.5 * random.normal(size=150) > 0).astype(np.int64) + (inputs[:, 1] > 1)
    weight, bias = _logistic(inputs, targets, 3, 0.01)
    theirs = LogisticRegression(C=1 / (0.01 * len(inputs)), max_iter=1000, tol=1e-8).fit(inputs, targets)
    np.testing.assert_allclose(softmax(inputs @ weight.T + bias), theirs.predict_proba(inputs), atol=2e-3)


def first_loss(stage: Finetune, parent: Bundle, tmp_path: Path, work: Make, train: list[Example]) -> float:
    log = Log(tmp_path / "events.jsonl", quiet=True)
    stage.run(parent, work(tmp_path / "made", train=train, log=log))
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    return float(next(event["loss"] for event in events if event["event"] == "step"))


@pytest.mark.parametrize(
    ("smoothing", "class_weights"), [(0.0, "none"), (0.2, "none"), (0.0, "balanced"), (0.1, "balanced")]
)
def test_the_loss_is_the_formula(
    smoothing: float,
    class_weights: str,
    bundles: Callable[[str], Bundle],
    work: Make,
    prepared: Prepared,
    tmp_path: Path,
) -> None:
    parent, train = bundles("classifier"), prepared.train[:60]
    labels = TASK.labels(prepared.train)
    stage = Finetune(
        dropout=0.0, label_smoothing=smoothing, class_weights=class_weights, batch_size=16, precision="fp32",
        stop_after_steps=1, epochs=1, refit_head=False,
    )  # fmt: skip
    found = first_loss(stage, parent, tmp_path, work, train)
    encoded = encoders.encoded(parent.path, TASK, TASK.texts(train), int(parent.config["max_tokens"]))
    batch = epoch_batches(encoded.lengths, batch_size=16, batch_tokens=4096, seed=0, epoch=0)[0]
    log_p = np.log(softmax(logits(load_model(parent.path), encoded)[batch].astype(np.float64)))
    targets = TASK.targets(train, labels)
    counts = np.bincount(targets, minlength=len(labels))
    each = len(targets) / (len(labels) * counts) if class_weights == "balanced" else np.ones(len(labels))
    weights = each[targets[batch]]
    hard = -(weights * log_p[np.arange(len(batch)), targets[batch]]).sum() / weights.sum()
    spread = -(each * log_p).sum() / len(labels) / weights.sum()
    assert found == pytest.approx((1 - smoothing) * hard + smoothing * spread, abs=1e-4)
    if smoothing or class_weights == "balanced":
        plain = -log_p[np.arange(len(batch)), targets[batch]].mean()
        assert abs(found - plain) > 1e-3  # the setting shows


def test_two_passes_that_disagree_cost(
    bundles: Callable[[str], Bundle], work: Make, prepared: Prepared, tmp_path: Path
) -> None:
    """The loss grows by the weight times what the passes' dropout makes of one text; without dropout by nothing."""
    parent = bundles("classifier")

    def loss(consistency: float, dropout: float) -> float:
        stage = Finetune(
            dropout=dropout, consistency=consistency, batch_size=16, precision="fp32", stop_after_steps=1, epochs=1,
            refit_head=False,
        )  # fmt: skip
        folder = tmp_path / f"{consistency}-{dropout}"
        folder.mkdir()
        return first_loss(stage, parent, folder, work, prepared.train[:60])

    assert loss(1.0, 0.0) == pytest.approx(loss(0.0, 0.0), abs=1e-5)
    none, one, two = (loss(weight, 0.3) for weight in (1e-9, 1.0, 2.0))
    assert one - none > 1e-4
    assert two - one == pytest.approx(one - none, abs=1e-5)


def test_disagreement_is_the_symmetric_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(5, 4, generator=generator) for _ in range(2))
    p, q = softmax(first.numpy()), softmax(second.numpy())
    expected = [(entropy(a, b) + entropy(b, a)) / 2 for a, b in zip(p, q, strict=True)]
    assert float(_disagreement(first, second)) == pytest.approx(np.mean(expected), abs=1e-5)
    assert float(_disagreement(first, first)) == 0.0


def test_embeddings_move_only_when_asked(bundles: Callable[[str], Bundle], work: Make, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    name = "embeddings.word_embeddings.weight"
    before = load_file(bundles("encoder").path / "model.safetensors")[name]
    for asked in (False, True):
        stage = Finetune(train_embeddings=asked, epochs=1, precision="fp32", learning_rate=1e-3, refit_head=False)
        made = stage.run(bundles("encoder"), work(tmp_path / str(asked), train=keyword_examples(40, 0)))
        after = load_file(made.path / "model.safetensors")[f"encoder.{name}"]
        assert np.array_equal(before, after) != asked


def test_train_texts_draws_by_seed(bundles: Callable[[str], Bundle], work: Make, tmp_path: Path) -> None:
    drawn = {}
    for number, (seed, texts) in enumerate([(0, 24), (0, 24), (1, 24), (0, 0)]):
        seen: list[str] = []
        examples = keyword_examples(60, 0)
        task = Watched(seen)
        target = tmp_path / str(number)
        stage = Finetune(train_texts=texts, seed=seed, epochs=1, precision="fp32", batch_size=8, refit_head=False)
        made = stage.run(bundles("encoder"), work(target, train=examples, task=task))
        drawn[number] = (made.card["stages"][-1]["steps"], seen)
    assert drawn[0] == drawn[1]
    assert drawn[0][1] != drawn[2][1]
    assert (drawn[0][0], drawn[3][0]) == (3, 8)


class Watched(Classify):
    """The task, which writes down what it is asked for."""

    def __init__(self, seen: list[str]) -> None:
        self.seen = seen

    def targets(self, examples: Sequence[Example], labels: Sequence[str]) -> npt.NDArray[np.int64]:
        self.seen += [example.text for example in examples]
        return super().targets(examples, labels)


@pytest.mark.parametrize("stage", [TfidfLinear(features=50, min_documents=1), Majority()])
def test_a_label_without_training_text_is_never_likely(
    stage: TfidfLinear | Majority, work: Make, prepared: Prepared, tmp_path: Path
) -> None:
    train = [example for example in prepared.train if example.label != "praise"]
    made = stage.run(None, work(tmp_path / "made", train=train))
    probabilities = open_engine(made).probabilities([example.text for example in prepared.validation])
    unseen = made.labels.index("praise")
    assert not (probabilities.argmax(axis=1) == unseen).any()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_a_given_penalty_is_taken(bundles: Callable[[str], Bundle], work: Make, tmp_path: Path) -> None:
    norms = []
    for penalty in (1e-4, 1.0):
        made = FrozenLinear(penalty=penalty).run(bundles("encoder"), work(tmp_path / str(penalty)))
        assert made.card["stages"][-1]["penalty"] == penalty
        norms.append(load_model(made.path).classifier.weight.norm().item())
    assert norms[1] < 0.5 * norms[0]


@pytest.mark.parametrize("features", [60, 30_000])
def test_tfidf_keeps_at_most_so_many_features(features: int, work: Make, tmp_path: Path) -> None:
    made = TfidfLinear(features=features).run(None, work(tmp_path / "made"))
    names = (made.path / "features.txt").read_text(encoding="utf-8").splitlines()
    assert made.card["stages"][-1]["features"] == len(names) == len(set(names))
    assert len(names) <= features
    assert len(names) == 60 or len(names) > 1000


def test_tfidf_without_characters(work: Make, tmp_path: Path) -> None:
    made = TfidfLinear(characters=0).run(None, work(tmp_path / "made"))
    names = (made.path / "features.txt").read_text(encoding="utf-8").splitlines()
    assert all(name.startswith("w:") for name in names)


_IN_A_PROCESS = """
import sys
from pathlib import Path
from halfpint.data.prepare import Data, prepare
from halfpint.progress import SILENT
from halfpint.stage import Work
from halfpint.tasks.classify import TASK
from halfpint.train.tfidf_linear import TfidfLinear

data = prepare(Data(source=sys.argv[1]), SILENT, probe_labels=False)
target = Path(sys.argv[2])
work = Work(target=target, scratch=target.with_name("scratch"), task=TASK, split=data, labels=TASK.labels(data.train))
print(data.key, TfidfLinear(features=40).run(None, work).fingerprint)
"""


def test_two_processes_make_the_same(tmp_path: Path) -> None:
    """Python orders the words in a set in another way in every process; nothing may hang on that."""
    source = Path(__file__).resolve().parents[2] / "examples" / "tickets.csv"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _IN_A_PROCESS, str(source), str(tmp_path / seed / "made")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    told = [process.communicate(timeout=300)[0] for process in running]
    assert told[0]
    assert told[0] == told[1]


def test_macro_f1_as_scikit_learn_has_it() -> None:
    from sklearn.metrics import f1_score

    random = np.random.default_rng(0)
    for classes, rows in itertools.product((2, 5), (10, 200)):
        values, targets = random.normal(size=(rows, classes)), random.integers(0, classes, rows)
        wanted = f1_score(targets, values.argmax(axis=1), average="macro")
        labels = [f"label {index}" for index in range(classes)]
        held = [Example("a text", labels[index], row) for row, index in enumerate(targets)]
        macro, accuracy = (encoders.Judge(TASK, held, labels, name) for name in ("f1_macro", "accuracy"))
        assert macro(values) == pytest.approx(wanted)
        assert accuracy(values) == (values.argmax(axis=1) == targets).mean()


def test_longest_covers_nearly_all_texts(bundles: Callable[[str], Bundle], prepared: Prepared) -> None:
    from halfpint.tokenizers.load import open_tokenizer

    tokenizer = open_tokenizer(bundles("encoder").path)
    cut = encoders.longest(tokenizer, TASK.texts(prepared.train))
    lengths = [len(tokenizer.encode(example.text).ids) for example in prepared.train]
    assert cut % 8 == 0
    assert np.mean([length <= cut for length in lengths]) >= 0.99
    assert cut < max(lengths) + 8
    assert encoders.longest(tokenizer, ["parcel " * 2000]) == 256
    assert encoders.longest(tokenizer, ["hi"]) == 16


def test_an_encoder_with_few_places(short_encoder: Path, work: Make, prepared: Prepared, tmp_path: Path) -> None:
    """Texts are cut where the encoder has no more places for tokens, in training and in use."""
    base = Pull(base=str(short_encoder)).run(None, work(tmp_path / "base"))
    train = prepared.train[:40]
    head = FrozenLinear().run(base, work(tmp_path / "head", train=train))
    tuned = Finetune(epochs=1, precision="fp32", refit_head=False).run(base, work(tmp_path / "tuned", train=train))
    assert training_speed(base, TASK, prepared.train, Finetune())[0] > 0
    for bundle in (head, tuned):
        assert bundle.config["max_tokens"] == 24
        assert np.isfinite(open_engine(bundle, threads=1).probabilities(["parcel " * 500, "hi"])).all()


@pytest.mark.parametrize(
    ("config", "most"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "some", "encoder": {"model_type": "bert", "max_position_embeddings": 128}}, 128),
        ({"model_type": "bert"}, 256),
    ],
)
def test_places_for_tokens(config: dict[str, Any], most: int) -> None:
    assert encoders.positions(config) == most


def test_weights_with_and_without_a_prefix(bundles: Callable[[str], Bundle], tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    from halfpint.errors import HalfpintError

    plain = bundles("encoder")
    weights = load_file(plain.path / "model.safetensors")
    texts = Encoded([{"input_ids": [2, 60, 61, 3]}, {"input_ids": [2, 70, 3]}])
    head = {}
    for name, tensors in {
        "prefixed": {f"bert.{key}": tensor for key, tensor in weights.items()},
        "lacking": {key: tensor for key, tensor in weights.items() if "layer.1." not in key},
    }.items():
        folder = tmp_path / name
        shutil.copytree(plain.path, folder)
        save_file(tensors, folder / "model.safetensors")
        head[name] = folder
    ours, theirs = (
        encoders.new_classifier(bundle, TASK, ["a", "b"], 16, 0.0) for bundle in (plain, Bundle(head["prefixed"]))
    )
    for key, tensor in ours.state_dict().items():
        assert tensor.equal(theirs.state_dict()[key]), key
    assert np.array_equal(logits(ours, texts), np.zeros((2, 2)))  # a new head says nothing yet
    with pytest.raises(HalfpintError, match=r"16 missing \(encoder\.layer\.1"):
        encoders.new_classifier(Bundle(head["lacking"]), TASK, ["a", "b"], 16, 0.0)
    assert open_bundle(plain.path)
