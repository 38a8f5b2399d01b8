"""How fast this machine trains on these texts: a short probe, so that the plan can say its time before it starts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from halfpint.bundle import Bundle
from halfpint.engines.torch_classifier import picked, tensors
from halfpint.errors import need
from halfpint.task import LabelTask
from halfpint.train import encoders
from halfpint.train.batches import epoch_batches
from halfpint.train.finetune import Finetune
from halfpint.train.loop import device, use_bf16

_STEPS = 12
_SAMPLE = 20_000
_SHARE = 0.85  # of the time goes into such steps: evaluations, checkpoints and odd lengths take the rest


def training_speed(encoder: Bundle, task: LabelTask[Any], train: Sequence[Any], stage: Finetune) -> tuple[float, int]:
    """Texts that fine-tuning as `stage` says works through per second, each read once, and the number of different
    tokens that the training texts use.

    The speed is that of the faster half of a few real steps: what else the machine does slows some, and nothing makes
    one too fast.
    """
    torch = need("torch", "fine-tuning")
    model = encoders.new_classifier(encoder, task, ["a", "b"], 256, 0.1).to(device()).train()
    model.encoder.get_input_embeddings().weight.requires_grad_(stage.train_embeddings)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=0.0, fused=True)
    whole = encoders.encoded(encoder.path, task, task.texts(train), 256)
    used = len({token for row in whole.rows for token in row["input_ids"]})
    rows_per_text = len(whole.rows) / max(1, len(train))
    lengths = whole.lengths[:_SAMPLE]
    batches = epoch_batches(lengths, batch_size=stage.batch_size, batch_tokens=stage.batch_tokens, seed=0, epoch=0)
    typical = float(np.mean(lengths))
    batches.sort(key=lambda batch: abs(np.mean([lengths[index] for index in batch]) - typical))
    rates = []
    for step in range(_STEPS):
        batch = batches[step % len(batches)]
        started = time.monotonic()
        inputs = tensors(whole, batch, int(encoder.config.get("pad_token_id") or 0), device())
        with torch.autocast(device().type, torch.bfloat16, enabled=use_bf16("auto")):
            said = picked(model(**inputs).logits.float(), whole, np.array(batch))
            loss = torch.nn.functional.cross_entropy(said, torch.zeros(len(said), dtype=torch.long, device=device()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        if step:  # the first one warms up
            rates.append(len(batch) / rows_per_text / (time.monotonic() - started))
    return round(_SHARE * statistics.median(sorted(rates)[len(rates) // 2 :]), 1), used
