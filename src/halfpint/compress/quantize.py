"""Stage: a language model's matrices in 8 to 2 bits, with codes and scales of our own in llama.cpp's block types."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from halfpint.bundle import Bundle, Kind, copy_files, file_sha256, read_json, write_json
from halfpint.compress._adapt import WORTH, Adaptation, as_made_up_for
from halfpint.compress._allocation import allocate, costs_of, other_bytes
from halfpint.compress._balance import balanced
from halfpint.compress._blocks import pack
from halfpint.compress._calibration import Rows, calibration_rows, fast, shuffled, walk
from halfpint.compress._codes import BlockType, Coded
from halfpint.compress._imatrix import IMATRIX_FILE, importance_of, write_imatrix
from halfpint.compress._in_time import rows_in_time
from halfpint.compress._layers import LayerByLayer, Made, rounded
from halfpint.compress._matrices import (
    HALF_BITS,
    Matrix,
    by_bits,
    by_name,
    fitting,
    matrices_of,
    shown,
    weight_bytes,
)
from halfpint.compress._memory import memory_needed, memory_to_adapt, samples_to_learn
from halfpint.compress._models import check_plain
from halfpint.compress._rates import CONTAINERS, Pace
from halfpint.compress._row_scales import row_scales_of
from halfpint.compress._sensitivity import sensitivity_of
from halfpint.compress._tune import NORM_RATE_BESIDE_ROWS, Distiller, Learned, latents_of
from halfpint.engines.torch_lm import empty_model, load_model
from halfpint.errors import HalfpintError, SettingError, nearest, need, need_installed
from halfpint.machine import memory_bytes
from halfpint.models.block_codes import Blocks, write_codes
from halfpint.models.packed_gguf import coded_bytes
from halfpint.models.sizes import CAUSAL, resolve
from halfpint.progress import SILENT, Log
from halfpint.stage import Stage, Work

METHODS = ("round", "gptq", "tuned")
_BATCH_TOKENS = 2048
_SENSITIVITY_ROWS, _BALANCE_ROWS = 16, 4
_COUNTED = 2_000_000  # tokens that embeddings are told by
_HELD = 8  # one row in so many is kept apart from tuning
_PACKED_SHARE = 0.995  # of the bytes that are planned with: entropies are estimates
_FEWEST_BITS = 1.0  # a weight of embeddings in a packed file
_SPARE = 0.9  # of the memory: the rest is for what else runs
_OWN_FILES = ("config.json", "*.safetensors", "*.index.json")


@dataclass(frozen=True, kw_only=True)
class Quantize(Stage):
    """Matrices in llama.cpp's block types; `export/gguf` with type = "codes" writes them as they are.

    Rows that no block divides stay in fp16, norms and biases in fp32. The bundle runs in PyTorch as well, with the
    values that the codes stand for.

    Args:
        types: of the matrices: one for all, such as q4_0, then others for some, as in "q4_0,embeddings=q8_0"; empty
            goes by `bits`. There are q8_0, q5_1, q5_0, q4_1, iq4_nl, q4_0, mxfp4 and, for rows of a multiple of 256,
            iq4_xs, q3_k and q2_k.
        bits: most bits per weight where `types` is empty; where a matrix's rows allow no such small type, the smallest
            that they do.
        method: round takes the nearest values under the best scales and needs no text. gptq makes up for each column's
            error in those after it. tuned goes on from there and distils codes and scales against the unquantised
            model.
        samples: rows of text to calibrate on.
        tokens: of each row.
        sequential: gptq looks at the layers of a block one after the other: slower.
        damping: of gptq, as a share of the mean diagonal.
        minutes: time for tuning where `tuning_tokens` is 0.
        tuning_tokens: tokens that tuning sees in all.
        tuning_samples: rows of text that it learns from besides; 0 goes by `minutes`: the longer, the more.
        tuning_rate: its peak rate, in steps between neighbouring codes.
        tuning_batch: tokens of a step of it.
        adapting: share of the time for tuning in which, where codes are packed, the weights that have none yet learn to
            make up for those that have, block after block. It ends after the embeddings where their codes cost next to
            nothing, or where it does harm; 0 leaves it out.
        target_bytes: largest size of the GGUF file in bytes where `types` is empty: each matrix then gets the type that
            pays most, by how much its errors change what the model says on the calibration rows; 0 goes by `bits`.
        packed: the codes are for compress/lossless: each row has steps of one size, what a code may be depends on
            the rows before it (with the method round each stands alone), and `bits` and `target_bytes` are those after
            packing. `types` are then of q8_0, q5_0 and q4_0; empty takes the narrowest that do.
        importance: an importance matrix of llama.cpp's (GGUF) for the method round; the others measure their own.
        seed: of the rows drawn.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.LANGUAGE,)
    gives: ClassVar[Kind] = Kind.QUANTIZED

    types: str = ""
    bits: float = 4.5
    method: str = "tuned"
    samples: int = 128
    tokens: int = 512
    sequential: bool = False
    damping: float = 0.01
    minutes: float = 10.0
    tuning_tokens: int = 0
    tuning_samples: int = 0
    tuning_rate: float = 0.005
    tuning_batch: int = 2048
    adapting: float = 0.6
    target_bytes: int = 0
    packed: bool = False
    importance: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SettingError(
                f"{self.use}: method", wanted="a method", got=repr(self.method), todo=nearest(self.method, METHODS)
            )
        for name, fits, wanted in (
            ("bits", 0 < self.bits <= 16, "a number above 0, up to 16"),
            ("samples", self.samples >= 1, "1 or more"),
            ("tokens", self.tokens >= 8, "8 or more"),
            ("damping", 0 < self.damping < 1, "a share above 0"),
            ("minutes", self.minutes > 0 or self.tuning_tokens > 0, "a number above 0"),
            ("tuning_tokens", self.tuning_tokens >= 0, "0 or more"),
            ("tuning_samples", self.tuning_samples >= 0, "0 or more"),
            ("tuning_rate", 0 < self.tuning_rate <= 1, "a number above 0, up to 1"),
            ("tuning_batch", self.tuning_batch >= 1, "1 or more"),
            ("adapting", 0 <= self.adapting < 1, "a share below 1"),
            ("target_bytes", self.target_bytes >= 0, "0 or more"),
            ("target_bytes", not (self.target_bytes and self.types), "0 where types are given"),
            ("importance", not self.importance or self.method == "round", "none, as the method measures its own"),
            ("importance", not (self.importance and self.packed), "none where codes are packed"),
        ):
            if not fits:
                raise SettingError(f"{self.use}: {name}", wanted=wanted, got=str(getattr(self, name)))

    def check(self) -> None:
        """Refuse an installation that cannot write what the methods that read text write, before they read it."""
        if self.method != "round" or self.importance:
            need_installed("gguf", "an importance matrix")
        if self.packed:
            need_installed("constriction", "packed codes")

    def fits(self, bundle: Bundle) -> None:
        """Refuse a model that cannot be quantised like this, types that do not fit it, and too few bytes."""
        self._check_parent(bundle)
        model = empty_model(bundle.path)
        matrices = matrices_of(model)
        if not any(fitting(matrix.columns) for matrix in matrices):
            raise HalfpintError(str(bundle.path), wanted="matrices with rows of a multiple of 32", got="none")
        if self.types:
            by_name(matrices, self.types, f"{self.use}: types")
        elif not (self.target_bytes or self.packed):
            by_bits(matrices, self.bits, f"{self.use}: bits")
        self._check_target(bundle, model, matrices)
        importance_of(self.importance, model, matrices)  # refuses one that is not this model's

    def check_memory(self, bundle: Bundle) -> None:
        """Refuse a machine with too little memory for the model; asked before it is loaded."""
        self._check_memory(model := empty_model(bundle.path), matrices_of(model), SILENT)

    def _check_target(self, bundle: Bundle, model: Any, matrices: list[Matrix]) -> None:
        first = matrices[0]
        bits = _FEWEST_BITS if self.packed else min((one.bits for one in fitting(first.columns)), default=HALF_BITS)
        least = other_bytes(bundle.path, model, matrices, packed=self.packed) + int(first.size * bits / 8)
        if 0 < self.target_bytes < least:
            raise SettingError(
                f"{self.use}: target_bytes", got=f"{self.target_bytes:,}",
                wanted=f"more than {least:,}: the tokenizer and the embeddings alone, {first.rows:,} x {first.columns} "
                f"weights of {bits:g} bit{'s' * (bits != 1)}",
                todo="Give a larger target, or a model with fewer tokens or a smaller hidden size.",
            )  # fmt: skip

    def key(self, parent: str, data: str) -> str:
        """As of every stage, and of the importance matrix."""
        of = file_sha256(Path(self.importance)) if self.importance and Path(self.importance).is_file() else ""
        return super().key(parent + of, data)

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Write a bundle with the values that the codes stand for, and the codes beside them."""
        assert bundle is not None
        started = time.monotonic()
        torch = need("torch", "quantising")
        self.check()
        self.fits(bundle)
        self.check_memory(bundle)
        model = load_model(bundle.path, CAUSAL)
        matrices = matrices_of(model)
        needed, adapts = self._check_memory(model, matrices, work.log)
        pace, adapts = self._pace(bundle, model, matrices, work, adapts=adapts) if self.packed else (None, False)
        kinds = dict(pace.kinds) if pace else self._kinds(bundle, model, matrices, work)
        self._say(matrices, kinds, needed, work)
        torch.manual_seed(self.seed)
        figures: dict[str, Any] = {}
        if self.method == "round":
            known = importance_of(self.importance, model, matrices)
            made = rounded(matrices, kinds, known, work.log, pace, time.monotonic() + work.seconds_left())
        else:
            made, figures = self._calibrated(bundle, model, matrices, kinds, pace, work, adapts=adapts)
        return self._write(bundle, model, matrices, made, figures, started, work)

    def _rows(self, bundle: Bundle, matrices: list[Matrix], work: Work) -> tuple[Rows, Rows, Rows]:
        """Rows that codes are fitted on, that tuning learns from besides, and, seen by nothing else, is judged by."""
        if self.method != "tuned":
            return calibration_rows(bundle, work, self.samples, self.tokens, self.seed), [], []
        more = samples_to_learn(self, matrices)
        drawn = calibration_rows(bundle, work, self.samples + more, self.tokens, self.seed)
        held = max(1, min(len(drawn), self.samples) // _HELD) if len(drawn) > 1 else 0
        fitted = max(1, min(len(drawn), self.samples) - held)
        rest = shuffled(drawn[held:], self.seed)  # what it is judged by stays of documents of its own
        return rest[:fitted], rest[fitted:], drawn[:held]

    def _kinds(self, bundle: Bundle, model: Any, matrices: list[Matrix], work: Work) -> dict[str, BlockType]:
        """The type of each matrix that is quantised."""
        if self.types:
            return by_name(matrices, self.types, f"{self.use}: types")
        if not self.target_bytes:
            return by_bits(matrices, self.bits, f"{self.use}: bits")
        rows = self._rows(bundle, matrices, work)[0][:_SENSITIVITY_ROWS]
        kept = work.scratch / "costs.json"
        if not kept.is_file():
            write_json(kept, costs_of(model, matrices, rows, self.seed, work.log))
        limit = self.target_bytes - other_bytes(bundle.path, model, matrices)
        return allocate(matrices, read_json(kept), limit, f"{self.use}: target_bytes")

    def _pace(self, bundle: Bundle, model: Any, matrices: list[Matrix], work: Work, *, adapts: bool
    ) -> tuple[Pace, bool]:  # fmt: skip
        """The types and the steps where codes are packed; and whether to adapt, which may be too little worth."""
        place = f"{self.use}: {'target_bytes' if self.target_bytes else 'bits'}"
        kinds = by_name(matrices, self.types, f"{self.use}: types") if self.types else {}
        for kind in kinds.values():
            if kind.name not in CONTAINERS:
                raise HalfpintError(f"{self.use}: types", wanted=f"of {', '.join(CONTAINERS)}", got=kind.name)
        drawn = self._rows(bundle, matrices, work)[0]
        rows = drawn[:_SENSITIVITY_ROWS]
        apart = drawn[_SENSITIVITY_ROWS:][:_BALANCE_ROWS] or rows
        often = self._often(bundle, matrices[0].rows, work)
        found, left = sensitivity_of(model, matrices, rows, self.seed, self.damping, work.log, often)
        limit = int(self.bits * sum(matrix.size for matrix in matrices) / 8)
        if self.target_bytes:
            limit = int(self.target_bytes * _PACKED_SHARE) - other_bytes(bundle.path, model, matrices, packed=True)

        def plan(sensitivity: Mapping[str, Any], *, dependent: bool = False) -> Pace:
            return Pace(matrices, sensitivity, limit, kinds, place, dependent=dependent)

        if self.method == "round":
            return plan(found), False
        found, cost = balanced(model, matrices, found, left, plan, apart, work.log)
        adapts = adapts and cost >= WORTH
        return plan(as_made_up_for(matrices, found) if adapts else found, dependent=True), adapts

    def _often(self, bundle: Bundle, vocabulary: int, work: Work) -> Any:
        """How often each token is in the text: float64 (vocabulary,)."""
        torch = need("torch", "quantising")
        found = torch.zeros(vocabulary, dtype=torch.float64)
        for row in calibration_rows(bundle, work, _COUNTED // self.tokens + 1, self.tokens, self.seed):
            found += torch.bincount(torch.from_numpy(row), minlength=vocabulary)[:vocabulary]
        return found

    def _check_parent(self, bundle: Bundle) -> None:
        check_plain(bundle, str(bundle.path))
        model_type, objective = resolve(str(bundle.config.get("model_type")))
        if objective != CAUSAL:
            raise HalfpintError(str(bundle.path), wanted="a causal model", got=f"a {model_type}, a masked one")

    def _check_memory(self, model: Any, matrices: list[Matrix], log: Log) -> tuple[int, bool]:
        """About the bytes of memory that it takes, and whether there is room for `adapting`, if that was asked for.

        Raises:
            HalfpintError: the memory is less than it takes.
        """
        needed = memory_needed(matrices, model, self)
        room = memory_bytes() * _SPARE or float("inf")  # 0 where the system does not tell
        if needed > room:
            raise HalfpintError(
                self.use, wanted=f"about {needed / 2**30:.1f} GiB of memory", got=f"{room / 2**30:.1f} GiB",
                todo="Take the method gptq or round, less time, fewer samples, or a larger machine.",
            )  # fmt: skip
        if not (self.method == "tuned" and self.packed and self.adapting):
            return needed, False
        more = memory_to_adapt(matrices)
        if needed + more > room:
            log.say(
                f"what is not quantised yet does not learn: that takes {more / 2**30:.1f} GiB of memory more",
                kind="skipped",
            )  # fmt: skip
            return needed, False
        return needed + more, True

    def _say(self, matrices: list[Matrix], kinds: dict[str, BlockType], needed: int, work: Work) -> None:
        """Tell types, bytes and memory before anything is changed."""
        work.log.say(
            f"{shown(matrices, kinds)}: {weight_bytes(matrices, kinds) / 1e6:.1f} MB of matrices; about "
            f"{needed / 2**30:.1f} GiB of memory", kind="plan", memory_bytes=needed,
        )  # fmt: skip
        by_most = not (self.types or self.target_bytes or self.packed)
        wide = [name for name, kind in kinds.items() if by_most and kind.bits > self.bits]
        if wide:
            work.log.say(
                f"{len(wide)} of {len(matrices)} matrices have over {self.bits:g} bits per weight: no smaller type "
                f"divides their rows ({wide[0]}, …)", kind="wide", matrices=wide,
            )  # fmt: skip

    def _calibrated(
        self, bundle: Bundle, model: Any, matrices: list[Matrix], kinds: dict[str, BlockType], pace: Pace | None,
        work: Work, *, adapts: bool,
    ) -> tuple[Made, dict[str, Any]]:  # fmt: skip
        torch = need("torch", "quantising")
        tuned = self.method == "tuned"
        rows, more, apart = rows_in_time(self._rows(bundle, matrices, work), model, work)
        parts = [walk(model, some, _BATCH_TOKENS, work.scratch) for some in (rows, more, apart) if some]
        ids, kept = ([one for part in parts for one in getattr(part, name)] for name in ("ids", "kept"))
        fitted, learned = len(parts[0].ids), len(ids) - (len(parts[-1].ids) if apart else 0)
        del parts
        final = []
        with work.log.bar("reading", len(ids)) as bar, torch.no_grad():
            for number, batch in enumerate(ids):
                mask = torch.ones_like(batch) if kept[number] is None else kept[number].long()
                with fast():
                    states = model.base_model(input_ids=batch, attention_mask=mask, use_cache=False).last_hidden_state
                final.append(states.float())
                bar.advance()
        head = model.get_output_embeddings().weight.detach().clone() if tuned else None
        distiller = Distiller(
            model, ids, kept, final, head, self.tuning_batch, self.tuning_rate, self.seed, work.log,
            learned=learned, **({"norm_share": NORM_RATE_BESIDE_ROWS} if self.packed else {}),
        )  # fmt: skip
        adapt = None
        if adapts:
            coded = [matrix.module.weight for matrix in matrices if matrix.name in kinds]
            adapt = Adaptation(distiller, coded, *self._budget(work, self.adapting), work.scratch)
        layers = LayerByLayer(
            model, matrices, kinds, rows, self.damping, self.sequential, _BATCH_TOKENS, work.scratch, work.log, pace,
            adapt, time.monotonic() + work.seconds_left() * (0.5 if tuned else 1.0),
        )  # fmt: skip
        pairs = zip(final[:fitted], kept[:fitted], strict=True)
        made = layers.run([one.flatten(0, 1) if mask is None else one[mask] for one, mask in pairs])
        figures: dict[str, Any] = {"calibration_rows": len(rows), "calibration_tokens": sum(map(len, rows))}
        if tuned:
            latents: Sequence[Learned] = (
                row_scales_of(matrices, made.coded, model.get_output_embeddings())
                if self.packed
                else latents_of(matrices, made.coded, made.before)
            )
            made.before.clear()
            share = 1.0
            if adapt is not None:
                figures["adapting"] = adapt.facts
                share -= self.adapting if adapt.is_on else 0.0
            figures["tuning"] = distiller.run(latents, *self._budget(work, share))
            made.coded = {latent.matrix.name: latent.coded() for latent in latents}
            tuning = figures["tuning"]
            told = f"divergence from the unquantised model on rows not learned from: {tuning['kl_before']:.4f} nats "
            told += f"before tuning, {tuning['kl_after']:.4f} after" + ("" if tuning["kept"] else ": it is taken back")
            work.log.say(told if tuning["steps"] else "  not tuned: no time was left for a step of it", kind="result")
        return made, figures

    def _budget(self, work: Work, share: float) -> tuple[float, int]:
        """Minutes and tokens of a share of the tuning."""
        minutes = min(self.minutes * share, max(work.seconds_left() / 60, 0.0))
        return minutes, max(1, int(self.tuning_tokens * share)) if self.tuning_tokens else 0

    def _write(
        self, bundle: Bundle, model: Any, matrices: list[Matrix], made: Made, figures: dict[str, Any], started: float,
        work: Work,
    ) -> Bundle:  # fmt: skip
        blocks = {}
        for matrix in matrices:
            coded: Coded | None = made.coded.pop(matrix.name, None)
            if coded is not None:
                matrix.write(coded.values())
                blocks[matrix.name] = Blocks(coded.kind.name, pack(coded))
        types = Counter(one.type for one in blocks.values())
        size = sum(one.bytes.nbytes for one in blocks.values())
        weights = sum(matrix.size for matrix in matrices if matrix.name in blocks)
        if self.packed:
            figures["packed_bytes"] = sum(coded_bytes(one.type, one.bytes) for one in blocks.values())
            figures["other_bytes"] = other_bytes(bundle.path, model, matrices, packed=True)
        with self.new_bundle(work, bundle) as (folder, card):
            copy_files(bundle, folder, *_OWN_FILES, nested=True)
            model.save_pretrained(folder)
            write_codes(folder, blocks)
            if made.importance:
                write_imatrix(folder / IMATRIX_FILE, model.config, made.importance, made.tokens, self.tokens)
            card.update(engine="torch_lm")
            card["stages"].append(
                self.entry(started, matrices=dict(types), code_bytes=size, bits_a_weight=8 * size / weights, **figures)
            )
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)
