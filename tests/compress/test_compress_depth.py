"""Fewer layers: the one that does nothing goes, what is listed layer by layer goes with it, the rest is as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halfpint.bundle import Bundle, new_bundle, open_bundle
from halfpint.compress import _models
from halfpint.compress.depth import Depth, shallower, strongest
from halfpint.engines import open_engine
from halfpint.errors import HalfpintError
from halfpint.stage import Work

torch = pytest.importorskip("torch", reason="pruning needs torch")

Make = Callable[..., Work]
Get = Callable[[str], Bundle]


@pytest.fixture(scope="module")
def five_layers(tmp_path_factory: pytest.TempPathFactory, bundles: Get) -> Callable[[str, int], Bundle]:
    """A language model of five layers with random weights, of which one (or none, with -1) gives what it gets."""
    folder = tmp_path_factory.mktemp("five")

    def make(arch: str, idle: int) -> Bundle:
        from transformers import AutoConfig, AutoModelForCausalLM

        target = folder / f"{arch}{idle}"
        if target.exists():
            return open_bundle(target)
        sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2}
        if arch == "gpt2":
            sizes = {"n_embd": 32, "n_layer": 5, "n_head": 2}
        if arch == "gemma3_text":
            sizes |= {"head_dim": 16, "num_key_value_heads": 1, "sliding_window": 8, "sliding_window_pattern": 2}
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(
                arch, **sizes, vocab_size=bundles("language").config["vocab_size"], initializer_range=0.2,
                bos_token_id=0, eos_token_id=0,
            )
        )  # fmt: skip
        if idle >= 0:
            block = (model.transformer.h if arch == "gpt2" else model.model.layers)[idle]
            with torch.no_grad():
                for name, tensor in block.named_parameters():
                    if any(part in name for part in ("o_proj", "down_proj", "c_proj")):
                        tensor.zero_()
        with new_bundle(target, bundles("language")) as (path, _):
            model.save_pretrained(path)
            for file in bundles("language").path.glob("tokenizer*"):
                (path / file.name).write_bytes(file.read_bytes())
        return open_bundle(target)

    return make


def opened(bundle: Bundle) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(bundle.path).eval()


def logits(model: Any) -> Any:
    ids = torch.arange(60).reshape(3, 20) + 5
    with torch.inference_mode():
        return model(input_ids=ids).logits


@pytest.mark.parametrize(("arch", "idle"), [("llama", 2), ("llama", 1), ("gpt2", 3)])
def test_the_layer_that_does_nothing_goes(
    arch: str, idle: int, five_layers: Callable[[str, int], Bundle], text_work: Make, tmp_path: Path
) -> None:
    parent = five_layers(arch, idle)
    made = Depth(samples=4, tokens=32).run(parent, text_work(tmp_path / "made"))  # 0.2 of five is one
    entry = made.card["stages"][-1]
    assert entry["kept"] == [number for number in range(5) if number != idle]
    assert entry["influence"][idle] == pytest.approx(0, abs=1e-6) and min(entry["influence"]) >= -1e-6
    assert entry["loss_after"] == pytest.approx(entry["loss_before"], abs=1e-5)
    assert entry["bytes_after"] < entry["bytes_before"]
    assert torch.equal(logits(opened(made)), logits(opened(parent)))


def test_influence_is_one_less_the_cosine(
    five_layers: Callable[[str, int], Bundle], text_work: Make, bundles: Get, tmp_path: Path
) -> None:
    parent = five_layers("llama", -1)
    stage = Depth(keep=3, samples=3, tokens=16, seed=5)
    entry = stage.run(parent, text_work(tmp_path / "made")).card["stages"][-1]
    rows, others = _models.rows_for(stage, parent, text_work(tmp_path / "rows"))
    assert (len(rows), len(others)) == (3, 1)
    model = opened(parent)
    states: list[list[Any]] = [[] for _ in range(6)]
    handles = [
        layer.register_forward_hook(lambda _, given, out, at=number: states[at].append((given[0], out)))
        for number, layer in enumerate(model.model.layers)
    ]
    with torch.inference_mode():
        for row in rows:
            model(input_ids=torch.from_numpy(row)[None])
    for handle in handles:
        handle.remove()
    for number in range(5):
        cosines = [torch.cosine_similarity(given, out, dim=-1).flatten() for given, out in states[number]]
        assert entry["influence"][number] == pytest.approx(1 - float(torch.cat(cosines).mean()), abs=1e-5)
    assert entry["kept"] == strongest(entry["influence"], 3, keep_ends=True)


def test_ends_stay_or_not() -> None:
    influence = [0.1, 0.5, 0.3, 0.4, 0.2]
    assert strongest(influence, 3, keep_ends=True) == [0, 1, 4]
    assert strongest(influence, 3, keep_ends=False) == [1, 2, 3]
    assert strongest(influence, 1, keep_ends=True) == [0]


def test_what_is_listed_by_layer_goes_too(
    five_layers: Callable[[str, int], Bundle], text_work: Make, tmp_path: Path
) -> None:
    parent = five_layers("gemma3_text", 1)
    kinds = parent.config["layer_types"]
    assert kinds == ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"]
    made = Depth(samples=4, tokens=32).run(parent, text_work(tmp_path / "made"))
    assert made.card["stages"][-1]["kept"] == [0, 2, 3, 4]
    assert made.config["layer_types"] == [kinds[number] for number in (0, 2, 3, 4)]
    torch.testing.assert_close(logits(opened(made)), logits(opened(parent)))


def test_kinds_of_layers_that_only_a_rule_tells_are_written_down(
    five_layers: Callable[[str, int], Bundle], text_work: Make, tmp_path: Path
) -> None:
    """Old configurations say that each second layer is another: true no more once one is gone."""
    whole = five_layers("gemma3_text", 1)
    with new_bundle(tmp_path / "old", whole) as (folder, _):
        for file in whole.path.iterdir():
            if file.name not in ("card.json", "README.md"):
                (folder / file.name).write_bytes(file.read_bytes())
        config = {name: value for name, value in whole.config.items() if name != "layer_types"}
        (folder / "config.json").write_text(json.dumps({**config, "sliding_window_pattern": 2}), encoding="utf-8")
    made = Depth(samples=4, tokens=32).run(open_bundle(tmp_path / "old"), text_work(tmp_path / "made"))
    torch.testing.assert_close(logits(opened(made)), logits(opened(whole)))


def test_no_list_of_another_kind_is_cut() -> None:
    config = {"num_hidden_layers": 2, "eos_token_id": [1, 2], "layer_types": ["a", "b"], "max_window_layers": 2}
    assert shallower(config, 2, [1]) == {
        "num_hidden_layers": 1, "eos_token_id": [1, 2], "layer_types": ["b"], "max_window_layers": 1,
    }  # fmt: skip


def test_a_classifier_by_influence(bundles: Get, work: Make, few: list[Any], tmp_path: Path) -> None:
    parent = bundles("classifier")
    made = Depth(keep=1, keep_ends=False).run(parent, work(tmp_path / "made", train=few))
    entry = made.card["stages"][-1]
    assert entry["kept"] == [max((0, 1), key=lambda number: entry["influence"][number])]
    assert entry["loss_after"] > entry["loss_before"]
    assert open_engine(made, threads=1).probabilities(["where is it"]).shape == (1, len(parent.labels))


def test_a_size_is_reached(five_layers: Callable[[str, int], Bundle], text_work: Make, tmp_path: Path) -> None:
    parent = five_layers("llama", 2)
    model = opened(parent)
    layer = sum(tensor.numel() for tensor in model.model.layers[0].parameters())
    whole = sum(tensor.numel() for tensor in model.parameters())
    made = Depth(size=str(whole - layer - 1), measure="even").run(parent, text_work(tmp_path / "made"))
    assert made.config["num_hidden_layers"] == 3
    with pytest.raises(HalfpintError, match="less than the embeddings and what stays with them"):
        Depth(size=str(max(10_000, whole - 5 * layer - 100))).run(parent, text_work(tmp_path / "small"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"share": 0.0}, "share must be a share above 0 and below 1, not 0.0"),
        ({"share": 1.2}, "share must be a share above 0"),
        ({"keep": -1}, "keep must be 1 or more"),
        ({"keep": 2, "size": "1M"}, "expected keep or size, got both"),
        ({"measure": "influenc"}, "Did you mean 'influence'"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(HalfpintError, match=told):
        Depth(**settings)


def test_what_cannot_be_is_said_before(
    five_layers: Callable[[str, int], Bundle], work: Make, text_work: Make, tmp_path: Path
) -> None:  # fmt: skip
    parent = five_layers("llama", 2)
    for settings in ({"share": 0.05}, {"keep": 5}, {"share": 0.99}):
        with pytest.raises(HalfpintError, match=r"from 1 to 4 \(the model has 5 layers\)"):
            Depth(**settings).run(parent, text_work(tmp_path / "made"))
    with pytest.raises(HalfpintError, match="calibration: expected text"):
        Depth().run(parent, work(tmp_path / "made", train=[]))
    with new_bundle(tmp_path / "quantised", parent) as (folder, _):
        (folder / "config.json").write_text(
            json.dumps({**parent.config, "quantization_config": {"bits": 4}}), encoding="utf-8"
        )
    with pytest.raises(HalfpintError, match="one that is quantised already"):
        Depth().run(open_bundle(tmp_path / "quantised"), text_work(tmp_path / "made"))
    assert {path.name for path in tmp_path.iterdir()} == {"quantised"}
