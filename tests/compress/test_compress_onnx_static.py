"""Static ranges: those that ONNX Runtime's own tool finds, products in integers, the same answer in any company."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle
from halfpint.compress.onnx_static import OnnxStatic
from halfpint.data.prepare import Prepared
from halfpint.engines import open_engine
from halfpint.errors import HalfpintError
from halfpint.stage import Work
from halfpint.tokenizers.load import open_tokenizer

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch", reason="the bundles are trained")
Get = Callable[[str], Bundle]
Make = Callable[..., Work]


def held(bundle: Bundle) -> tuple[Any, dict[str, Any]]:
    """The graph of model.onnx and its constants by name."""
    from onnx import numpy_helper

    graph = onnx.load(str(bundle.path / "model.onnx")).graph
    return graph, {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def steps(bundle: Bundle) -> dict[str, tuple[float, int]]:
    """Scale and zero of each activation, by the name of the tensor."""
    graph, constants = held(bundle)
    found = {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            found[node.input[0]] = (float(constants[node.input[1]]), int(constants[node.input[2]]))
    return found


@pytest.fixture(scope="module")
def made(bundles: Get) -> Bundle:
    return bundles("int8-static")


@pytest.fixture(scope="module")
def texts(prepared: Prepared) -> list[str]:
    return [example.text for example in prepared.validation]


def test_ranges_and_codes_are_those_of_onnx_runtime(made: Bundle, bundles: Get, few: list[Any], tmp_path: Path) -> None:
    """Its quantize_static, shown the same texts one at a time, without padding."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    source = bundles("onnx")
    drawn = np.random.default_rng(0).permutation(len(few))[:40]
    tokenizer = open_tokenizer(source.path, max_tokens=int(source.config["max_tokens"]))
    rows = [np.array([tokenizer.encode(few[index].text).ids]) for index in drawn]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(rows)

        def get_next(self) -> Any:
            row = next(self.left, None)
            return None if row is None else {"input_ids": row, "attention_mask": np.ones_like(row)}

    graph, constants = held(source)
    nodes = [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in constants]
    assert len(nodes) == 12  # six in each of two layers
    quantize_static(
        str(source.path / "model.onnx"), str(tmp_path / "model.onnx"), Reader(), op_types_to_quantize=["MatMul"],
        nodes_to_quantize=nodes, per_channel=True, reduce_range=True, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8, extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )  # fmt: skip
    theirs_graph = onnx.load(str(tmp_path / "model.onnx")).graph
    theirs = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in theirs_graph.initializer}
    ours = steps(made)
    assert len(ours) == 8  # query, key and value read the same
    for name, (step, zero) in ours.items():
        assert step == pytest.approx(float(theirs[f"{name}_scale"]), rel=1e-3)
        assert abs(zero - int(theirs[f"{name}_zero_point"])) <= 1
    _, mine = held(made)
    for node in graph.node:
        if node.name in nodes:
            name = node.input[1]
            np.testing.assert_allclose(mine[f"{name}.scale"], theirs[f"{name}_scale"], rtol=1e-5)
            different = mine[f"{name}.codes"].astype(int) - theirs[f"{name}_quantized"].astype(int)
            assert np.abs(different).max() <= 1 and (different != 0).mean() < 0.01


def test_products_are_of_integers(made: Bundle, tmp_path: Path) -> None:
    """What ONNX Runtime makes of the file: no matrix of the encoder is left in fp32, and no table of tokens."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "seen.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(made.path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(str(tmp_path / "seen.onnx")).graph
    used = [node.op_type for node in graph.node]
    assert used.count("MatMulIntegerToFloat") == 12
    assert used.count("QuantizeLinear") == 8 and "DequantizeLinear" not in used
    floats = [tensor for tensor in graph.initializer if tensor.data_type == 1]
    assert [one.name for one in floats if sum(length > 1 for length in one.dims) > 1] == ["model.classifier.weight"]


def test_near_the_trained_model_and_alike_in_any_company(made: Bundle, bundles: Get, texts: list[str]) -> None:
    """The scales of dynamic int8 are those of the batch: what moves there has to stand still here."""
    exact = open_engine(bundles("onnx"), threads=1).probabilities(texts)
    engine = open_engine(made, threads=1)
    near = engine.probabilities(texts)
    assert not np.array_equal(exact, near) and np.abs(exact - near).mean() < 0.03
    assert (exact.argmax(axis=1) == near.argmax(axis=1)).mean() > 0.8
    alone = np.concatenate([engine.probabilities([text]) for text in texts])
    dynamic = open_engine(bundles("int8"), threads=1)
    swayed = np.abs(np.concatenate([dynamic.probabilities([one]) for one in texts]) - dynamic.probabilities(texts))
    assert np.abs(alone - near).mean() < 0.1 * swayed.mean()
    assert made.size_bytes < 0.7 * bundles("onnx").size_bytes


def test_percentiles_narrow_the_ranges(bundles: Get, work: Make, tmp_path: Path, few: list[Any], made: Bundle) -> None:
    whole = steps(made)
    shares = []
    for percentile in (100.0, 99.0, 90.0):
        stage = OnnxStatic(samples=40, ranges="percentile", percentile=percentile)
        cut = steps(stage.run(bundles("onnx"), work(tmp_path / str(percentile), train=few)))
        shares.append(np.mean([cut[name][0] / whole[name][0] for name in whole]))
    assert shares[0] == pytest.approx(1.0, abs=0.01)
    assert shares[0] > shares[1] > shares[2] and shares[2] < 0.8


def test_the_range_of_weights_is_a_choice(
    bundles: Get, work: Make, tmp_path: Path, few: list[Any], made: Bundle
) -> None:
    wide = OnnxStatic(samples=4, reduce_range=False).run(bundles("onnx"), work(tmp_path / "wide", train=few))
    for bundle, largest in ((made, 64), (wide, 127)):
        graph, constants = held(bundle)
        matrices = [node.input[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.attribute]
        assert len(matrices) == 12
        assert {int(np.abs(constants[name].astype(int)).max()) for name in matrices} == {largest}


def test_refusals(bundles: Get, work: Make, tmp_path: Path, made: Bundle) -> None:
    for settings in ({"ranges": "best"}, {"percentile": 0.0}, {"percentile": 101.0}, {"samples": 0}, {"seed": -1}):
        with pytest.raises(HalfpintError, match=f"compress/onnx_static: {next(iter(settings))}"):
            OnnxStatic(**settings)
    with pytest.raises(HalfpintError, match="expected an exported encoder"):
        OnnxStatic().run(bundles("onnx-linear"), work(tmp_path / "made"))
    with pytest.raises(HalfpintError, match="quantised before"):
        OnnxStatic().run(made, work(tmp_path / "made"))
    with pytest.raises(HalfpintError, match="training texts to calibrate on, got none"):
        OnnxStatic().run(bundles("onnx"), work(tmp_path / "made", train=[]))
    assert not (tmp_path / "made").exists()
