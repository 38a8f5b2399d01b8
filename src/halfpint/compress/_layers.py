"""Codes of a language model's matrices, block by block; what is done is kept and found again."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfpint.compress._adapt import Adaptation
from halfpint.compress._calibration import Rows, Visit, Walk
from halfpint.compress._codes import TYPES, BlockType, Coded, Scales
from halfpint.compress._gptq import LateError, Moments, gptq, towards_reference
from halfpint.compress._in_time import Rounding
from halfpint.compress._matrices import EMBEDDINGS, OUTPUT, Matrix
from halfpint.compress._rates import Pace
from halfpint.errors import need
from halfpint.files import new_file
from halfpint.progress import Log

if TYPE_CHECKING:
    import torch

EMBEDDING_SHARE = 1.0
"""How much, beside what the output layer reads, an equal error in each column of tied embeddings counts: the embeddings
are looked up as well, where no input tells which column matters."""


@dataclass
class Made:
    """What quantising gives.

    Attributes:
        coded: by the name of the weight.
        before: the weights that the codes were rounded from; float16 of shape (outputs, inputs). Empty without
            calibration.
        importance: mean square of what comes into each column; float32 of shape (inputs,). Empty without calibration.
        tokens: that `importance` is a mean over.
    """

    coded: dict[str, Coded] = field(default_factory=dict)
    before: dict[str, torch.Tensor] = field(default_factory=dict)
    importance: dict[str, torch.Tensor] = field(default_factory=dict)
    tokens: int = 0

    def take(self, other: Made) -> None:
        """Add what `other` holds."""
        self.coded |= other.coded
        self.before |= other.before
        self.importance |= other.importance


def rounded(
    matrices: Sequence[Matrix], kinds: Mapping[str, BlockType], importance: Mapping[str, torch.Tensor], log: Log,
    pace: Pace | None = None, deadline: float = math.inf,
) -> Made:  # fmt: skip
    """Every matrix rounded to its type, and the model's weights set to what is read back."""
    made, rounding = Made(), Rounding(matrices, kinds, deadline, pace)
    with log.bar("rounding", sum(matrix.size for matrix in matrices)) as bar:
        for matrix in matrices:
            if matrix.name in kinds:
                coded = rounding(matrix.name, matrix.read(), importance.get(matrix.name))
                if pace is not None:
                    pace.used({matrix.name: coded})
                made.coded[matrix.name] = coded
                matrix.write(coded.values())
            bar.advance(matrix.size)
    _tell(rounding, len(kinds), log)
    return made


def _tell(rounding: Rounding, count: int, log: Log) -> None:
    if rounding.short:
        told = f"a short search of scales for {rounding.short} of {count} matrices: no time was left for a full one"
        log.say(f"  {told}", kind="plan", short=rounding.short)


