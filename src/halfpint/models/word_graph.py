"""The network of `models.word_tagger` as a graph for ONNX Runtime, written node by node: small, and the same each time.

ONNX's own LSTM reads texts of different lengths in both directions. Weights are stored in half precision, and turned
into single precision when the graph is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.errors import need

_OPSET, _IR = 20, 10
_GATES = (0, 3, 1, 2)
"""The gates of an LSTM in ONNX's order (input, output, forget, cell), by their places in PyTorch's."""


def write_graph(path: Path, weights: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a graph with the weights of a `WordTagger`, by their names there.

    Inputs: `vectors` float32 (texts, words, width) in place of `rows`, and all others of the network. Output: `scores`
    float32 (texts, words, tags).
    """
    onnx = need("onnx", "exporting to ONNX")
    helper, types, from_array = onnx.helper, onnx.TensorProto, onnx.numpy_helper.from_array
    nodes: list[Any] = []
    tensors: list[Any] = []

    def weight(name: str, values: npt.NDArray[Any]) -> str:
        tensors.append(from_array(np.ascontiguousarray(values, dtype=np.float16), f"{name}_half"))
        nodes.append(helper.make_node("Cast", [f"{name}_half"], [name], to=types.FLOAT))
        return name

    def numbers(name: str, values: list[int]) -> str:
        tensors.append(from_array(np.array(values, dtype=np.int64), name))
        return name

    def node(kind: str, inputs: list[str], **settings: Any) -> str:
        name = f"{kind}_{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [name], **settings))
        return name

    one, none = numbers("one", [1]), numbers("none", [0])
    letters = node("Gather", [weight("letters", weights["characters.weight"]), "characters"])
    letters = node("Transpose", [letters], perm=[0, 2, 1])
    filters = weight("filters", weights["filters.weight"])
    size = weights["filters.weight"].shape[2]
    found = node(
        "Conv", [letters, filters, weight("filters_bias", weights["filters.bias"])], pads=[size // 2, size // 2]
    )
    real = node("Cast", [node("Greater", ["characters", none])], to=types.FLOAT)
    found = node("Mul", [node("Relu", [found]), node("Unsqueeze", [real, one])])
    found = node("ReduceMax", [found, numbers("last", [2])], keepdims=0)
    seen = [
        "vectors",
        node("Gather", [weight("shape", weights["shapes.weight"]), "shapes"]),
        node("Gather", [weight("line", weights["lines.weight"]), "lines"]),
        node("Gather", [found, "spelled"]),
    ]
    read = node("Transpose", [node("Concat", seen, axis=2)], perm=[1, 0, 2])
    hidden = weights["ahead.weight_hh_l0"].shape[1]
    states = node(
        "LSTM",
        [read, *(weight(name, values) for name, values in _lstm(weights).items()), "sizes"],
        hidden_size=hidden,
        direction="bidirectional",
    )
    states = node("Transpose", [states], perm=[2, 0, 1, 3])
    states = node("Reshape", [states, numbers("joined", [0, 0, 2 * hidden])])
    for name in ("between", "classifier"):
        states = node("MatMul", [states, weight(name, weights[f"{name}.weight"].T)])
        nodes.append(
            helper.make_node(
                "Add",
                [states, weight(f"{name}_bias", weights[f"{name}.bias"])],
                ["scores" if name == "classifier" else "joined_states"],
            )
        )
        states = "scores" if name == "classifier" else node("Tanh", ["joined_states"])
    width = weights["ahead.weight_ih_l0"].shape[1] - sum(
        weights[name].shape[axis] for name, axis in (("shapes.weight", 1), ("lines.weight", 1), ("filters.weight", 0))
    )
    value = helper.make_tensor_value_info
    inputs = [value("vectors", types.FLOAT, ["texts", "words", width])]
    inputs += [value(name, types.INT64, ["texts", "words"]) for name in ("shapes", "lines", "spelled")]
    inputs += [value("characters", types.INT64, ["different", "letters"]), value("sizes", types.INT32, ["texts"])]
    labels = weights["classifier.weight"].shape[0]
    graph = helper.make_graph(
        nodes, "word_tagger", inputs, [value("scores", types.FLOAT, ["texts", "words", labels])], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _lstm(weights: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Weights of both directions as ONNX's LSTM takes them: for what is read, for the state, and what is added."""

    def gates(name: str) -> npt.NDArray[Any]:
        parts = np.split(weights[name], 4)
        return np.concatenate([parts[gate] for gate in _GATES])

    both = ("ahead", "behind")
    biases = [[gates(f"{one}.bias_{kind}_l0") for kind in ("ih", "hh")] for one in both]
    return {
        "lstm_input": np.stack([gates(f"{one}.weight_ih_l0") for one in both]),
        "lstm_state": np.stack([gates(f"{one}.weight_hh_l0") for one in both]),
        "lstm_bias": np.stack([np.concatenate(parts) for parts in biases]),
    }
