"""The engine of trained classifiers: PyTorch, as they left training. The reference that exports are held to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.engines import Probabilities, softmax
from halfpint.errors import need
from halfpint.tokenizers.batching import length_batches, pad
from halfpint.tokenizers.load import open_tokenizer

if TYPE_CHECKING:
    import torch


def load_model(folder: Path) -> Any:
    """The classifier in `folder` as a `transformers` model in evaluation mode, fp32, on the CPU."""
    need("torch", "a bundle that was not exported yet")
    transformers = need("transformers", "a bundle that was not exported yet")
    import halfpint.models.factored
    import halfpint.models.pooled_classifier  # noqa: F401  (both register architectures)
    from halfpint.models.sparse_weights import SPARSE_FILE, open_sparse

    transformers.utils.logging.disable_progress_bar()
    kind = transformers.AutoModelForSequenceClassification
    if (folder / SPARSE_FILE).is_file():
        return open_sparse(folder, kind)
    return kind.from_pretrained(folder, dtype="float32", local_files_only=True).eval()


def tensors(ids: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of a batch, on `device`."""
    import torch

    input_ids, mask = pad(ids, pad_id)
    return {
        "input_ids": torch.from_numpy(input_ids).to(device),
        "attention_mask": torch.from_numpy(mask).to(device),
    }


def run_batches(model: Any, ids: Sequence[Sequence[int]], what: Any, width: int) -> npt.NDArray[np.float32]:
    """`what(batch)` for all texts, batched by length and put back in order: float32 of shape (texts, width)."""
    import torch

    out = np.zeros((len(ids), width), dtype=np.float32)
    device = next(model.parameters()).device
    pad_id = model.config.encoder.get("pad_token_id") or 0
    with torch.inference_mode():
        for batch in length_batches([len(row) for row in ids]):
            out[batch] = what(**tensors([ids[index] for index in batch], pad_id, device)).float().cpu().numpy()
    return out


def logits(model: Any, ids: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
    """Logits of tokenised texts: float32 of shape (texts, labels)."""
    return run_batches(model, ids, lambda **batch: model(**batch).logits, model.config.num_labels)


class TorchClassifierEngine:
    """A trained classifier in PyTorch."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self.labels = bundle.labels
        self._model = load_model(bundle.path)
        if threads:
            import torch

            torch.set_num_threads(threads)
        self._tokenizer = open_tokenizer(bundle.path, max_tokens=int(bundle.config["max_tokens"]))

    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        """Class probabilities of `texts`."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        return softmax(logits(self._model, ids))


def load(bundle: Bundle, threads: int | None = None) -> TorchClassifierEngine:
    """Load a trained classifier."""
    return TorchClassifierEngine(bundle, threads)
