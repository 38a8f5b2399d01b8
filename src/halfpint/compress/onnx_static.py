"""Stage: an ONNX encoder that multiplies integers, the ranges of its activations fixed beforehand on training texts."""

from __future__ import annotations

import contextlib
import io
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from halfpint.bundle import Bundle, Kind, copy_files
from halfpint.compress._activations import activations
from halfpint.compress.tensors import refuse_if_no_smaller
from halfpint.errors import HalfpintError, SettingError, need
from halfpint.stage import Stage, Work

_RANGES = ("minmax", "percentile")
_BINS = 2048  # of a histogram of ONNX Runtime, which cuts no finer than a bin
_LEVELS = 255  # steps of an unsigned byte

Ranges = dict[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class OnnxStatic(Stage):
    """Weights in 8 bits, one scale for each output (each token, in the embedding); activations too, one a tensor.

    Where compress/onnx_int8 looks for the range of each batch as it comes, here it is known: the answer to a text is
    the same in any company. What a text has beyond the range is cut to it. The head, the softmax, the norms and what
    goes past the products to them stay in fp32. The file is in ONNX's own operators (QuantizeLinear, DequantizeLinear),
    from which ONNX Runtime makes products of integers when it loads it.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", section 2.1. Here the weights' zero is 0, and products come out in fp32.

    Args:
        ranges: of activations: minmax is all that was seen, percentile leaves out the rarest at both ends.
        percentile: share of the values in the range, in percent, for ranges = "percentile". A few large values matter
            much in encoders, so 99.9 can be far too few.
        samples: training texts to look at.
        reduce_range: weights in 7 bits, which keeps 16-bit sums of processors without VNNI from saturating.
        seed: of the texts drawn.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.ONNX,)
    gives: ClassVar[Kind] = Kind.ONNX

    ranges: str = "minmax"
    percentile: float = 99.99
    samples: int = 256
    reduce_range: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, fits, wanted in (
            ("ranges", self.ranges in _RANGES, " or ".join(_RANGES)),
            ("percentile", 0 < self.percentile <= 100, "above 0 and at most 100"),
            ("samples", self.samples >= 1, "1 or more"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not fits:
                raise SettingError(f"{self.use}: {name}", wanted=wanted, got=repr(getattr(self, name)))

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Write the bundle with model.onnx in int8.

        Raises:
            HalfpintError: no exported encoder in fp32, or no training texts.
        """
        assert bundle is not None
        started = time.monotonic()
        onnx = need("onnx", "quantising")
        if bundle.card["engine"] != "onnx_encoder":
            raise HalfpintError(
                self.use, wanted="an exported encoder", got=f"a bundle of {bundle.card['engine']}",
                todo="compress/onnx_int8 takes an exported TF-IDF classifier.",
            )  # fmt: skip
        model = onnx.load(str(bundle.path / "model.onnx"))
        products = _products(model.graph)
        if not products:
            raise HalfpintError(
                self.use, wanted="an encoder with matrices in fp32", got="one without, quantised before",
                todo="Quantise the bundle that it was made from.",
            )  # fmt: skip
        ranges = self._ranges(model, list(dict.fromkeys(node.input[0] for node in products)), bundle, work)
        counts = _quantise(model.graph, products, ranges, 64 if self.reduce_range else 127)
        onnx.checker.check_model(model)
        with self.new_bundle(work, bundle) as (folder, card):
            copy_files(bundle, folder, "model.onnx")
            onnx.save(model, str(folder / "model.onnx"))
            before, after = (path.stat().st_size for path in (bundle.path / "model.onnx", folder / "model.onnx"))
            refuse_if_no_smaller(self.use, before, after)
            card["stages"].append(self.entry(started, bytes_before=before, bytes_after=after, **counts))
        return Bundle(work.target)

    def _ranges(self, model: Any, names: list[str], bundle: Bundle, work: Work) -> Ranges:
        """The lowest and the highest value of each tensor that is to be told apart; zero is always between them."""
        found: Ranges = {}
        batches = activations(model, names, bundle, work, samples=self.samples, seed=self.seed)
        if self.ranges == "minmax":
            for given in batches:
                for name, values in given.items():
                    low, high = found.get(name, (0.0, 0.0))
                    found[name] = (min(low, float(values.min())), max(high, float(values.max())))
            return found
        collector = need("onnxruntime.quantization.calibrate", "quantising").HistogramCollector(
            method=self.ranges, symmetric=False, num_bins=_BINS, num_quantized_bins=_LEVELS,
            percentile=self.percentile, scenario="same",
        )  # fmt: skip
        for given in batches:
            with contextlib.redirect_stdout(io.StringIO()):  # it says what it does at each call
                collector.collect(given)
        with contextlib.redirect_stdout(io.StringIO()):
            for name, (low, high, *_) in collector.compute_collection_result().items():
                found[name] = (min(0.0, float(low)), max(0.0, float(high)))
        return found


def _products(graph: Any) -> list[Any]:
    """The products with a constant matrix. The head, a Gemm, is none of them: it does not survive eight bits."""
    constant = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    return [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in constant]


def _quantise(graph: Any, products: list[Any], ranges: Ranges, largest: int) -> dict[str, int]:
    """Put integers in the place of the products' inputs, and of tables; gives how many of each there were.

    Only a product reads the rounded values: what goes past it to the next norm stays as it was (onnxruntime's own
    quantize_static rounds that as well).
    """
    helper = need("onnx.helper", "quantising")
    tensors = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 2}
    chosen = {id(node) for node in products}
    tables = set(tensors) - {node.input[1] for node in products}
    for node in graph.node:
        takes_rows = node.op_type == "Gather" and not any(one.name == "axis" and one.i for one in node.attribute)
        tables -= set(node.input[1:] if takes_rows else node.input)
    nodes: list[Any] = []
    done: set[str] = set()
    for node in graph.node:
        if id(node) in chosen:
            into, matrix = node.input
            if into not in done:
                nodes += _rounded(graph, into, *ranges[into])
            if matrix not in done:
                _store(graph, tensors[matrix], largest, axis=0)
                ends = [f"{matrix}.codes", f"{matrix}.scale"]
                nodes.append(helper.make_node("DequantizeLinear", ends, [f"{matrix}.values"], axis=1))
            done |= {into, matrix}
            node.input[0], node.input[1] = f"{into}.rounded", f"{matrix}.values"
        elif node.op_type == "Gather" and node.input[0] in tables:
            table = node.input[0]
            if table not in done:
                _store(graph, tensors[table], 127, axis=1)
            done.add(table)
            nodes += _gathered(table, node.input[1], node.output[0])
            continue
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return {"matrices_8_bits": len({node.input[1] for node in products}), "tables_8_bits": len(tables & done)}


