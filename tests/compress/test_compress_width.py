"""Narrower layers: what does nothing goes at no cost, the fit of what is left is the best, shapes stay plain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle, new_bundle, open_bundle
from halfpint.compress._columns import by_activation, by_error
from halfpint.compress._imatrix import _names
from halfpint.compress._layerwise import Halves, Moments, repaired, repaired_by_halves
from halfpint.compress.width import Width
from halfpint.engines import open_engine, open_language_engine
from halfpint.errors import HalfpintError
from halfpint.stage import Work

torch = pytest.importorskip("torch", reason="pruning needs torch")

Make = Callable[..., Work]
Get = Callable[[str], Bundle]
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "num_key_value_heads": 2, "attention_bias": True},
    "qwen2": {**SMALL, "num_key_value_heads": 2},
    "qwen3": {**SMALL, "num_key_value_heads": 2, "head_dim": 16},
    "gemma3_text": {**SMALL, "num_key_value_heads": 1, "head_dim": 16, "query_pre_attn_scalar": 16},
    "phi3": {**SMALL, "num_key_value_heads": 2, "pad_token_id": 0},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48},
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, bundles: Get) -> Callable[..., Bundle]:
    """A language model of an architecture with random weights, changed by `change`, with the tokenizer of another."""
    folder = tmp_path_factory.mktemp("built")

    def make(
        arch: str, change: Callable[[Any], None] = lambda model: None, dtype: str = "float32", **shape: Any
    ) -> Bundle:
        from transformers import AutoConfig, AutoModelForCausalLM

        vocabulary = bundles("language").config["vocab_size"]
        settings = {"vocab_size": vocabulary, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0}
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(arch, **{**settings, **SHAPES[arch], **shape}))
        for tensor in model.parameters():
            if tensor.ndim == 1:  # norms and biases: else what is done to them would not show
                torch.nn.init.normal_(tensor, float(tensor.mean() > 0.5), 0.1)
        with torch.no_grad():
            change(model)
        target = folder / f"{arch}-{len(list(folder.iterdir()))}"
        with new_bundle(target, bundles("language")) as (path, _):
            model.to(getattr(torch, dtype)).save_pretrained(path)
            for file in bundles("language").path.glob("tokenizer*"):
                (path / file.name).write_bytes(file.read_bytes())
        return open_bundle(target)

    return make


def opened(bundle: Bundle) -> Any:
    """As anybody opens it, with transformers alone."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(bundle.path, dtype=torch.float32).eval()


def logits(model: Any) -> Any:
    ids = torch.arange(60).reshape(3, 20) + 5
    with torch.inference_mode():
        return model(input_ids=ids).logits


def dead_and_twins(model: Any) -> None:
    """Of the first layer's 48 channels 8 never speak, and of the second's 8 say what 8 others say."""
    first, second = (layer.mlp for layer in model.model.layers)
    first.up_proj.weight[4:12] = 0
    for module in (second.gate_proj, second.up_proj):
        module.weight[20:28] = module.weight[:8]


@pytest.mark.parametrize("fused", [False, True])
def test_channels_that_are_not_missed_cost_nothing(
    fused: bool, built: Callable[..., Bundle], text_work: Make, tmp_path: Path
) -> None:
    def change(model: Any) -> None:
        if not fused:
            return dead_and_twins(model)
        first, second = (layer.mlp.gate_up_proj.weight for layer in model.model.layers)
        first[48 + 4 : 48 + 12] = 0
        for half in (0, 48):
            second[half + 20 : half + 28] = second[half : half + 8]

    parent = built("phi3" if fused else "llama", change)
    made = Width(ffn=1 / 6, multiple=8, ridge=1e-9).run(parent, text_work(tmp_path / "made"))
    assert made.config["intermediate_size"] == 40
    torch.testing.assert_close(logits(opened(made)), logits(opened(parent)), atol=2e-4, rtol=1e-3)
    entry = made.card["stages"][-1]
    assert all(block["error"] < 1e-6 for block in entry["blocks"])
    assert entry["loss_after"] == pytest.approx(entry["loss_before"], abs=1e-5)
    sizes = [(bundle.path / "model.safetensors").stat().st_size for bundle in (parent, made)]
    assert sizes == [entry["bytes_before"], entry["bytes_after"]] and sizes[1] < sizes[0]


