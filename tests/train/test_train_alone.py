"""Models that cannot keep the documents of a row apart: each document has a row of its own, and learns all the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from halfpint.bundle import Bundle
from halfpint.data.packing import IGNORED, PADDING
from halfpint.data.prepare import Prepared
from halfpint.errors import HalfpintError
from halfpint.models import sizes
from halfpint.progress import Log
from halfpint.task import Split
from halfpint.train.pretrain import Pretrain

torch = pytest.importorskip("torch", reason="training needs torch")
transformers = pytest.importorskip("transformers", reason="training needs transformers")

TINY = Pretrain(
    size="100k", vocabulary=400, context=32, batch_tokens=512, tokens=512 * 8, evaluations=2, evaluation_tokens=512,
    learning_rate=1e-2,
)  # fmt: skip


class Sums(torch.nn.Module):  # type: ignore[misc]
    """Adds up all that came before, or all that comes."""

    def __init__(self, *, backwards: bool = False) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=50, model_type="sums", pad_token_id=0)
        self.backwards = backwards
        self.embed, self.head = torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50)

    def get_output_embeddings(self) -> Any:
        return self.head

    def forward(self, input_ids: Any, attention_mask: Any = None) -> Any:
        states = self.embed(input_ids)
        states = states.flip(1).cumsum(1).flip(1) if self.backwards else states.cumsum(1)
        return SimpleNamespace(logits=self.head(states))


def row(length: int, padded: int, objective: str) -> dict[str, Any]:
    """One document of so many tokens in a row of `padded`."""
    ids = np.random.default_rng(length).integers(5, 300, size=(1, length))
    labels = ids.copy()
    labels[0, (slice(None, None, 2) if objective == "masked" else 0)] = IGNORED
    arrays = {
        "input_ids": (ids, 0), "labels": (labels, IGNORED), "position_ids": (np.arange(length)[None], 0),
        "sequence_ids": (np.zeros((1, length), dtype=np.int64), PADDING),
    }  # fmt: skip
    more = ((0, 0), (0, padded - length))
    return {name: np.pad(array, more, constant_values=fill) for name, (array, fill) in arrays.items()}


@pytest.mark.parametrize("arch", ["llama", "mamba2", "bert"])
def test_rows_that_stand_alone_have_the_loss_of_each_document(arch: str) -> None:
    from halfpint.train.learner import Learner

    torch.manual_seed(0)
    model_type, objective = sizes.resolve(arch)
    model = sizes.new_model(model_type, sizes.size_dial(arch, 120_000, 300, 64)[0])
    learner, log = Learner(model.eval(), objective, torch.device("cpu")), Log(quiet=True)
    assert learner.settled("fit", "here", log) == ("alone" if arch == "mamba2" else "fit")
    assert learner.settled("alone", "here", log) == "alone"
    short, long = row(7, 12, objective), row(12, 12, objective)
    both = {name: np.concatenate([short[name], long[name]]) for name in short}
    with torch.no_grad():
        together = float(learner.loss(both, "sum"))
        apart = [float(learner.loss(one, "sum")) for one in (row(7, 7, objective), long)]
    assert together == pytest.approx(sum(apart), abs=2e-3)
    assert min(apart) > 1


def test_what_sees_the_padding_is_refused_and_what_sees_the_document_before_is_not() -> None:
    from halfpint.train.learner import Learner

    log = Log(quiet=True)
    assert Learner(Sums(), "causal", torch.device("cpu")).settled("fit", "here", log) == "alone"
    learner = Learner(Sums(backwards=True), "masked", torch.device("cpu"))
    with pytest.raises(HalfpintError, match=r"from the padding behind it.*'sums'"):
        learner.settled("alone", "here", log)


@pytest.mark.parametrize(
    "changes", [{"arch": "mamba2"}, {"arch": "lfm2", "size": "200k"}, {"arch": "bert", "packing": "alone"}]
)
def test_documents_are_learned_one_a_row(
    run_stage: Callable[..., tuple[Bundle, Any]], prepared: Prepared, changes: dict[str, str]
) -> None:
    texts = [f"{example.text} It is about {example.label}." for example in prepared.train]
    documents = Split(train=texts[30:], validation=texts[:30], key="tickets")
    bundle, log = run_stage(replace(TINY, **cast(Any, changes)), learns=documents)
    assert bundle.card["stages"][-1]["best_score"] > -math.log(bundle.config["vocab_size"])
    assert any("cannot keep the documents of a row apart" in line for line in log.lines) == ("packing" not in changes)
