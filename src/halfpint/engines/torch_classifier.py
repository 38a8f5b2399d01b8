"""The engine of trained encoders with a head: PyTorch, as they left training. What exports have to equal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.engines import softmax
from halfpint.lookup import task_of
from halfpint.models.architectures import need_transformers
from halfpint.models.heads import head_in
from halfpint.models.weights import open_whole
from halfpint.outputs import Encoded, Outputs, per_text
from halfpint.task import label_task
from halfpint.tokenizers.batching import collate, length_batches
from halfpint.tokenizers.load import open_tokenizer

if TYPE_CHECKING:
    import torch


def load_model(folder: Path) -> Any:
    """The encoder with a head in `folder` as a `transformers` model in evaluation mode, fp32, on the CPU."""
    transformers = need_transformers("a bundle that was not exported yet")
    from halfpint.models.sparse_weights import SPARSE_FILE, open_sparse

    transformers.utils.logging.disable_progress_bar()
    kind = head_in(folder).AUTO
    if (folder / SPARSE_FILE).is_file():
        return open_sparse(folder, kind)
    return open_whole(kind, folder)


def tensors(
    encoded: Encoded, rows: Sequence[int] | npt.NDArray[np.int64], pad_id: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """The inputs of a batch of rows, `input_ids` and `attention_mask` among them, on `device`."""
    import torch

    arrays = collate([encoded.rows[index] for index in rows], pad_id)
    return {name: torch.from_numpy(values).to(device) for name, values in arrays.items()}


def picked(said: Any, encoded: Encoded, rows: npt.NDArray[np.int64]) -> Any:
    """What a head said of each unit of a batch of rows: (units, …) from (rows, …) or (rows, tokens, …)."""
    places = encoded.places_of(rows)
    return said if places is None else said[places]


def run_batches(model: Any, encoded: Encoded, what: Any, width: int) -> npt.NDArray[np.float32]:
    """`what(batch)` for all units, batched by length and put back in order: float32 of shape (units, width)."""
    import torch

    out = np.zeros((encoded.n_units, width), dtype=np.float32)
    device = next(model.parameters()).device
    pad_id = model.config.encoder.get("pad_token_id") or 0
    with torch.inference_mode():
        for batch in length_batches(encoded.lengths):
            rows = np.array(batch)
            said = what(**tensors(encoded, batch, pad_id, device)).float().cpu().numpy()
            out[encoded.units_of(rows)] = picked(said, encoded, rows)
    return out


def logits(model: Any, encoded: Encoded) -> npt.NDArray[np.float32]:
    """Logits of encoded texts: float32 of shape (units, labels)."""
    return run_batches(model, encoded, lambda **batch: model(**batch).logits, model.config.num_labels)


class TorchClassifierEngine:
    """A trained encoder with a head in PyTorch."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self.labels = bundle.labels
        self._task = label_task(task_of(bundle), str(bundle.path))
        self._model = load_model(bundle.path)
        if threads:
            import torch

            torch.set_num_threads(threads)
        self._max_tokens = int(bundle.config["max_tokens"])
        self._tokenizer = open_tokenizer(bundle.path, max_tokens=self._max_tokens)

    def probabilities(self, texts: Sequence[str]) -> Outputs:
        """Probabilities of the labels of `texts`."""
        encoded = self._task.encode(texts, self._tokenizer, self._max_tokens)
        return per_text(softmax(logits(self._model, encoded)), encoded.per_text)


def load(bundle: Bundle, threads: int | None = None) -> TorchClassifierEngine:
    """Load a trained classifier."""
    return TorchClassifierEngine(bundle, threads)
