"""Stage: an ONNX encoder with its matrices in 4 bits, chosen by GPTQ on the training texts."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

from halfpint.bundle import Bundle, Kind, copy_files
from halfpint.compress._activations import activations
from halfpint.compress._codes import Coded, round_to
from halfpint.compress._gptq import Moments, gptq
from halfpint.compress._onnx_tables import four_bits, packed, put_before, stored_groups, stored_rows
from halfpint.compress.tensors import EMBEDDING, refuse_if_no_smaller
from halfpint.errors import HalfpintError, SettingError, need
from halfpint.stage import Stage, Work

_METHODS = ("gptq", "round")
_GROUPS = (16, 32, 64, 128, 256)  # that ONNX Runtime has products for
_ACCURACY = {"int8": 4, "fp32": 1}  # of MatMulNBits: what activations are rounded to
_DOMAIN = "com.microsoft"


@dataclass(frozen=True, kw_only=True)
class OnnxInt4(Stage):
    """Matrices between hidden states in 4 bits with one fp16 scale a group, run by ONNX Runtime's MatMulNBits.

    The head stays in fp32. Source: Frantar et al. 2022, "GPTQ", with what comes into each matrix of the exported graph.

    Args:
        group: neighbouring inputs that share a scale: 16, 32, 64, 128 or 256. Matrices whose inputs it does not divide
            are stored in 8 bits.
        method: gptq makes up for each column's error in those after it, by training texts; round takes the nearest.
        samples: training texts that gptq looks at.
        damping: of gptq, as a share of the mean diagonal.
        compute: "int8" rounds activations to 8 bits as they come and multiplies integers, "fp32" does not.
        embedding_bits: 8, or 4 in groups as well.
        seed: of the texts drawn.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.ONNX,)
    gives: ClassVar[Kind] = Kind.ONNX

    group: int = 32
    method: str = "gptq"
    samples: int = 256
    damping: float = 0.01
    compute: str = "int8"
    embedding_bits: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name, fits, wanted in (
            ("group", self.group in _GROUPS, f"one of {', '.join(map(str, _GROUPS))}"),
            ("method", self.method in _METHODS, " or ".join(_METHODS)),
            ("samples", self.samples >= 1, "1 or more"),
            ("damping", 0 < self.damping < 1, "a share between 0 and 1"),
            ("compute", self.compute in _ACCURACY, " or ".join(_ACCURACY)),
            ("embedding_bits", self.embedding_bits in (4, 8), "4 or 8"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not fits:
                raise SettingError(f"{self.use}: {name}", wanted=wanted, got=repr(getattr(self, name)))

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Write the bundle with model.onnx in 4 bits."""
        assert bundle is not None
        started = time.monotonic()
        onnx = need("onnx", "quantising")
        need("torch", "quantising")
        if bundle.card["engine"] != "onnx_encoder":
            raise HalfpintError(
                self.use, wanted="an exported encoder", got=f"a bundle of {bundle.card['engine']}",
                todo="compress/onnx_int8 takes this one.",
            )  # fmt: skip
        model = onnx.load(str(bundle.path / "model.onnx"))
        matrices = _matrices(model.graph, self.group)
        moments = self._moments(model, matrices, bundle, work) if self.method == "gptq" else {}
        figures = self._quantise(model, matrices, moments, work)
        with self.new_bundle(work, bundle) as (folder, card):
            copy_files(bundle, folder, "model.onnx")
            onnx.save(model, str(folder / "model.onnx"))
            before, after = (path.stat().st_size for path in (bundle.path / "model.onnx", folder / "model.onnx"))
            refuse_if_no_smaller(self.use, before, after)
            card["stages"].append(self.entry(started, bytes_before=before, bytes_after=after, **figures))
        return Bundle(work.target)

    def _moments(self, model: Any, matrices: dict[str, Any], bundle: Bundle, work: Work) -> dict[str, Moments]:
        """Of each tensor that comes into a matrix, sums over tokens of training texts; padding left out."""
        torch = need("torch", "quantising")
        names = list(dict.fromkeys(node.input[0] for node in matrices.values()))
        found: dict[str, Moments] = {}
        for given in activations(model, names, bundle, work, samples=self.samples, seed=self.seed):
            for name, values in given.items():
                if name not in found:
                    found[name] = Moments(values.shape[1], crossed=False)
                found[name].add(torch.from_numpy(values))
        return found

    def _quantise(
        self, model: Any, matrices: dict[str, Any], moments: dict[str, Moments], work: Work
    ) -> dict[str, Any]:
        """Put 4-bit products in the place of the matrices' products; gives how many matrices have how many bits."""
        torch = need("torch", "quantising")
        helper, numpy_helper = need("onnx.helper", "quantising"), need("onnx.numpy_helper", "quantising")
        graph = model.graph
        kind = four_bits(self.group)
        tensors = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 2}
        before: list[Any] = []
        counts = {"matrices_4_bits": 0, "matrices_8_bits": 0}
        with work.log.bar("quantising", len(matrices)) as bar:
            for name, node in matrices.items():
                values = torch.from_numpy(numpy_helper.to_array(tensors.pop(name)).T.copy())  # (outputs, inputs)
                if moments:
                    coded, _ = gptq(kind, values, moments[node.input[0]].square, self.damping)
                else:
                    coded = round_to(kind, values)
                before += _products(graph, node, name, coded, _ACCURACY[self.compute])
                counts["matrices_4_bits"] += 1
                bar.advance()
        for node in graph.node:
            for name in [name for name in node.input if name in tensors]:
                if node.op_type not in ("Gather", "MatMul"):
                    continue
                tensor = tensors.pop(name)
                values = numpy_helper.to_array(tensor)
                grouped = self.embedding_bits == 4 and values.shape[1] % self.group == 0 and EMBEDDING.search(name)
                if node.op_type == "Gather" and grouped:
                    graph.initializer.remove(tensor)
                    before += stored_groups(graph, name, round_to(kind, torch.from_numpy(values.copy())))
                    counts["matrices_4_bits"] += 1
                else:
                    before += stored_rows(graph, tensor, values, axis=1 if node.op_type == "Gather" else 0)
                    counts["matrices_8_bits"] += 1
        put_before(graph, before)
        if not any(entry.domain == _DOMAIN for entry in model.opset_import):
            model.opset_import.extend([helper.make_opsetid(_DOMAIN, 1)])
        return counts


def _matrices(graph: Any, group: int) -> dict[str, Any]:
    """The products with a constant matrix that no other node has and whose inputs `group` divides, by its name."""
    uses = Counter(name for node in graph.node for name in node.input)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer if len(tensor.dims) == 2}
    return {
        node.input[1]: node
        for node in graph.node
        if node.op_type == "MatMul"
        and uses[node.input[1]] == 1
        and node.input[1] in shapes
        and shapes[node.input[1]][0] % group == 0
    }


