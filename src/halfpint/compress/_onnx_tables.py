"""Tables of an ONNX graph stored in 8 or 4 bits, and the nodes that make them fp32 again when the model is loaded."""

from __future__ import annotations

from typing import Any

from halfpint.compress._codes import BlockType, Coded
from halfpint.errors import need


def four_bits(group: int) -> BlockType:
    """Codes from -8 to 7 with one fp16 scale for so many neighbours of a row."""
    return BlockType("int4", group, group // 2 + 2, group, tuple(range(-8, 8)))


def put_before(graph: Any, nodes: list[Any]) -> None:
    """Put nodes in front of those of the graph."""
    nodes = [*nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def stored_rows(graph: Any, tensor: Any, values: Any, axis: int) -> list[Any]:
    """Put int8 codes of `values`, with one scale along `axis`, in the place of `tensor`; gives the nodes that turn them
    back when the model is loaded."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    name = tensor.name
    scale = np.maximum(np.abs(values).max(axis=axis, keepdims=True), 1e-12).astype(np.float32) / np.float32(127)
    graph.initializer.remove(tensor)
    graph.initializer.append(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}.codes"))
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
    return [
        helper.make_node("Cast", [f"{name}.codes"], [f"{name}.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name]),
    ]


def stored_groups(graph: Any, name: str, coded: Coded) -> list[Any]:
    """A table in 4 bits, and the nodes that make it fp32 when the model is loaded (ONNX Runtime folds them away)."""
    import numpy as np

    helper, numpy_helper = need("onnx.helper", "quantising"), need("onnx.numpy_helper", "quantising")
    rows, columns = coded.codes.shape
    group = coded.kind.group
    scales = coded.scales.scale.reshape(rows, columns // group, 1).half().numpy()
    for part, values in (
        ("codes", packed(coded)),
        ("half", scales),
        ("low", np.array(15, np.uint8)),
        ("four", np.array(4, np.uint8)),
        ("last", np.array([2], np.int64)),
        ("middle", np.array(8, np.float32)),
        ("grouped", np.array([rows, columns // group, group], np.int64)),
        ("whole", np.array([rows, columns], np.int64)),
    ):
        graph.initializer.append(numpy_helper.from_array(values, f"{name}.{part}"))

    def node(operator: str, inputs: list[str], output: str, **settings: Any) -> Any:
        made = [f"{name}.{one}" for one in inputs]
        return helper.make_node(operator, made, [name if not output else f"{name}.{output}"], **settings)

    return [
        node("BitwiseAnd", ["codes", "low"], "first"),
        node("BitShift", ["codes", "four"], "second", direction="RIGHT"),
        node("Unsqueeze", ["first", "last"], "first.apart"),
        node("Unsqueeze", ["second", "last"], "second.apart"),
        node("Concat", ["first.apart", "second.apart"], "pairs", axis=2),
        node("Reshape", ["pairs", "grouped"], "groups"),
        node("Cast", ["groups"], "float", to=1),
        node("Sub", ["float", "middle"], "centred"),
        node("Cast", ["half"], "scale", to=1),
        node("Mul", ["centred", "scale"], "values"),
        node("Reshape", ["values", "whole"], ""),
    ]


def packed(coded: Coded) -> Any:
    """Two codes a byte, the first one in the low bits: uint8 of shape (rows, columns / 2)."""
    codes = coded.codes
    return (codes[:, 0::2] | (codes[:, 1::2] << 4)).numpy()
