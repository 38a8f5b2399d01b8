"""Stage: a narrower residual stream. All layers read and write fewer directions of it, and each is fitted anew."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import Any, ClassVar

from halfpint.bundle import Bundle, Kind
from halfpint.compress import _models
from halfpint.compress._calibration import walk
from halfpint.compress._directions import Shown, channels, components, shown
from halfpint.compress._layerwise import Change, changed_blocks
from halfpint.compress._narrowing import OUTSIDE, Directions, Fit, first_weights
from halfpint.compress._stream import Stream, gains_of, stream_of
from halfpint.compress.tensors import encoder_config, refuse_if_no_smaller
from halfpint.errors import HalfpintError, SettingError, nearest, need
from halfpint.models.sizes import CAUSAL, resolve
from halfpint.stage import Stage, Work

_DIRECTIONS = ("auto", "components", "channels")
_WIDE, _STEPS = 512, (32, 64)  # of widths below and from 512
_HELD, _TOKENS = 16, 16_384  # hidden states of a block and of its layers' inputs, and of how many tokens


@dataclass(frozen=True, kw_only=True)
class Hidden(Stage):
    """Make the hidden states narrower: embeddings, norms, and all that reads and writes what the layers hand on.

    The heads, their size and the feed-forward channels stay, so an architecture is needed whose head size is a setting
    of its own; the result is a plain model of it. Llama's configuration in transformers refuses widths that are no
    multiple of the number of heads: such a model is written as Mistral's, which computes the same.

    Args:
        share: of the hidden size, that goes; what stays is rounded to a multiple of `multiple`.
        directions: channels keeps those that are the largest behind the norms; components turns the hidden states to
            their principal components and keeps the first, with the norms' gains folded into what reads them (not with
            LayerNorm, or norms behind the layers as Gemma's); auto takes components where norms allow it.
        repair: fit each layer by least squares on the calibration text, block by block: what reads the hidden states to
            give what it gave, what writes them to bring them to where they were. Without it norms alone are scaled.
        multiple: of the hidden size; 0 takes 64 from 512 on, and 32 below.
        samples: rows of text to calibrate on; 0 takes as many as hold 16,384 tokens.
        tokens: of a row, at most.
        seed: which rows are drawn.

    Sources: channels by Muralidharan et al. 2024, "Compact Language Models via Pruning and Knowledge Distillation"
    (Minitron), section 2.2; components by Ashkboos et al. 2024, "SliceGPT", section 3, with one rotation for all layers
    in the place of one for each.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.CLASSIFIER, Kind.LANGUAGE)
    gives: ClassVar[Kind] = Kind.SAME

    share: float = 0.25
    directions: str = "auto"
    repair: bool = True
    multiple: int = 0
    samples: int = 0
    tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        _models.check_share(f"{self.use}: share", self.share)
        _models.check_calibration(self)
        if self.multiple < 0:
            raise SettingError(f"{self.use}: multiple", wanted="1 or more, or 0", got=str(self.multiple))
        if self.directions not in _DIRECTIONS:
            raise SettingError(
                f"{self.use}: directions", wanted=", ".join(_DIRECTIONS), got=repr(self.directions),
                todo=nearest(self.directions, _DIRECTIONS),
            )  # fmt: skip

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Write a bundle whose hidden states are as narrow as asked for."""
        assert bundle is not None
        torch = need("torch", "pruning")
        started = time.monotonic()
        _models.check_plain(bundle, self.use)
        width = int(encoder_config(bundle.config).get("hidden_size") or 0)
        _models.check_memory(bundle, self.use, _HELD * 4 * _TOKENS * width)
        model = _models.open_model(bundle, self.use)
        self._check_objective(bundle)
        stream = stream_of(model, self.use)
        are_turned = self._are_turned(stream)
        config = self._narrower(bundle, model, stream)
        keep = int(encoder_config(config)["hidden_size"])
        rows, held = _models.rows_for(self, bundle, work)
        loss = _models.Loss(bundle, held)
        before = loss(model)
        with torch.no_grad():
            seen = shown(model, stream, rows, work, self.use)
            directions = self._directions(model, stream, seen, keep, are_turned=are_turned)
            made = _models.empty_like(model, config)
            scale = _scale_of(model, stream) / _scale_of(made, stream)
            made.load_state_dict(first_weights(model, stream, directions, scale))
            fit = Fit(model, walk(model, rows, folder=work.scratch), made, stream, directions, self.repair)
            changes = changed_blocks(made, rows, work, "narrower hidden states", fit.change, fit.apply)
            _finish(made, changes)
        after = loss(made)
        kept = float((directions.back.T @ seen.products @ directions.basis).trace())
        work.log.say(
            f"{keep} of {stream.width} hidden {'components' if are_turned else 'channels'} stay, with {kept:.1%} of "
            f"their squares; loss on other text {before:.4f} before, {after:.4f} after", kind="pruned",
        )  # fmt: skip
        with self.new_bundle(work, bundle) as (folder, card):
            _models.write_model(bundle, folder, made, config)
            sizes = [(at / "model.safetensors").stat().st_size for at in (bundle.path, folder)]
            refuse_if_no_smaller(self.use, *sizes)
            card["stages"].append(
                self.entry(
                    started, bytes_before=sizes[0], bytes_after=sizes[1], loss_before=before, loss_after=after,
                    shape={"hidden_size": keep}, kept_squares=round(kept, 6), turned=are_turned,
                    blocks=[change.facts for change in changes],
                )
            )  # fmt: skip
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)

    def _check_objective(self, bundle: Bundle) -> None:
        name = str(bundle.config.get("model_type"))
        if bundle.kind == Kind.LANGUAGE and resolve(name)[1] != CAUSAL:
            raise HalfpintError(
                str(bundle.path), wanted="a causal language model or a classifier", got=f"a masked one ({name})",
                todo="Take out feed-forward channels (compress/width) or layers (compress/depth).",
            )  # fmt: skip

    def _are_turned(self, stream: Stream) -> bool:
        if self.directions == "components" and not stream.can_be_turned:
            raise HalfpintError(
                f"{self.use}: directions", wanted="channels for this model", got="components",
                todo="A LayerNorm, or a norm behind a layer, does not commute with a rotation.",
            )  # fmt: skip
        return stream.can_be_turned and self.directions != "channels"

    @staticmethod
    def _directions(model: Any, stream: Stream, seen: Shown, keep: int, *, are_turned: bool) -> Directions:
        if not are_turned:
            return channels(seen, keep)
        return components(seen, keep, gains_of(model.get_submodule(stream.final))[0] if stream.is_tied else None)

    def _narrower(self, bundle: Bundle, model: Any, stream: Stream) -> dict[str, Any]:
        """The configuration with the hidden size that is the nearest to what was asked for.

        Raises:
            HalfpintError: nothing would go, or the architecture has no such width.
        """
        multiple = self.multiple or _STEPS[stream.width >= _WIDE]
        wanted = max(multiple, round((1 - self.share) * stream.width / multiple) * multiple)
        if wanted >= stream.width:
            raise HalfpintError(
                f"{self.use}: share", wanted="a share that takes something out",
                got=f"{self.share:.3g} of {stream.width} (multiples of {multiple})",
                todo="Give a larger share, or a smaller multiple.",
            )  # fmt: skip
        inner = _models.inner_config(model)
        heads = int(inner.num_attention_heads)
        size = int(getattr(inner, "head_dim", None) or stream.width // heads)

        others = sorted(range(multiple, stream.width, multiple), key=lambda width: abs(width - wanted))
        for width in [wanted, *others]:
            found = _models.allowed_config(bundle, model, {"hidden_size": width, "head_dim": size})
            if found is not None:
                return found
        raise HalfpintError(
            f"{self.use}: share", wanted=f"a hidden size that {inner.model_type} can have with {heads} heads",
            got=f"none below {stream.width} that is a multiple of {multiple}", todo="Give a smaller multiple.",
        )  # fmt: skip


def _scale_of(model: Any, stream: Stream) -> float:
    """What a model multiplies its token embeddings by: Gemma the root of its width."""
    return float(getattr(model.get_submodule(stream.embedding), "scalar_embed_scale", 1.0))


def _finish(made: Any, changes: list[Change]) -> None:
    """Put what belongs to no block into the model."""
    for name, tensor in changes[-1].tensors.items():
        if name.startswith(OUTSIDE):
            made.get_parameter(name.removeprefix(OUTSIDE)).detach().copy_(tensor)
