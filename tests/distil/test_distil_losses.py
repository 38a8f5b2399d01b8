"""The losses of distilling are their formulas: divergences, relations between tokens, states."""

from __future__ import annotations

import numpy as np
import pytest

from halfpint.distil._inside import layer_map, relation_heads, relation_loss, state_loss
from halfpint.distil.logits import Logits
from halfpint.errors import HalfpintError

torch = pytest.importorskip("torch", reason="distilling needs torch")


def softmax(values: np.ndarray) -> np.ndarray:
    raised = np.exp(values - values.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def kl(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first * (np.log(first) - np.log(second))).sum(-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(("divergence", "beta"), [("forward", 0.5), ("reverse", 0.5), ("js", 0.3), ("js", 0.5)])
def test_the_divergence_is_the_formula(divergence: str, beta: float, temperature: float) -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.normal(size=(2, 6, 5))
    p, q = softmax(theirs / temperature), softmax(ours / temperature)
    mix = beta * p + (1 - beta) * q
    wanted = {"forward": kl(p, q), "reverse": kl(q, p), "js": beta * kl(p, mix) + (1 - beta) * kl(q, mix)}[divergence]
    stage = Logits(temperature=temperature, divergence=divergence, js_beta=beta)
    found = stage.distance(torch.from_numpy(ours), torch.from_numpy(theirs))
    np.testing.assert_allclose(found, wanted * temperature**2, rtol=1e-4)
    same = stage.distance(torch.from_numpy(theirs), torch.from_numpy(theirs))
    np.testing.assert_allclose(same, 0, atol=1e-5)


def test_js_is_forward_near_nothing_and_reverse_near_all() -> None:
    """Agarwal et al. 2024, appendix A: the limit of JS(beta) / beta is the forward divergence."""
    random = np.random.default_rng(1)
    ours, theirs = (torch.from_numpy(random.normal(size=(4, 7))).float() for _ in range(2))

    def found(divergence: str, beta: float = 0.5) -> np.ndarray:
        return Logits(temperature=1.0, divergence=divergence, js_beta=beta).distance(ours, theirs).numpy()

    np.testing.assert_allclose(found("js", 1e-3) / 1e-3, found("forward"), rtol=0.02)
    np.testing.assert_allclose(found("js", 1 - 1e-3) / 1e-3, found("reverse"), rtol=0.02)


def test_what_has_no_probability_adds_nothing() -> None:
    """A teacher that excludes an answer (log 0) gives a finite loss and finite gradients."""
    ours = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    theirs = torch.tensor([[0.5, -torch.inf, 0.2]])
    for divergence in ("forward", "js"):
        loss = Logits(divergence=divergence).distance(ours, theirs).sum()
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(ours.grad).all()


def test_relations_are_the_formula_and_padding_is_not_seen() -> None:
    random = np.random.default_rng(2)
    student, teacher = random.normal(size=(2, 4, 6)), random.normal(size=(2, 4, 10))
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1]])
    total, count = 0.0, 0
    for text, tokens in enumerate(mask.sum(1)):
        for head in range(2):
            found = []
            for vectors in (student, teacher):
                width = vectors.shape[-1] // 2
                part = vectors[text, :tokens, head * width : (head + 1) * width]
                found.append(softmax(part @ part.T / np.sqrt(width)))
            total, count = total + kl(found[1], found[0]).sum(), count + tokens
    loss = relation_loss(*(torch.from_numpy(array) for array in (student, teacher, mask)), 2)
    assert float(loss) == pytest.approx(total / count, rel=1e-5)
    student[0, 3], teacher[0, 3] = 99.0, -99.0
    again = relation_loss(*(torch.from_numpy(array) for array in (student, teacher, mask)), 2)
    assert float(again) == pytest.approx(float(loss), rel=1e-6)


def test_relations_give_gradients_to_the_student_alone() -> None:
    student, teacher = (torch.randn(1, 3, 8, requires_grad=True) for _ in range(2))
    mask = torch.tensor([[1, 1, 0]])
    relation_loss(student, teacher, mask, 2).backward()
    assert student.grad.abs()[0, :2].sum() > 0 and torch.isfinite(student.grad).all()
    assert teacher.grad is None and student.grad[0, 2].abs().sum() == 0


def test_states_leave_padding_out() -> None:
    student, teacher = torch.zeros(1, 3, 4), torch.ones(1, 3, 4)
    teacher[0, 2] = 100
    assert float(state_loss(student, teacher, torch.tensor([[1, 1, 0]]))) == pytest.approx(1.0)


def test_heads_divide_both_widths() -> None:
    assert relation_heads(384, 384, 0, "here") == 12
    assert relation_heads(128, 384, 0, "here") == 4
    assert relation_heads(320, 384, 0, "here") == 8
    assert relation_heads(128, 384, 16, "here") == 16
    with pytest.raises(HalfpintError, match="must be a divisor of 128"):
        relation_heads(128, 384, 3, "here")


def test_layers_are_spread_up_to_the_last() -> None:
    assert layer_map("", 2, 6, "here") == [3, 6]
    assert layer_map("", 4, 12, "here") == [3, 6, 9, 12]
    assert layer_map("1, 6", 2, 6, "here") == [1, 6]
    for written in ("1", "1,7", "0,2", "a,b"):
        with pytest.raises(HalfpintError, match="must be 2 numbers from 1 to 6"):
            layer_map(written, 2, 6, "here")
