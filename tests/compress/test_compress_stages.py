"""Smaller bundles: what stays is untouched, what goes is missed as little as said."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from halfpint.bundle import Bundle, open_bundle
from halfpint.compress.layers import Layers, kept_layers
from halfpint.compress.onnx_int8 import OnnxInt8
from halfpint.compress.tensors import refuse_if_no_smaller
from halfpint.compress.vocab import Vocab, choose_tokens, reindex_tokenizer
from halfpint.data.examples import Example
from halfpint.data.prepare import Prepared
from halfpint.engines import Engine, open_engine
from halfpint.errors import HalfpintError
from halfpint.models.pull import Pull
from halfpint.stage import Work
from halfpint.tokenizers.load import open_tokenizer

torch = pytest.importorskip("torch", reason="compressing needs torch")

Make = Callable[..., Work]
Get = Callable[[str], Bundle]


@pytest.fixture(scope="module")
def three_layers(three_layer_encoder: Path, work: Make, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    target = tmp_path_factory.mktemp("three") / "encoder"
    return Pull(base=str(three_layer_encoder)).run(None, work(target))


def encoder_in(bundle: Bundle) -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(bundle.path, add_pooling_layer=False).eval()


def states(model: Any) -> Any:
    ids = torch.arange(40).reshape(2, 20) + 5
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


def test_a_layer_taken_out_is_a_layer_bypassed(three_layers: Bundle, work: Make, tmp_path: Path) -> None:
    made = Layers(keep=2).run(three_layers, work(tmp_path / "made"))
    assert made.card["stages"][-1]["kept"] == [0, 2]
    assert made.config["num_hidden_layers"] == 2
    assert made.size_bytes < three_layers.size_bytes
    cut, whole = encoder_in(made), encoder_in(three_layers)
    unchanged = states(whole)
    del whole.encoder.layer[1]
    assert len(cut.encoder.layer) == 2
    assert torch.equal(states(cut), states(whole))
    assert not torch.allclose(states(cut), unchanged, atol=1e-3)


def test_layers_of_a_classifier(bundles: Get, work: Make, prepared: Prepared, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    parent = bundles("classifier")
    made = Layers(keep=1).run(parent, work(tmp_path / "made"))
    before, after = (load_file(bundle.path / "model.safetensors") for bundle in (parent, made))
    assert after.keys() == {name for name in before if "layer.1." not in name}
    for name, tensor in after.items():
        np.testing.assert_array_equal(tensor, before[name])
    assert made.labels == parent.labels
    answers = open_engine(made, threads=1).probabilities([example.text for example in prepared.validation[:5]])
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("keep", [0, 3, 4, -1])
def test_no_such_number_of_layers(keep: int, three_layers: Bundle, work: Make, tmp_path: Path) -> None:
    with pytest.raises(HalfpintError, match=r"from 1 to 2 \(the model has 3 layers\)"):
        Layers(keep=keep).run(three_layers, work(tmp_path / "made"))
    assert not list(tmp_path.iterdir())


@given(layers=st.integers(2, 48), share=st.floats(0, 1))
def test_kept_layers_are_spread(layers: int, share: float) -> None:
    keep = 1 + int(share * (layers - 2))
    kept = kept_layers(layers, keep)
    assert len(set(kept)) == keep
    assert kept == sorted(kept)
    assert kept[0] == 0
    if keep > 1:
        assert kept[-1] == layers - 1
        gaps = np.diff(kept)
        assert gaps.max() - gaps.min() <= 1


def strings(bundle: Bundle, texts: list[str]) -> list[list[str]]:
    return [encoding.tokens for encoding in open_tokenizer(bundle.path).encode_batch(texts)]


TEXTS = ["Where's my parcel?!", "äöü 🙂 文字", "", "can't log-in since 3.4.2 (iOS)", "xylophones, zebras & quokkas"]


def test_with_all_tokens_kept_nothing_changes(bundles: Get, work: Make, prepared: Prepared, tmp_path: Path) -> None:
    parent = bundles("encoder")
    made = Vocab(size=10**6).run(parent, work(tmp_path / "made"))
    texts = [*TEXTS, *(example.text for example in prepared.test)]
    assert strings(made, texts) == strings(parent, texts)
    old, new = (open_tokenizer(bundle.path).encode_batch(texts) for bundle in (parent, made))
    assert [encoding.ids for encoding in old] == [encoding.ids for encoding in new]
    assert made.config["vocab_size"] == parent.config["vocab_size"]


@pytest.mark.parametrize(("whole", "pruned"), [("classifier", "few-tokens"), ("onnx", "onnx-few-tokens")])
def test_pruned_tokens_answer_the_same_on_the_training_texts(
    whole: str, pruned: str, bundles: Get, few: list[Example], prepared: Prepared
) -> None:
    texts = [example.text for example in few]
    before, after = bundles(whole), bundles(pruned)
    assert strings(before, texts) == strings(after, texts)
    tokens = open_tokenizer(after.path).get_vocab_size()
    entry = after.card["stages"][-1]
    assert entry["used"] <= entry["tokens"] == tokens < open_tokenizer(before.path).get_vocab_size()
    assert after.size_bytes < before.size_bytes
    assert 0 <= entry["unknown_before"] <= entry["unknown"] < 0.1 and entry["longer"] > 0
    answers = [open_engine(bundle, threads=1).probabilities(texts) for bundle in (before, after)]
    np.testing.assert_allclose(answers[0], answers[1], rtol=0, atol=1e-5)
    unseen = [example.text for example in prepared.test]
    assert strings(before, unseen) != strings(after, unseen)  # words that training never had are spelled out


@given(text=st.text(st.characters(min_codepoint=1, max_codepoint=127), max_size=120))
def test_ascii_text_is_as_readable_as_before(text: str, bundles: Get) -> None:
    old, new = (strings(bundles(name), [text])[0] for name in ("classifier", "few-tokens"))
    assert new.count("[UNK]") <= old.count("[UNK]")
    spelled = ["".join(token.removeprefix("##") for token in tokens) for tokens in (old, new)]
    assert spelled[0] == spelled[1]


@pytest.fixture(scope="module")
def pruned(bundles: Get) -> list[Engine]:
    return [open_engine(bundles(name), threads=1) for name in ("few-tokens", "onnx-few-tokens")]


@given_settings(max_examples=40)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_has_an_answer(text: str, pruned: list[Engine]) -> None:
    for engine in pruned:
        assert np.isfinite(engine.probabilities([text, "🙂" + text])).all()


def test_size_keeps_common_words_by_age() -> None:
    vocabulary = {
        token: number
        for number, token in enumerate(["[PAD]", "[UNK]", "[unused1]", "a", "##a", "é", "the", "of", "refund", "zebra"])
    }
    used = Counter({"refund": 3})
    always = {"[PAD]", "[UNK]", "a", "##a", "refund"}
    assert set(choose_tokens(vocabulary, used, {"[PAD]", "[UNK]"}, 1)) == always
    assert set(choose_tokens(vocabulary, used, {"[PAD]", "[UNK]"}, 6)) == always | {"the"}
    everything = choose_tokens(vocabulary, used, {"[PAD]", "[UNK]"}, 100)
    assert set(everything) == vocabulary.keys() - {"[unused1]", "é"}
    assert everything == sorted(everything, key=vocabulary.__getitem__)
    accented = choose_tokens(vocabulary, Counter({"café": 1}), set(), 1)
    assert "é" in accented


def test_letters_of_a_cased_vocabulary_stay() -> None:
    vocabulary = {token: number for number, token in enumerate(["A", "##A", "z", "##z", "Zoo", "ß"])}
    assert choose_tokens(vocabulary, Counter(), set(), 1) == ["A", "##A", "z", "##z"]


def test_the_older_post_processor_is_renumbered_too() -> None:
    """BERT's own post-processor names its two tokens with their ids, not in a table."""
    tokenizer: dict[str, Any] = {
        "model": {"vocab": {"[PAD]": 0, "x": 1, "[CLS]": 2, "[SEP]": 3}},
        "added_tokens": [{"id": 2, "content": "[CLS]"}, {"id": 3, "content": "[SEP]"}],
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "padding": {"pad_id": 0},
        "truncation": {"max_length": 4},
    }
    reindex_tokenizer(tokenizer, {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2})
    assert tokenizer["post_processor"] == {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]}
    assert [token["id"] for token in tokenizer["added_tokens"]] == [1, 2]
    assert tokenizer["padding"] is tokenizer["truncation"] is None


