"""Thin matrices: exact at full rank, the best there are below it, most where an error costs most, and real savings."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle
from halfpint.compress._ranks import Layer, allotted_ranks, even_ranks, factors, sensitivities, spectrum
from halfpint.compress.low_rank import LowRank
from halfpint.errors import HalfpintError
from halfpint.stage import Work

torch = pytest.importorskip("torch", reason="factoring needs torch")
transformers = pytest.importorskip("transformers", reason="factoring needs transformers")

Make = Callable[..., Work]
Get = Callable[[str], Bundle]


def seen(outputs: int, inputs: int) -> tuple[Any, Any, Any]:
    torch.manual_seed(outputs)
    given = torch.randn(300, inputs) @ torch.randn(inputs, inputs) * torch.rand(inputs)
    return torch.randn(outputs, inputs), given, (given.T @ given).double()


@pytest.mark.parametrize(("outputs", "inputs"), [(6, 10), (10, 6), (8, 8)])
def test_at_full_rank_nothing_is_lost(outputs: int, inputs: int) -> None:
    matrix, _, products = seen(outputs, inputs)
    first, second = factors(matrix, products, min(outputs, inputs))
    torch.testing.assert_close(second @ first, matrix, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("outputs", "inputs"), [(6, 10), (10, 6)])
def test_at_any_rank_it_is_the_best_for_what_comes_in(outputs: int, inputs: int) -> None:
    """The best approximation of the outputs is the truncated SVD of them (Eckart & Young)."""
    matrix, given, products = seen(outputs, inputs)
    wanted = given.double() @ matrix.double().T
    values = torch.linalg.svdvals(wanted)
    np.testing.assert_allclose(spectrum(matrix, products), values[:6].square(), rtol=1e-3)
    for rank in (1, 3, 5):
        first, second = factors(matrix, products, rank)
        assert (tuple(first.shape), tuple(second.shape)) == ((rank, inputs), (outputs, rank))
        error = float((wanted - given.double() @ (second @ first).T.double()).square().sum())
        assert error == pytest.approx(float(values[rank:].square().sum()), rel=1e-3)
        plain = torch.linalg.svd(matrix)
        cut = (plain.U[:, :rank] * plain.S[:rank]) @ plain.Vh[:rank]
        assert error < float((wanted - given.double() @ cut.T.double()).square().sum())


def test_what_never_comes_in_needs_no_rank() -> None:
    matrix, given, _ = seen(10, 6)
    given[:, 2:] = 0
    first, second = factors(matrix, (given.T @ given).double(), 2)
    torch.testing.assert_close(given @ (second @ first).T, given @ matrix.T, atol=1e-3, rtol=1e-3)


def test_allotted_ranks_lose_least() -> None:
    """Against every choice of ranks that is as small."""
    random = np.random.default_rng(0)
    layers = {
        name: Layer(12, size, np.sort(random.random(min(12, size)) ** 3 * scale)[::-1])
        for name, size, scale in (("a", 12, 1.0), ("b", 12, 10.0), ("c", 30, 3.0))
    }

    def cost(name: str, rank: int) -> int:
        return rank * (12 + layers[name].inputs) if rank else layers[name].weights

    def lost(name: str, rank: int) -> float:
        return float(layers[name].lost[rank:].sum()) if rank else 0.0

    for share in (0.2, 0.4, 0.6):
        found = allotted_ranks(layers, share, 1)
        spent = sum(cost(name, found.get(name, 0)) for name in layers)
        assert spent <= (1 - share) * sum(layer.weights for layer in layers.values())
        choices = itertools.product(*([0, *layer.ranks(1)] for layer in layers.values()))
        best = min(
            sum(lost(name, rank) for name, rank in zip(layers, ranks, strict=True))
            for ranks in choices
            if sum(cost(name, rank) for name, rank in zip(layers, ranks, strict=True)) <= spent
        )
        assert sum(lost(name, found.get(name, 0)) for name in layers) == pytest.approx(best)


def test_even_ranks_and_multiples() -> None:
    layers = {"square": Layer(64, 64, np.zeros(0)), "thin": Layer(8, 64, np.zeros(0))}
    assert even_ranks(layers, 0.5, 8) == {"square": 16}  # 0.5 of the thin one is a rank of 3
    assert even_ranks(layers, 0.5, 1) == {"square": 16, "thin": 3}


def test_sensitivity_foretells_what_an_error_costs() -> None:
    """The rise of the loss that small random errors in one layer's outputs cause, against the gradient's square."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=100, initializer_range=0.1, **sizes)
    model = transformers.LlamaForCausalLM(config).double().eval()
    ids = torch.randint(0, 100, (16, 16))
    found = sensitivities(model, [(ids, torch.ones_like(ids))] * 4, 0)
    for name, layer in (("mlp.down_proj", 0), ("self_attn.v_proj", 1)):
        module, size = model.get_submodule(f"model.layers.{layer}.{name}"), 1e-3

        def disturb(_: Any, inputs: Any, output: Any, size: float = size) -> Any:
            return output + size * torch.randn_like(output)

        with torch.no_grad():
            before = model(input_ids=ids).logits.log_softmax(-1)
            handle = module.register_forward_hook(disturb)
            after = [model(input_ids=ids).logits.log_softmax(-1) for _ in range(10)]
            handle.remove()
        rise = sum(float((before.exp() * (before - one)).sum()) for one in after) / len(after) / ids.numel()
        assert rise == pytest.approx(found[layer][name] / 2 * size**2 * module.out_features, rel=0.1)


