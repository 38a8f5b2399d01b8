"""What training a language model takes, foretold from its shape and the machine's rates: memory and time.

Nothing is trained or loaded for it. Bytes are counted; seconds are the operations over the rate of products, and the
values that go through memory between products over the rate of such work. How often a value goes through it was fitted
once to trainings of 1M to 135M parameters in fp32 and bf16; benchmarks/planner.py compares forecasts with trainings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from halfpint.machine_speed import MachineSpeed
from halfpint.models.shape import Shape
from halfpint.models.sizes import MASKED

KERNEL_BYTES = 75 << 20
"""What the first steps take for kernels, threads and buffers, whatever the model."""
PROCESS_BYTES = 450 << 20
"""What a process takes that has PyTorch, transformers, a tokenizer and text loaded, and no model."""
FORWARD = 0.4
"""Of what a training step takes, without the backward pass."""
OPTIMIZERS = ("adamw", "muon")
_STATES, _INNER_STATES = 14, 4  # values of a layer that backward needs, in widths and in inner widths
_ADAPTED_BYTES = 11  # that an adapter's input takes: it in fp32, what is left of it by dropout, the mask, and in bf16
_JUDGED_LOGITS = 1 << 25  # of `engines/torch_lm`: values at once, while what was trained is judged
_JUDGED_COPIES = 3.1  # of them: as they come, in fp32, and their logarithms
_ROUNDS = 5  # of Muon's iteration
_MUON_COPIES = 7  # of the matrices of one size that an orthogonalised step holds
_OF_VALUES = 1.8  # times that each value a layer keeps goes through memory in a step
_OF_LOGITS = 6.3  # times that each logit does
_OF_ADAPTED = 11.0  # times that each input of an adapter does: cast, dropped at random, multiplied thinly, cast back
_UPDATED_BYTES = 41  # traffic to memory of a trained weight in AdamW's step and the clipping of gradients
_CHECKPOINTED = 1 / 3  # more, for computing again what was not kept


@dataclass(frozen=True, kw_only=True)
class Work:
    """How a model is trained.

    Attributes:
        rows: sequences whose gradients are got at once.
        context: tokens of a sequence.
        step_tokens: tokens of an optimiser's step.
        trained: parameters that are trained; None: all.
        trained_matrices: of them in matrices of the layers; None: all of those.
        head_trained: whether the output layer is.
        adapted: widths of the inputs that adapters read, summed over all layers; 0 without adapters.
        added: parameters that the shape does not count: those of adapters that are not there yet.
        optimizer: adamw or muon.
        bf16: whether products are in bf16.
        chunked: whether the loss is got without holding all logits.
        checkpointing: whether backward computes again what it needs.
        share: of the tokens that the loss counts: what a masked objective hides.
    """

    rows: int
    context: int
    step_tokens: int = 2048
    trained: int | None = None
    trained_matrices: int | None = None
    head_trained: bool = True
    adapted: int = 0
    added: int = 0
    optimizer: str = "adamw"
    bf16: bool = False
    chunked: bool = True
    checkpointing: bool = False
    share: float = 1.0


def with_adapters(work: Work, shape: Shape, rank: int) -> Work:
    """The same work with low-rank adapters beside all matrices of the layers; nothing else is trained."""
    added = sum(number * rank * (rows + columns) for number, rows, columns in shape.matrices)
    inputs = sum(number * columns for number, rows, columns in shape.matrices)
    return replace(
        work, trained=added, trained_matrices=added, head_trained=False, adapted=inputs, added=added, optimizer="adamw"
    )  # fmt: skip


def layer_values(shape: Shape, context: int) -> int:
    """Values of a layer that backward needs per token.

    About 14 as wide as the hidden states and 4 of the inner width (Korthikanti et al. 2023, "Reducing Activation
    Recomputation", section 4.1), and on a CPU the probabilities of attention (`models/_quick_attention`).
    """
    return _STATES * shape.width + _INNER_STATES * shape.inner + shape.heads * shape.keys_seen(context)


def training_bytes(shape: Shape, work: Work) -> int:
    """Bytes that training takes at its peak, besides what the process has already.

    Weights; gradients and moments of those that are trained (two of AdamW, one of Muon for matrices); weights in bf16;
    what backward needs; a chunk of logits and the gradient of the output layer; Muon's copies.
    """
    from halfpint.train._cross_entropy import chunk_rows

    tokens, value = work.rows * work.context, 2 if work.bf16 else 4
    everything = shape.parameters + work.added
    trained = shape.parameters if work.trained is None else work.trained
    states = 8 * trained
    orthogonal = 0
    if work.optimizer == "muon":
        matrices = shape.body if work.trained_matrices is None else work.trained_matrices
        states -= 4 * matrices
        orthogonal = (
            4 * _MUON_COPIES * max([number * rows * columns for number, rows, columns in shape.matrices] or [0])
        )
    low = 2 * everything if work.bf16 else 0
    values = layer_values(shape, work.context)
    held = shape.layers * shape.width + values if work.checkpointing else shape.layers * values
    adapted = _ADAPTED_BYTES * work.adapted * tokens
    if work.checkpointing:
        adapted //= max(shape.layers, 1)
    head = shape.head * ((8 + value) * work.head_trained + (2 if work.bf16 else 0))
    at_once = chunk_rows(shape.vocabulary) if work.chunked else tokens
    logits = at_once * shape.vocabulary * (4 + 2 * value) if work.chunked else 12 * at_once * shape.vocabulary
    between = 6 * 4 * shape.width * tokens
    return int(
        4 * everything + 4 * trained + states + orthogonal + low + held * value * tokens + adapted + head + logits
        + between + KERNEL_BYTES
    )  # fmt: skip


def judging_bytes(shape: Shape, context: int) -> int:
    """Bytes that judging takes after training, besides what the process has: the weights, and logits of many tokens."""
    logits = 0 if shape.objective == MASKED else max(_JUDGED_LOGITS, context * shape.vocabulary)
    return int(4 * shape.parameters + 4 * _JUDGED_COPIES * logits)


def process_bytes(shape: Shape, work: Work) -> int:
    """Bytes of the whole process at its peak: while it trains, or while it judges what was trained."""
    return PROCESS_BYTES + max(training_bytes(shape, work), judging_bytes(shape, work.context))


def flops_per_token(shape: Shape, work: Work) -> float:
    """Floating-point operations that training takes per token: 6 per weight of a matrix, and attention's.

    Source: Chowdhery et al. 2022, "PaLM", appendix B; causal attention counts half. A frozen weight takes 4, as it has
    no gradient of its own. The output layer of a masked model is computed for the masked share alone.
    """
    learned = shape.body if work.trained_matrices is None else work.trained_matrices
    body = 4 * (shape.body + work.added - learned) + 6 * learned
    head = shape.head * (6 if work.head_trained else 4) * work.share
    attention = 12 * shape.layers * shape.heads * shape.head_width * shape.keys_seen(work.context)
    return float(body + head + attention * (1.0 if shape.objective == MASKED else 0.5))


def muon_flops(shape: Shape) -> float:
    """Operations of one orthogonalised step of all matrices of the layers: three products in each of five rounds."""
    found = 0.0
    for number, rows, columns in shape.matrices:
        small, large = min(rows, columns), max(rows, columns)
        found += number * _ROUNDS * (4.0 * small * small * large + 2.0 * small**3)
    return found


def training_seconds(shape: Shape, work: Work, speed: MachineSpeed) -> float:
    """Seconds that training takes per token here, evaluations aside."""
    again = 1 + _CHECKPOINTED * work.checkpointing
    rate = speed.bf16_flops if work.bf16 and speed.bf16_flops else speed.fp32_flops
    products = flops_per_token(shape, work) / rate
    values = _OF_VALUES * shape.layers * layer_values(shape, work.context) + _OF_ADAPTED * work.adapted
    logits = _OF_LOGITS * shape.vocabulary * work.share
    return again * products + (again * values + logits) / speed.values_per_s + step_seconds(shape, work, speed)


def step_seconds(shape: Shape, work: Work, speed: MachineSpeed) -> float:
    """Seconds that the optimiser takes per token: its step over the tokens of one."""
    trained = shape.parameters if work.trained is None else work.trained
    seconds = _UPDATED_BYTES * trained / speed.memory_bytes_per_s
    if work.optimizer == "muon":
        seconds += muon_flops(shape) / speed.group_flops
    return seconds / max(work.step_tokens, 1)
