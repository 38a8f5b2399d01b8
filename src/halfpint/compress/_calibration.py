"""Text that a model is compressed by, and a walk through its blocks that shows what comes into each layer.

What a block is shown is what the blocks before it, already changed, make of the text: errors are seen, and can be made
up for, by those behind (E. Frantar & D. Alistarh, "SparseGPT", 2023, section 3; "GPTQ", 2022, section 4).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.errors import HalfpintError, need
from halfpint.machine import instructions
from halfpint.stage import Work
from halfpint.tokenizers.batching import length_batches, pad
from halfpint.tokenizers.load import open_tokenizer

if TYPE_CHECKING:
    import torch

FEWEST_TOKENS = 8
"""Tokens of a row below which running text is not worth a row."""
MOST_IN_MEMORY = 2 << 30
"""Bytes of hidden states above which a walk keeps them in files."""

_BF16 = {"avx512_bf16", "amx_bf16"}
_READ_AT_ONCE = 64  # documents
_CHARACTERS = 8  # of a token, at most on the whole

Rows = Sequence[npt.NDArray[np.int64]]
Collect = Mapping[str, Callable[["torch.Tensor"], None]]


def calibration_rows(bundle: Bundle, work: Work, samples: int, tokens: int, seed: int) -> list[npt.NDArray[np.int64]]:
    """Token ids to calibrate on: at most `samples` rows of at most `tokens`, drawn by `seed`; int64, each its length.

    Of a corpus, documents of its training side are drawn (of a long one a part, so that many are seen), tokenised as
    for training (the tokenizer's own tokens around each; a causal model's end token behind it) and, for a causal model,
    cut from one stream into full rows; a masked model gets a document a row. Of labelled examples each row is one
    training text. Special tokens' names in a text are text.

    Raises:
        HalfpintError: there is no data to calibrate on, or hardly any.
    """
    if samples < 1 or tokens < FEWEST_TOKENS:
        raise HalfpintError(
            "calibration", wanted=f"1 row or more of {FEWEST_TOKENS} tokens or more", got=f"{samples} of {tokens}"
        )
    texts = work.documents.train
    tokenizer = open_tokenizer(bundle.path)
    tokenizer.encode_special_tokens = True
    streamed = work.documents is work.split and _is_causal(bundle)  # running text, no rows of a table
    if not streamed:
        tokenizer.enable_truncation(max_length=tokens)
    end = bundle.config.get("eos_token_id") if streamed else None
    end = end[0] if isinstance(end, list) else end
    random = np.random.default_rng(seed)
    order = random.permutation(len(texts))
    most = _CHARACTERS * tokens * max(2, -(-samples // max(1, len(texts)))) if streamed else None
    rows: list[npt.NDArray[np.int64]] = []
    left: list[int] = []
    for start in range(0, len(order), _READ_AT_ONCE):
        some = [_span(texts[int(number)], most, random) for number in order[start : start + _READ_AT_ONCE]]
        for encoding in tokenizer.encode_batch_fast(some):
            if not streamed:
                rows += [np.array(encoding.ids, dtype=np.int64)] if encoding.ids else []
                continue
            left += encoding.ids if end is None else [*encoding.ids, int(end)]
            while len(left) >= tokens and len(rows) < samples:
                rows.append(np.array(left[:tokens], dtype=np.int64))
                left = left[tokens:]
        if len(rows) >= samples:
            return rows[:samples]
    if streamed and len(left) >= FEWEST_TOKENS:
        rows.append(np.array(left, dtype=np.int64))
    if not rows:
        raise HalfpintError(
            "calibration", wanted="text to calibrate on", got="none", todo="Give a corpus or a table of texts."
        )
    return rows


def shuffled(rows: Rows, seed: int) -> list[npt.NDArray[np.int64]]:
    """The rows in another order: drawn one after the other, those of a long document lie together."""
    return [rows[int(number)] for number in np.random.default_rng(seed).permutation(len(rows))]


def _span(text: str, most: int | None, random: np.random.Generator) -> str:
    """At most so many characters from somewhere in `text`, from the start of a word on."""
    if most is None or len(text) <= most:
        return text
    start = int(random.integers(len(text) - most + 1))
    word = text.find(" ", start, start + most) + 1 if start else 0
    return text[word or start : start + most]


def _is_causal(bundle: Bundle) -> bool:
    names = bundle.config.get("architectures") or [""]
    return bundle.card.get("engine") == "torch_lm" and not str(names[0]).endswith("ForMaskedLM")


def blocks_of(model: Any) -> torch.nn.ModuleList:
    """The decoder or encoder layers of a transformers model, in order: of its lists of modules the one with the most
    weights.

    Raises:
        HalfpintError: it has none.
    """
    nn = need("torch", "compressing").nn
    found = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not found:
        raise HalfpintError(type(model).__name__, wanted="a model of layers", got="one without a list of them")
    most: torch.nn.ModuleList = max(found, key=lambda blocks: sum(tensor.numel() for tensor in blocks.parameters()))
    return most


def linears_of(block: Any) -> dict[str, Any]:
    """The linear layers of a block by their names in it: torch's Linear (weight: out, in) and transformers' Conv1D
    (weight: in, out)."""
    linear = need("torch", "compressing").nn.Linear
    conv1d = need("transformers.pytorch_utils", "compressing").Conv1D
    return {name: module for name, module in block.named_modules() if isinstance(module, linear | conv1d)}


class Visit:
    """One block with what comes into it.

    Attributes:
        index: which block, from 0.
        block: the module; it may be changed.
        inputs: hidden states, a batch each: float32 of shape (rows, tokens, width). They are overwritten by the block's
            outputs when the walk goes on.
        kept: a batch each, bool of shape (rows, tokens): which places hold a token; None where all do.
    """

    def __init__(self, walk: Walk, index: int) -> None:
        self.index, self.block = index, walk.blocks[index]
        self.inputs, self.kept = walk.states, walk.kept
        self._arguments = walk.arguments[index]

    def forward(self, batch: int, hidden: torch.Tensor) -> torch.Tensor:
        """What the block makes of `hidden` in the place of `inputs[batch]`, with that batch's mask and positions."""
        place, positional, named = self._arguments[batch]
        if place == "":
            out = self.block(hidden, *positional, **named)
        else:
            out = self.block(*positional, **{**named, place: hidden})
        found: torch.Tensor = out[0] if isinstance(out, tuple) else out
        return found

    def run(self, collect: Collect | None = None, *, outputs: bool = True) -> list[torch.Tensor]:
        """The block's outputs, a batch each, without gradients.

        Args:
            collect: by the name of a module in the block, what is called with each batch's inputs of it as float32 of
                shape (tokens, features), places without a token left out.
            outputs: without them nothing is kept, and nothing given.
        """
        torch = need("torch", "compressing")
        found = []
        with ExitStack() as stack, torch.no_grad():
            now = 0

            def told(call: Callable[[Any], None]) -> Any:
                def hook(module: Any, arguments: Any) -> None:
                    states = arguments[0]
                    kept = self.kept[now]
                    flat = states.reshape(-1, states.shape[-1])
                    call((flat if kept is None else flat[kept.reshape(-1)]).float())

                return hook

            for name, call in (collect or {}).items():
                handle = self.block.get_submodule(name).register_forward_pre_hook(told(call))
                stack.callback(handle.remove)
            for now, hidden in enumerate(self.inputs):
                out = self.forward(now, hidden)
                if outputs:
                    found.append(out)
        return found


