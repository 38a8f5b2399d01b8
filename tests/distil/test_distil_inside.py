"""Language models that learn to work inside as their teacher does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle
from halfpint.data.packing import IGNORED
from halfpint.distil._inside import caught, layers_of, relation_loss, state_loss
from halfpint.distil.student import Student
from halfpint.distil.token_hidden import TokenHidden
from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError
from halfpint.models import sizes
from halfpint.models.sizes import CAUSAL
from halfpint.stage import Work
from halfpint.train.learner import Learner
from halfpint.train.loop import device

torch = pytest.importorskip("torch", reason="distilling needs torch")

Make = Callable[..., Work]
Get = Callable[[str], Bundle]
FAST: dict[str, Any] = {"batch_tokens": 256, "precision": "fp32"}


@pytest.mark.parametrize("match", ["relations", "states"])
def test_a_student_comes_nearer_inside(match: str, bundles: Get, text_work: Make, tmp_path: Path) -> None:
    teacher, student = bundles("language"), bundles("small-language")
    stage = TokenHidden(teacher=str(teacher.path), match=match, tokens=8192, learning_rate=3e-3, **FAST)
    made = stage.run(student, text_work(tmp_path / "made"))
    entry = made.card["stages"][-1]
    assert entry[match] < 0.9 * entry[f"{match}_before"] and entry["teacher"] == teacher.fingerprint
    before, after = (load_model(one.path, CAUSAL).state_dict() for one in (student, made))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("self_attn" in name for name in changed)
    assert not any("embed" in name or "lm_head" in name for name in changed)


@pytest.mark.parametrize("match", ["relations", "states"])
def test_a_model_is_at_no_distance_from_itself(match: str, bundles: Get, text_work: Make, tmp_path: Path) -> None:
    teacher = bundles("language")
    stage = TokenHidden(teacher=str(teacher.path), match=match, tokens=256, context=32, evaluations=1, **FAST)
    entry = stage.run(teacher, text_work(tmp_path / "made")).card["stages"][-1]
    assert entry[f"{match}_before"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("match", ["relations", "states"])
def test_documents_of_a_row_are_apart(match: str, bundles: Get, text_work: Make, tmp_path: Path) -> None:
    """The distance of a row with two documents and padding is that of each alone, by its tokens."""
    teacher, student = bundles("language"), bundles("small-language")
    small, large = (load_model(one.path, CAUSAL).eval() for one in (student, teacher))
    learner = Learner(small, CAUSAL, device())
    learner.check_apart("here")
    stage = TokenHidden(teacher=str(teacher.path), match=match)
    loss = stage._loss_of(student, teacher, learner, None, text_work(tmp_path))
    sizes_, random = (7, 5), np.random.default_rng(0)
    ids = random.integers(10, 200, size=(1, 14))
    numbers = np.concatenate([np.full(7, 0), np.full(5, 1), np.full(2, -1)])[None]
    labels = np.where(numbers < 0, IGNORED, ids)
    labels[0, [0, 7]] = IGNORED
    places = np.concatenate([np.arange(7), np.arange(5), np.arange(2)])[None]
    arrays = {"input_ids": ids, "labels": labels, "position_ids": places, "sequence_ids": numbers}
    with torch.inference_mode():
        found = float(loss(arrays)) / 10  # labels
        total = 0.0
        for low, size in zip((0, 7), sizes_, strict=True):
            alone = torch.from_numpy(ids[:, low : low + size])
            if match == "states":
                a, b = (one.base_model(alone, output_hidden_states=True).hidden_states for one in (small, large))
                pairs = [(a[0], b[0]), (a[1], b[len(b) - 1])]
                mask = torch.ones(1, size)
                total += size * float(sum(state_loss(one, other, mask) for one, other in pairs)) / 2
                continue
            with caught(layers_of(small)[-1], "here") as a, caught(layers_of(large)[-1], "here") as b:
                small.base_model(alone)
                large.base_model(alone)
            for place in range(size):  # a token and those before it
                for kind in a:
                    one, other = (held[kind][:, : place + 1] for held in (a, b))
                    seen = torch.ones(1, place + 1)
                    last = torch.zeros(1, place + 1)
                    last[0, -1] = 1
                    everything = seen[:, None, :].bool().expand(1, place + 1, -1)
                    heads = max(1, one.shape[-1] // 32)
                    total += float(relation_loss(one, other, last, heads, everything)) / 3
    assert found == pytest.approx(total / sum(sizes_), rel=1e-4)


def test_queries_keys_and_values_of_one_projection_are_told_apart() -> None:
    """Where one projection makes all three, of as many heads as each has."""
    settings, _ = sizes.size_dial("phi3", 200_000, 300, 64)
    model = sizes.new_model("phi3", {**settings, "num_attention_heads": 4, "num_key_value_heads": 2}).eval()
    attention = layers_of(model)[-1].self_attn
    ids, given = torch.arange(8)[None], []
    attention.qkv_proj.register_forward_hook(lambda _m, _i, out: given.append(out))
    with caught(layers_of(model)[-1], "here") as held:
        model(ids)
    head = attention.head_dim
    assert [held[kind].shape[-1] for kind in ("query", "key", "value")] == [4 * head, 2 * head, 2 * head]
    torch.testing.assert_close(torch.cat(list(held.values()), -1), given[0])


def test_projections_that_are_mixed_are_not_told_apart() -> None:
    """GPT-NeoX has each head's query, key and value together: thirds of them are none of the three."""
    settings = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 48}
    model = sizes.new_model("gpt_neox", {**settings, "vocab_size": 100})
    with (
        pytest.raises(HalfpintError, match="expected a model with queries, keys and values in its layers"),
        caught(layers_of(model)[-1], "here"),
    ):
        pass


def test_what_cannot_be_is_refused(bundles: Get, text_work: Make, tmp_path: Path) -> None:
    teacher, student = bundles("language"), bundles("small-language")
    with pytest.raises(HalfpintError, match="match must be relations or states, not 'both'"):
        TokenHidden(match="both")
    two = TokenHidden(teacher=f"{teacher.path},{bundles('taught').path}")
    with pytest.raises(HalfpintError, match="teacher must be one, as its states are looked at, not 2"):
        two.fits(student)
    narrow = Student(size="400k").run(teacher, text_work(tmp_path / "narrow"))
    assert narrow.config["hidden_size"] != teacher.config["hidden_size"]
    with pytest.raises(HalfpintError, match=r"match: expected relations between models of \d+ and \d+ wide states"):
        TokenHidden(teacher=str(teacher.path), match="states", **FAST).run(narrow, text_work(tmp_path / "made"))
    with pytest.raises(HalfpintError, match=r"match: expected relations between models of \d+ and \d+ wide states"):
        TokenHidden(teacher=str(teacher.path), match="states").fits(narrow)
    with pytest.raises(HalfpintError, match="teacher_layer must be a number up to 2"):
        TokenHidden(teacher=str(teacher.path), teacher_layer=99).fits(student)
    with pytest.raises(HalfpintError, match="train_embeddings: expected false with adapters"):
        TokenHidden(train_embeddings=True, lora=True)
    with pytest.raises(HalfpintError, match="teacher_layer must be a number up to"):
        TokenHidden(teacher=str(teacher.path), teacher_layer=99, **FAST).run(student, text_work(tmp_path / "made"))
    assert not (tmp_path / "made").exists()
