"""Narrower hidden states: what carries nothing goes at no cost, fits are the best there are, models stay plain."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle, new_bundle, open_bundle, read_json
from halfpint.compress._directions import channels, components, shown
from halfpint.compress._stream import gains_of, stream_of
from halfpint.compress.hidden import Hidden
from halfpint.engines import open_engine, open_language_engine
from halfpint.errors import HalfpintError
from halfpint.stage import Work

torch = pytest.importorskip("torch", reason="pruning needs torch")

Make = Callable[..., Work]
Get = Callable[[str], Bundle]
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "num_key_value_heads": 2, "attention_bias": True},
    "qwen2": {**SMALL, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {**SMALL, "num_key_value_heads": 2, "head_dim": 16},
    "gemma3_text": {**SMALL, "num_key_value_heads": 1, "head_dim": 16, "query_pre_attn_scalar": 16},
    "phi3": {**SMALL, "num_key_value_heads": 2, "pad_token_id": 0},
    "starcoder2": {**SMALL, "num_key_value_heads": 2},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48},
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, bundles: Get) -> Callable[..., Bundle]:
    """A language model of an architecture with random weights, changed by `change`, with the tokenizer of another."""
    folder = tmp_path_factory.mktemp("built")

    def make(
        arch: str, change: Callable[[Any], None] = lambda model: None, dtype: str = "float32", **more: Any
    ) -> Bundle:
        from transformers import AutoConfig, AutoModelForCausalLM

        vocabulary = bundles("language").config["vocab_size"]
        settings = {"vocab_size": vocabulary, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0}
        torch.manual_seed(0)
        config = AutoConfig.for_model(arch, **{**settings, **SHAPES[arch], **more})
        model = AutoModelForCausalLM.from_config(config)
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


def within(keep: int, *, turned: bool) -> Callable[[Any], None]:
    """Makes the hidden states of a Llama lie in `keep` directions: all is projected there that writes to them."""

    def change(model: Any) -> None:
        width = model.config.hidden_size
        directions = torch.linalg.qr(torch.randn(width, width))[0] if turned else torch.eye(width)
        directions = directions[:, torch.randperm(width)[:keep]]
        project = directions @ directions.T
        model.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight @ project)
        for layer in model.model.layers:
            for module in (layer.self_attn.o_proj, layer.mlp.down_proj):
                module.weight.copy_(project @ module.weight)
                if module.bias is not None:
                    module.bias.copy_(project @ module.bias)

    return change


@pytest.mark.parametrize("repair", [True, False])
@pytest.mark.parametrize("directions", ["channels", "components"])
def test_directions_that_carry_nothing_cost_nothing(
    directions: str, repair: bool, built: Callable[..., Bundle], text_work: Make, tmp_path: Path
) -> None:
    parent = built("llama", within(24, turned=directions == "components"))
    stage = Hidden(share=0.25, directions=directions, repair=repair, multiple=8, samples=24, tokens=64)
    made = stage.run(parent, text_work(tmp_path / "made"))
    assert (made.config["hidden_size"], made.config["head_dim"], made.config["model_type"]) == (24, 8, "llama")
    torch.testing.assert_close(logits(opened(made)), logits(opened(parent)), atol=2e-3, rtol=1e-3)
    entry = made.card["stages"][-1]
    assert entry["kept_squares"] == pytest.approx(1, abs=1e-5) and entry["turned"] == (directions == "components")
    assert all(block["error"] < 1e-5 for block in entry["blocks"])
    assert entry["loss_after"] == pytest.approx(entry["loss_before"], abs=1e-4)
    sizes = [(bundle.path / "model.safetensors").stat().st_size for bundle in (parent, made)]
    assert sizes == [entry["bytes_before"], entry["bytes_after"]] and sizes[1] < sizes[0]


def test_a_head_that_is_the_embedding_stays_so(built: Callable[..., Bundle], text_work: Make, tmp_path: Path) -> None:
    """With gains that are the same nothing is lost."""

    def change(model: Any) -> None:
        model.model.norm.weight.fill_(1.5)
        within(24, turned=True)(model)

    parent = built("qwen2", change)
    made = Hidden(share=0.25, multiple=8, repair=False).run(parent, text_work(tmp_path / "made"))
    assert made.config["tie_word_embeddings"] and "lm_head.weight" not in tensors_of(made)
    torch.testing.assert_close(logits(opened(made)), logits(opened(parent)), atol=2e-3, rtol=1e-3)


def tensors_of(bundle: Bundle) -> dict[str, Any]:
    from safetensors.torch import load_file

    found: dict[str, Any] = load_file(bundle.path / "model.safetensors")
    return found


@pytest.mark.parametrize("arch", sorted(set(SHAPES) - {"gpt2"}))
def test_narrower_models_are_plain(arch: str, built: Callable[..., Bundle], text_work: Make, tmp_path: Path) -> None:
    parent = built(arch, dtype="bfloat16" if arch == "qwen3" else "float32")
    made = Hidden(share=0.25, multiple=8, samples=8, tokens=32).run(parent, text_work(tmp_path / "made"))
    assert made.config["hidden_size"] == 24
    changed = {name for name in made.config if made.config[name] != parent.config.get(name)}
    assert changed <= {"hidden_size", "head_dim"}
    away = (logits(opened(made)) - logits(opened(parent))).norm() / logits(opened(parent)).norm()
    assert 0 < away < 1  # they are random: each direction is missed
    kinds = {str(tensor.dtype) for tensor in tensors_of(made).values()}
    assert kinds == {"torch.bfloat16" if arch == "qwen3" else "torch.float32"}
    assert made.card["stages"][-1]["turned"] == (arch not in ("gemma3_text", "starcoder2"))
    scored = open_language_engine(made, threads=1).score(["Where is my order?"])[0]
    assert np.isfinite(scored.log_probabilities).all() and len(scored.log_probabilities)


@pytest.mark.parametrize("arch", ["gemma3_text", "starcoder2", "phi3", "qwen3"])
def test_channels_that_carry_nothing_in_other_architectures(
    arch: str, built: Callable[..., Bundle], text_work: Make, tmp_path: Path
) -> None:
    """The embedding's scale, gains as differences from 1, norms behind layers, fused matrices: all keep their size."""

    def change(model: Any) -> None:
        base = model.model
        base.embed_tokens.weight[:, ::4] = 0
        for layer in base.layers:
            for name in ("post_attention_layernorm", "post_feedforward_layernorm"):
                if arch == "gemma3_text":
                    getattr(layer, name).weight[::4] = -1.0
            for module in (layer.self_attn.o_proj, getattr(layer.mlp, "down_proj", None) or layer.mlp.c_proj):
                module.weight[::4] = 0
                if module.bias is not None:
                    module.bias[::4] = 0
        if arch == "starcoder2":  # its norms write the mean into channels that are nothing
            for name, module in model.named_modules():
                if name.endswith("norm"):
                    module.weight[::4] = 0
                    module.bias[::4] = 0

    parent = built(arch, change)
    made = Hidden(share=0.25, multiple=8, directions="channels").run(parent, text_work(tmp_path / "made"))
    away = (logits(opened(made)) - logits(opened(parent))).norm() / logits(opened(parent)).norm()
    # a LayerNorm's mean and deviation are those of other channels, in each token by another factor
    assert away < (0.3 if arch == "starcoder2" else 2e-3)


