"""An encoder in 4 bits computes with the values that its codes stand for, and GPTQ's codes lose less than rounding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle
from halfpint.compress.onnx_int4 import OnnxInt4
from halfpint.engines import open_engine
from halfpint.errors import HalfpintError
from halfpint.stage import Work

onnx = pytest.importorskip("onnx")
Get = Callable[[str], Bundle]
Make = Callable[..., Work]


def values_of(bundle: Bundle) -> dict[str, Any]:
    """The matrices that the 4-bit codes in model.onnx stand for, by name: float32 (inputs, outputs)."""
    from onnx import numpy_helper

    graph = onnx.load(str(bundle.path / "model.onnx")).graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            name = node.input[1].removesuffix(".codes")
            packed = held[f"{name}.codes"]
            codes = np.stack([packed & 15, packed >> 4], -1).reshape(packed.shape[0], -1).astype(np.float32) - 8
            scales = held[f"{name}.half"].astype(np.float32).reshape(packed.shape[0], -1)
            found[name] = (codes * scales.repeat(codes.shape[1] // scales.shape[1], 1)).T
    return found


def logs(bundle: Bundle, texts: list[str]) -> Any:
    return np.log(open_engine(bundle, threads=1).probabilities(texts))


@pytest.fixture(scope="module")
def texts(prepared: Any) -> list[str]:
    return [example.text for example in prepared.validation]


def test_it_computes_what_the_codes_stand_for(
    bundles: Get, work: Make, tmp_path: Path, few: list[Any], texts: list[str]
) -> None:
    from onnx import numpy_helper

    source = bundles("onnx")
    made = OnnxInt4(compute="fp32", group=16).run(source, work(tmp_path / "made", train=few))
    found = values_of(made)
    assert made.card["stages"][-1]["matrices_4_bits"] == len(found) == 12  # six in each of two layers
    model = onnx.load(str(source.path / "model.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name in found:
            exact = numpy_helper.to_array(tensor)
            assert np.abs(found[tensor.name] - exact).max() < 0.3 * np.abs(exact).max()
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(found[tensor.name]), tensor.name))
    import onnxruntime

    from halfpint.tokenizers.batching import pad
    from halfpint.tokenizers.load import open_tokenizer

    plain = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ids = [open_tokenizer(made.path).encode(text).ids for text in texts[:8]]
    input_ids, mask = pad(ids, 0)
    wanted = plain.run(None, {"input_ids": input_ids, "attention_mask": mask})[0]
    wanted = wanted - np.log(np.exp(wanted).sum(1, keepdims=True))
    # The embeddings' 8 bits are all that differs besides.
    assert np.abs(logs(made, texts[:8]) - wanted).max() < 0.1 * np.abs(wanted).max()


def test_gptq_loses_less_than_rounding(
    bundles: Get, work: Make, tmp_path: Path, few: list[Any], texts: list[str]
) -> None:
    source = bundles("onnx")
    exact = logs(source, texts)
    errors, sizes = {}, {}
    for name, settings in (("gptq", {}), ("round", {"method": "round"}), ("table", {"embedding_bits": 4})):
        made = OnnxInt4(**settings).run(source, work(tmp_path / name, train=few))
        errors[name], sizes[name] = float(np.abs(logs(made, texts) - exact).mean()), made.size_bytes
    assert errors["gptq"] < errors["round"]
    assert sizes["table"] < sizes["gptq"] == pytest.approx(sizes["round"], abs=300)
    assert sizes["gptq"] < bundles("int8").size_bytes < source.size_bytes


def test_refusals(bundles: Get, work: Make, tmp_path: Path) -> None:
    for settings in ({"group": 20}, {"method": "best"}, {"embedding_bits": 3}, {"compute": "int4"}, {"damping": 0.0}):
        with pytest.raises(HalfpintError, match=next(iter(settings))):
            OnnxInt4(**settings)
    with pytest.raises(HalfpintError, match="expected an exported encoder"):
        OnnxInt4().run(bundles("onnx-linear"), work(tmp_path / "made"))
