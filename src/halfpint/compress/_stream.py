"""The residual stream of a model: which norms and layers read it, and which layers write to it, by their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from halfpint.compress._calibration import Visit, Walk, blocks_of, linears_of
from halfpint.compress._models import inner_config
from halfpint.compress._parts import feed_forward_of, heads_of
from halfpint.errors import HalfpintError

if TYPE_CHECKING:
    import torch

_BETWEEN = ("self_attn.q_norm", "self_attn.k_norm")  # as wide as a head
_NORMS = (  # before attention, behind it, before the feed-forward part, behind it
    ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    ("input_layernorm", "", "post_attention_layernorm", ""),
)
_EXACT = 1e-3  # relative: what is added has to be what was written


@dataclass(frozen=True)
class Place:
    """Where a block reads the residual stream, and what it writes back; names of modules in the block.

    Attributes:
        norm: what the stream goes through first.
        readers: the layers behind it.
        writer: the layer whose outputs are added to the stream.
        after: the norm that they go through before; "" where there is none.
    """

    norm: str
    readers: tuple[str, ...]
    writer: str
    after: str


@dataclass(frozen=True)
class Stream:
    """The residual stream of a model.

    Attributes:
        prefix: name of the list of blocks in the model.
        places: of each block, in the order in which they are run.
        embedding, final, head: names in the model of the token embedding, of the norm behind the last block and of the
            layer that reads it; "" where nothing does.
        is_tied: whether the head is the embedding.
        is_centred: whether its norms are LayerNorms, which take the mean of the channels away.
        width: of the stream.
    """

    prefix: str
    places: tuple[Place, Place]
    embedding: str
    final: str
    head: str
    is_tied: bool
    is_centred: bool
    width: int

    @property
    def can_be_turned(self) -> bool:
        """Whether norms can be folded into what reads them: none stands between a writer and the stream."""
        return not (self.is_centred or any(place.after for place in self.places))


def stream_of(model: Any, stage: str) -> Stream:
    """The residual stream of `model`.

    Raises:
        HalfpintError: a plain model of its architecture cannot have another width with the same heads, or it has parts
            that are not known here.
    """
    config, blocks = inner_config(model), blocks_of(model)
    place = f"{stage}: the model"
    try:
        heads = heads_of(blocks[0], config, place)
    except HalfpintError as error:
        raise HalfpintError(
            place, wanted="an architecture whose head size is a setting of its own, such as llama, qwen3 or gemma3",
            got=f"{config.model_type!r}, where it is the hidden size over the number of heads",
            todo="Take out feed-forward channels (compress/width) or layers (compress/depth), or teach a student of "
            "another size (distil/student).",
        ) from error  # fmt: skip
    part = feed_forward_of(blocks[0], place)
    linears = linears_of(blocks[0])
    attention = tuple(heads.outputs_kept([0]))
    modules = {name for name, module in blocks[0].named_modules() if module._parameters}
    norms = modules - set(linears)
    found = next((names for names in _NORMS if {*filter(None, names)} == norms - set(_BETWEEN)), None)
    base = model.base_model
    outside = _outside(model, blocks)
    head = model.get_output_embeddings() if hasattr(model, "lm_head") else getattr(model, "classifier", None)
    embedding, final = base.get_input_embeddings(), getattr(base, "norm", None)
    known = {*attention, heads.reader, *part.writers, part.reader, *norms}
    if found is None or known != modules or set(outside) != {embedding, final, *([head] if head is not None else [])}:
        odd = sorted(modules - known) or sorted(norms) if found is None or known != modules else list(outside.values())
        raise HalfpintError(
            place, wanted="an architecture with one norm before attention and one before the feed-forward part",
            got=f"{config.model_type!r} with {', '.join(odd)}",
            todo="Take out feed-forward channels (compress/width) or layers (compress/depth).",
        )  # fmt: skip
    return Stream(
        prefix=next(name for name, module in model.named_modules() if module is blocks),
        places=(
            Place(found[0], attention, heads.reader, found[1]),
            Place(found[2], tuple(part.writers), part.reader, found[3]),
        ),
        embedding=outside[embedding],
        final=outside[final],
        head="" if head is None else outside[head],
        is_tied=head is not None and head.weight is embedding.weight,
        is_centred=hasattr(final, "bias"),
        width=int(config.hidden_size),
    )  # fmt: skip


def _outside(model: Any, blocks: Any) -> dict[Any, str]:
    """The modules with weights of their own outside of the blocks, and their names."""
    inside = set(blocks.modules())
    return {module: name for name, module in model.named_modules() if module._parameters and module not in inside}


def gains_of(norm: Any) -> tuple[torch.Tensor, float]:
    """What a norm multiplies each channel by, float32 (width,), and by how much that is more than its weight: Gemma
    keeps its gains as their difference from 1."""
    import torch

    weight = norm.weight.detach()
    if hasattr(norm, "bias"):  # a LayerNorm
        return weight, 0.0
    with torch.no_grad():
        shown = norm(torch.ones(1, len(weight)))[0]
    offset = float(round(float((shown - weight).median())))
    return weight + offset, offset


def check_sums(path: Walk, stream: Stream, model: Any, stage: str) -> None:
    """See that a block adds to the stream what its writers give, and nothing else, on the first batch of a walk.

    Raises:
        HalfpintError: it does not; its architecture has a factor there, or another path.
    """
    import torch

    block, inputs = path.blocks[0], path.states[0]
    seen: dict[str, torch.Tensor] = {}
    handles = []
    for name in {*(place.writer for place in stream.places), *(place.after for place in stream.places)} - {""}:

        def hook(module: Any, arguments: Any, out: Any, name: str = name) -> None:
            seen[name] = out

        handles.append(block.get_submodule(name).register_forward_hook(hook))
    with torch.no_grad():
        try:
            found = Visit(path, 0).forward(0, inputs)
        finally:
            for handle in handles:
                handle.remove()
        embedded = model.get_submodule(stream.embedding)(path.ids[0])
    added = sum(seen[place.after or place.writer].reshape(inputs.shape) for place in stream.places)
    for one, other in ((found, inputs + added), (inputs, embedded)):
        if float((one - other).norm()) > _EXACT * float(one.norm()):
            raise HalfpintError(
                f"{stage}: the model", wanted="an architecture that adds what its layers write to what it embeds",
                got=f"{inner_config(model).model_type!r}, which changes it on the way",
                todo="Take out feed-forward channels (compress/width) or layers (compress/depth).",
            )  # fmt: skip