def test_a_llama_that_its_heads_do_not_divide_is_a_mistral(
    built: Callable[..., Bundle], text_work: Make, tmp_path: Path
) -> None:
    shape = {"hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 1}
    parent = built("llama", within(32, turned=True), attention_bias=False, **shape)
    made = Hidden(share=1 / 3, multiple=16).run(parent, text_work(tmp_path / "made"))
    assert made.config["architectures"] == ["MistralForCausalLM"] and made.config["hidden_size"] == 32
    assert type(opened(made)).__name__ == "MistralForCausalLM" and opened(made).config.sliding_window is None
    torch.testing.assert_close(logits(opened(made)), logits(opened(parent)), atol=2e-3, rtol=1e-3)
    short = built("llama", attention_bias=False, **{**shape, "num_key_value_heads": 3})
    with new_bundle(tmp_path / "told", short) as (folder, card):
        shutil.copytree(short.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("card.json"))
        told = read_json(folder / "config.json")
        del told["num_key_value_heads"], told["max_position_embeddings"]  # of which a Mistral has others
        (folder / "config.json").write_text(json.dumps(told))
        card.update(task=short.card["task"], engine="torch_lm")
    made = Hidden(share=1 / 3, multiple=16, samples=8).run(Bundle(tmp_path / "told"), text_work(tmp_path / "short"))
    assert (opened(made).config.num_key_value_heads, opened(made).config.max_position_embeddings) == (3, 2048)
    biased = built("llama", **shape)  # Mistral has no biases: the nearest width that Llama allows
    made = Hidden(share=1 / 3, multiple=8, samples=8).run(biased, text_work(tmp_path / "biased"))
    assert made.config["model_type"] == "llama" and made.config["hidden_size"] == 24
    with pytest.raises(HalfpintError, match="a hidden size that llama can have with 3 heads, got none below 48"):
        Hidden(share=1 / 3, multiple=16).run(biased, text_work(tmp_path / "none"))


def test_fits_are_better_than_leaving_things_as_they_are(
    built: Callable[..., Bundle], text_work: Make, tmp_path: Path
) -> None:
    errors = {}
    for directions in ("components", "channels"):
        for repair in (True, False):
            made = Hidden(multiple=8, directions=directions, repair=repair, samples=16, tokens=64).run(
                built("llama"), text_work(tmp_path / f"{directions}{repair}")
            )
            errors[directions, repair] = made.card["stages"][-1]["blocks"][1]["error"]
    assert errors["components", True] < errors["components", False]
    assert errors["channels", True] < errors["channels", False]
    assert errors["components", False] < errors["channels", False]


def test_what_is_seen_is_what_the_norms_see(built: Callable[..., Bundle], text_work: Make, tmp_path: Path) -> None:
    """Against hooks in a plain run, a row at a time; rows of different lengths are padded in the walk."""
    model = opened(built("llama"))
    rows = [np.arange(length) % 50 + 5 for length in (20, 13, 20, 9)]
    stream = stream_of(model, "here")
    seen = shown(model, stream, rows, text_work(tmp_path / "made"), "here")
    before: dict[str, list[Any]] = {}
    after: dict[str, list[Any]] = {}

    def hook(module: Any, arguments: Any, out: Any, name: str = "") -> None:
        before.setdefault(name, []).append(arguments[0][0])
        after.setdefault(name, []).append(out[0])

    for name, module in model.named_modules():
        if name.endswith("norm"):
            module.register_forward_hook(lambda *given, name=name: hook(*given, name=name))
    with torch.inference_mode():
        for row in rows:
            model(input_ids=torch.from_numpy(row)[None])
    assert len(before) == 5
    units = [torch.nn.functional.normalize(torch.cat(states).double(), dim=-1) for states in before.values()]
    products = sum(one.T @ one / len(one) for one in units) / 5
    torch.testing.assert_close(seen.products, products, atol=1e-6, rtol=1e-4)
    means = [torch.cat(states).double().abs().mean(0) for states in after.values()]
    sizes = sum(one / one.sum() for one in means)
    torch.testing.assert_close(seen.sizes, sizes, atol=1e-6, rtol=1e-4)
    kept = channels(seen, 5).basis.nonzero()
    assert kept[:, 0].tolist() == sorted(np.argsort(-sizes.numpy())[:5].tolist())
    whole = components(seen, 32)
    torch.testing.assert_close(whole.basis.T @ whole.basis, torch.eye(32, dtype=torch.float64))
    lost = [float((seen.products - seen.products @ one.basis @ one.back.T).trace())
            for one in (components(seen, 20), channels(seen, 20))]  # fmt: skip
    assert lost[0] < lost[1]


def test_gains_as_differences_from_one_are_seen(built: Callable[..., Bundle]) -> None:
    for arch, offset in (("gemma3_text", 1.0), ("llama", 0.0), ("starcoder2", 0.0)):
        norm = opened(built(arch)).model.norm
        gains, found = gains_of(norm)
        assert found == offset
        torch.testing.assert_close(gains, norm.weight.detach() + offset)


@pytest.fixture
def decoder_classifier(bundles: Get, tmp_path: Path) -> Bundle:
    """A classifier on a Qwen 3, with random weights."""
    from halfpint.models.pooled_classifier import PooledClassifier, PooledClassifierConfig

    parent, target = bundles("classifier"), tmp_path / "decoder"
    vocabulary = parent.config["encoder"]["vocab_size"]
    torch.manual_seed(0)
    config = PooledClassifierConfig(
        encoder={"model_type": "qwen3", "vocab_size": vocabulary, **SHAPES["qwen3"], "initializer_range": 0.2},
        id2label=parent.config["id2label"], label2id=parent.config["label2id"],
    )  # fmt: skip
    with new_bundle(target, parent) as (path, card):
        for file in parent.path.iterdir():
            if file.name not in ("config.json", "model.safetensors", "card.json", "README.md"):
                (path / file.name).write_bytes(file.read_bytes())
        PooledClassifier(config).save_pretrained(path)
        card["stages"] = list(card["stages"])
    return open_bundle(target)


def test_a_classifier_is_narrower(decoder_classifier: Bundle, work: Make, few: list[Any], tmp_path: Path) -> None:
    made = Hidden(multiple=8).run(decoder_classifier, work(tmp_path / "made", train=few))
    assert made.config["encoder"]["hidden_size"] == 24 and made.labels == decoder_classifier.labels
    texts = [example.text for example in few]
    before, after = (open_engine(one, threads=1).probabilities(texts) for one in (decoder_classifier, made))
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.5
    assert tensors_of(made)["classifier.weight"].shape == (len(made.labels), 24)


def test_a_stopped_run_goes_on_with_the_next_layer(
    built: Callable[..., Bundle], text_work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from halfpint.compress._narrowing import Fit

    parent, stage = built("qwen2"), Hidden(multiple=8, samples=8)
    whole = stage.run(parent, text_work(tmp_path / "whole"))
    again = text_work(tmp_path / "again")
    seen: list[int] = []
    plain = Fit.change

    def stopping(fit: Any, visit: Any) -> Any:
        seen.append(visit.index)
        if seen == [0, 1]:
            raise KeyboardInterrupt
        return plain(fit, visit)

    monkeypatch.setattr(Fit, "change", stopping)
    with pytest.raises(KeyboardInterrupt):
        stage.run(parent, again)
    made = stage.run(parent, again)
    assert seen == [0, 1, 1]
    files = [(bundle.path / "model.safetensors").read_bytes() for bundle in (whole, made)]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"share": 1.0}, "share must be a share above 0 and below 1, not 1.0"),
        ({"share": 0.0}, "share must be a share above 0"),
        ({"directions": "chanels"}, "Did you mean 'channels'"),
        ({"multiple": -1}, "multiple must be 1 or more, or 0"),
        ({"tokens": 2}, "tokens must be 8 or more"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(HalfpintError, match=told):
        Hidden(**settings)


def test_what_cannot_be_cut_is_said_before(
    built: Callable[..., Bundle], bundles: Get, work: Make, text_work: Make, tmp_path: Path
) -> None:
    with pytest.raises(HalfpintError, match=r"takes something out, got 0.25 of 32 \(multiples of 32\)"):
        Hidden().run(built("llama"), text_work(tmp_path / "made"))
    with pytest.raises(HalfpintError, match="directions: expected channels for this model, got components"):
        Hidden(directions="components", multiple=8).run(built("gemma3_text"), text_work(tmp_path / "made"))
    for parent in (built("gpt2"), bundles("classifier")):
        with pytest.raises(HalfpintError, match=r"head size is a setting of its own.* feed-forward channels"):
            Hidden(multiple=8).run(parent, text_work(tmp_path / "made"))
    with pytest.raises(HalfpintError, match=r"a causal language model or a classifier, got a masked one \(bert\)"):
        Hidden(multiple=8).run(bundles("masked"), text_work(tmp_path / "made"))
    with pytest.raises(HalfpintError, match="one that is quantised already"):
        Hidden(multiple=8).run(bundles("quantized"), text_work(tmp_path / "made"))
    with pytest.raises(HalfpintError, match="calibration: expected text"):
        Hidden(multiple=8).run(built("llama"), work(tmp_path / "made", train=[]))
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith("unfinished")]


