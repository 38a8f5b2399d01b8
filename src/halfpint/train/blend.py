"""Stage: add a second, cheap model to a bundle. They err on different texts, so together they err on fewer."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from halfpint.bundle import Bundle, Kind, copy_files, write_json
from halfpint.engines import open_engine
from halfpint.engines.blend import OTHER, blended
from halfpint.errors import HalfpintError, RefusedError, SettingError, need
from halfpint.models.tfidf import FEATURES_FILE
from halfpint.outputs import joined
from halfpint.settings import LATER
from halfpint.stage import Stage, Work, stage_class
from halfpint.train import encoders
from halfpint.train.tfidf_linear import TfidfLinear

_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


@dataclass(frozen=True, kw_only=True)
class Blend(Stage):
    """Average the log-probabilities of the bundle's model and of another, by default a small TF-IDF classifier in int8.

    Args:
        other: the stage that trains the other model, such as train/crf; empty takes the TF-IDF classifier.
        features: of the TF-IDF classifier.
        share: of the other model in the average; 0 chooses it on the validation texts.
        strength: of the TF-IDF classifier, as there; 0 chooses it on the validation texts.
        weights: of its terms, as there; empty chooses them on the validation texts.
        factor: of its scores, as there; 0 fits it to the validation texts.

    Source: logarithmic opinion pools, Heskes 1998, "Selecting weighting factors in logarithmic opinion pools".
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.CLASSIFIER, Kind.ONNX, Kind.READY)
    gives: ClassVar[Kind] = Kind.READY

    other: str = ""
    features: int = 6000
    share: float = 0.0
    strength: float = field(default=0.0, metadata=LATER)
    weights: str = field(default="", metadata=LATER)
    factor: float = field(default=0.0, metadata=LATER)

    def __post_init__(self) -> None:
        if self._taught().gives != (Kind.READY if self.other else Kind.LINEAR):
            raise SettingError(f"{self.use}: other", wanted="a stage that makes a whole model", got=repr(self.other))
        if not 0 <= self.share < 1:
            raise SettingError(f"{self.use}: share", wanted="a share from 0, below 1", got=str(self.share))

    def settled(self, entry: Mapping[str, Any], growth: float) -> Blend:
        """With the share that it chose, and what its TF-IDF classifier chose."""
        counted = {name: entry[name] for name in ("strength", "weights", "factor") if name in entry}
        return replace(self, share=float(entry["chosen_share"]), **counted)

    def _taught(self) -> Stage:
        """The stage that trains the other model; it refuses settings out of range."""
        if self.other:
            return stage_class(self.other, f"{self.use}: other")()
        return TfidfLinear(features=self.features, strength=self.strength, weights=self.weights, factor=self.factor)

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Train the other model (or take it from the cache), choose the share, write both into one bundle."""
        assert bundle is not None
        if bundle.card["engine"] == "blend":
            raise HalfpintError(self.use, wanted="one model to blend with", got="a blend", todo="Leave this step out.")
        started = time.monotonic()
        stage = self._taught()
        apart = replace(work, target=work.scratch / OTHER)
        other = stage.run(None, apart) if work.make is None else work.make([stage])
        texts = work.labelled.texts(work.validation)
        judge = encoders.Judge.of(work, work.labelled.units(texts))
        ours, theirs = (joined(open_engine(one).probabilities(texts), len(work.labels)) for one in (bundle, other))
        shares = (self.share,) if self.share else _SHARES
        scores = {share: judge(np.log(blended(ours, theirs, share))) for share in (0.0, *shares)}
        alone = scores.pop(0.0)
        share = max(scores, key=lambda one: (scores[one], -one))
        if not self.share and scores[share] <= alone:
            raise RefusedError(
                self.use, wanted=f"a better {work.primary} than the {alone:.4f} of the bundle alone",
                got=f"{scores[share]:.4f} at best", todo="Leave this step out.",
            )  # fmt: skip
        with self.new_bundle(work, bundle) as (folder, card):
            copy_files(bundle, folder)
            engines = {"engine": bundle.card["engine"], "other": other.card["engine"]}
            write_json(folder / "config.json", {**bundle.config, "blend": {"share": share, **engines}})
            (folder / OTHER).mkdir()
            if self.other:
                copy_files(other, folder / OTHER)
            else:
                shutil.copyfile(other.path / FEATURES_FILE, folder / OTHER / FEATURES_FILE)
                write_json(folder / OTHER / "config.json", other.config)
                self._write_codes(other, folder / OTHER)
            card["engine"] = "blend"
            chose = {} if self.other else other.card["stages"][-1]
            about = {name: chose[name] for name in ("strength", "weights", "factor") if name in chose}
            card["stages"].append(
                self.entry(started, chosen_share=share, score=scores[share], score_alone=alone, **about)
            )
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)

    @staticmethod
    def _write_codes(linear: Bundle, folder: Path) -> None:
        """The weights as int8 with one scale a feature."""
        numpy_io = need("safetensors.numpy", "blending")
        tensors = numpy_io.load_file(linear.path / "model.safetensors")
        weight = tensors.pop("weight")
        scale = np.maximum(np.abs(weight).max(axis=1), 1e-12).astype(np.float32) / np.float32(127)
        tensors["codes"] = np.rint(weight / scale[:, None]).astype(np.int8)
        tensors["scale"] = scale
        numpy_io.save_file(tensors, folder / "model.safetensors")