def test_nothing_left_to_prune_is_refused(bundles: Get, work: Make, few: list[Example], tmp_path: Path) -> None:
    with pytest.raises(HalfpintError, match=r"fewer bytes than before.*Leave this step out"):
        Vocab(size=1).run(bundles("few-tokens"), work(tmp_path / "made", train=few))
    assert not list(tmp_path.iterdir())


def test_only_wordpiece_is_pruned(bundles: Get, work: Make, tmp_path: Path) -> None:
    folder = tmp_path / "bytes"
    shutil.copytree(bundles("encoder").path, folder)
    tokenizer = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(HalfpintError, match="expected a WordPiece tokenizer, got BPE"):
        Vocab().run(Bundle(folder), work(tmp_path / "made"))
    with pytest.raises(HalfpintError, match=r"expected a tokenizer\.json"):
        Vocab().run(bundles("onnx-linear"), work(tmp_path / "made"))


def test_int8_encoder_is_smaller_and_near(bundles: Get, prepared: Prepared) -> None:
    whole, small = bundles("onnx"), bundles("int8")
    sizes = [(bundle.path / "model.onnx").stat().st_size for bundle in (whole, small)]
    entry = small.card["stages"][-1]
    assert sizes == [entry["bytes_before"], entry["bytes_after"]]
    assert sizes[1] < 0.65 * sizes[0]  # of so small a model the graph itself is much
    texts = [example.text for example in prepared.validation]
    exact, near = (open_engine(bundle, threads=1).probabilities(texts) for bundle in (whole, small))
    assert np.abs(exact - near).mean() < 0.03
    assert (exact.argmax(axis=1) == near.argmax(axis=1)).mean() > 0.7
    assert not np.array_equal(exact, near)