def test_another_path_through_a_block_is_refused(
    built: Callable[..., Bundle], text_work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An architecture with the same names whose layers' outputs are multiplied before they are added."""
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    parent, plain = built("llama"), LlamaDecoderLayer.forward
    monkeypatch.setattr(LlamaDecoderLayer, "forward", lambda *given, **named: 1.1 * plain(*given, **named))
    with pytest.raises(HalfpintError, match="that adds what its layers write"):
        Hidden(multiple=8).run(parent, text_work(tmp_path / "made"))


@pytest.mark.parametrize("arch", ["llama", "mistral"])
def test_it_goes_to_llama_cpp(
    arch: str,
    built: Callable[..., Bundle],
    bundles: Get,
    text_work: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("xllamacpp", reason="GGUF needs llama.cpp")
    from halfpint.engines.llama_cpp import LlamaCppEngine
    from halfpint.evaluate import gguf_parity
    from halfpint.export.gguf import Gguf

    def gate(trained: Path, exported: Path, type_: str) -> dict[str, Any]:  # in this process, distributions alone
        return gguf_parity.check_distributions(trained, LlamaCppEngine(exported, 1), type_)

    monkeypatch.setattr("halfpint.export.gguf._gate", gate)
    shape = {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 64}
    parent = bundles("language") if arch == "llama" else built("llama", attention_bias=False, **shape)
    made = Hidden(share=0.4, multiple=32, samples=16, tokens=32).run(parent, text_work(tmp_path / "made"))
    assert made.config["model_type"] == arch and made.config["hidden_size"] % 32 == 0
    exported = Gguf(type="q8_0").run(made, text_work(tmp_path / "gguf"))
    entry = exported.card["stages"][-1]
    assert entry["parity"]["same_top_1"] > 0.9 and entry["tensors"]["not_quantised"] == 0


def test_the_command_asks_for_it() -> None:
    from halfpint.commands._compress_steps import steps_of
    from halfpint.commands.compress import Compress

    asked = Compress(model="m", data="d", out=Path("o"), prune=("hidden=0.25",))
    assert steps_of(asked) == [Hidden(share=0.25)]