@dataclass
class LayerByLayer:
    """GPTQ over the blocks of a model.

    Args:
        model: in fp32; its weights become those that the codes stand for.
        matrices: of the model.
        kinds: the type of each that is quantised.
        rows: token ids to calibrate on.
        damping: as in `gptq`.
        sequential: the layers of a block one after the other, each with what the quantised ones before it in the block
            give, which takes longer; else all on what comes into the block.
        batch: tokens that run at once.
        scratch: where finished blocks are kept.
        pace: the steps of all rows, where codes are packed; None goes by each block's peak.
        adapt: trains what is not quantised yet after each step.
        deadline: when all should be done, by the monotonic clock: what is left to be rounded by then is rounded.
    """

    model: Any
    matrices: Sequence[Matrix]
    kinds: Mapping[str, BlockType]
    rows: Rows
    damping: float
    sequential: bool
    batch: int
    scratch: Path
    log: Log
    pace: Pace | None = None
    adapt: Adaptation | None = None
    deadline: float = math.inf
    late: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._rounding = Rounding(self.matrices, self.kinds, self.deadline, self.pace)

    def run(self, final: Sequence[torch.Tensor]) -> Made:
        """Quantise everything.

        Args:
            final: what comes into the output layer of the unchanged model; a batch each, float32 of shape (tokens,
                width).
        """
        made = Made(tokens=sum(len(states) for states in final))
        outer = [matrix for matrix in self.matrices if matrix.block is None]
        reference = Walk(self.model, self.rows, self.batch, self.scratch).states
        blocks = 1 + max((matrix.block or 0 for matrix in self.matrices), default=0)
        with self.log.bar("quantising", blocks + 1) as bar:
            outside = self.scratch / "outer.safetensors"
            if outside.is_file():
                found = read_made(outside)
            else:
                found = self._outer(outer, final)
                if not self.late:  # a run with more time does better
                    write_made(outside, found)
            self._take(found, made)
            self._set(outer, made)
            bar.advance()
            if self.adapt is not None and not self._rounding.is_late:
                self.adapt(0)
            path = Walk(self.model, self.rows, self.batch, self.scratch)
            for visit in path:
                if self._rounding.is_late:
                    break  # without another look at the text
                inside = [matrix for matrix in self.matrices if matrix.block == visit.index]
                adapted = self.adapt is not None and self.adapt.is_on  # what it has become is what it should be now
                original = None if adapted and not self.sequential else copy.deepcopy(visit.block)
                if adapted and self.sequential:
                    for states, changed in zip(reference, visit.inputs, strict=True):
                        states.copy_(changed)
                path_of = self.scratch / f"block-{visit.index:03d}.safetensors"
                if path_of.is_file():
                    found = read_made(path_of)
                    if original is not None:
                        _go_on(visit, reference)
                else:
                    found = self._block(visit, original, inside, reference)
                    if not self.late:
                        write_made(path_of, found)
                self._take(found, made)
                self._set(inside, found)
                bar.advance()
                if self.adapt is not None and not self._rounding.is_late:
                    self.adapt(visit.index + 1)
            self._rest(made)
        if self.late:
            told = f"{self.late} of {len(self.kinds)} matrices are rounded, as no time was left for more"
            self.log.say(f"  {told}", kind="plan", rounded=self.late)
        _tell(self._rounding, len(self.kinds), self.log)
        return made

    def _take(self, found: Made, made: Made) -> None:
        made.take(found)
        self._rounding.done(found.coded)
        if self.pace is not None:
            self.pace.used(found.coded)

    def _rest(self, made: Made) -> None:
        """Round what has no codes when the walk ends early."""
        for matrix in self.matrices:
            if matrix.name in self.kinds and matrix.name not in made.coded:
                found = Made()
                self._round(matrix, matrix.read(), None, found)
                self._take(found, made)
                self._set([matrix], found)

    def _round(self, matrix: Matrix, values: Any, importance: Any, made: Made) -> None:
        self.late += 1
        coded = self._rounding(matrix.name, values, importance)
        made.coded[matrix.name], made.before[matrix.name] = coded, values.half()

    def _gptq(self, matrix: Matrix, values: Any, square: Any, made: Made) -> None:
        kind, pace = self.kinds[matrix.name], self.pace
        try:
            if self._rounding.is_late:
                raise LateError
            coded, before = gptq(
                kind, values, square, self.damping, pace.scales_of(matrix.name) if pace else None,
                dependent=bool(pace and pace.is_dependent(matrix.name)), until=self._rounding.until,
            )  # fmt: skip
        except LateError:
            self._round(matrix, values, square.diagonal().float(), made)
            return
        self._rounding.done([matrix.name])
        made.coded[matrix.name], made.before[matrix.name] = coded, before.half()

    def _set(self, matrices: Sequence[Matrix], made: Made) -> None:
        for matrix in matrices:
            if matrix.name in made.coded:
                matrix.write(made.coded[matrix.name].values())

    def _outer(self, outer: Sequence[Matrix], final: Sequence[torch.Tensor]) -> Made:
        """Embeddings and output layer, by what comes into the output layer."""
        torch = need("torch", "quantising")
        moments = Moments(final[0].shape[1], crossed=False)
        for states in final:
            moments.add(states)
        square = moments.square / float(moments.square.diagonal().mean())
        own_output = any(matrix.role == OUTPUT for matrix in outer)
        made = Made()
        for matrix in outer:
            values = matrix.read()
            if matrix.name not in self.kinds:
                continue
            if matrix.role == EMBEDDINGS and own_output:  # looked up alone: no column counts more than another
                coded = self._rounding(matrix.name, values)
                made.coded[matrix.name], made.before[matrix.name] = coded, values.half()
                continue
            share = EMBEDDING_SHARE if matrix.role == EMBEDDINGS else 0.0
            counts = square + share * torch.eye(len(square))
            self._gptq(matrix, values, counts, made)
            made.importance[matrix.name] = moments.square.diagonal() / max(1, moments.tokens)
        return made

    def _block(self, visit: Visit, original: Any, inside: Sequence[Matrix], reference: Sequence[Any]) -> Made:
        made = Made()
        groups = _by_input(visit, inside)
        passes = [[group] for group in groups] if self.sequential else [groups]
        for some in passes:
            try:
                moments = _collected(
                    visit, original, reference, some, goes_on=some is passes[-1], until=self._rounding.until
                )
            except LateError:
                return made  # the rest of it is rounded with that behind it
            for group, held in zip(some, moments, strict=True):
                for matrix in group:
                    made.importance[matrix.name] = held.square.diagonal() / max(1, held.tokens)
                    if matrix.name in self.kinds:
                        wanted = towards_reference(matrix.read(), held, self.damping)
                        self._gptq(matrix, wanted, held.square, made)
            self._set([matrix for group in some for matrix in group], made)
        return made


