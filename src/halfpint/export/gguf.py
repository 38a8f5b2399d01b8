"""Stage: a trained language model as GGUF, for llama.cpp and what is built on it."""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle, Kind, read_json
from halfpint.errors import HalfpintError, SettingError, nearest, need, need_installed
from halfpint.export._gate import run_gate
from halfpint.export._gguf_architectures import (
    ARCHITECTURES,
    Architecture,
    architecture_of,
    need_known,
    rope_factors,
    write_hyperparameters,
)
from halfpint.models.architectures import need_transformers
from halfpint.models.block_codes import CODES_FILE, read_blocks, read_types
from halfpint.models.packed_gguf import GGUF_FILE
from halfpint.models.sparse_weights import SPARSE_FILE
from halfpint.progress import Log
from halfpint.stage import Stage, Work
from halfpint.tokenizers.gguf import GgufTokenizer, read_for_gguf

CODES = "codes"
"""The type of what `compress/quantize` made: each matrix as its codes have it."""

# setting -> (llama.cpp's type of the matrices, its type of the embeddings, its name of such a file)
_TYPES = {
    "f32": ("F32", "F32", "ALL_F32"),
    "f16": ("F16", "F16", "MOSTLY_F16"),
    "q8_0": ("Q8_0", "Q8_0", "MOSTLY_Q8_0"),
    "q4_0": ("Q4_0", "Q8_0", "MOSTLY_Q4_0"),
    "q4_1": ("Q4_1", "Q8_0", "MOSTLY_Q4_1"),
}
_FILE_TYPES = {  # llama.cpp's names of files of mostly one type, where they are not MOSTLY_ and the type's own
    "MXFP4": "MOSTLY_MXFP4_MOE", "Q3_K": "MOSTLY_Q3_K_S",
}  # fmt: skip
_KEPT = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
)  # fmt: skip
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
_BLOCK = 32  # values that share a scale
_LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class _Tensor:
    """A tensor to write: where it is from, under which names, its shape (values) and type; odd: not that asked for;
    coded: it is in blocks already; part: which of so many equal runs of the source's rows it is."""

    file: Path
    source: str
    name: str
    shape: tuple[int, ...]
    type: str
    is_odd: bool
    is_coded: bool = False
    part: tuple[int, int] = (0, 1)

    def of(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Its rows of the source's."""
        return np.split(values, self.part[1])[self.part[0]]


@dataclass(frozen=True, kw_only=True)
class Gguf(Stage):
    """The model in one file, with its tokenizer and chat template; kept if llama.cpp says with it what PyTorch says.

    Vectors stay in fp32. Matrices whose rows the blocks of a type (32 values) do not divide stay in f16. With q4_0 and
    q4_1 the embeddings, which are most of a small model's knowledge of words, are q8_0.

    Args:
        type: of the matrices: f32, f16, q8_0 (8.5 bits per weight), q4_1 (5) or q4_0 (4.5); codes writes a model that
            `compress/quantize` quantised as it is.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.LANGUAGE, Kind.QUANTIZED)
    gives: ClassVar[Kind] = Kind.GGUF
    uses_data: ClassVar[bool] = False

    type: str = "q8_0"

    def check(self) -> None:
        """Refuse an unknown type, and an installation that cannot write or try the file."""
        known = [*_TYPES, CODES]
        if self.type not in known:
            raise SettingError(
                f"{self.use}: type", wanted="a type of weights", got=repr(self.type), todo=nearest(self.type, known)
            )
        need_installed("gguf", "exporting to GGUF")
        need_installed("xllamacpp", "exporting to GGUF")

    def fits(self, bundle: Bundle) -> None:
        """Refuse an architecture or a tokenizer that the format has no place for."""
        _opened(bundle.path)

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Write model.gguf, try it, and keep what the tokenizer and the model were made from beside it."""
        assert bundle is not None
        started = time.monotonic()
        self.check()
        is_coded = (bundle.path / CODES_FILE).is_file()
        if is_coded != (self.type == CODES):
            raise HalfpintError(
                f"{self.use}: type", wanted=f"{CODES} for a quantised model, and for no other", got=self.type,
                todo=f"Take {CODES}." if is_coded else "Quantise it first, or take another type.",
            )  # fmt: skip
        with self.new_bundle(work, bundle) as (folder, card):
            types = _write(bundle.path, folder / GGUF_FILE, self.type, work.log)
            for name in _KEPT:
                if (bundle.path / name).is_file():
                    shutil.copyfile(bundle.path / name, folder / name)
            parity = _gate(bundle.path, folder / GGUF_FILE, self.type)
            card["engine"] = "llama_cpp"
            card["stages"].append(self.entry(started, tensors=types, parity=parity))
        return Bundle(work.target)


def is_written(model_type: str) -> bool:
    """Whether models of an architecture can be written as GGUF here."""
    return model_type in ARCHITECTURES


def _opened(source: Path) -> tuple[Any, Architecture, GgufTokenizer]:
    """The model's settings, how it is written, and its tokenizer."""
    place = source / "config.json"
    need_known(str(read_json(place).get("model_type")), str(place))
    config = need_transformers("exporting to GGUF").AutoConfig.from_pretrained(source, local_files_only=True)
    return config, architecture_of(config, str(place)), read_for_gguf(source, config.to_dict(), config.vocab_size)


def _write(source: Path, target: Path, type_: str, log: Log) -> dict[str, int]:
    """Write the GGUF file, a tensor at a time; gives how many tensors have which type."""
    gguf = need("gguf", "exporting to GGUF")
    config, architecture, tokenizer = _opened(source)
    writer = gguf.GGUFWriter(target, architecture.name)
    try:
        plan = _plan(source, config, architecture, type_)
        writer.add_type("model")
        writer.add_file_type(gguf.LlamaFileType[_file_type(plan, type_)])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        write_hyperparameters(writer, config, str(source / "config.json"))
        _write_tokenizer(writer, tokenizer)
        factors = rope_factors(config)
        if factors is not None:
            writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
        for tensor in plan:
            wanted = gguf.GGMLQuantizationType[tensor.type]
            block, size = gguf.GGML_QUANT_SIZES[wanted]
            row = tensor.shape[-1] // block * size
            shape = (*tensor.shape[:-1], row)  # of bytes
            writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), math.prod(shape), raw_dtype=wanted)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors)
        with log.bar(f"writing {target.name}", len(plan)) as bar:
            for tensor, values in _values(plan):
                bar.advance()
                if tensor.is_coded:
                    writer.write_tensor_data(tensor.of(_rows_in_place(architecture, tensor, values, config)))
                    continue
                laid = tensor.of(architecture.layout(tensor.source, values, config))
                if tensor.type == "F16" and np.abs(laid).max() > _LARGEST_HALF:
                    raise HalfpintError(
                        f"{source}: {tensor.source}", wanted=f"weights up to {_LARGEST_HALF:,.0f}", got="larger ones",
                        todo="Export with the type f32.",
                    )  # fmt: skip
                quantised = gguf.quants.quantize(laid, gguf.GGMLQuantizationType[tensor.type])
                writer.write_tensor_data(np.ascontiguousarray(quantised))
    finally:
        writer.close()
    types = Counter(tensor.type for tensor in plan)
    odd = [tensor.name for tensor in plan if tensor.is_odd]
    if odd:
        log.say(
            f"{len(odd)} of {len(plan)} tensors stay in f16 instead of {type_}: their rows are no multiple of {_BLOCK} "
            f"({odd[0]}, …)", kind="kept", tensors=odd,
        )  # fmt: skip
    return {**types, "not_quantised": len(odd)}


