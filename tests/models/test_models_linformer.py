"""Linformer against its formula written out one query at a time; padding, the longest sequence, learning by heart."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="models need torch")
transformers = pytest.importorskip("transformers", reason="models need transformers")

from halfpint.errors import HalfpintError, SettingError  # noqa: E402
from halfpint.models import sizes  # noqa: E402
from halfpint.models.linformer import LinformerConfig, LinformerForMaskedLM  # noqa: E402

VOCABULARY, WIDTH, HEADS, LAYERS, LONGEST, K = 24, 12, 3, 2, 9, 4
SHARING = ("none", "headwise", "key-value", "layerwise")


def made(**settings: Any) -> Any:
    given = {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "intermediate_size": 16, "max_position_embeddings": LONGEST, "projection_length": K,
    }  # fmt: skip
    torch.manual_seed(0)
    model = LinformerForMaskedLM(LinformerConfig(**{**given, **settings})).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


def written_out(model: Any, ids: list[int]) -> Any:
    """Logits (tokens, vocabulary) of a text by the paper's formula: for each head E K W, then one query at a time."""
    config, inner, size = model.config, model.model, WIDTH // HEADS

    def norm(layer: Any, state: Any) -> Any:
        centred = state - state.mean()
        return centred / torch.sqrt((centred**2).mean() + 1e-5) * layer.weight + layer.bias

    def gelu(state: Any) -> Any:
        return state * (1 + torch.erf(state / math.sqrt(2))) / 2

    states = [inner.embed_tokens.weight[token] + inner.embed_positions.weight[at] for at, token in enumerate(ids)]
    if not config.pre_norm:
        states = [norm(inner.embed_norm, state) for state in states]
    for layer in inner.layers:
        attention = layer.self_attn
        shared = inner.projection if config.sharing == "layerwise" else attention.projection
        read = [norm(layer.attention_norm, state) if config.pre_norm else state for state in states]
        gathered: list[list[Any]] = [[] for _ in ids]
        for head in range(HEADS):
            rows = slice(head * size, (head + 1) * size)
            e = shared.key[head] if config.sharing == "none" else shared.key
            f = e if config.sharing in ("key-value", "layerwise") else shared.value
            f = f[head] if config.sharing == "none" else f
            keys = [attention.k_proj.weight[rows] @ state for state in read]
            values = [attention.v_proj.weight[rows] @ state for state in read]
            short_keys = [sum(e[row, at] * key for at, key in enumerate(keys)) for row in range(K)]
            short_values = [sum(f[row, at] * value for at, value in enumerate(values)) for row in range(K)]
            for at, state in enumerate(read):
                query = attention.q_proj.weight[rows] @ state
                chances = torch.stack([query @ key / math.sqrt(size) for key in short_keys]).softmax(0)
                gathered[at].append(sum(c * value for c, value in zip(chances, short_values, strict=True)))
        for at, state in enumerate(states):
            out = state + attention.o_proj.weight @ torch.cat(gathered[at])
            out = out if config.pre_norm else norm(layer.attention_norm, out)
            wide = norm(layer.output_norm, out) if config.pre_norm else out
            up, down = layer.mlp["up_proj"], layer.mlp["down_proj"]
            out = out + down.weight @ gelu(up.weight @ wide + up.bias) + down.bias
            states[at] = out if config.pre_norm else norm(layer.output_norm, out)
    if config.pre_norm:
        states = [norm(inner.norm, state) for state in states]
    dense = [norm(model.dense_norm, gelu(model.dense.weight @ state + model.dense.bias)) for state in states]
    return torch.stack([inner.embed_tokens.weight @ state + model.lm_head.bias for state in dense])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("sharing", SHARING)
def test_it_is_what_the_paper_says(sharing: str, pre_norm: bool, attention: str) -> None:
    """Outputs and the gradients of all weights, at the longest length and at one that meets the first columns alone."""
    model = made(sharing=sharing, pre_norm=pre_norm)
    model.set_attn_implementation(attention)
    for length in (LONGEST, 5):
        ids = torch.randint(0, VOCABULARY, (1, length))
        found, expected = model(input_ids=ids).logits[0], written_out(model, ids[0].tolist())
        assert float((found - expected).detach().abs().max()) < 1e-10
        weights = torch.randn_like(found)
        names = [name for name, _ in model.named_parameters()]
        gradients = [torch.autograd.grad((one * weights).sum(), list(model.parameters())) for one in (found, expected)]
        for name, first, second in zip(names, *gradients, strict=True):
            assert float((first - second).abs().max()) < 1e-9, name
            assert float(first.abs().max()) > 0, name
    single = made(sharing=sharing, pre_norm=pre_norm).float()
    ids = torch.randint(0, VOCABULARY, (1, LONGEST))
    assert float((single(input_ids=ids).logits[0] - written_out(model, ids[0].tolist())).detach().abs().max()) < 1e-4


