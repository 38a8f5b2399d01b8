"""Stage: a quantised language model in the format of compressed-tensors, for vLLM."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle, Kind, copy_files, write_json
from halfpint.errors import HalfpintError, need, need_installed
from halfpint.export._gate import run_gate
from halfpint.export._integers import BLOCKS, GROUP, integers_of
from halfpint.models.architectures import need_transformers
from halfpint.models.block_codes import CODES_FILE, read_blocks, read_types
from halfpint.models.compressed_tensors import FORMAT, METHOD
from halfpint.progress import Log
from halfpint.stage import Stage, Work

WEIGHTS_FILE = "model.safetensors"
# Layers that vLLM joins to one, which therefore have one format.
_JOINED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
_WEIGHT = ".weight"
_OTHER_WEIGHTS = (".safetensors", ".index.json", ".gguf")
_OWN = "halfpint_factored"  # an architecture that halfpint alone knows
_LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class _Layers:
    """Which weights go where.

    Attributes:
        packed: weights of linear layers in codes, each with its type.
        widened: those of them that take 8 bits because others that they are joined with do.
        left: names of the linear layers that stay as they are.
    """

    packed: dict[str, str]
    widened: frozenset[str]
    left: tuple[str, ...]

    def scheme(self, name: str) -> tuple[int, bool]:
        """Bits of a packed weight, and whether the middle of the codes stands for zero."""
        bits = 8 if name in self.widened else BLOCKS[self.packed[name]][1]
        return bits, bits == 8 or self.packed[name] != "q4_1"


@dataclass(frozen=True, kw_only=True)
class CompressedTensors(Stage):
    """The codes that `compress/quantize` chose, packed as vLLM reads them; kept if they come back with the same values.

    Takes q8_0, q5_0 (in 8 bits), q4_0 and q4_1. Embeddings and the output layer, which vLLM wants as numbers, are
    rounded to fp16, norms and biases stay in fp32. Layers that vLLM joins, such as queries, keys and values, get one
    format: of 8 bits where they differ, with the same values.

    Args:
        nearest: lets offsets of q4_1 that are no multiple of their scale, which have no place in the format, go to
            the nearest zero point; else they are refused.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.QUANTIZED,)
    gives: ClassVar[Kind] = Kind.COMPRESSED_TENSORS
    uses_data: ClassVar[bool] = False

    nearest: bool = False

    def check(self) -> None:
        """Refuse an installation that cannot try what is written."""
        need_installed("transformers", "exporting to compressed-tensors")
        need_installed("compressed_tensors", "exporting to compressed-tensors")

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Write the weights and the configuration, try them, and keep all else that the bundle has."""
        assert bundle is not None
        started = time.monotonic()
        self.check()
        layers = _layers(bundle)
        with self.new_bundle(work, bundle) as (folder, card):
            others = [file.name for file in bundle.path.iterdir() if file.name.endswith(_OTHER_WEIGHTS)]
            copy_files(bundle, folder, "config.json", *others)
            groups, half_bytes = self._write(bundle.path, folder / WEIGHTS_FILE, layers, work.log)
            config = {key: value for key, value in bundle.config.items() if key != "torch_dtype"}
            write_json(
                folder / "config.json", {**config, "dtype": "float16", "quantization_config": _configured(layers)}
            )
            parity = run_gate(
                "halfpint.evaluate.compressed_tensors_parity", "export compressed_tensors",
                "compressed-tensors to read the folder", str(bundle.path), str(folder),
                "moved" if groups else "exact",
            )  # fmt: skip
            if groups:
                work.log.say(
                    f"{groups:,} groups of weights have their offset at the nearest zero point: the weights are "
                    f"{parity['error']:.2%} off (root mean square)", kind="moved", groups=groups,
                )  # fmt: skip
            schemes = Counter(f"w{layers.scheme(name)[0]}a16" for name in layers.packed)
            card["engine"] = "torch_lm"
            card["stages"].append(
                self.entry(
                    started, matrices=dict(schemes), widened=len(layers.widened), moved_groups=groups,
                    half_bytes=half_bytes, parity=parity,
                )
            )  # fmt: skip
        return Bundle(work.target)

    def _write(self, source: Path, target: Path, layers: _Layers, log: Log) -> tuple[int, int]:
        """Write the weights; gives how many groups have a moved offset, and the bytes that are in fp16."""
        tensors: dict[str, npt.NDArray[Any]] = {}
        groups, half_bytes, coded_bytes = 0, 0, 0
        with log.bar(f"writing {target.name}", len(layers.packed)) as bar:
            for name, type_ in layers.packed.items():
                found, moved = integers_of(type_, read_blocks(source, name))
                if moved and not self.nearest:
                    raise HalfpintError(
                        f"{self.use}: {name}", wanted="offsets that are multiples of their scale, as the format has it",
                        got=f"{moved:,} others of {found.scales.size:,} in q4_1",
                        todo="Quantise with q4_0, or give nearest = true (--nearest): it costs some accuracy.",
                    )  # fmt: skip
                groups += moved
                made = (found.widened() if name in layers.widened else found).packed(name)
                tensors |= made
                coded_bytes += sum(part.nbytes for part in made.values())
                bar.advance()
        for name, values in _rest(source, set(layers.packed)):
            tensors[name] = values
            half_bytes += values.nbytes if values.dtype == np.float16 else 0
        need("safetensors.numpy", "exporting to compressed-tensors").save_file(tensors, target, {"format": "pt"})
        log.say(
            f"{coded_bytes / 1e6:.1f} MB of codes and scales, {half_bytes / 1e6:.1f} MB in fp16 (embeddings and what "
            "else is not in codes there)", kind="plan", coded_bytes=coded_bytes, half_bytes=half_bytes,
        )  # fmt: skip
        return groups, half_bytes


def _layers(bundle: Bundle) -> _Layers:
    """What is packed, and what is left.

    Raises:
        HalfpintError: codes, layers or an architecture that the format has no place for.
    """
    coded = read_types(bundle.path)
    if not coded:
        raise HalfpintError(
            str(bundle.path), wanted="a quantised model", got="one that is not",
            todo="Quantise it first: compress/quantize with types q4_0 or q8_0.",
        )  # fmt: skip
    if bundle.config.get("model_type") == _OWN:
        raise HalfpintError(
            str(bundle.path), wanted="an architecture that vLLM knows", got="one with factored matrices",
            todo="Leave compress/low_rank out.",
        )  # fmt: skip
    linear, numbers = _modules(bundle.path)
    packed = {name: type_ for name, type_ in coded.items() if name.removesuffix(_WEIGHT) in linear - numbers}
    turned = [name for name in coded if name.removesuffix(_WEIGHT) not in linear | numbers]
    if turned:
        raise HalfpintError(
            str(bundle.path), wanted="linear layers alone in codes, as the format has it",
            got=f"{turned[0]} in a layer of another kind", todo="Export it to GGUF.",
        )  # fmt: skip
    wrong = sorted({type_ for type_ in packed.values() if type_ not in BLOCKS})
    if wrong:
        raise HalfpintError(
            str(bundle.path), wanted=f"matrices in {', '.join(BLOCKS)}: whole numbers times a scale",
            got=", ".join(wrong), todo="Quantise the model with types q4_0 or q8_0, or export it to GGUF.",
        )  # fmt: skip
    left = linear - {name.removesuffix(_WEIGHT) for name in packed}
    layers = _Layers(packed, frozenset(), tuple(sorted(left)))
    return _Layers(packed, frozenset(_unlike(layers)), layers.left)


def _modules(folder: Path) -> tuple[set[str], set[str]]:
    """Names of all linear layers, and of the layers that stay numbers: embeddings and output."""
    torch = need("torch", "exporting to compressed-tensors")
    transformers = need_transformers("exporting to compressed-tensors")
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    kept = (model.get_input_embeddings(), model.get_output_embeddings())
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return linear, {name for name, module in model.named_modules() if any(module is one for one in kept)}


def _unlike(layers: _Layers) -> Iterator[str]:
    """Weights of less than 8 bits, or with zero points, whose format is not that of all that they are joined with."""
    for names in _JOINED:
        ends = tuple(f".{name}{_WEIGHT}" for name in names)
        places = {name.removesuffix(end) for name in layers.packed for end in ends if name.endswith(end)}
        for place in places:
            some = [place + end for end in ends if place + end in layers.packed]
            if len({layers.scheme(name) for name in some}) > 1:
                yield from (name for name in some if layers.scheme(name) != (8, True))


def _configured(layers: _Layers) -> dict[str, Any]:
    """What config.json says of the weights.

    Where all have one format the group is that of linear layers, else each group names its layers.
    """
    found: dict[tuple[int, bool], list[str]] = {}
    for name in layers.packed:
        found.setdefault(layers.scheme(name), []).append(name.removesuffix(_WEIGHT))
    groups = {}
    for number, ((bits, is_symmetric), names) in enumerate(sorted(found.items())):
        weights = {
            "num_bits": bits, "type": "int", "symmetric": is_symmetric, "strategy": "group", "group_size": GROUP,
            "dynamic": False,
        }  # fmt: skip
        groups[f"group_{number}"] = {
            "targets": ["Linear"] if len(found) == 1 else names, "weights": weights, "input_activations": None,
            "output_activations": None, "format": FORMAT,
        }  # fmt: skip
    return {
        "quant_method": METHOD, "format": FORMAT, "quantization_status": "compressed", "config_groups": groups,
        "ignore": list(layers.left), "kv_cache_scheme": None, "global_compression_ratio": None,
    }  # fmt: skip


def _rest(source: Path, packed: set[str]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """The tensors that are not packed: matrices in fp16, vectors in fp32.

    Raises:
        HalfpintError: values that fp16 does not hold.
    """
    safetensors = need("safetensors", "exporting to compressed-tensors")
    for file in sorted(path for path in source.glob("*.safetensors") if path.name != CODES_FILE):
        with safetensors.safe_open(file, framework="pt") as held:  # numpy has no bf16
            for name in held.keys():  # noqa: SIM118 - no dict
                if name in packed:
                    continue
                values = held.get_tensor(name).float().numpy()
                if values.ndim >= 2 and np.abs(values).max() > _LARGEST_HALF:
                    raise HalfpintError(
                        f"{source}: {name}", wanted=f"weights up to {_LARGEST_HALF:,.0f}, as vLLM computes in fp16",
                        got="larger ones", todo="Export to GGUF.",
                    )  # fmt: skip
                yield name, values.astype(np.float16) if values.ndim >= 2 else values
