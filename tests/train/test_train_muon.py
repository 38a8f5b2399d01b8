"""Muon: what its steps are, and that all else is AdamW."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from halfpint.errors import HalfpintError  # noqa: E402
from halfpint.train._muon import Muon, orthogonalised  # noqa: E402
from halfpint.train.loop import Training, check_settings, optimiser_groups  # noqa: E402


class Net(torch.nn.Module):
    """An embedding, two matrices with a bias, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(20, 16)
        self.wide, self.narrow = torch.nn.Linear(16, 40), torch.nn.Linear(40, 16, bias=False)
        self.head = torch.nn.Linear(16, 20, bias=False)

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        held = self.embed(ids)
        logits: torch.Tensor = self.head(held + self.narrow(torch.relu(self.wide(held))))
        return logits


@pytest.mark.parametrize("shape", [(3, 24, 64), (2, 64, 24), (1, 32, 32)])
def test_steps_have_equal_singular_values_and_the_gradients_directions(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    given = torch.randn(shape)
    found = orthogonalised(given)
    values = torch.linalg.svdvals(found)
    assert found.shape == given.shape and float(values.min()) > 0.3 and float(values.max()) < 1.3
    left, _, right = torch.linalg.svd(given, full_matrices=False)
    inner = left.mT @ found @ right.mT  # diagonal where the directions are the same
    assert float((inner - torch.diag_embed(inner.diagonal(dim1=1, dim2=2))).abs().max()) < 1e-3
    torch.testing.assert_close(orthogonalised(given[:1])[0], found[0])  # each for itself


def test_only_matrices_inside_are_stepped_so() -> None:
    net, other = Net(), Net()
    settings = Training(optimizer="muon", weight_decay=0.1)
    groups = optimiser_groups(net, settings)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    inside = {names[id(one)] for group in groups if group.get("muon") for one in group["params"]}
    assert inside == {"wide.weight", "narrow.weight"}
    muon = Muon(groups, lr=1e-2, betas=(0.9, 0.95), fused=True)
    adamw = torch.optim.AdamW(optimiser_groups(other, Training(weight_decay=0.1)), lr=1e-2, betas=(0.9, 0.95))
    ids = torch.arange(20)
    for _ in range(3):
        for model, optimiser in ((net, muon), (other, adamw)):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(ids), ids.roll(1)).backward()
            break_at = {name: one.grad.clone() for name, one in model.named_parameters()}
            if model is net:
                first = break_at
        # The same gradients for both: what is compared is the step.
        for (name, one), (_, twin) in zip(net.named_parameters(), other.named_parameters(), strict=True):
            twin.grad.copy_(first[name])
            assert one.grad is not None
        muon.step()
        adamw.step()
        assert all(parameter.grad is not None for parameter in net.parameters())
    for name, one in net.named_parameters():
        same = torch.allclose(one, dict(other.named_parameters())[name], atol=1e-6)
        assert same == (name not in inside), name


def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(HalfpintError, match=r"optimizer must be adamw or muon, not 'muno'"):
        check_settings(Training(optimizer="muno"), "train/pretrain")
