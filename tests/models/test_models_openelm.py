"""OpenELM against its formulas written out, the published numbers of parameters, and names of tensors as Apple's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="models need torch")
transformers = pytest.importorskip("transformers", reason="models need transformers")

from halfpint.models import sizes  # noqa: E402
from halfpint.models.openelm import OpenELMConfig, OpenELMForCausalLM  # noqa: E402

VOCABULARY, HEAD = 40, 4
PUBLISHED = {  # layers, width, width of a head: parameters at 32,000 tokens (Mehta et al. 2024, appendix A)
    (16, 1280, 64): 271_527_168, (20, 1536, 64): 457_179_136, (28, 2048, 64): 1_079_891_456,
    (36, 3072, 128): 3_036_647_424,
}  # fmt: skip


def settings_of(layers: int, width: int, head: int) -> dict[str, Any]:
    """What Apple's configurations of this shape say."""
    return {
        "num_transformer_layers": layers, "model_dim": width, "head_dim": head, "num_gqa_groups": 4,
        "ffn_multipliers": (0.5, 4.0), "qkv_multipliers": (0.5, 1.0), "normalize_qk_projections": True,
        "share_input_output_layers": True,
    }  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Any:
    """Three layers whose heads and widths differ."""
    torch.manual_seed(0)
    made = OpenELMForCausalLM(OpenELMConfig(
        vocab_size=VOCABULARY, num_transformer_layers=3, model_dim=16, head_dim=HEAD, num_gqa_groups=2,
        ffn_multipliers=(0.5, 4.0), qkv_multipliers=(0.5, 1.0), ffn_dim_divisor=8, normalize_qk_projections=True,
        share_input_output_layers=True, max_context_length=32,
    )).double().eval()  # fmt: skip
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.4)
    return made


def written_out(model: Any, ids: list[int]) -> Any:
    """Logits of one text, a place and a head at a time."""
    config, weights = model.config, dict(model.named_parameters())

    def norm(state: Any, weight: Any) -> Any:
        return state / torch.sqrt((state**2).mean() + 1e-6) * weight

    def turned(state: Any, place: int) -> Any:
        half = HEAD // 2
        out = list(state)
        for at in range(half):
            angle = place / config.rope_freq_constant ** (2 * at / HEAD)
            first, second = state[at], state[at + half]
            out[at] = first * math.cos(angle) - second * math.sin(angle)
            out[at + half] = second * math.cos(angle) + first * math.sin(angle)
        return torch.stack(out)

    states = [weights["transformer.token_embeddings.weight"][token] for token in ids]
    for number in range(config.num_transformer_layers):

        def own(name: str, number: int = number) -> Any:
            return weights[f"transformer.layers.{number}.{name}.weight"]

        queries, shared = config.num_query_heads[number], config.num_kv_heads[number]
        together = [own("attn.qkv_proj") @ norm(state, own("attn_norm")) for state in states]
        heads = [one.view(-1, HEAD) for one in together]
        attended = []
        for place, _ in enumerate(states):
            parts = []
            for query_head in range(queries):
                group = query_head // (queries // shared)
                query = turned(norm(heads[place][query_head], own("attn.q_norm")), place)
                keys = [turned(norm(one[queries + group], own("attn.k_norm")), at) for at, one in enumerate(heads)]
                scores = torch.stack([query @ key / math.sqrt(HEAD) for key in keys[: place + 1]])
                values = torch.stack([one[queries + shared + group] for one in heads[: place + 1]])
                parts.append(scores.softmax(0) @ values)
            attended.append(own("attn.out_proj") @ torch.cat(parts))
        states = [state + more for state, more in zip(states, attended, strict=True)]
        new = []
        for state in states:
            gate, value = (own("ffn.proj_1") @ norm(state, own("ffn_norm"))).chunk(2)
            new.append(state + own("ffn.proj_2") @ (gate / (1 + torch.exp(-gate)) * value))
        states = new
    last = [norm(state, weights["transformer.norm.weight"]) for state in states]
    return torch.stack([weights["transformer.token_embeddings.weight"] @ state for state in last])


def test_it_is_what_the_paper_says(model: Any) -> None:
    """Outputs and gradients of all weights."""
    assert model.config.num_query_heads == [2, 4, 4] and model.config.num_kv_heads == [1, 2, 2]
    assert len(set(model.config.ffn_widths())) == 3
    ids = torch.randint(0, VOCABULARY, (1, 7))
    found, expected = model(input_ids=ids).logits[0], written_out(model, ids[0].tolist())
    assert float((found - expected).detach().abs().max()) < 1e-5  # norms and angles are in fp32
    weights = torch.randn_like(found)
    names = [name for name, _ in model.named_parameters()]
    pairs = [torch.autograd.grad((one * weights).sum(), list(model.parameters())) for one in (found, expected)]
    for name, one, other in zip(names, *pairs, strict=True):
        assert float((one - other).abs().max()) < 1e-4 * max(1.0, float(other.abs().max())), name
        assert float(one.abs().max()) > 0, name


@pytest.mark.parametrize(("shape", "parameters"), PUBLISHED.items(), ids=str)
def test_the_published_models_have_as_many_parameters(shape: tuple[int, int, int], parameters: int) -> None:
    with torch.device("meta"):
        made = OpenELMForCausalLM(OpenELMConfig(**settings_of(*shape)))
    assert sizes.parameters_of(made) == parameters


def test_a_folder_as_apple_publishes_it_opens(model: Any, tmp_path: Path) -> None:
    """Lists for each layer, tied weights left out, names of code that is not run."""
    single = OpenELMForCausalLM(model.config)
    single.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()})
    single.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    for ours in ("tie_word_embeddings", "intermediate_size"):
        config.pop(ours, None)
    config["auto_map"] = {
        "AutoConfig": "configuration_openelm.OpenELMConfig",
        "AutoModelForCausalLM": "modeling_openelm.OpenELMForCausalLM",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="pt") as held:
        names = set(held.keys())
    assert "lm_head.weight" not in names and "transformer.token_embeddings.weight" in names
    assert {f"transformer.layers.2.{part}.weight" for part in (
        "attn.qkv_proj", "attn.q_norm", "attn.k_norm", "attn.out_proj", "attn_norm", "ffn_norm", "ffn.proj_1",
        "ffn.proj_2",
    )} <= names  # fmt: skip
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.randint(0, VOCABULARY, (2, 6))
    with torch.no_grad():
        assert torch.equal(opened(input_ids=ids).logits, single.eval()(input_ids=ids).logits)


def test_layers_that_differ_are_counted() -> None:
    """By the size dial, whose few layers do not tell of many."""
    for parameters in (300_000, 1_000_000, 5_000_000):
        settings, _ = sizes.size_dial("openelm", parameters, sizes.default_vocabulary(parameters), 128)
        made = sizes.new_model("openelm", settings, meta=True)
        assert abs(sizes.parameters_of(made) / parameters - 1) < 0.03
        assert made.config.ffn_widths()[0] < made.config.ffn_widths()[-1]
        assert made.config.num_query_heads[0] < made.config.num_query_heads[-1]


def test_another_kind_of_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="rms_norm"):
        OpenELMConfig(normalization_layer_name="layer_norm")