def _plan(source: Path, config: Any, architecture: Architecture, type_: str) -> list[_Tensor]:
    """What is written, in order."""
    gguf = need("gguf", "exporting to GGUF")
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    matrices, embeddings, _ = _TYPES.get(type_, _TYPES["f16"])
    coded = read_types(source)
    plan: list[_Tensor] = []
    for file in _files(source):
        with need("safetensors", "exporting to GGUF").safe_open(file, framework="pt") as held:
            for name in held.keys():  # noqa: SIM118 - no dict
                found, shares = names.get_name(name, try_suffixes=(".weight", ".bias")), 1
                ends = next((ends for end, ends in architecture.fused.items() if name.endswith(end)), ())
                if ends:
                    shares = len(ends)
                elif found is None and name.endswith(_BUFFERS):
                    continue
                elif found is None:
                    raise HalfpintError(str(source), wanted="tensors that llama.cpp knows", got=f"one named {name}")
                if found == "output.weight" and config.tie_word_embeddings:
                    continue  # llama.cpp takes the embeddings where it is missing
                shape = architecture.shape(name, tuple(held.get_slice(name).get_shape()))
                shape = (shape[0] // shares, *shape[1:])
                layer = next((word for word in name.split(".") if word.isdigit()), "")
                for share, own in enumerate([f"blk.{layer}.{end}" for end in ends] or [str(found)]):
                    part = share, shares
                    if name in coded:
                        kind = coded[name].upper()
                        plan.append(_Tensor(file, name, own, shape, kind, is_odd=False, is_coded=True, part=part))
                        continue
                    wanted = embeddings if own in ("token_embd.weight", "output.weight") else matrices
                    if len(shape) < 2 or own == "position_embd.weight":
                        plan.append(_Tensor(file, name, own, shape, "F32", is_odd=False))
                    else:
                        is_odd = wanted not in ("F32", "F16") and shape[-1] % _BLOCK > 0
                        kind = "F16" if is_odd else wanted
                        plan.append(_Tensor(file, name, own, shape, kind, is_odd, part=part))
    return plan


def _file_type(plan: Sequence[_Tensor], type_: str) -> str:
    """llama.cpp's name of the file: that of the type asked for, or the one most weights have."""
    if type_ in _TYPES:
        return _TYPES[type_][2]
    weights: Counter[str] = Counter()
    for tensor in plan:
        weights[tensor.type] += math.prod(tensor.shape) * tensor.is_coded
    most = weights.most_common(1)[0][0]
    return _FILE_TYPES.get(most, f"MOSTLY_{most}")


def _rows_in_place(
    architecture: Architecture, tensor: _Tensor, blocks: npt.NDArray[np.uint8], config: Any
) -> npt.NDArray[np.uint8]:
    """Blocks with their rows in the order in which llama.cpp has the tensor's.

    A layout moves whole rows, or turns a matrix round, which the codes of such a matrix have done.
    """
    numbers = np.arange(len(blocks), dtype=np.float32).reshape(-1, 1)
    order = architecture.layout(tensor.source, numbers, config).reshape(-1).astype(np.int64)
    return np.ascontiguousarray(blocks[order])


def _values(plan: Sequence[_Tensor]) -> Iterator[tuple[_Tensor, npt.NDArray[Any]]]:
    """Each tensor with its values as fp32, as the bundle has them, or its blocks."""
    safetensors = need("safetensors", "exporting to GGUF")
    for tensor in plan:
        if tensor.is_coded:
            yield tensor, read_blocks(tensor.file.parent, tensor.source)
            continue
        with safetensors.safe_open(tensor.file, framework="pt") as held:  # numpy has no bf16
            yield tensor, held.get_tensor(tensor.source).float().numpy()


def _files(source: Path) -> list[Path]:
    if (source / SPARSE_FILE).is_file():
        raise HalfpintError(
            str(source), wanted="dense weights",
            got="sparse ones: GGUF has no place for them, the file would be as large as before",
            todo="Export the bundle before compress/sparse, or prune by compress/width.",
        )  # fmt: skip
    found = sorted(path for path in source.glob("*.safetensors") if path.name != CODES_FILE)
    if not found:
        raise HalfpintError(str(source), wanted="model.safetensors", got="none there", todo="Make the bundle again.")
    return found


def _write_tokenizer(writer: Any, tokenizer: GgufTokenizer) -> None:
    writer.add_tokenizer_model("llama" if tokenizer.scores else "gpt2")  # llama.cpp's name of every byte-level BPE
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    if tokenizer.scores:
        writer.add_token_scores(tokenizer.scores)
    else:
        writer.add_token_merges(tokenizer.merges)
    for add, number in (
        (writer.add_bos_token_id, tokenizer.start),
        (writer.add_eos_token_id, tokenizer.end),
        (writer.add_eot_token_id, tokenizer.end_of_turn),
        (writer.add_pad_token_id, tokenizer.pad),
        (writer.add_unk_token_id, tokenizer.unknown),
    ):
        if number is not None:
            add(number)
    writer.add_add_bos_token(tokenizer.adds_start)
    writer.add_add_eos_token(tokenizer.adds_end)
    writer.add_add_space_prefix(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _gate(trained: Path, exported: Path, type_: str) -> dict[str, Any]:
    """What `halfpint.evaluate.gguf_parity` finds in a process of its own, as whoever uses the file will start one.

    Raises:
        RefusedError: the file does not pass.
        HalfpintError: the process broke down.
    """
    return run_gate(
        "halfpint.evaluate.gguf_parity", "export gguf", "llama.cpp to run the file", str(trained), str(exported), type_
    )
