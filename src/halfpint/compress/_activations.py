"""What training texts make of an exported encoder's inner tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.errors import HalfpintError, need
from halfpint.stage import Work
from halfpint.tokenizers.batching import length_batches, pad
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
    tokenizer = open_tokenizer(bundle.path, max_tokens=int(bundle.config["max_tokens"]))
    ids = [one.ids for one in tokenizer.encode_batch_fast([work.train[index].text for index in drawn])]
    with work.log.bar("reading texts to quantise by", len(ids)) as bar:
        for batch in length_batches([len(row) for row in ids], _BATCH_TOKENS):
            input_ids, mask = pad([ids[index] for index in batch], int(bundle.config.get("pad_token_id") or 0))
            given = session.run(list(names), {"input_ids": input_ids, "attention_mask": mask})
            yield {name: values[mask.astype(bool)] for name, values in zip(names, given, strict=True)}
            bar.advance(len(batch))