def _products(graph: Any, node: Any, name: str, coded: Coded, accuracy: int) -> list[Any]:
    """Make `node` a MatMulNBits with these codes; gives the nodes that turn its scales to fp32, once, at loading."""
    helper, numpy_helper = need("onnx.helper", "quantising"), need("onnx.numpy_helper", "quantising")
    group = coded.kind.group
    outputs, inputs = coded.codes.shape
    codes, scales = packed(coded), coded.scales.scale.reshape(outputs, inputs // group)
    graph.initializer.remove(next(tensor for tensor in graph.initializer if tensor.name == name))
    graph.initializer.append(
        numpy_helper.from_array(codes.reshape(outputs, inputs // group, group // 2), f"{name}.codes")
    )
    graph.initializer.append(numpy_helper.from_array(scales.half().numpy().reshape(-1), f"{name}.half"))
    made = helper.make_node(
        "MatMulNBits", [node.input[0], f"{name}.codes", f"{name}.scale"], list(node.output), name=node.name,
        domain=_DOMAIN, K=inputs, N=outputs, bits=4, block_size=group, accuracy_level=accuracy,
    )  # fmt: skip
    node.CopyFrom(made)
    return [helper.make_node("Cast", [f"{name}.half"], [f"{name}.scale"], to=1)]
