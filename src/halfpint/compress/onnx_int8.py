"""Stage: an ONNX bundle in 8 bits: weights stored as int8, products computed in integers or in fp32."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from halfpint.bundle import Bundle, Kind, copy_files
from halfpint.compress._codes import round_to
from halfpint.compress._onnx_tables import four_bits, put_before, stored_groups, stored_rows
from halfpint.compress.tensors import EMBEDDING, refuse_if_no_smaller
from halfpint.errors import HalfpintError, RefusedError, SettingError, need
from halfpint.stage import Stage, Work

_QUANTISED = ("MatMul", "Gather")
_GROUP = 32  # values of embeddings in 4 bits that share a scale


@dataclass(frozen=True, kw_only=True)
class OnnxInt8(Stage):
    """Weights in 8 bits, one scale for each output (each token, in the embedding).

    Args:
        reduce_range: weights in 7 bits, which keeps 16-bit sums of processors without VNNI from saturating, so that
            the model answers alike on every machine. Only for compute = "int8".
        compute: "int8" quantises the activations too, as they come, and multiplies integers: fastest. "fp32" only
            stores the weights in 8 bits and multiplies as before: as small, nearer to the trained model, as fast as it.
        embedding_bits: of an encoder's token embeddings: 8, or 4 with one fp16 scale for 32 values.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.ONNX,)
    gives: ClassVar[Kind] = Kind.ONNX
    uses_data: ClassVar[bool] = False

    reduce_range: bool = True
    compute: str = "int8"
    embedding_bits: int = 8

    def __post_init__(self) -> None:
        if self.compute not in ("int8", "fp32"):
            raise SettingError(f"{self.use}: compute", wanted="int8 or fp32", got=repr(self.compute))
        if self.embedding_bits not in (4, 8):
            raise SettingError(f"{self.use}: embedding_bits", wanted="4 or 8", got=str(self.embedding_bits))

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Write the bundle with model.onnx in int8."""
        assert bundle is not None
        started = time.monotonic()
        need("onnx", "quantising")
        with self.new_bundle(work, bundle) as (folder, card):
            copy_files(bundle, folder, "model.onnx")
            if bundle.card["engine"] == "onnx_linear":
                _quantise_rows(bundle.path / "model.onnx", folder / "model.onnx")
            elif self.compute == "fp32":
                _store_encoder(bundle.path / "model.onnx", folder / "model.onnx", self.embedding_bits)
            else:
                _quantise_encoder(
                    bundle.path / "model.onnx", folder / "model.onnx", self.reduce_range, self.embedding_bits
                )
            before, after = (path.stat().st_size for path in (bundle.path / "model.onnx", folder / "model.onnx"))
            refuse_if_no_smaller(self.use, before, after)
            card["stages"].append(self.entry(started, bytes_before=before, bytes_after=after))
        return Bundle(work.target)


def _quantise_encoder(source: Path, target: Path, reduce_range: bool, embedding_bits: int) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(str(source)).graph
    tables = _tables(graph) if embedding_bits == 4 else {}
    constant = {tensor.name for tensor in graph.initializer} - set(tables)
    # The head (the one Gemm) stays as it is: it is small, and a fitted head reads differences of features that are far
    # below their size, which eight bits for the whole range do not hold (Banking77: 0.33 of the labels were the same).
    nodes = [node.name for node in graph.node if node.op_type in _QUANTISED and constant & set(node.input)]
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of pre-processing, which the exporter has done
    try:
        quantize_dynamic(
            str(source),
            str(target),
            nodes_to_quantize=nodes,
            per_channel=True,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
        )
    finally:
        logger.setLevel(level)
    if embedding_bits == 4:
        model = onnx.load(str(target))
        put_before(model.graph, _stored_tables(model.graph))
        onnx.save(model, str(target))


def _tables(graph: Any) -> dict[str, Any]:
    """Token embeddings whose rows blocks of 4 bits divide, by name."""
    looked_up = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    return {
        one.name: one for one in graph.initializer
        if one.name in looked_up and EMBEDDING.search(one.name) and len(one.dims) == 2 and one.dims[1] % _GROUP == 0
    }  # fmt: skip


def _stored_tables(graph: Any) -> list[Any]:
    """Put token embeddings of 4 bits in the place of those of the graph; gives the nodes that turn them back."""
    from onnx import numpy_helper

    torch = need("torch", "embeddings in 4 bits")
    if not _tables(graph):
        raise RefusedError(
            "embedding_bits = 4", wanted=f"token embeddings with rows of a multiple of {_GROUP}", got="none",
            todo="Leave them in 8 bits.",
        )  # fmt: skip
    kind, nodes = four_bits(_GROUP), []
    for name, tensor in _tables(graph).items():
        values = torch.from_numpy(numpy_helper.to_array(tensor).copy())
        graph.initializer.remove(tensor)
        nodes += stored_groups(graph, name, round_to(kind, values))
    return nodes


def _store_encoder(source: Path, target: Path, embedding_bits: int) -> None:
    """Constant matrices of the encoder as int8 codes, turned back by a cast and a product that ONNX Runtime folds away
    when it loads the model (a DequantizeLinear it would keep and compute each time)."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(source))
    graph: Any = model.graph
    before = _stored_tables(graph) if embedding_bits == 4 else []
    tensors = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 2}
    for node in graph.node:
        for name in [name for name in node.input if name in tensors] if node.op_type in _QUANTISED else []:
            tensor = tensors.pop(name)
            before += stored_rows(graph, tensor, numpy_helper.to_array(tensor), 1 if node.op_type == "Gather" else 0)
    put_before(graph, before)
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def _quantise_rows(source: Path, target: Path) -> None:
    """The weight of a TF-IDF classifier as int8 with one scale a feature; the scale joins the feature's value."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(source))
    graph: Any = model.graph
    weight = next((tensor for tensor in graph.initializer if tensor.name == "weight"), None)
    if weight is None:
        raise HalfpintError(
            "compress/onnx_int8", wanted="weights that are not quantised yet", got=f"{source}: they are in 8 bits",
            todo="Leave this step out.",
        )  # fmt: skip
    values = numpy_helper.to_array(weight)
    scale = np.maximum(np.abs(values).max(axis=1), 1e-12) / 127
    graph.initializer.remove(weight)
    codes = np.rint(values / scale[:, None]).astype(np.int8)
    graph.initializer.append(numpy_helper.from_array(codes, "codes"))
    graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), "scale"))
    nodes = [
        helper.make_node("Gather", ["codes", "indices"], ["picked"]),
        helper.make_node("Cast", ["picked"], ["rows"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["scale", "indices"], ["scales"]),
        helper.make_node("Mul", ["values", "scales"], ["scaled"]),
    ]
    rest = [node for node in graph.node if node.op_type != "Gather"]
    for node in rest:
        if node.op_type == "Unsqueeze":
            node.input[0] = "scaled"
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    onnx.checker.check_model(model)
    onnx.save(model, str(target))
