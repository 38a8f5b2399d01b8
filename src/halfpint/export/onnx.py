"""Stage: a trained classifier as ONNX, for ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from halfpint.bundle import Bundle, Kind
from halfpint.engines.torch_classifier import load_model
from halfpint.errors import need
from halfpint.models.heads import head_in
from halfpint.models.tfidf import FEATURES_FILE
from halfpint.stage import Stage, Work

_OPSET = 20
_MOST_TOKENS = 512  # that the exporter is told of; the graph takes what the encoder takes


@dataclass(frozen=True, kw_only=True)
class Onnx(Stage):
    """The model in fp32: an encoder by torch.onnx, a TF-IDF classifier as a graph of five operators.

    Inputs of an encoder: `input_ids`, `attention_mask` and what else its head reads, int64 (texts, tokens). Of a TF-IDF
    classifier: `indices` int64 and `values` float32 (texts, features). Output: `logits` float32 (texts, labels), or
    (texts, tokens, labels).
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.CLASSIFIER, Kind.LINEAR)
    gives: ClassVar[Kind] = Kind.ONNX
    uses_data: ClassVar[bool] = False

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Write model.onnx and what the engine needs beside it."""
        assert bundle is not None
        started = time.monotonic()
        need("onnx", "exporting to ONNX")
        linear = bundle.kind == Kind.LINEAR
        with self.new_bundle(work, bundle) as (folder, card):
            (_export_linear if linear else _export_encoder)(bundle, folder)
            card["engine"] = "onnx_linear" if linear else "onnx_encoder"
            card["stages"].append(self.entry(started))
        return Bundle(work.target)


def _export_encoder(bundle: Bundle, folder: Path) -> None:
    torch = need("torch", "exporting an encoder")
    need("onnxscript", "exporting an encoder")
    model = load_model(bundle.path)
    model.encoder.set_attn_implementation("eager")  # plain matrix products, which ONNX Runtime fuses and quantises
    inputs = head_in(bundle.path).INPUTS

    class Logits(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *given: Any) -> Any:
            return self.model(**dict(zip(inputs, given, strict=True))).logits

    ids = torch.ones(2, 8, dtype=torch.long)
    most = min(_MOST_TOKENS, getattr(model.encoder.config, "max_position_embeddings", None) or _MOST_TOKENS)
    texts, tokens = torch.export.Dim("texts", min=1), torch.export.Dim("tokens", min=2, max=most)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            Logits().eval(),
            tuple(ids.clone() for _ in inputs),  # one tensor twice would be one input of the graph
            input_names=list(inputs),
            output_names=["logits"],
            dynamic_shapes=(({0: texts, 1: tokens},) * len(inputs),),
            opset_version=_OPSET,
            verbose=False,
        )
    _forget_source(program.model.graph)
    program.save(str(folder / "model.onnx"), external_data=False)
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        if (bundle.path / name).is_file():
            shutil.copyfile(bundle.path / name, folder / name)


def _forget_source(graph: Any) -> None:
    """Remove from each node where in the source it was made: paths of this machine, and several percent of the file."""
    for node in graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()


def _export_linear(bundle: Bundle, folder: Path) -> None:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import load_file

    tensors = load_file(bundle.path / "model.safetensors")
    labels = tensors["weight"].shape[1]
    nodes = [
        helper.make_node("Gather", ["weight", "indices"], ["rows"]),
        helper.make_node("Unsqueeze", ["values", "one"], ["across"]),
        helper.make_node("MatMul", ["across", "rows"], ["summed"]),
        helper.make_node("Squeeze", ["summed", "one"], ["scores"]),
        helper.make_node("Add", ["scores", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tfidf_linear",
        [
            helper.make_tensor_value_info("indices", TensorProto.INT64, ["texts", "features"]),
            helper.make_tensor_value_info("values", TensorProto.FLOAT, ["texts", "features"]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["texts", labels])],
        [
            numpy_helper.from_array(tensors["weight"], "weight"),
            numpy_helper.from_array(tensors["bias"], "bias"),
            numpy_helper.from_array(np.array([1], dtype=np.int64), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, str(folder / "model.onnx"))
    np.save(folder / "idf.npy", tensors["idf"].astype(np.float16), allow_pickle=False)
    shutil.copyfile(bundle.path / FEATURES_FILE, folder / FEATURES_FILE)
    (folder / "config.json").write_text(json.dumps(bundle.config, ensure_ascii=False) + "\n", encoding="utf-8")