def test_a_group_of_heads_that_says_nothing_costs_nothing(
    built: Callable[..., Bundle], text_work: Make, tmp_path: Path
) -> None:
    def change(model: Any) -> None:
        for number, layer in enumerate(model.model.layers):
            layer.self_attn.v_proj.weight[8 * number : 8 * number + 8] = 0
            layer.self_attn.v_proj.bias[8 * number : 8 * number + 8] = 0

    parent = built("llama", change)
    made = Width(ffn=0, heads=0.5, ridge=1e-9).run(parent, text_work(tmp_path / "made"))
    kept = [made.config[name] for name in ("num_attention_heads", "num_key_value_heads", "head_dim")]
    assert kept == [2, 1, 8]
    assert [block["heads_kept"] for block in made.card["stages"][-1]["blocks"]] == [[1], [0]]
    torch.testing.assert_close(logits(opened(made)), logits(opened(parent)), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("arch", sorted(SHAPES))
def test_narrower_models_are_plain(arch: str, built: Callable[..., Bundle], text_work: Make, tmp_path: Path) -> None:
    parent = built(arch, dtype="bfloat16" if arch == "qwen3" else "float32")
    heads = 0.0 if arch == "gpt2" else 0.5
    made = Width(ffn=1 / 3, heads=heads, multiple=16, samples=8, tokens=32).run(parent, text_work(tmp_path / "made"))
    config = made.config
    assert config[{"gpt2": "n_inner"}.get(arch, "intermediate_size")] == 32
    if heads:
        before = parent.config
        assert config["num_attention_heads"] == before["num_attention_heads"] // 2
        assert config["num_key_value_heads"] == max(1, before["num_key_value_heads"] // 2)
    assert {name for name in config if config[name] != parent.config.get(name)} <= {
        "intermediate_size", "n_inner", "num_attention_heads", "num_key_value_heads", "head_dim",
    }  # fmt: skip
    model = opened(made)
    away = (logits(model) - logits(opened(parent))).norm() / logits(opened(parent)).norm()
    assert 0 < away < 2  # they are random: nothing in them is missed little
    from safetensors import safe_open

    with safe_open(made.path / "model.safetensors", framework="pt") as held:
        assert held.get_slice(next(iter(held.keys()))).get_dtype() == ("BF16" if arch == "qwen3" else "F32")
    scored = open_language_engine(made, threads=1).score(["Where is my order?"])[0]
    assert np.isfinite(scored.log_probabilities).all() and len(scored.log_probabilities)


def test_heads_that_do_not_divide_a_llama_make_a_mistral(
    built: Callable[..., Bundle], text_work: Make, tmp_path: Path
) -> None:
    """Transformers' Llama refuses them, whose sizes are those of the models that people have."""
    shape = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4}
    stage = Width(ffn=0.0, heads=0.25, samples=8, tokens=32)
    made = stage.run(built("llama", attention_bias=False, **shape), text_work(tmp_path / "made"))
    assert made.config["architectures"] == ["MistralForCausalLM"] and made.config["num_attention_heads"] == 6
    assert type(opened(made)).__name__ == "MistralForCausalLM" and opened(made).config.head_dim == 8
    assert _names(opened(made).config)("model.layers.0.mlp.down_proj.weight") == "blk.0.ffn_down.weight"
    scored = open_language_engine(made, threads=1).score(["Where is my order?"])[0]
    assert np.isfinite(scored.log_probabilities).all() and len(scored.log_probabilities)
    with pytest.raises(HalfpintError, match="with a hidden size of 64 can have, got 3 of 4 groups"):
        stage.run(built("llama", **shape), text_work(tmp_path / "biased"))


def test_least_squares_are_better_than_leaving_things_as_they_are(
    built: Callable[..., Bundle], text_work: Make, tmp_path: Path
) -> None:
    errors = {}
    for importance in ("error", "activation"):
        for repair in (True, False):
            made = Width(ffn=1 / 3, multiple=16, samples=8, importance=importance, repair=repair).run(
                built("llama", dead_and_twins), text_work(tmp_path / f"{importance}{repair}")
            )
            errors[importance, repair] = made.card["stages"][-1]["blocks"][1]["error"]
    assert errors["error", True] < errors["error", False]
    assert errors["activation", True] < errors["activation", False]
    assert errors["error", True] < 0.8 * errors["activation", True]  # which keeps both of two that say the same


def test_the_repair_is_the_least_squares_of_the_text() -> None:
    torch.manual_seed(0)
    inputs, matrix, bias = torch.randn(400, 12) @ torch.randn(12, 12) + 1, torch.randn(5, 12), torch.randn(5)
    kept = np.array([0, 2, 3, 7, 8, 11])
    moments = Moments()
    for part in inputs.split(150):
        moments(part)
    weight, same = repaired(matrix, None, moments, kept, 1e-12)
    assert same is None
    wanted = inputs.double() @ matrix.double().T
    best = torch.linalg.lstsq(inputs[:, kept].double(), wanted).solution.T
    torch.testing.assert_close(weight.double(), best, atol=1e-4, rtol=1e-4)
    weight, shifted = repaired(matrix, bias, moments, kept, 1e-12)
    ones = torch.cat([inputs[:, kept], torch.ones(400, 1)], 1).double()
    best = torch.linalg.lstsq(ones, wanted + bias.double()).solution.T
    assert shifted is not None
    torch.testing.assert_close(weight.double(), best[:, :-1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(shifted.double(), best[:, -1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_the_ridge_is_what_does_best_on_text_that_is_not_fitted(bias: bool) -> None:
    """Few tokens and many features that have nothing to do with each other: a plain fit is worse than none."""
    torch.manual_seed(0)
    matrix, shift = torch.randn(8, 60), torch.randn(8) if bias else None
    kept = np.arange(40)
    for depends in (False, True):
        inputs = torch.randn(1160, 60) + 1
        if depends:  # what is lost can be told from what is kept
            inputs[:, 40:] = inputs[:, :20] + 0.1 * torch.randn(1160, 20)
        halves = Halves()
        halves(inputs[:160])
        weight, moved, ridge = repaired_by_halves(matrix, shift, halves, kept)
        plain, _ = repaired(matrix, shift, halves.whole, kept, 1e-6)
        other = inputs[160:]

        def error(fitted: Any, moved: Any, other: Any = other) -> float:
            step = 0 if moved is None else moved - shift
            return float((other @ matrix.T - other[:, :40] @ fitted.T - step).square().sum())

        if depends:
            assert ridge <= 0.1 and error(weight, moved) < 0.1 * error(matrix[:, :40], shift)
        else:
            assert ridge >= 0.1 and error(weight, moved) < error(plain, _)


@pytest.mark.parametrize("group", [1, 2])
def test_what_is_missed_least_goes_first(group: int) -> None:
    """Against trying each in turn, with a fit by least squares."""
    torch.manual_seed(1)
    inputs, matrix = torch.randn(300, 8) @ torch.randn(8, 8), torch.randn(6, 8)
    products = (inputs.T @ inputs).double()
    wanted = inputs.double() @ matrix.double().T

    def error(kept: list[int]) -> float:
        columns = [one * group + place for one in kept for place in range(group)]
        chosen = inputs[:, columns].double()
        return float((wanted - chosen @ torch.linalg.lstsq(chosen, wanted).solution).square().sum())

    stay = list(range(8 // group))
    for keep in range(8 // group - 1, 0, -1):
        stay = min(([one for one in stay if one != gone] for gone in stay), key=error)
        chosen, first = by_error(matrix, products, group, keep, 1e-12)
        assert chosen.tolist() == stay
    each = [error([one for one in range(8 // group) if one != gone]) for gone in range(8 // group)]
    np.testing.assert_allclose(first, np.array(each) / float(wanted.square().sum()), rtol=1e-3, atol=1e-6)


def test_by_activation_is_the_size_of_what_is_added() -> None:
    matrix, inputs = torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[1.0, 1.0, 6.0, 9.0], [1.0, -1.0, 0.0, 9.0]])
    chosen, shares = by_activation(matrix, (inputs.T @ inputs).double(), 1, 2)
    assert chosen.tolist() == [1, 2]
    np.testing.assert_allclose(shares, np.array([2, 8, 9, 0]) / 19, atol=1e-6)


def test_a_classifier_is_narrower(bundles: Get, work: Make, few: list[Any], tmp_path: Path) -> None:
    parent = bundles("classifier")
    made = Width(ffn=0.25, multiple=16).run(parent, work(tmp_path / "made", train=few))
    assert made.config["encoder"]["intermediate_size"] == 48 and made.labels == parent.labels
    texts = [example.text for example in few]
    before, after = (open_engine(bundle, threads=1).probabilities(texts) for bundle in (parent, made))
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.9
    entry = made.card["stages"][-1]
    assert entry["loss_before"] <= entry["loss_after"] < entry["loss_before"] + 0.1
    with pytest.raises(HalfpintError, match="heads: expected an architecture whose head size is a setting"):
        Width(ffn=0, heads=0.5).run(parent, work(tmp_path / "heads"))


def test_a_stopped_run_goes_on_with_the_next_layer(
    built: Callable[..., Bundle], text_work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, stage = built("llama"), Width(ffn=1 / 3, multiple=16)
    whole = stage.run(parent, text_work(tmp_path / "whole"))
    again = text_work(tmp_path / "again")
    import halfpint.compress.width as module

    seen: list[int] = []
    plain = module._Cut.change

    def stopping(cut: Any, visit: Any) -> Any:
        seen.append(visit.index)
        if seen == [0, 1]:
            raise KeyboardInterrupt
        return plain(cut, visit)

    monkeypatch.setattr(module._Cut, "change", stopping)
    with pytest.raises(KeyboardInterrupt):
        stage.run(parent, again)
    made = stage.run(parent, again)
    assert seen == [0, 1, 1]
    files = [(bundle.path / "model.safetensors").read_bytes() for bundle in (whole, made)]
    assert files[0] == files[1]
    assert made.card["stages"][-1]["blocks"] == whole.card["stages"][-1]["blocks"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"ffn": 1.0}, "ffn must be 0, or a share above it and below 1, not 1.0"),
        ({"heads": -0.1}, "heads must be 0, or a share"),
        ({"ffn": 0.0}, "expected something to cut"),
        ({"importance": "actvation"}, "Did you mean 'activation'"),
        ({"ridge": -1.0}, "ridge must be 0 or more"),
        ({"multiple": 0}, "multiple must be 1 or more"),
        ({"tokens": 2}, "tokens must be 8 or more"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(HalfpintError, match=told):
        Width(**settings)


def test_what_cannot_be_cut_is_said_before(
    built: Callable[..., Bundle], work: Make, text_work: Make, tmp_path: Path
) -> None:
    parent = built("llama")
    with pytest.raises(HalfpintError, match=r"takes something out, got ffn = 0.1 of 48 channels \(multiples of 24\)"):
        Width(ffn=0.1, multiple=24).run(parent, text_work(tmp_path / "made"))
    with pytest.raises(HalfpintError, match="less than the embeddings"):
        Width(size="10k").run(parent, text_work(tmp_path / "made"))
    with pytest.raises(HalfpintError, match="less than the model has"):
        Width(size="1M").run(parent, text_work(tmp_path / "made"))
    with pytest.raises(HalfpintError, match="calibration: expected text"):
        Width(multiple=8).run(parent, work(tmp_path / "made", train=[]))
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith("unfinished")]


def test_a_size_is_reached(built: Callable[..., Bundle], text_work: Make, tmp_path: Path) -> None:
    parent = built("llama")
    whole = sum(tensor.numel() for tensor in opened(parent).parameters())
    made = Width(size=str(whole - 4000), multiple=4).run(parent, text_work(tmp_path / "made"))
    assert abs(sum(tensor.numel() for tensor in opened(made).parameters()) - (whole - 4000)) < 2500


def test_a_narrower_and_shallower_model_goes_to_llama_cpp(
    bundles: Get, text_work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp", reason="GGUF needs llama.cpp")
    from halfpint.compress.depth import Depth
    from halfpint.engines.llama_cpp import LlamaCppEngine
    from halfpint.evaluate import gguf_parity
    from halfpint.export.gguf import Gguf

    def gate(trained: Path, exported: Path, type_: str) -> dict[str, Any]:  # in this process, distributions alone
        return gguf_parity.check_distributions(trained, LlamaCppEngine(exported, 1), type_)

    monkeypatch.setattr("halfpint.export.gguf._gate", gate)
    narrow = Width(ffn=0.3, samples=16, tokens=32).run(bundles("language"), text_work(tmp_path / "narrow"))
    assert narrow.config["intermediate_size"] % 32 == 0
    shallow = Depth(keep=1, samples=16, tokens=32).run(narrow, text_work(tmp_path / "shallow"))
    made = Gguf(type="q8_0").run(shallow, text_work(tmp_path / "gguf"))
    entry = made.card["stages"][-1]
    assert entry["parity"]["same_top_1"] > 0.9 and entry["tensors"]["not_quantised"] == 0
