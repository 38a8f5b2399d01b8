"""linformer-causal against its rule written out one query at a time; no token moves what is before it; its cache."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="models need torch")
transformers = pytest.importorskip("transformers", reason="models need transformers")

from halfpint.models import sizes  # noqa: E402
from halfpint.models.linformer_causal import LinformerCausalConfig, LinformerCausalForCausalLM  # noqa: E402

VOCABULARY, WIDTH, HEADS, LAYERS, CHUNK, K = 24, 12, 3, 2, 4, 2
SHARING = ("none", "headwise", "key-value", "layerwise")


def made(**settings: Any) -> Any:
    given = {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "intermediate_size": 16, "max_position_embeddings": 32, "chunk_length": CHUNK, "projection_length": K,
        "eos_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    model = LinformerCausalForCausalLM(LinformerCausalConfig(**{**given, **settings})).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4)
    return model


def written_out(model: Any, ids: list[int]) -> Any:
    """Logits (tokens, vocabulary) of a text: for each query, the keys that it sees, near ones and sums of far ones."""
    config, inner, size = model.config, model.model, WIDTH // HEADS

    def norm(layer: Any, state: Any) -> Any:
        return state / torch.sqrt((state**2).mean() + config.rms_norm_eps) * layer.weight

    def turned(state: Any, place: int) -> Any:
        out = list(state)
        for pair in range(size // 2):
            angle = place * config.rope_theta ** (-2 * pair / size)
            one, other = state[pair], state[pair + size // 2]
            out[pair] = one * math.cos(angle) - other * math.sin(angle)
            out[pair + size // 2] = other * math.cos(angle) + one * math.sin(angle)
        return torch.stack(out)

    states = [inner.embed_tokens.weight[token] for token in ids]
    for layer in inner.layers:
        attention = layer.self_attn
        shared = inner.projection if config.sharing == "layerwise" else attention.projection
        read = [norm(layer.input_layernorm, state) for state in states]
        gathered: list[list[Any]] = [[] for _ in ids]
        for head in range(HEADS):
            rows = slice(head * size, (head + 1) * size)
            e = shared.key[head] if config.sharing == "none" else shared.key
            f = shared.key if config.sharing in ("key-value", "layerwise") else shared.value
            f = f[head] if config.sharing == "none" else f
            keys = [turned(attention.k_proj.weight[rows] @ state, at) for at, state in enumerate(read)]
            values = [attention.v_proj.weight[rows] @ state for state in read]
            for at, state in enumerate(read):
                chunk = at // CHUNK
                seen_keys, seen_values = [], []
                for past in range(chunk - 1):
                    places = range(past * CHUNK, (past + 1) * CHUNK)
                    for row in range(K):
                        seen_keys.append(sum(e[row, place % CHUNK] * keys[place] for place in places))
                        seen_values.append(sum(f[row, place % CHUNK] * values[place] for place in places))
                near = range(max(0, (chunk - 1) * CHUNK), at + 1)
                seen_keys += [keys[place] for place in near]
                seen_values += [values[place] for place in near]
                query = turned(attention.q_proj.weight[rows] @ state, at)
                chances = torch.stack([query @ key / math.sqrt(size) for key in seen_keys]).softmax(0)
                gathered[at].append(sum(c * value for c, value in zip(chances, seen_values, strict=True)))
        for at, state in enumerate(states):
            out = state + attention.o_proj.weight @ torch.cat(gathered[at])
            wide = norm(layer.post_attention_layernorm, out)
            gate = layer.mlp["gate_proj"].weight @ wide
            inside = gate / (1 + torch.exp(-gate)) * (layer.mlp["up_proj"].weight @ wide)
            states[at] = out + layer.mlp["down_proj"].weight @ inside
    return torch.stack([inner.embed_tokens.weight @ norm(inner.norm, state) for state in states])


@pytest.mark.parametrize("sharing", SHARING)
def test_it_is_what_its_rule_says(sharing: str) -> None:
    """Outputs and the gradients of all weights, of a text of four chunks and a part, and of one of two tokens."""
    model = made(sharing=sharing)
    for length in (4 * CHUNK + 2, 2):
        ids = torch.randint(0, VOCABULARY, (1, length))
        found, expected = model(input_ids=ids).logits[0], written_out(model, ids[0].tolist())
        assert float((found - expected).detach().abs().max()) < 1e-6  # sines are in fp32
        weights = torch.randn_like(found)
        parameters = [one for name, one in model.named_parameters() if length > 3 * CHUNK or "projection" not in name]
        gradients = [torch.autograd.grad((one * weights).sum(), parameters) for one in (found, expected)]
        for first, second in zip(*gradients, strict=True):
            assert float((first - second).abs().max()) < 1e-5
            assert float(first.abs().max()) > 0
    single = made(sharing=sharing).float()
    ids = torch.randint(0, VOCABULARY, (1, 18))
    assert float((single(input_ids=ids).logits[0] - written_out(model, ids[0].tolist())).detach().abs().max()) < 1e-4


@pytest.mark.parametrize("sharing", SHARING)
def test_no_token_moves_what_is_before_it_and_each_moves_what_comes(sharing: str) -> None:
    model, length = made(sharing=sharing), 5 * CHUNK + 1
    ids = torch.randint(0, VOCABULARY, (1, length))
    before = model(input_ids=ids).logits[0]
    for place in range(length):
        other = ids.clone()
        other[0, place] = (other[0, place] + 1) % VOCABULARY
        moved = (model(input_ids=other).logits[0] - before).detach().abs().amax(-1)
        assert float(moved[:place].sum()) == 0
        assert bool((moved[place:] > 0).all())  # far ones too, by what is kept of them


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("step", [1, 3, CHUNK, 2 * CHUNK + 1])
def test_what_is_kept_stands_for_what_was_read(sharing: str, step: int) -> None:
    """Tokens that come in parts get the logits of the whole text; no more than two chunks are kept exactly."""
    model, length = made(sharing=sharing), 5 * CHUNK + 2
    ids = torch.randint(0, VOCABULARY, (2, length))
    with torch.no_grad():
        whole, cache, found = model(input_ids=ids).logits, None, []
        for start in range(0, length, step):
            out = model(input_ids=ids[:, start : start + step], past_key_values=cache)
            cache = out.past_key_values
            found.append(out.logits)
            seen = min(start + step, length)
            layer = cache.layers[0]
            assert cache.get_seq_length() == seen
            assert layer.keys.shape[2] == seen - max(0, seen // CHUNK - 1) * CHUNK < 2 * CHUNK
            assert layer.short_keys.shape[2] == max(0, seen // CHUNK - 1) * K
    assert float((torch.cat(found, 1) - whole).abs().max()) < 1e-10


def test_generation_with_and_without_a_cache_writes_the_same() -> None:
    model = made().float()
    ids = torch.randint(1, VOCABULARY, (2, 7))
    both = [
        model.generate(ids, max_new_tokens=24, min_new_tokens=24, do_sample=False, use_cache=use_cache, pad_token_id=0)
        for use_cache in (True, False)
    ]
    assert torch.equal(*both) and both[0].shape == (2, 31)
    beams = model.generate(ids, max_new_tokens=12, min_new_tokens=12, num_beams=3, do_sample=False, pad_token_id=0)
    plain = model.generate(
        ids, max_new_tokens=12, min_new_tokens=12, num_beams=3, do_sample=False, pad_token_id=0, use_cache=False
    )
    assert torch.equal(beams, plain)


def test_a_text_is_the_same_alone_and_with_padding_behind_it() -> None:
    model = made()
    ids = torch.randint(0, VOCABULARY, (2, 18))
    mask = torch.tensor([[1] * 18, [1] * 7 + [0] * 11])
    batch = model(input_ids=ids, attention_mask=mask).logits
    for row, length in enumerate((18, 7)):
        alone = model(input_ids=ids[row : row + 1, :length]).logits[0]
        assert float((batch[row, :length] - alone).detach().abs().max()) < 1e-10
    with pytest.raises(ValueError, match="padding behind a text alone"):
        model(input_ids=ids, attention_mask=mask.flip(1))
    with pytest.raises(ValueError, match="its projection mixes places"):
        model(input_ids=ids, attention_mask=torch.ones(2, 1, 18, 18, dtype=torch.bool))


def test_saved_is_loaded_and_checkpointing_gives_the_same_gradients(tmp_path: Path) -> None:
    model = made(sharing="key-value").float()
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).train()
    assert type(again) is LinformerCausalForCausalLM and again.lm_head.weight is again.model.embed_tokens.weight
    assert (again.config.sharing, again.config.chunk_length, again.config.projection_length) == ("key-value", CHUNK, K)
    ids = torch.randint(0, VOCABULARY, (2, 18))
    assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)
    again.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for one in (model, again):
        one(input_ids=ids, labels=ids).loss.backward()
    pairs = zip(model.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(one.grad, other.grad) for one, other in pairs)


def test_the_size_dial_makes_one() -> None:
    assert sizes.resolve("linformer-causal") == ("linformer_causal", "causal")
    settings, _ = sizes.size_dial("linformer-causal", 1_000_000, 512, 256)
    model = sizes.new_model("linformer_causal", settings, meta=True)
    assert abs(sizes.parameters_of(model) / 1_000_000 - 1) < 0.02
    assert (model.config.chunk_length, model.config.projection_length) == (32, 4)


def test_a_text_is_learned_by_heart() -> None:
    torch.manual_seed(0)
    config = LinformerCausalConfig(
        vocab_size=30, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        chunk_length=8, projection_length=2, eos_token_id=0,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    text = torch.randint(1, 30, (1, 40))
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        loss = model(input_ids=text, labels=text).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    written = model.eval().generate(text[:, :1], max_new_tokens=39, do_sample=False, pad_token_id=0)
    assert torch.equal(written, text)
