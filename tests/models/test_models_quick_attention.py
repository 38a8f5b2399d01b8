"""Attention in products gives what PyTorch's kernel gives, whatever the mask; what it does not do goes to that."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from halfpint.models._quick_attention import quick_attention  # noqa: E402


def plain(module: Any, query: Any, key: Any, value: Any, mask: Any, **more: Any) -> tuple[Any, None]:
    """What PyTorch does, heads repeated by hand."""
    groups = query.shape[1] // key.shape[1]
    key, value = (one.repeat_interleave(groups, 1) for one in (key, value))
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None and module.is_causal, scale=more.get("scaling")
    )
    return out.transpose(1, 2), None


def inputs(length: int, heads: int = 4, shared: int = 2) -> list[Any]:
    random = torch.Generator().manual_seed(length)
    shapes = [(3, heads, length, 8), (3, shared, length, 8), (3, shared, length, 8)]
    return [torch.randn(shape, generator=random).requires_grad_() for shape in shapes]


def documents(length: int, causal: bool) -> Any:
    """Each row holds three documents that do not see each other."""
    numbers = torch.stack([torch.bucketize(torch.arange(length), torch.tensor([cut, 2 * cut])) for cut in (3, 40, 70)])
    mask = numbers[:, None, :, None] == numbers[:, None, None, :]
    return mask.tril() if causal else mask


@pytest.mark.parametrize("length", [5, 128, 200])
@pytest.mark.parametrize(("causal", "masked"), [(True, False), (True, True), (False, False), (False, True)])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_it_is_the_same(length: int, causal: bool, masked: bool, scaling: float | None) -> None:
    module = SimpleNamespace(is_causal=causal)
    given = inputs(length)
    slope = torch.randn(3, length, 4, 8, generator=torch.Generator().manual_seed(1))
    found = []
    for attend in (plain, quick_attention(lambda *_, **__: pytest.fail("it has to do this itself"))):
        mask = documents(length, causal) if masked else None
        out, _ = attend(module, *given, mask, scaling=scaling)
        found.append((out, *torch.autograd.grad(out, given, slope)))
    for wanted, got in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_one_mask_serves_all_layers_and_each_type() -> None:
    module, attend = SimpleNamespace(is_causal=True), quick_attention(plain)
    given, mask = inputs(60), documents(60, True)
    exact, _ = attend(module, *given, mask)
    with torch.autocast("cpu", torch.bfloat16):
        low, _ = attend(module, *given, mask)
    again, _ = attend(module, *given, mask)
    assert low.dtype == torch.bfloat16 and torch.equal(exact, again)
    torch.testing.assert_close(low.float(), exact, rtol=0.05, atol=0.02)


def test_a_mask_that_looks_ahead_is_not_cut() -> None:
    """A decoder that was given a mask of its own (a prefix that sees itself whole) keeps it."""
    module, given = SimpleNamespace(is_causal=True), inputs(200)
    mask = torch.ones(1, 1, 200, 200, dtype=torch.bool).tril()
    mask[..., :150, :150] = True
    wanted, got = (attend(module, *given, mask)[0] for attend in (plain, quick_attention(plain)))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_the_rest_goes_to_the_plain_one() -> None:
    asked: list[str] = []

    def told(*given: Any, **more: Any) -> str:
        asked.append("")
        return "plain"

    attend, module, (query, key, value) = quick_attention(told), SimpleNamespace(is_causal=True), inputs(16)
    assert attend(module, query, key, value, None, dropout=0.1) == "plain"
    assert attend(module, query, key, value, None, position_bias=query) == "plain"
    assert attend(module, query[:, :, -1:], key, value, None) == "plain"  # writing with a cache
    assert attend(module, query, key, value, torch.zeros(3, 1, 16, 16)) == "plain"  # a bias, no mask
    with torch.no_grad():
        assert attend(module, query, key, value, None) == "plain"
    assert len(asked) == 5