def _rounded(graph: Any, name: str, low: float, high: float) -> list[Any]:
    """Nodes that turn a tensor to an unsigned byte and back."""
    helper, numpy_helper = need("onnx.helper", "quantising"), need("onnx.numpy_helper", "quantising")
    scale = np.float32(max(high - low, 1e-12) / _LEVELS)
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, _LEVELS))
    graph.initializer.append(numpy_helper.from_array(np.array(scale), f"{name}.step"))
    graph.initializer.append(numpy_helper.from_array(np.array(zero), f"{name}.zero"))
    ends = [f"{name}.step", f"{name}.zero"]
    return [
        helper.make_node("QuantizeLinear", [name, *ends], [f"{name}.bytes"]),
        helper.make_node("DequantizeLinear", [f"{name}.bytes", *ends], [f"{name}.rounded"]),
    ]


def _store(graph: Any, tensor: Any, largest: int, axis: int) -> None:
    """Put int8 codes up to `largest` and their scale, one for what lies along `axis`, in the place of `tensor`."""
    numpy_helper = need("onnx.numpy_helper", "quantising")
    values = numpy_helper.to_array(tensor)
    name = tensor.name
    scale = np.maximum(np.abs(values).max(axis=axis, keepdims=True), 1e-12).astype(np.float32) / np.float32(largest)
    graph.initializer.remove(tensor)
    graph.initializer.append(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}.codes"))
    kept = scale.reshape(-1) if axis == 0 else scale  # of a product a vector, of a table a column
    graph.initializer.append(numpy_helper.from_array(kept, f"{name}.scale"))


def _gathered(table: str, rows: str, output: str) -> list[Any]:
    """Nodes that take rows of a table in codes and make them fp32: the table stays as small in memory."""
    helper = need("onnx.helper", "quantising")
    return [
        helper.make_node("Gather", [f"{table}.codes", rows], [f"{output}.codes"]),
        helper.make_node("Cast", [f"{output}.codes"], [f"{output}.float"], to=1),
        helper.make_node("Gather", [f"{table}.scale", rows], [f"{output}.scale"]),
        helper.make_node("Mul", [f"{output}.float", f"{output}.scale"], [output]),
    ]
