"""The size dial: any architecture comes near the number asked for, with shapes and rates that follow rules."""

from __future__ import annotations

import pytest

from halfpint.errors import HalfpintError
from halfpint.models import sizes

transformers = pytest.importorskip("transformers", reason="models need transformers")

DECODERS = ("llama", "qwen3", "gemma3", "gpt2", "phi3", "olmo2", "mistral", "opt", "gpt_neox", "smollm3")
ENCODERS = ("bert", "modernbert", "roberta", "distilbert", "electra")


@pytest.mark.parametrize(
    ("text", "number"),
    [("10M", 10_000_000), ("1.5m", 1_500_000), ("0.6B", 600_000_000), ("500k", 500_000), ("8_300_000", 8_300_000),
     ("8,300,000", 8_300_000), (" 33 M ", 33_000_000), ("10000", 10_000)],
)  # fmt: skip
def test_sizes_are_read(text: str, number: int) -> None:
    assert sizes.parse_parameters(text) == number


@pytest.mark.parametrize("text", ["", "ten", "10X", "-3M", "M", "1e6", "9k", "10MB", "1.2.3M", "nan"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(HalfpintError, match="size must be a number of parameters"):
        sizes.parse_parameters(text)


@pytest.mark.parametrize(("number", "shown"), [(8_300_000, "8.3M"), (302_000, "302k"), (1_240_000_000, "1.24B")])
def test_sizes_are_shown(number: int, shown: str) -> None:
    assert sizes.shown_parameters(number) == shown


@pytest.mark.parametrize("arch", [*DECODERS, *ENCODERS])
@pytest.mark.parametrize(("parameters", "vocabulary"), [(1_000_000, 1024), (10_000_000, 8192), (135_000_000, 32768)])
def test_the_number_is_reached(arch: str, parameters: int, vocabulary: int) -> None:
    settings, rate = sizes.size_dial(arch, parameters, vocabulary, 256)
    model_type, objective = sizes.resolve(arch)
    assert objective == (sizes.MASKED if arch in ENCODERS else sizes.CAUSAL)
    model = sizes.new_model(model_type, settings, meta=True)
    reached = sum({id(tensor): tensor.numel() for tensor in model.parameters()}.values())
    assert abs(reached / parameters - 1) <= sizes.TOLERANCE
    config = model.config
    assert config.hidden_size % 64 == 0
    assert config.hidden_size // config.num_attention_heads in (32, 64)
    assert config.vocab_size == vocabulary
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight  # tied
    assert config.max_position_embeddings in (256, 258)
    assert 8 <= config.hidden_size / config.num_hidden_layers <= 160
    assert 1e-4 < rate < 1e-2
    config.to_json_string()


def test_the_model_works_as_counted() -> None:
    torch = pytest.importorskip("torch", reason="models need torch")
    settings, _ = sizes.size_dial("qwen3", 300_000, 512, 64)
    model = sizes.new_model("qwen3", settings)
    assert model.config.head_dim * model.config.num_attention_heads == model.config.hidden_size
    assert model(input_ids=torch.zeros(1, 64, dtype=torch.long)).logits.shape == (1, 64, 512)
    # Geiping & Goldstein 2023: no dropout
    assert all(module.p == 0 for module in model.modules() if isinstance(module, torch.nn.Dropout))


def test_larger_models_have_lower_rates_and_larger_vocabularies() -> None:
    numbers = [10**5, 10**6, 10**7, 10**8, 10**9]
    rates = [sizes.learning_rate(number) for number in numbers]
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == len(rates)
    assert sizes.learning_rate(10**8, 65_536) > sizes.learning_rate(10**8, 4096)
    vocabularies = [sizes.default_vocabulary(number) for number in numbers]
    assert vocabularies == sorted(vocabularies)
    assert [sizes.default_vocabulary(n) for n in (3_000_000, 10_000_000, 33_000_000)] == [4096, 8192, 16384]


def test_heads_share_keys_in_wide_models() -> None:
    wide, _ = sizes.size_dial("llama", 200_000_000, 32768, 1024)
    assert wide["num_attention_heads"] % wide["num_key_value_heads"] == 0
    assert wide["num_key_value_heads"] < wide["num_attention_heads"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lama",), "Did you mean 'llama'"),
        (("t5",), "arch must be an architecture"),
        (("bart",), "which is both"),
        (("llama", "masked"), "reads from left to right"),
        (("bert", "causal"), "reads in both directions"),
        (("bert", "maskd"), "Did you mean 'masked'"),
    ],
)
def test_what_cannot_be(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(HalfpintError, match=message):
        sizes.resolve(*arguments)


def test_a_vocabulary_that_eats_the_model() -> None:
    with pytest.raises(HalfpintError, match="Take a vocabulary of at most 2,048 tokens"):
        sizes.size_dial("llama", 1_000_000, 50_000, 256)


@pytest.mark.parametrize(
    ("written", "model_type"),
    [
        ("llama-3", "llama"), ("Llama-3.2", "llama"), ("smollm2", "llama"), ("gemma-3", "gemma3_text"),
        ("Gemma-1", "gemma"), ("qwen-3", "qwen3"), ("qwen2.5", "qwen2"), ("phi-3", "phi3"), ("phi-3.5", "phi3"),
        ("mamba-2", "mamba2"), ("gpt-2", "gpt2"), ("smollm-3", "smollm3"), ("LFM-2", "lfm2"),
    ],
)  # fmt: skip
def test_families_are_known_as_people_write_them(written: str, model_type: str) -> None:
    assert sizes.resolve(written) == (model_type, "causal")


@pytest.mark.parametrize(("written", "nearest"), [("lama", "llama"), ("gema3", "gemma3"), ("mamba22", "mamba2")])
def test_an_unknown_family_is_told_with_the_nearest(written: str, nearest: str) -> None:
    with pytest.raises(HalfpintError, match=f"Did you mean '{nearest}"):
        sizes.resolve(written)


@pytest.mark.parametrize("arch", ["mamba2", "lfm2", "smollm3", "phi3", "gemma", "gemma2", "qwen2", "qwen3"])
@pytest.mark.parametrize("size", [200_000, 5_000_000, 135_000_000])
def test_every_family_named_goes_through_the_size_dial(arch: str, size: int) -> None:
    settings, _ = sizes.size_dial(arch, size, sizes.default_vocabulary(size), 256)
    model = sizes.new_model(sizes.resolve(arch)[0], settings, meta=True)
    assert abs(sizes.parameters_of(model) / size - 1) <= sizes.TOLERANCE
    if arch == "mamba2":
        assert model.config.num_heads * model.config.head_dim == model.config.hidden_size * model.config.expand