def test_stored_int8_is_as_small_and_nearer(
    bundles: Get, work: Callable[..., Work], prepared: Prepared, tmp_path: Path
) -> None:
    whole, quantised = bundles("onnx"), bundles("int8")
    stored = OnnxInt8(compute="fp32").run(whole, work(tmp_path / "stored"))
    texts = [example.text for example in prepared.validation]
    reference = open_engine(whole).probabilities(texts)
    far = np.abs(open_engine(quantised).probabilities(texts) - reference).mean()
    near = np.abs(open_engine(stored).probabilities(texts) - reference).mean()
    assert near < far
    assert (stored.path / "model.onnx").stat().st_size < (whole.path / "model.onnx").stat().st_size
    # fp32 products: company in a batch does not show.
    assert np.allclose(
        open_engine(stored).probabilities(texts[:1]), open_engine(stored).probabilities(texts)[:1], atol=1e-5
    )


@pytest.mark.parametrize("compute", ["int8", "fp32"])
def test_embeddings_in_four_bits_are_smaller_and_the_rest_is_alike(
    compute: str, bundles: Get, work: Callable[..., Work], prepared: Prepared, tmp_path: Path
) -> None:
    import onnx

    texts = [example.text for example in prepared.validation]
    exact = open_engine(bundles("onnx"), threads=1).probabilities(texts)
    made = {
        bits: OnnxInt8(compute=compute, embedding_bits=bits).run(bundles("onnx"), work(tmp_path / str(bits)))
        for bits in (8, 4)
    }
    products = {}
    for bits, bundle in made.items():
        nodes = [node.op_type for node in onnx.load(str(bundle.path / "model.onnx")).graph.node]
        products[bits] = sorted(name for name in nodes if "MatMul" in name)
        assert np.abs(open_engine(bundle, threads=1).probabilities(texts) - exact).mean() < 0.03
    assert products[4] == products[8]
    table = bundles("onnx").config["encoder"]["vocab_size"] * bundles("onnx").config["encoder"]["hidden_size"]
    saved = made[8].size_bytes - made[4].size_bytes
    assert 0.6 * table * 7 / 16 < saved  # 4.5 bits a value where there were 8, less the nodes


def test_settings_are_checked() -> None:
    with pytest.raises(HalfpintError, match="int8 or fp32"):
        OnnxInt8(compute="int4")
    with pytest.raises(HalfpintError, match=r"embedding_bits.*4 or 8"):
        OnnxInt8(embedding_bits=3)


def test_int8_linear_is_smaller_and_near(bundles: Get, prepared: Prepared) -> None:
    whole, small = bundles("onnx-linear"), bundles("int8-linear")
    assert small.size_bytes < whole.size_bytes
    assert small.card["stages"][-1]["bytes_after"] < 0.6 * small.card["stages"][-1]["bytes_before"]
    texts = [example.text for example in prepared.validation]
    exact, near = (open_engine(bundle, threads=1).probabilities(texts) for bundle in (whole, small))
    np.testing.assert_allclose(near, exact, atol=0.01)


def test_the_range_of_weights_is_a_choice(bundles: Get, work: Make, tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    largest = {}
    for reduced in (True, False):
        made = OnnxInt8(reduce_range=reduced).run(bundles("onnx"), work(tmp_path / str(reduced)))
        weights = [numpy_helper.to_array(one) for one in onnx.load(str(made.path / "model.onnx")).graph.initializer]
        largest[reduced] = max(int(np.abs(one.astype(int)).max()) for one in weights if one.dtype == np.int8)
        assert open_bundle(made.path)
    assert largest == {True: 64, False: 127}


def test_no_smaller_is_refused() -> None:
    refuse_if_no_smaller("compress/vocab", 100, 99)
    for after in (100, 101):
        with pytest.raises(HalfpintError, match=f"compress/vocab.*got {after} of 100"):
            refuse_if_no_smaller("compress/vocab", 100, after)


def test_what_is_in_8_bits_already_is_said(
    bundles: Callable[[str], Bundle], work: Callable[..., Work], tmp_path: Path
) -> None:
    with pytest.raises(HalfpintError, match="they are in 8 bits"):
        OnnxInt8().run(bundles("int8-linear"), work(tmp_path / "again"))