@pytest.mark.parametrize("allocation", ["sensitivity", "error", "even"])
def test_a_language_model_is_smaller_and_still_one(
    allocation: str, bundles: Get, text_work: Make, tmp_path: Path
) -> None:  # fmt: skip
    from halfpint.models.factored import FactoredCausalLM

    parent = bundles("language")
    stage = LowRank(share=0.4, allocation=allocation, multiple=4, samples=32, tokens=32)
    made = stage.run(parent, text_work(tmp_path / "made"))
    entry = made.card["stages"][-1]
    sizes = [(bundle.path / "model.safetensors").stat().st_size for bundle in (parent, made)]
    assert sizes == [entry["bytes_before"], entry["bytes_after"]] and sizes[1] < sizes[0]
    assert made.config["model_type"] == "halfpint_factored"
    before = transformers.AutoModelForCausalLM.from_pretrained(parent.path).eval()
    after = transformers.AutoModelForCausalLM.from_pretrained(made.path).eval()
    assert isinstance(after, FactoredCausalLM)
    assert after.lm_head is before.lm_head if hasattr(after, "lm_head") else True
    kept = sum(module.weight.numel() for module in before.model.layers.modules() if hasattr(module, "out_features"))
    now = sum(module.weight.numel() for module in after.base_model.layers.modules() if hasattr(module, "out_features"))
    assert 0.5 * kept < now <= 0.6 * kept
    assert [len(block["ranks"]) for block in entry["blocks"]] != [0] * len(entry["blocks"])
    ids = torch.arange(40).reshape(2, 20) + 5
    with torch.inference_mode():
        answers = [model(input_ids=ids).logits for model in (before, after)]
    assert 0 < float((answers[0] - answers[1]).norm() / answers[0].norm()) < 0.7
    assert entry["loss_after"] < entry["loss_before"] + 1
    written = after.generate(ids[:1], max_new_tokens=5, do_sample=False)
    plain = ids[:1]
    for _ in range(5):  # with what generation keeps of the text before, as without
        with torch.inference_mode():
            plain = torch.cat([plain, after(input_ids=plain).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(written, plain)
    with pytest.raises(HalfpintError, match="one that is factored already"):
        stage.run(made, text_work(tmp_path / "again"))


def test_heads_that_share_keys_keep_them(bundles: Get, text_work: Make, tmp_path: Path) -> None:
    made = LowRank(share=0.5, multiple=2, samples=32, tokens=32).run(bundles("language"), text_work(tmp_path / "made"))
    base, plain = made.config["base"], bundles("language").config
    for name in ("num_attention_heads", "num_key_value_heads", "hidden_size", "intermediate_size"):
        assert base[name] == plain[name]
    for name, rank in made.config["ranks"].items():
        assert rank < min(base["hidden_size"], base["intermediate_size"]), name


def test_a_classifier_is_exported_with_its_thin_matrices(
    bundles: Get, work: Make, few: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("ERROR")
    from halfpint.engines import open_engine
    from halfpint.export.onnx import Onnx

    parent = bundles("classifier")
    made, near = (
        LowRank(share=share, multiple=2).run(parent, work(tmp_path / str(share), train=few)) for share in (0.5, 0.1)
    )
    assert made.config["encoder"]["model_type"] == "halfpint_factored" and made.labels == parent.labels
    texts = [example.text for example in few[:30]]
    whole, thin, fair = (open_engine(bundle, threads=1).probabilities(texts) for bundle in (parent, made, near))
    assert 0 < np.abs(whole - fair).mean() < 0.7 * np.abs(whole - thin).mean()
    exported = Onnx().run(made, work(tmp_path / "onnx"))
    np.testing.assert_allclose(open_engine(exported, threads=1).probabilities(texts), thin, atol=1e-4)
    import onnx

    graph = onnx.load(str(exported.path / "model.onnx")).graph
    weights = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    held = [(bundle.path / "model.safetensors").stat().st_size / 4 for bundle in (parent, made)]
    assert abs(weights - held[1]) < 0.2 * (held[0] - held[1])  # of so small a model the file is mostly the graph


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"share": 0.0}, "share must be a share above 0 and below 1"),
        ({"allocation": "evn"}, "Did you mean 'even'"),
        ({"multiple": 0}, "multiple must be 1 or more"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(HalfpintError, match=told):
        LowRank(**settings)


def test_what_saves_nothing_is_refused(bundles: Get, text_work: Make, tmp_path: Path) -> None:
    with pytest.raises(HalfpintError, match="expected ranks at which something is saved"):
        LowRank(multiple=4096, samples=4).run(bundles("language"), text_work(tmp_path / "made"))
    assert not (tmp_path / "made").exists()
