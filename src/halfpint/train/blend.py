"""Stage: add a TF-IDF classifier to an encoder's bundle. They err on different texts, so together they err on fewer."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from halfpint.bundle import Bundle, Kind, copy_files, write_json
from halfpint.engines import open_engine
from halfpint.engines.blend import LINEAR, blended
from halfpint.errors import HalfpintError, RefusedError, need
from halfpint.models.tfidf import FEATURES_FILE
from halfpint.outputs import joined
from halfpint.stage import Stage, Work
from halfpint.train import encoders
from halfpint.train.tfidf_linear import TfidfLinear

_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


@dataclass(frozen=True, kw_only=True)
class Blend(Stage):
    """Average the log-probabilities of the bundle's model and of a small TF-IDF classifier (weights in int8).

    Args:
        features: of the TF-IDF classifier.
        share: of the TF-IDF classifier in the average; 0 chooses it on the validation texts.

    Source: logarithmic opinion pools, Heskes 1998, "Selecting weighting factors in logarithmic opinion pools".
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.CLASSIFIER, Kind.ONNX)
    gives: ClassVar[Kind] = Kind.READY

    features: int = 6000
    share: float = 0.0

    def __post_init__(self) -> None:
        TfidfLinear(features=self.features)  # refuses what it refuses
        if not 0 <= self.share < 1:
            raise HalfpintError(f"{self.use}: share", wanted="a share from 0, below 1", got=str(self.share))

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Train the TF-IDF classifier (or take it from the cache), choose the share, write both into one bundle."""
        assert bundle is not None
        started = time.monotonic()
        stage = TfidfLinear(features=self.features)
        if work.make is None:
            linear = stage.run(None, replace(work, target=work.scratch / LINEAR))
        else:
            linear = work.make([stage])
        texts, judge = work.labelled.texts(work.validation), encoders.Judge.of(work)
        ours, theirs = (joined(open_engine(one).probabilities(texts), len(work.labels)) for one in (bundle, linear))
        alone = judge(ours)
        scores = {share: judge(blended(ours, theirs, share)) for share in ((self.share,) if self.share else _SHARES)}
        share = max(scores, key=lambda one: (scores[one], -one))
        if not self.share and scores[share] <= alone:
            raise RefusedError(
                self.use, wanted=f"a better {work.primary} than the {alone:.4f} of the bundle alone",
                got=f"{scores[share]:.4f} at best", todo="Leave this step out.",
            )  # fmt: skip
        with self.new_bundle(work, bundle) as (folder, card):
            copy_files(bundle, folder)
            config = {**bundle.config, "blend": {"share": share, "engine": bundle.card["engine"]}}
            write_json(folder / "config.json", config)
            (folder / LINEAR).mkdir()
            shutil.copyfile(linear.path / FEATURES_FILE, folder / LINEAR / FEATURES_FILE)
            write_json(folder / LINEAR / "config.json", linear.config)
            self._write_codes(linear, folder / LINEAR)
            card["engine"] = "blend"
            card["stages"].append(self.entry(started, chosen_share=share, score=scores[share], score_alone=alone))
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)

    @staticmethod
    def _write_codes(linear: Bundle, folder: object) -> None:
        """The weights as int8 with one scale a feature."""
        numpy_io = need("safetensors.numpy", "blending")
        tensors = numpy_io.load_file(linear.path / "model.safetensors")
        weight = tensors.pop("weight")
        scale = np.maximum(np.abs(weight).max(axis=1), 1e-12).astype(np.float32) / np.float32(127)
        tensors["codes"] = np.rint(weight / scale[:, None]).astype(np.int8)
        tensors["scale"] = scale
        numpy_io.save_file(tensors, f"{folder}/model.safetensors")