def test_sharing_leaves_so_many_matrices() -> None:
    """A layer has E and F for each head; for all; one of both; or the model has one."""
    numbers = []
    for sharing in SHARING:
        names = [name for name, _ in made(sharing=sharing).named_parameters() if ".projection." in name]
        numbers.append((len(names), sum(made(sharing=sharing).get_parameter(name).numel() for name in names)))
    one = K * LONGEST
    assert numbers == [(4, 2 * 2 * HEADS * one), (4, 2 * 2 * one), (2, 2 * one), (1, one)]
    with pytest.raises(SettingError, match="'layerwise'"):
        LinformerConfig(sharing="layer-wise")
    assert LinformerConfig(max_position_embeddings=512).projection_length == 128
    assert LinformerConfig(max_position_embeddings=16_384).projection_length == 256


@pytest.mark.parametrize("sharing", SHARING)
def test_a_text_is_the_same_alone_in_a_batch_and_with_padding(sharing: str) -> None:
    model = made(sharing=sharing)
    ids = torch.randint(0, VOCABULARY, (3, LONGEST))
    lengths = (LONGEST, 4, 6)
    mask = torch.tensor([[1] * length + [0] * (LONGEST - length) for length in lengths])
    batch = model(input_ids=ids, attention_mask=mask).logits
    for row, length in enumerate(lengths):
        alone = model(input_ids=ids[row : row + 1, :length]).logits[0]
        assert float((batch[row, :length] - alone).detach().abs().max()) < 1e-10
    other = ids.clone()
    other[1, 4:] = 1
    assert torch.equal(model(input_ids=other, attention_mask=mask).logits[1, :4], batch[1, :4])


def test_every_place_tells_of_every_other() -> None:
    """Which is why it foretells no next word."""
    model = made()
    embedded = torch.randn(1, LONGEST, WIDTH, dtype=torch.float64, requires_grad=True)
    out = model(inputs_embeds=embedded).logits[0, 0].square().sum()
    assert bool((torch.autograd.grad(out, embedded)[0][0].abs().amax(-1) > 0).all())


def test_what_cannot_be_is_said() -> None:
    model = made()
    with pytest.raises(SettingError, match=r"at most 9 tokens, the fixed maximum .* not 10"):
        model(input_ids=torch.zeros(1, LONGEST + 1, dtype=torch.long))
    with pytest.raises(ValueError, match="mixes all places"):
        model(input_ids=torch.zeros(1, 4, dtype=torch.long), attention_mask=torch.ones(1, 1, 4, 4, dtype=torch.bool))
    with pytest.raises(HalfpintError, match=r"mixes all places.*take linformer-causal"):
        sizes.resolve("linformer", "causal")
    assert not hasattr(model, "generate")


def test_saved_is_loaded(tmp_path: Path) -> None:
    model = made(sharing="headwise").float()
    model.save_pretrained(tmp_path)
    ids = torch.randint(0, VOCABULARY, (2, 7))
    again = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert type(again) is LinformerForMaskedLM and again.config.sharing == "headwise"
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)
    encoder = transformers.AutoModel.from_pretrained(tmp_path).eval()
    found = encoder(input_ids=ids, output_hidden_states=True)
    assert torch.equal(found.last_hidden_state, model(input_ids=ids, output_hidden_states=True).hidden_states[-1])
    assert len(found.hidden_states) == LAYERS + 1


def test_checkpointing_gives_the_same_gradients() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = made(dropout=0.0).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        ids = torch.arange(LONGEST)[None]
        model(input_ids=ids, labels=ids).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("size", [300_000, 2_000_000])
def test_the_size_dial_makes_one(size: int) -> None:
    settings, _ = sizes.size_dial("linformer", size, 512, 128)
    model = sizes.new_model("linformer", settings, meta=True)
    assert abs(sizes.parameters_of(model) / size - 1) < 0.02
    assert (model.config.max_position_embeddings, model.config.projection_length) == (128, 32)


def test_gaps_of_a_text_are_learned_by_heart() -> None:
    torch.manual_seed(0)
    config = LinformerConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=24,
    )  # fmt: skip
    model = transformers.AutoModelForMaskedLM.from_config(config)
    text = torch.randint(1, 40, (1, 24))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        hidden = torch.rand(8, 24) < 0.25
        ids = torch.where(hidden, 0, text)
        loss = model(input_ids=ids, labels=torch.where(hidden, text, -100)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    each = torch.eye(24, dtype=torch.bool)
    logits = model(input_ids=torch.where(each, 0, text)).logits[torch.arange(24), torch.arange(24)]
    assert torch.equal(logits.argmax(-1), text[0])
