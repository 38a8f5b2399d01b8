"""Transformer-XL against its formulas written out one query and one key at a time; its memory, cache and softmax."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="models need torch")
transformers = pytest.importorskip("transformers", reason="models need transformers")

from halfpint.models import sizes  # noqa: E402
from halfpint.models.transformer_xl import Memory, TransformerXLConfig, TransformerXLForCausalLM  # noqa: E402

VOCABULARY, WIDTH, HEADS, LAYERS, SEGMENT, REMEMBERED = 24, 12, 3, 2, 5, 4


def made(**settings: Any) -> Any:
    given = {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "intermediate_size": 16, "max_position_embeddings": SEGMENT, "mem_length": REMEMBERED, "eos_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    model = TransformerXLForCausalLM(TransformerXLConfig(**{**given, **settings})).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


def written_out(model: Any, ids: list[int], memory: list[list[Any]]) -> tuple[list[Any], list[list[Any]]]:
    """Logits of a segment and its new memory by equations of the paper, a vector at a time.

    `memory` has, of each layer, the states of the tokens remembered.
    """
    config, layers = model.config, model.model.layers
    head, states = config.head_dim, [model.model.embed_tokens.weight[token] * math.sqrt(WIDTH) for token in ids]

    def norm(layer: Any, state: Any) -> Any:
        centred = state - state.mean()
        return centred / torch.sqrt((centred**2).mean() + 1e-5) * layer.weight + layer.bias

    def sinusoid(distance: int) -> Any:
        rates = [distance / 10000 ** (2 * place / WIDTH) for place in range(WIDTH // 2)]
        return torch.tensor([*map(math.sin, rates), *map(math.cos, rates)], dtype=torch.float64)

    kept: list[list[Any]] = []
    for number, layer in enumerate(layers):
        before = memory[number] if memory else []
        kept.append([*before, *(one.detach() for one in states)][-config.mem_length :])
        own = [norm(layer.attention_norm, one) if config.pre_norm else one for one in states]
        whole = [*(norm(layer.attention_norm, one) if config.pre_norm else one for one in before), *own]
        attention, new = layer.self_attn, []
        for place, state in enumerate(own):
            at, gathered = len(before) + place, []
            for number_of_head in range(HEADS):
                rows = slice(number_of_head * head, (number_of_head + 1) * head)
                pair = attention.biases if config.untie_biases else model.model.biases
                u, v = pair.content[rows], pair.position[rows]
                query = attention.q_proj.weight[rows] @ state
                scores, values = [], []
                for key_at in range(at + 1):
                    if config.same_length and at - key_at >= config.mem_length:
                        continue
                    key = attention.k_proj.weight[rows] @ whole[key_at]
                    far = attention.r_proj.weight[rows] @ sinusoid(at - key_at)
                    scores.append(((query + u) @ key + (query + v) @ far) / math.sqrt(head))
                    values.append(attention.v_proj.weight[rows] @ whole[key_at])
                chances = torch.stack(scores).softmax(0)
                gathered.append(sum(chance * value for chance, value in zip(chances, values, strict=True)))
            out = states[place] + attention.o_proj.weight @ torch.cat(gathered)
            out = out if config.pre_norm else norm(layer.attention_norm, out)
            read = norm(layer.output_norm, out) if config.pre_norm else out
            up, down = layer.mlp["up_proj"], layer.mlp["down_proj"]
            wide = torch.relu(up.weight @ read + up.bias)
            out = out + down.weight @ wide + down.bias
            new.append(out if config.pre_norm else norm(layer.output_norm, out))
        states = new
    if config.pre_norm:
        states = [norm(model.model.norm, one) for one in states]
    table, bias = model.model.embed_tokens.weight, model.lm_head.bias
    return [table @ state + bias for state in states], kept


@pytest.mark.parametrize("settings", [{}, {"pre_norm": True}, {"same_length": True}, {"untie_biases": False}], ids=str)
def test_it_is_what_the_paper_says(settings: dict[str, Any]) -> None:
    """Three segments with memory: outputs, and the gradients of all weights, of which none goes into the memory."""
    model = made(**settings)
    ids = torch.randint(0, VOCABULARY, (1, 3 * SEGMENT))
    memory, expected_memory, found, expected = None, [], [], []
    for start in range(0, 3 * SEGMENT, SEGMENT):
        part = ids[:, start : start + SEGMENT]
        out = model(input_ids=part, memory=memory)
        memory = out.memory
        logits, expected_memory = written_out(model, part[0].tolist(), expected_memory)
        found.append(out.logits[0])
        expected.append(torch.stack(logits))
    one, other = torch.cat(found), torch.cat(expected)
    assert float((one - other).detach().abs().max()) < 1e-6  # sines are in fp32
    weights = torch.randn_like(one)
    names = [name for name, _ in model.named_parameters()]
    gradients = [torch.autograd.grad((logits * weights).sum(), list(model.parameters())) for logits in (one, other)]
    for name, first, second in zip(names, *gradients, strict=True):
        assert float((first - second).abs().max()) < 1e-6, name
        assert float(first.abs().max()) > 0, name


def test_the_cache_is_the_memory() -> None:
    """Keys and values without gradients, and states with them, give the same; both keep `mem_length` tokens."""
    model = made()
    ids = torch.randint(0, VOCABULARY, (2, 4 * SEGMENT))
    memory, cache = None, None
    for start in range(0, ids.shape[1], SEGMENT):
        part = ids[:, start : start + SEGMENT]
        with_states = model(input_ids=part, memory=memory)
        memory = with_states.memory
        with torch.no_grad():
            with_keys = model(input_ids=part, past_key_values=cache)
        cache = with_keys.past_key_values
        assert float((with_states.logits - with_keys.logits).abs().max()) < 1e-6  # sines are in fp32
        assert memory.sequences.shape == (2, REMEMBERED)
        assert cache.layers[0].keys.shape[-2] == REMEMBERED


def test_a_first_segment_sees_no_zeros() -> None:
    model, ids = made(), torch.randint(0, VOCABULARY, (1, SEGMENT))
    empty = Memory(
        tuple(torch.zeros(1, 0, WIDTH).double() for _ in range(LAYERS)), torch.zeros(1, 0, dtype=torch.int64)
    )
    zeros = Memory(
        tuple(torch.zeros(1, REMEMBERED, WIDTH).double() for _ in range(LAYERS)),
        torch.zeros(1, REMEMBERED, dtype=torch.int64),
    )  # fmt: skip
    alone = model(input_ids=ids).logits
    assert torch.allclose(alone, model(input_ids=ids, memory=empty).logits)
    assert not torch.allclose(alone, model(input_ids=ids, memory=zeros).logits)


def test_documents_do_not_see_each_other_through_the_memory() -> None:
    model = made()
    first, second = (torch.randint(0, VOCABULARY, (1, SEGMENT)) for _ in range(2))
    numbers = torch.tensor([[7, 7, 7, 8, 8]])
    memory = model(input_ids=first, sequence_ids=numbers).memory
    found = model(input_ids=second, sequence_ids=torch.tensor([[8, 8, 9, 9, 9]]), memory=memory).logits
    whole = model(input_ids=torch.cat([first[:, 3:], second[:, :2]], 1), memory=None).logits
    assert torch.allclose(found[:, :2], whole[:, 2:])
    assert torch.allclose(found[:, 2:], model(input_ids=second[:, 2:]).logits)


@pytest.mark.parametrize("narrowing", [1, 2])
def test_the_adaptive_softmax(narrowing: int) -> None:
    """Its probabilities sum to 1, and the loss without all logits is that with them, gradients too."""
    model = made(cutoffs=[6, 15], div_val=narrowing)
    ids = torch.randint(0, VOCABULARY, (2, SEGMENT))
    labels = ids.clone()
    labels[0, 2] = -100
    logits = model(input_ids=ids).logits
    assert logits.shape == (2, SEGMENT, VOCABULARY)
    assert torch.allclose(logits.exp().sum(-1), torch.ones(2, SEGMENT, dtype=logits.dtype), atol=1e-6)
    plain = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    quick = model(input_ids=ids, labels=labels).loss
    assert float((plain - quick).abs()) < 1e-6
    names = [name for name, _ in model.named_parameters()]
    gradients = [torch.autograd.grad(loss, list(model.parameters()), allow_unused=True) for loss in (plain, quick)]
    for name, one, other in zip(names, *gradients, strict=True):
        assert torch.allclose(one, other if other is not None else torch.zeros_like(one), atol=1e-5), name
    assert model.get_input_embeddings().tables[2].weight.shape == (VOCABULARY - 15, WIDTH // narrowing**2)


def test_it_is_saved_and_writes_on(tmp_path: Path) -> None:
    """By the Auto classes; texts of a batch with padding before them go on as they do alone, past the memory."""
    model = made(cutoffs=[6]).float()
    model.save_pretrained(tmp_path)
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.randint(1, VOCABULARY, (1, 5))
    with torch.no_grad():
        assert torch.equal(opened(input_ids=ids).logits, model(input_ids=ids).logits)
    settings = {"do_sample": False, "max_new_tokens": 9, "pad_token_id": 0, "eos_token_id": None}
    alone = opened.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.int64), ids], 1)
    together = opened.generate(
        torch.cat([padded, torch.randint(1, VOCABULARY, (1, 8))]),
        attention_mask=torch.cat([(padded > 0).long(), torch.ones(1, 8, dtype=torch.int64)]), **settings,
    )  # fmt: skip
    assert alone[0, 5:].tolist() == together[0, 8:].tolist()


def test_the_dial_knows_it() -> None:
    settings, _ = sizes.size_dial("transformer-xl", 1_000_000, 1024, 64)
    assert settings["mem_length"] == 64 and settings["pre_norm"]
    large, _ = sizes.size_dial("transformer-xl", 12_000_000, 33_000, 64)
    assert large["cutoffs"] == [4125, 16500]
