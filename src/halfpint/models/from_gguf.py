"""A GGUF file as a plain model in Hugging Face layout: its weights dequantised, its tokenizer and template written out.

transformers turns the tensors back (its `gguf_file`); what it gives still calls itself quantised and cannot be saved,
so the weights are written out beside a plain configuration. The tokenizer is made here from the file's own fields,
so that texts are divided as llama.cpp divides them; Gemma's alone is left to transformers.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from halfpint.bundle import write_json
from halfpint.errors import HalfpintError, need
from halfpint.files import write_text
from halfpint.tokenizers.gguf import tokenizer_from_fields

_LEFT_OUT = ("quantization_config", "_name_or_path", "architectures")


def convert_gguf(file: Path, folder: Path) -> Path:
    """Write what `file` holds to `folder`: config.json, model.safetensors (fp16), tokenizer.json and the rest.

    fp16 keeps 11 bits of a weight of which the file has 8 or fewer with their scale in fp16.
    `AutoModelForCausalLM.from_pretrained(folder)` and `AutoTokenizer.from_pretrained(folder)` open it.

    Raises:
        HalfpintError: the file cannot be read, its tokenizer is neither a byte-level BPE nor Gemma's, or it divides
            texts in a way that is not known here.
    """
    torch = need("torch", "reading a GGUF file")
    transformers = need("transformers", "reading a GGUF file")
    save_file = need("safetensors.torch", "reading a GGUF file").save_file
    fields = read_fields(file)
    is_gemma = fields.get("tokenizer.ggml.model") == "llama" and str(fields["general.architecture"]).startswith("gemma")
    made = None if is_gemma else tokenizer_from_fields(fields, str(file))
    transformers.utils.logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a bar that nothing turns off
            read = transformers.AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise HalfpintError(
            str(file), wanted="a GGUF file of a language model that transformers reads", got=str(error)[:200],
            todo="Give another file.",
        ) from error  # fmt: skip
    tied = set(read._tied_weights_keys or {}) if read.config.tie_word_embeddings else set()
    tensors = {name: value.half().contiguous() for name, value in read.state_dict().items() if name not in tied}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {name: value for name, value in read.config.to_dict().items() if name not in _LEFT_OUT}
    write_json(folder / "config.json", {**config, "architectures": [type(read).__name__], "dtype": "float16"})
    ids = {
        name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if config.get(name) is not None
    }
    write_json(folder / "generation_config.json", ids)
    if made is None:
        _save_gemma_tokenizer(file, folder)
        return folder
    tokenizer, settings, template = made
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {**settings, "model_max_length": config["max_position_embeddings"]})
    if template:
        write_text(folder / "chat_template.jinja", template)
    return folder


def _save_gemma_tokenizer(file: Path, folder: Path) -> None:
    """Gemma's pieces and scores as transformers turns them into merges.

    The ids are llama.cpp's but for texts with U+2581 itself, which stands for a space within.
    """
    transformers = need("transformers", "reading a GGUF file")
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    tokenizer.save_pretrained(folder)


def read_fields(file: Path) -> dict[str, Any]:
    """The fields of a GGUF file by name: numbers, texts and lists; tensors are not read.

    Raises:
        HalfpintError: it is no GGUF file.
    """
    gguf = need("gguf", "reading a GGUF file")
    try:
        reader = gguf.GGUFReader(file)
    except (OSError, ValueError) as error:
        raise HalfpintError(str(file), wanted="a GGUF file", got=str(error)[:200], todo="Give another file.") from error
    return {name: field.contents() for name, field in reader.fields.items()}
