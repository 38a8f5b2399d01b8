"""What the stages that prune share: a bundle's model opened to be changed, text to calibrate on, its loss."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle, Kind, copy_files
from halfpint.compress._calibration import FEWEST_TOKENS, blocks_of, calibration_rows, linears_of
from halfpint.compress.tensors import encoder_config, read_weights
from halfpint.engines import torch_classifier, torch_lm
from halfpint.errors import HalfpintError, SettingError, need
from halfpint.machine import memory_bytes
from halfpint.models.architectures import need_transformers
from halfpint.models.block_codes import read_types
from halfpint.models.sizes import CAUSAL, parse_parameters, resolve, shown_parameters
from halfpint.models.sparse_weights import SPARSE_FILE
from halfpint.models.weights import DTYPES, WEIGHTS_FILE, as_held, header_of, open_whole, weight_types
from halfpint.stage import Work
from halfpint.tokenizers.batching import length_batches, pad

if TYPE_CHECKING:
    import torch

Rows = Sequence[npt.NDArray[np.int64]]

_TOKENS = 16_384  # to calibrate on, where nothing says how many rows
_LOSS_TOKENS = 4096  # of these the loss is measured on
_MOST_LOGITS = 1 << 25  # values at once
_SPARE = 0.9  # of the memory: the rest is for what else runs
_MISTRAL = {"model_type": "mistral", "sliding_window": None}


class _Calibrated(Protocol):
    """What `rows_for` asks of a stage's settings."""

    @property
    def use(self) -> str: ...
    @property
    def samples(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def seed(self) -> int: ...


def check_calibration(stage: _Calibrated) -> None:
    """Refuse numbers of rows and tokens that cannot be.

    Raises:
        HalfpintError: with what can be.
    """
    for name, value, least in (("samples", stage.samples, 0), ("tokens", stage.tokens, FEWEST_TOKENS)):
        if value < least:
            raise SettingError(f"{stage.use}: {name}", wanted=f"{least} or more", got=str(value))


def check_share(place: str, share: float, *, may_be_zero: bool = False) -> None:
    """Refuse a share that is none between 0 and 1.

    Raises:
        HalfpintError: with what can be.
    """
    if not (0 < share < 1 or (may_be_zero and share == 0)):
        least = "0, or a share above it and below 1" if may_be_zero else "a share above 0 and below 1"
        raise SettingError(place, wanted=least, got=str(share))


def rows_for(stage: _Calibrated, bundle: Bundle, work: Work) -> tuple[Rows, Rows]:
    """Token ids to calibrate on, each row int64, and others that show what it cost.

    Where `samples` is 0, so many rows that 16,384 tokens come together. The others are a quarter as many; where there
    is hardly any text they are of the same rows.

    Raises:
        HalfpintError: there is no text.
    """
    tokens = min(stage.tokens, _context(bundle))
    wanted = stage.samples or max(1, _TOKENS // FEWEST_TOKENS)
    if not stage.samples and bundle.kind == Kind.LANGUAGE:
        wanted = max(1, _TOKENS // tokens)
    rows = calibration_rows(bundle, work, wanted + max(1, wanted // 4), tokens, stage.seed)
    total = np.cumsum([len(row) for row in rows])
    most = stage.samples or int(np.searchsorted(total, _TOKENS)) + 1
    most = min(most, max(1, len(rows) * 4 // 5))
    return rows[:most], rows[most:] or rows


def _context(bundle: Bundle) -> int:
    """The longest row that the model reads."""
    config = encoder_config(bundle.config)
    skipped = int(config.get("pad_token_id") or 0) + 1 if "roberta" in str(config.get("model_type")) else 0
    most = config.get("max_position_embeddings") or config.get("n_positions") or 1024
    return min(int(most) - skipped, int(bundle.config.get("max_tokens") or most))


def check_plain(bundle: Bundle, place: str) -> None:
    """Refuse a bundle whose weights are no plain floating-point numbers any more.

    Raises:
        HalfpintError: it is quantised already.
    """
    config = encoder_config(bundle.config)
    quantised = config.get("quantization_config") or bundle.config.get("quantization_config")
    types = set(weight_types(bundle)) - set(DTYPES) if (bundle.path / WEIGHTS_FILE).is_file() else set()
    if quantised or types or read_types(bundle.path):
        raise HalfpintError(
            place, wanted="a bundle with floating-point weights", got="one that is quantised already",
            todo="Take this step before the one that quantises.",
        )  # fmt: skip
    if (bundle.path / SPARSE_FILE).is_file():
        raise HalfpintError(
            place, wanted="a bundle whose weights are all there", got="one with sparse weights",
            todo="Take this step before compress/sparse: its zeros would be filled, and the saving be gone.",
        )  # fmt: skip


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder's model.safetensors by name."""
    return read_weights(Bundle(folder))


def open_model(bundle: Bundle, place: str) -> Any:
    """The model of a bundle as a `transformers` model in evaluation mode, fp32, on the CPU.

    Raises:
        HalfpintError: it is quantised already, or is not expected to fit into memory.
    """
    check_plain(bundle, place)
    return open_folder(bundle.path, bundle.kind)


def open_folder(folder: Path, kind: Kind) -> Any:
    """The model in `folder`, of a kind."""
    transformers = need_transformers("compressing a model")
    if kind == Kind.CLASSIFIER:
        return torch_classifier.load_model(folder)
    if kind == Kind.LANGUAGE:
        model_type = str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"])
        return torch_lm.load_model(folder, resolve(model_type)[1])
    transformers.utils.logging.disable_progress_bar()
    try:
        return open_whole(transformers.AutoModel, folder, add_pooling_layer=False)
    except TypeError:  # it has no pooling layer
        return open_whole(transformers.AutoModel, folder)


def inner_config(model: Any) -> Any:
    """The configuration of the model's Transformer: of a classifier, that of its encoder."""
    return model.encoder.config if hasattr(model.config, "encoder") else model.config


def changed_config(bundle: Bundle, model: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """The bundle's config.json with `changes` (by the names that transformers has for all architectures)."""
    found = copy.deepcopy(bundle.config)
    names = getattr(type(inner_config(model)), "attribute_map", {})
    encoder_config(found).update({names.get(name, name): value for name, value in changes.items()})
    return found


def allowed_config(bundle: Bundle, model: Any, changes: dict[str, Any]) -> dict[str, Any] | None:
    """As `changed_config`, where transformers takes it; None where it does not.

    Llama's configuration refuses hidden sizes that are no multiple of the number of heads: such a model without biases
    becomes a Mistral, which computes the same.
    """
    found = changed_config(bundle, model, changes)
    if _is_allowed(found):
        return found
    if inner_config(model).model_type == "llama" and all(
        layer.bias is None for layer in linears_of(blocks_of(model)[0]).values()
    ):
        known = inner_config(model).to_dict()  # what a file leaves out is not the same in both
        inner = encoder_config(found)
        for name in ("num_key_value_heads", "intermediate_size", "max_position_embeddings", "rms_norm_eps"):
            inner.setdefault(name, known[name])
        inner.update(_MISTRAL)
        if "architectures" in found:
            found["architectures"] = [name.replace("Llama", "Mistral") for name in found["architectures"]]
        return found if _is_allowed(found) else None
    return None


def _is_allowed(config: dict[str, Any]) -> bool:
    """Whether transformers takes the configuration of a model's Transformer."""
    inner = {name: value for name, value in copy.deepcopy(encoder_config(config)).items() if name != "model_type"}
    strict = need("huggingface_hub.errors", "pruning").StrictDataclassError
    try:
        need_transformers("pruning").AutoConfig.for_model(encoder_config(config)["model_type"], **inner)
    except (ValueError, strict):
        return False
    return True


def empty_like(model: Any, config: dict[str, Any]) -> Any:
    """A model of `config` (as `allowed_config` gives it), its weights not set yet."""
    settings = copy.deepcopy(config)
    if settings["model_type"] == model.config.model_type:
        arguments = {"add_pooling_layer": False} if getattr(model, "pooler", "") is None else {}
        return type(model)(type(model.config).from_dict(settings), **arguments).eval()
    transformers = need_transformers("pruning")
    known = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    return transformers.AutoModelForCausalLM.from_config(known, dtype="float32").eval()


def rebuilt(model: Any, config: dict[str, Any], weights: dict[str, torch.Tensor]) -> Any:
    """A model of `config` (as `allowed_config` gives it) with `weights`, which have to fit it."""
    made = empty_like(model, config)
    made.load_state_dict(weights)
    return made


def write_model(bundle: Bundle, folder: Path, model: Any, config: dict[str, Any]) -> None:
    """Write `model` in the precision of the bundle's weights with `config`, and the bundle's other files."""
    copy_others(bundle, folder)
    as_held(bundle, model).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def copy_others(bundle: Bundle, folder: Path) -> None:
    """Copy what belongs to the bundle besides configuration and weights: tokenizer, chat template and the like."""
    copy_files(bundle, folder, "config.json", "*.safetensors")


def check_memory(bundle: Bundle, place: str, extra: int = 0) -> None:
    """Raise a HalfpintError where the model twice in fp32, hidden states and `extra` bytes are more than there is."""
    weights = sum(math.prod(entry["shape"]) for entry in header_of(bundle.path / WEIGHTS_FILE).values())
    width = int(encoder_config(bundle.config).get("hidden_size") or encoder_config(bundle.config).get("n_embd") or 0)
    needed = 2 * 4 * weights + 3 * 4 * _TOKENS * width + extra
    limit = memory_bytes()
    if limit and needed > _SPARE * limit:
        raise HalfpintError(
            f"{place}: memory", wanted=f"about {needed / 2**30:.1f} GiB to prune {shown_parameters(weights)} weights",
            got=f"{limit / 2**30:.1f} GiB", todo="Take a machine with more memory, or a smaller model.",
        )  # fmt: skip


def parameters_for(place: str, size: str, fixed: int, least: int) -> int:
    """The number of weights that `size` ("100M") asks for.

    Args:
        fixed: weights that pruning leaves alone, such as the embeddings.
        least: weights of the smallest that could be made.

    Raises:
        HalfpintError: it is less than these.
    """
    wanted = parse_parameters(size)
    if wanted < least:
        got = f"{size}, less than the embeddings and what stays with them" if wanted < fixed else size
        raise HalfpintError(
            place, wanted=f"{shown_parameters(least)} or more ({fixed:,} are outside of the layers)", got=got,
            todo="Ask for more, or make the vocabulary smaller first." if wanted < fixed else "Ask for more.",
        )  # fmt: skip
    return wanted


class Loss:
    """What changing a model costs, on rows of text.

    Of a causal language model the cross-entropy of each next token, in nats. Of a classifier the cross-entropy of its
    answers to those of the model that came first (before: their entropy). Of an encoder, and of a masked language
    model, how far its last hidden states are from those of the first, squared, as a share of their squares.
    """

    def __init__(self, bundle: Bundle, rows: Rows) -> None:
        self._kind = bundle.kind
        total = np.cumsum([len(row) for row in rows])
        self._rows = rows[: int(np.searchsorted(total, _LOSS_TOKENS)) + 1]
        self._first: list[Any] = []

    def __call__(self, model: Any) -> float:
        """The figure of `model`; the first call sets what later ones are compared with."""
        import torch

        with torch.inference_mode():
            if self._kind == Kind.LANGUAGE and self._is_causal(model):
                return self._next_tokens(model)
            found = [self._answers(model, ids, mask) for ids, mask in self.batches(model)]
            first = self._first = self._first or found
            if self._kind == "classifier":
                pairs = zip(first, found, strict=True)
                nats = sum(float(-(one.softmax(-1) * other.log_softmax(-1)).sum()) for one, other in pairs)
                return nats / sum(len(one) for one in first)
            away = sum(float((one - other).square().sum()) for one, other in zip(first, found, strict=True))
            return away / sum(float(one.square().sum()) for one in first)

    @staticmethod
    def _is_causal(model: Any) -> bool:
        model_type = model.config.model_type
        return bool(resolve(model_type)[1] == CAUSAL)

    def _answers(self, model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits of a classifier, else hidden states of the places that hold a token."""
        if self._kind == "classifier":
            answers: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits
            return answers
        states: torch.Tensor = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states[mask.bool()]

    def _next_tokens(self, model: Any) -> float:
        nats, count = 0.0, 0
        for ids, mask in self.batches(model):
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
            wanted = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
            nats += float(
                need("torch", "a loss").nn.functional.cross_entropy(
                    logits.flatten(0, 1), wanted.flatten(), reduction="sum"
                )
            )
            count += int(mask[:, 1:].sum())
        return nats / max(count, 1)

    def batches(self, model: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Token ids and mask of each batch of the rows, int64; small, where a token's answer is as wide as the
        vocabulary."""
        import torch

        width = int(model.config.vocab_size) if self._kind == Kind.LANGUAGE else 1

        found = []
        for batch in length_batches([len(row) for row in self._rows], max(1, min(2048, _MOST_LOGITS // width))):
            ids, mask = pad([self._rows[number].tolist() for number in batch], 0)
            found.append((torch.from_numpy(ids), torch.from_numpy(mask)))
        return found
