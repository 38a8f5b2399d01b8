"""What training texts make of an exported encoder's inner tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.errors import HalfpintError, need
from halfpint.stage import Work
from halfpint.tokenizers.batching import collate, length_batches
from halfpint.tokenizers.load import open_tokenizer

_BATCH_TOKENS = 2048


def activations(
    model: Any, names: Sequence[str], bundle: Bundle, work: Work, *, samples: int, seed: int
) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """Runs training texts through `model` and gives the values of tensors, a batch of texts each time.

    Args:
        model: the ONNX model of the bundle.
        names: of tensors of shape (texts, tokens, features).
        bundle: whose tokenizer and configuration it is.
        work: its training texts, of which `samples` at most are drawn by `seed`.

    Yields:
        By name, float32 of shape (tokens, features): of all texts of the batch, padding left out.

    Raises:
        HalfpintError: there are no training texts.
    """
    helper, runtime = need("onnx.helper", "quantising"), need("onnxruntime", "quantising")
    if not work.train:
        raise HalfpintError(
            "calibration", wanted="training texts to calibrate on", got="none", todo="Give a table of texts."
        )
    watched = type(model)()
    watched.CopyFrom(model)
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    drawn = np.random.default_rng(seed).permutation(len(work.train))[:samples]
    most = int(bundle.config["max_tokens"])
    texts = work.labelled.texts([work.train[index] for index in drawn])
    encoded = work.labelled.encode(texts, open_tokenizer(bundle.path, max_tokens=most), most)
    with work.log.bar("reading texts to quantise by", len(encoded.rows)) as bar:
        for batch in length_batches(encoded.lengths, _BATCH_TOKENS):
            inputs = collate([encoded.rows[index] for index in batch], int(bundle.config.get("pad_token_id") or 0))
            given, mask = session.run(list(names), inputs), inputs["attention_mask"].astype(bool)
            yield {name: values[mask] for name, values in zip(names, given, strict=True)}
            bar.advance(len(batch))