def _go_on(visit: Visit, states: Sequence[Any]) -> None:
    """The outputs of a block in the place of what came into it."""
    with need("torch", "quantising").no_grad():
        for number, one in enumerate(states):
            one.copy_(visit.forward(number, one))


def _by_input(visit: Visit, matrices: Sequence[Matrix]) -> list[list[Matrix]]:
    """Matrices that take the same input together, in the order in which they run."""
    seen: list[tuple[Any, Matrix]] = []
    handles = [
        matrix.module.register_forward_pre_hook(lambda module, inputs, matrix=matrix: seen.append((inputs[0], matrix)))
        for matrix in matrices
    ]
    with need("torch", "quantising").no_grad():
        visit.forward(0, visit.inputs[0])
    for handle in handles:
        handle.remove()
    groups: dict[int, list[Matrix]] = {}
    for states, matrix in seen:
        groups.setdefault(states.data_ptr(), []).append(matrix)
    return list(groups.values())


def _collected(
    visit: Visit, original: Any, reference: Sequence[Any], groups: Sequence[Sequence[Matrix]], *, goes_on: bool,
    until: float,
) -> list[Moments]:  # fmt: skip
    """What comes into each group of matrices, over all batches, and what did in the unchanged model, if there is one.

    With `goes_on` the states of the unchanged model become the outputs of its block.

    Raises:
        LateError: it is later than `until`.
    """
    names = {id(module): name for name, module in visit.block.named_modules()}
    heads = [names[id(group[0].module)] for group in groups]
    moments = [Moments(group[0].columns, crossed=original is not None) for group in groups]
    inputs: dict[str, Any] = {}
    changed = visit.block

    def noting(name: str) -> Any:
        def hook(module: Any, arguments: Any) -> None:
            inputs[name] = arguments[0]

        return hook

    handles = [
        block.get_submodule(name).register_forward_pre_hook(noting(f"{which} {name}"))
        for which, block in (("now", changed), ("before", original))
        if block is not None
        for name in heads
    ]
    try:
        with need("torch", "quantising").no_grad():
            for number, kept in enumerate(visit.kept):
                if time.monotonic() > until:
                    raise LateError
                if original is not None:
                    visit.block = original
                    out = visit.forward(number, reference[number])
                    if goes_on:
                        reference[number].copy_(out)
                    visit.block = changed
                visit.forward(number, visit.inputs[number])
                for name, held in zip(heads, moments, strict=True):
                    flat = [
                        inputs.pop(key).flatten(0, -2) for key in (f"now {name}", f"before {name}") if key in inputs
                    ]
                    held.add(*(one if kept is None else one[kept.reshape(-1)] for one in flat))
    finally:
        visit.block = changed
        for handle in handles:
            handle.remove()
    return moments


def write_made(path: Path, made: Made) -> None:
    """Write to a file of tensors, whole or not at all."""
    tensors: dict[str, Any] = {f"importance:{name}": one.contiguous() for name, one in made.importance.items()}
    for name, coded in made.coded.items():
        parts = {"codes": coded.codes, "scale": coded.scales.scale, "offset": coded.scales.offset}
        parts |= {f"stored.{key}": value for key, value in coded.scales.stored.items()}
        parts["before"] = made.before[name]
        tensors |= {f"{key}:{name}": value.contiguous() for key, value in parts.items()}
    kinds = json.dumps({name: coded.kind.name for name, coded in made.coded.items()})
    with new_file(path) as part:
        need("safetensors.torch", "quantising").save_file(tensors, part, metadata={"kinds": kinds})


def read_made(path: Path) -> Made:
    """What `write_made` wrote."""
    made = Made()
    with need("safetensors", "quantising").safe_open(path, framework="pt") as held:
        kinds = json.loads(held.metadata()["kinds"])
        parts: dict[str, dict[str, Any]] = {name: {} for name in kinds}
        for key in held.keys():  # noqa: SIM118 - no dict
            part, _, name = key.partition(":")
            if part == "importance":
                made.importance[name] = held.get_tensor(key)
            else:
                parts[name][part] = held.get_tensor(key)
    for name, kind in kinds.items():
        found = parts[name]
        stored = {key.removeprefix("stored."): value for key, value in found.items() if key.startswith("stored.")}
        made.coded[name] = Coded(TYPES[kind], found["codes"], Scales(found["scale"], found["offset"], stored))
        made.before[name] = found["before"]
    return made