class Walk:
    """Visits the blocks of a model in order; `for visit in Walk(...)`.

    Each block sees the outputs of those before it as they are when the walk comes to it. After the last one `states`
    holds its outputs. The model is put into evaluation mode and otherwise left as it is.

    Args:
        model: a transformers model in fp32, on the CPU.
        rows: token ids.
        batch: tokens that run at once, padded ones too (one row at least).
        folder: where hidden states of more than `MOST_IN_MEMORY` are kept while the walk lives; None keeps them in
            memory.

    Attributes:
        blocks: of the model.
        states: hidden states that come into the next block, a batch each: float32 (rows, tokens, width).
        kept: a batch each, bool (rows, tokens), or None where every place holds a token.
        ids: a batch each, int64 (rows, tokens).
        arguments: by block and batch, what it is called with besides.
    """

    def __init__(self, model: Any, rows: Rows, batch: int = 2048, folder: Path | None = None) -> None:
        torch = need("torch", "compressing")
        self.blocks = blocks_of(model.eval())
        batches = length_batches([len(row) for row in rows], batch)
        self.ids: list[Any] = []
        self.kept: list[Any] = []
        self.states: list[Any] = []
        self.arguments: list[list[tuple[str, tuple[Any, ...], dict[str, Any]]]] = [[] for _ in self.blocks]
        inner = model.base_model if hasattr(model, "base_model") else model
        named = inspect.signature(inner.forward).parameters
        settings = {"use_cache": False} if "use_cache" in named else {}
        seen: list[Any] = []
        with self._recording(model, seen), torch.no_grad():
            for batch_rows in batches:
                ids, mask = pad([rows[number].tolist() for number in batch_rows], 0)
                self.ids.append(torch.from_numpy(ids))
                self.kept.append(None if mask.all() else torch.from_numpy(mask.astype(bool)))
                inner(input_ids=self.ids[-1], attention_mask=torch.from_numpy(mask), **settings)
                self.states.append(seen.pop())
        size = sum(states.numel() for states in self.states) * 4
        if folder is not None and size > MOST_IN_MEMORY:
            self._to_files(folder, size)

    def _to_files(self, folder: Path, size: int) -> None:
        """Hidden states in one file that is gone as soon as nobody has it open."""
        torch = need("torch", "compressing")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "states.bin"
        held = np.memmap(path, dtype=np.float32, mode="w+", shape=(size // 4,))
        path.unlink()
        at = 0
        for number, states in enumerate(self.states):
            part = torch.from_numpy(held[at : at + states.numel()].view(np.ndarray)).reshape(states.shape)
            part.copy_(states)
            self.states[number] = part
            at += states.numel()

    @contextmanager
    def _recording(self, model: Any, seen: list[torch.Tensor]) -> Iterator[None]:
        """Lets each block note what it is called with, and give back what it got: nothing is computed in it."""
        before = [block.forward for block in self.blocks]
        gives_tuple = _gives_tuple(model, self.blocks)

        def noting(index: int) -> Callable[..., Any]:
            def forward(*positional: Any, **named: Any) -> Any:
                place = "" if positional else next(iter(named))
                states = positional[0] if positional else named[place]
                if index == 0:
                    seen.append(states.float())
                rest = {name: value for name, value in named.items() if name != place}
                self.arguments[index].append((place, positional[1:], rest))
                return (states,) if gives_tuple else states

            return forward

        try:
            for index, block in enumerate(self.blocks):
                block.forward = noting(index)
            yield
        finally:
            for block, forward in zip(self.blocks, before, strict=True):
                if "forward" in vars(block):
                    del block.forward
                if block.forward != forward:  # it had been replaced before
                    block.forward = forward

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Visit]:
        torch = need("torch", "compressing")
        for index in range(len(self.blocks)):
            visit = Visit(self, index)
            yield visit
            with torch.no_grad():
                for number, hidden in enumerate(self.states):
                    hidden.copy_(visit.forward(number, hidden))
            self.arguments[index] = []


def walk(model: Any, rows: Rows, batch: int = 2048, folder: Path | None = None) -> Walk:
    """The walk through the blocks of `model` on `rows`: iterate over it; arguments as `Walk`."""
    return Walk(model, rows, batch, folder)


def fast() -> Any:
    """Products in bfloat16 where the processor multiplies it, which takes half the time."""
    torch = need("torch", "compressing")
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=bool(_BF16 & set(instructions())))


def _gives_tuple(model: Any, blocks: torch.nn.ModuleList) -> bool:
    """Whether a block gives a tuple (its hidden states first) and not a tensor, seen on one that runs two tokens."""
    torch = need("torch", "compressing")
    found: list[bool] = []
    handle = blocks[0].register_forward_hook(lambda module, arguments, out: found.append(isinstance(out, tuple)))
    try:
        with torch.no_grad():
            inner = model.base_model if hasattr(model, "base_model") else model
            ids = torch.zeros((1, 2), dtype=torch.int64)
            inner(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        handle.remove()
    return found[0]
