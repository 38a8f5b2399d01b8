"""The quick scan of Mamba-2: the outputs and gradients of the plain one, and of the recurrence written out."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="scans need torch")
transformers = pytest.importorskip("transformers", reason="scans need transformers")


@pytest.mark.parametrize(("length", "chunk", "groups"), [(7, 3, 2), (12, 4, 1), (5, 16, 4), (1, 8, 1)])
def test_the_quick_scan_is_the_recurrence(length: int, chunk: int, groups: int) -> None:
    from halfpint.models._quick_scan import chunked_scan

    random = torch.Generator().manual_seed(length)
    x, dt = torch.randn(2, length, 4, 3, generator=random), torch.rand(2, length, 4, generator=random)
    a, skip = -torch.rand(4, generator=random) * 3, torch.randn(4, generator=random)
    b, c = (torch.randn(2, length, groups, 5, generator=random) for _ in range(2))
    state, wanted = torch.zeros(2, 4, 3, 5), []
    for at in range(length):
        ins, outs = (part[:, at].repeat_interleave(4 // groups, dim=1) for part in (b, c))  # (rows, heads, state)
        step = dt[:, at, :, None, None]
        state = (a[:, None, None] * step).exp() * state + step * x[:, at, :, :, None] * ins[:, :, None]
        wanted.append((state * outs[:, :, None]).sum(-1) + skip[:, None] * x[:, at])
    found = chunked_scan(x, dt, a, b, c, skip, chunk)
    torch.testing.assert_close(found, torch.stack(wanted, dim=1), rtol=1e-5, atol=1e-5)


def test_a_model_learns_the_same_with_it() -> None:
    from halfpint.models.quick_passes import quick_passes

    torch.manual_seed(0)
    config = transformers.Mamba2Config(
        vocab_size=60, hidden_size=32, num_heads=8, head_dim=8, n_groups=2, state_size=16, num_hidden_layers=2,
        chunk_size=8,
    )  # fmt: skip
    model = transformers.Mamba2ForCausalLM(config)
    ids = torch.randint(0, 60, (2, 21), generator=torch.Generator().manual_seed(0))

    def learned() -> tuple[Any, dict[str, Any]]:
        model.zero_grad()
        found = model(input_ids=ids, labels=ids, use_cache=False)
        found.loss.backward()
        return found.logits.detach(), {name: tensor.grad.clone() for name, tensor in model.named_parameters()}

    logits, gradients = learned()
    with quick_passes(model) as names:
        assert "scan" in names
        quick, ours = learned()
        written = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
    torch.testing.assert_close(quick, logits, rtol=1e-4, atol=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-4, msg=name)
    assert torch.equal(written, model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0))
