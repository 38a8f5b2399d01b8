"""What holds of every architecture, one row each: see architectures.py beside this file.

No token sees the future; a batch, a cache, padding and a copy from disk change nothing; every weight learns; and a
short text is learned by heart.
"""

from __future__ import annotations

import copy
import inspect
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.models import architectures
from halfpint.models.token_ngram import TokenNgram

torch = pytest.importorskip("torch", reason="architectures need torch")
transformers = pytest.importorskip("transformers", reason="architectures need transformers")

_FOUND = runpy.run_path(str(Path(__file__).with_name("architectures.py")))
ROWS, VOCABULARY = _FOUND["ROWS"], _FOUND["VOCABULARY"]
PAD, END, MASK, FIRST = 0, 1, 2, 4  # ids; ordinary tokens begin at FIRST
LENGTH = 21  # not a multiple of a chunk or a window
CLOSE = 2e-5  # how far outputs may differ that are computed in another order, fp32


class Made:
    """A row's model with random weights, and what is asked of it; one for all tests of the row, left as it was."""

    def __init__(self, row: Any) -> None:
        self.row = row
        architectures.register()
        torch.manual_seed(0)
        own = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": END, "eos_token_id": END}
        more = {"decoder_start_token_id": PAD} if row.kind == "both" else {}
        quiet = {name: 0.0 for name in self._dropouts(row.arch)}
        config = transformers.AutoConfig.for_model(row.arch, **own, **more, **quiet, **row.settings)
        kinds = {"masked": "AutoModelForMaskedLM", "both": "AutoModelForSeq2SeqLM"}
        self.auto = getattr(transformers, kinds.get(row.kind, "AutoModelForCausalLM"))
        self.model = self.auto.from_config(config).eval()
        with torch.no_grad():  # biases, norms and gates too: what starts at 0 or 1 hides mistakes
            for tensor in self.model.parameters():
                tensor.add_(0.02 * torch.randn_like(tensor))
        self.ids = torch.randint(FIRST, VOCABULARY, (3, LENGTH), generator=torch.Generator().manual_seed(1))

    @staticmethod
    def _dropouts(arch: str) -> list[str]:
        held = transformers.AutoConfig.for_model(arch).to_dict()
        return [name for name, value in held.items() if "drop" in name and isinstance(value, float)]

    def logits(self, ids: Any, model: Any = None, **more: Any) -> Any:
        """Of each row and place; an encoder with a decoder reads the first row and is judged by its decoder."""
        if self.row.kind == "both":
            source = self.ids[:1].expand(len(ids), -1)
            more = {"input_ids": source, "decoder_input_ids": ids} | {f"decoder_{key}": more[key] for key in more}
        else:
            more = {"input_ids": ids, **more}
        with torch.no_grad():
            return (model or self.model)(**more).logits.float()

    def changed(self, at: int) -> Any:
        """The rows with another token at one place."""
        ids = self.ids.clone()
        ids[:, at] = FIRST + (ids[:, at] - FIRST + 7) % (VOCABULARY - FIRST)
        return ids


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: row.arch)
def made(request: pytest.FixtureRequest) -> Iterator[Made]:
    """The model of each row, one after the other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Made(request.param)
    torch.set_num_threads(threads)


def close(one: Any, other: Any, within: float = CLOSE) -> None:
    """Outputs that are the same but for rounding, and are not the same everywhere."""
    assert float(one.std()) > 1e-3
    torch.testing.assert_close(one, other, rtol=0, atol=within * max(1.0, float(other.abs().max())))


def test_every_architecture_of_halfpint_has_a_row() -> None:
    assert set(architectures.own()) <= {row.arch for row in ROWS}
    assert len({row.arch for row in ROWS}) == len(ROWS)


def test_the_future_is_not_seen_and_the_past_is(made: Made) -> None:
    plain = made.logits(made.ids)
    for at in (1, LENGTH // 2, LENGTH - 2):
        moved = (made.logits(made.changed(at)) - plain).abs().amax(dim=(0, 2))
        noise = CLOSE * max(1.0, float(plain.abs().max()))
        assert float(moved[at]) > 100 * noise or made.row.kind == "masked"  # the test could tell
        assert float(moved[at + 1 :].max()) > 10 * noise
        if made.row.kind == "masked":
            assert float(moved[:at].max()) > noise
        else:
            assert float(moved[:at].max()) <= noise


def test_a_batch_is_its_rows(made: Made) -> None:
    together = made.logits(made.ids)
    for number in range(len(made.ids)):
        close(made.logits(made.ids[number : number + 1]), together[number : number + 1])


def test_cached_is_uncached(made: Made) -> None:
    if not made.row.writes:
        assert not made.model.can_generate()
        return
    start = made.ids[:2, :5]
    torch.manual_seed(0)
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": PAD, "eos_token_id": None}
    asked = {"attention_mask": torch.ones_like(start), **settings}
    with torch.no_grad():
        cached = made.model.generate(
            start, use_cache=True, return_dict_in_generate=True, output_logits=True, **asked
        )  # fmt: skip
        again = made.model.generate(start, use_cache=False, **asked)
    assert torch.equal(cached.sequences, again)
    first = cached.sequences.shape[1] - len(cached.logits)
    if made.row.kind == "both":
        with torch.no_grad():
            whole = made.model(input_ids=start, decoder_input_ids=cached.sequences).logits.float()
    else:
        whole = made.logits(cached.sequences)
    for number, logits in enumerate(cached.logits):
        close(logits.float(), whole[:, first + number - 1], 5 * CLOSE)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_nothing(made: Made, side: str) -> None:
    if side not in made.row.padded:
        return
    room = (made.row.fixed or LENGTH + 5) - LENGTH
    ids = made.ids[:, : LENGTH + min(room - 5, 0)]
    padding = torch.full((len(ids), 5), PAD)
    own, none = torch.ones_like(ids), torch.zeros_like(padding)
    parts = ((ids, padding), (own, none)) if side == "right" else ((padding, ids), (none, own))
    padded, mask = (torch.cat(pair, dim=1) for pair in parts)
    if made.row.kind == "both":  # the encoder is what is given rows of other lengths
        with torch.no_grad():
            start = torch.full((len(ids), 1), PAD)
            found = made.model(input_ids=padded, attention_mask=mask, decoder_input_ids=start).logits
            plain = made.model(input_ids=ids, decoder_input_ids=start).logits
        close(found, plain)
        return
    more = {}
    if side == "left" and "position_ids" in _arguments(made.model):  # as `generate` gives them
        more["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    found = made.logits(padded, attention_mask=mask, **more)
    close(found[mask.bool()].view(*ids.shape, -1), made.logits(ids))


def _arguments(model: Any) -> Any:
    return inspect.signature(model.forward).parameters


def test_saved_is_loaded_bit_for_bit(made: Made, tmp_path: Path) -> None:
    made.model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors"}
    loaded = made.auto.from_pretrained(tmp_path, local_files_only=True, dtype="float32").eval()
    assert type(loaded) is type(made.model)
    before, after = made.model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    assert torch.equal(made.logits(made.ids), made.logits(made.ids, loaded))


def test_every_weight_gets_a_gradient(made: Made) -> None:
    ids = made.ids
    made.model.zero_grad()
    labels = torch.where(torch.arange(LENGTH) % 3 == 0, ids, -100) if made.row.kind == "masked" else ids
    made.model(input_ids=ids, labels=labels).loss.backward()
    without = {
        name for name, tensor in made.model.named_parameters()
        if tensor.requires_grad and (tensor.grad is None or not float(tensor.grad.abs().max()) > 0)
    }  # fmt: skip
    made.model.zero_grad()
    excused = {name for name in without if any(part in name for part in made.row.without_gradient)}
    assert without == excused
    assert all(any(part in name for name in without) for part in made.row.without_gradient)


def test_a_short_text_is_learned_by_heart(made: Made) -> None:
    """It learns on a copy: the weights that are shared stay as they are."""
    model = copy.deepcopy(made.model).train()
    text = torch.from_numpy(np.random.default_rng(5).permutation(np.arange(FIRST, VOCABULARY))[: LENGTH - 1])
    text = torch.cat([torch.tensor([END]), text])[None]
    optimiser = torch.optim.AdamW(model.parameters(), lr=made.row.rate, weight_decay=0.0)
    hidden = torch.eye(LENGTH, dtype=torch.bool)[1:]  # for gaps: a row for each place but the first, which it hides
    for _ in range(made.row.steps):
        if made.row.kind == "masked":
            more = {"input_ids": text.masked_fill(hidden, MASK), "labels": text.masked_fill(~hidden, -100)}
        elif made.row.kind == "both":
            more = {"input_ids": text[:, :4], "labels": text[:, 1:]}
        else:
            more = {"input_ids": text, "labels": text}
        loss = model(**more).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    model.eval()
    with torch.no_grad():
        if made.row.kind == "masked":
            filled = model(input_ids=text.masked_fill(hidden, MASK)).logits[hidden].argmax(-1)
            assert torch.equal(filled, text[0, 1:])
        elif not made.row.writes:
            assert torch.equal(model(input_ids=text).logits[0, :-1].argmax(-1), text[0, 1:])
        if made.row.writes:
            start = text[:, :4] if made.row.kind == "both" else text[:, :1]
            written = model.generate(
                start, attention_mask=torch.ones_like(start), max_new_tokens=LENGTH - 1, do_sample=False,
                pad_token_id=PAD, eos_token_id=None,
            )  # fmt: skip
            assert torch.equal(written[0, 1:], text[0, 1:])


def test_the_n_gram_model_keeps_the_same_promises(tmp_path: Path) -> None:
    """It has no weights and no batches: its outputs are looked up, token by token."""
    text = np.random.default_rng(5).permutation(np.arange(FIRST, VOCABULARY))[: LENGTH - 1].tolist()
    noise = np.random.default_rng(6).integers(FIRST, VOCABULARY, size=(20, LENGTH)).tolist()
    model = TokenNgram.fit([*[text] * 40, *noise], VOCABULARY, 3)
    plain = model.score(text)[0]
    for at in (1, LENGTH // 2, LENGTH - 3):
        other = [*text[:at], noise[0][0], *text[at + 1 :]]
        moved = np.abs(model.score(other)[0] - plain)
        assert moved[:at].max() == 0 and moved[at] > 0  # the future is not seen, the past is
    for at in range(1, LENGTH - 1):  # one token after the other is all of them at once
        assert model.after(text[:at])[0][text[at]] == pytest.approx(np.exp(plain[at]), rel=0.02)
    model.save(tmp_path)
    assert np.array_equal(TokenNgram.load(tmp_path, VOCABULARY).score(text)[0], plain)
    written = text[:1]
    while len(written) < len(text):
        written.append(int(model.after(written)[0].argmax()))
    assert written == text
