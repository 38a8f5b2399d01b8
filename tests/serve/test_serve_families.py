"""Families of models end to end: a folder in the family's own form, taught with its own template, made smaller, served.

The checkpoints are random and tiny, the configurations and templates of the form that each family has.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halfpint.bundle import open_bundle
from halfpint.engines import open_language_engine, prompt_of
from halfpint.progress import SILENT
from halfpint.tokenizers.load import open_tokenizer
from halfpint.tokenizers.train import TokenizerSettings, train_tokenizer

torch = pytest.importorskip("torch", reason="models need torch")
pytest.importorskip("transformers", reason="models need transformers")
pytest.importorskip("xllamacpp", reason="llama.cpp runs the files")

Typed = Callable[..., tuple[int, str, str]]
SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": True, "initializer_range": 0.1,
}  # fmt: skip
LOOP = "{% for message in messages %}"
FAMILIES: dict[str, tuple[dict[str, Any], tuple[str, ...], str, str]] = {
    # configuration, special tokens, the token that ends a turn, template
    "llama3": (
        {"model_type": "llama", **SMALL, "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }},
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        LOOP + "<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n{{ message.content }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    ),
    "gemma3": (
        {"model_type": "gemma3_text", **SMALL, "head_dim": 32, "query_pre_attn_scalar": 32, "num_hidden_layers": 6,
         "sliding_window": 32},
        ("<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        LOOP + "<start_of_turn>{{ 'model' if message.role == 'assistant' else message.role }}\n{{ message.content }}"
        "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    ),
    "qwen3": (
        {"model_type": "qwen3", **SMALL, "head_dim": 32},
        ("<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
        LOOP + "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ),
    "phi3": (
        {"model_type": "phi3", **SMALL, "sliding_window": 256, "pad_token_id": 0},
        ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        "<|end|>",
        LOOP + "<|{{ message.role }}|>\n{{ message.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    ),
    "openelm": (
        {"model_type": "openelm", "model_dim": 64, "num_transformer_layers": 3, "head_dim": 32, "num_gqa_groups": 2,
         "qkv_multipliers": [0.5, 1.0], "ffn_multipliers": [0.5, 4.0], "ffn_dim_divisor": 32,
         "normalize_qk_projections": True, "share_input_output_layers": True, "max_context_length": 256,
         "initializer_range": 0.1},
        ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        "<|end|>",
        LOOP + "<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    ),
}  # fmt: skip
QUICK = "qwen3"
TICKETS = Path(__file__).resolve().parents[2] / "examples" / "tickets.csv"
TALKS = [(f"Where is parcel {number}?", f"Parcel {number} is on its way.") for number in range(40)]


@pytest.fixture(params=[
    pytest.param(name, marks=[] if name == QUICK else [pytest.mark.slow]) for name in FAMILIES
])  # fmt: skip
def family(request: pytest.FixtureRequest) -> str:
    """Each of them; one where time is short."""
    return str(request.param)


@pytest.fixture
def published(family: str, tmp_path: Path) -> Path:
    """The folder of a checkpoint as the family publishes it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from halfpint.models.architectures import register

    register()
    settings, special, end, template = FAMILIES[family]
    folder = tmp_path / family
    texts = [f"{question} {answer}" for question, answer in TALKS]
    train_tokenizer(texts, TokenizerSettings(vocab_size=275, special_tokens=special), folder, SILENT)
    tokenizer = open_tokenizer(folder)
    ends = {"eos_token_id": tokenizer.token_to_id(end), "bos_token_id": tokenizer.token_to_id("<|endoftext|>")}
    settings = {**settings, **ends, "vocab_size": tokenizer.get_vocab_size()}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings)).save_pretrained(
        folder
    )
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": end}), encoding="utf-8")
    return folder


def test_a_family_goes_all_the_way(
    family: str, published: Path, tmp_path: Path, typed: Typed, serve_bundle: Callable[..., Any]
) -> None:  # fmt: skip
    """Taught by adapters with its own template, written for llama.cpp, quantised, served and asked."""
    talks = tmp_path / "talks.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in TALKS
    ]
    talks.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    taught, smaller, file = tmp_path / "taught", tmp_path / "smaller", tmp_path / "file"
    code, _, errors = typed(
        "finetune", published, talks, "--lora", "--epochs", 2, "--out", taught, "--set", "learning_rate=0.01", "--quiet"
    )
    assert code == 0, errors
    bundle = open_bundle(taught)
    template = FAMILIES[family][3]
    assert (bundle.path / "chat_template.jinja").read_text(encoding="utf-8").strip() == template
    history = bundle.card["stages"][-1]["history"]
    assert history[-1]["loss"] < history[0]["loss"] or len(history) == 1

    code, _, errors = typed("export", taught, "--to", "gguf", "--type", "q8_0", "--out", file)
    assert code == 0, errors
    parity = open_bundle(file).card["stages"][-1]["parity"]
    assert parity["chats"] == 3 and parity["same_top_1"] > 0.8
    code, _, errors = typed(
        "compress", taught, "--data", TICKETS, "--text", "text", "--quantize", "8", "--method", "round", "--minutes", 1,
        "--out", smaller, "--quiet",
    )  # fmt: skip
    assert code == 0, errors
    made = open_bundle(smaller)
    engine: Any = open_language_engine(made, threads=1)
    assert type(engine).__module__.endswith("llama_cpp") and made.size_bytes < open_bundle(taught).size_bytes / 2
    asked = [{"role": "user", "content": "Where is parcel 7?"}]
    prompt = prompt_of(made, engine, "Where is parcel 7?", chat=True)
    expected = "".join(engine.generate(prompt, max_tokens=12, temperature=0.0))
    with serve_bundle(made) as served:
        answer = served.openai.chat.completions.create(
            model=served.bundle.path.name, messages=asked, max_tokens=12, temperature=0.0
        )  # fmt: skip
    assert answer.choices[0].message.content.strip() == expected.strip()
