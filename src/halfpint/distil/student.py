"""Stage: a smaller student from a model: some of its layers, or a new one of a given size with its tokenizer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from halfpint.bundle import Bundle, Kind, copy_files, write_json
from halfpint.compress.depth import kept_layers, shallower, without_layers
from halfpint.compress.tensors import EMBEDDING, encoder_config, read_weights, write_weights
from halfpint.errors import SettingError, need
from halfpint.models import sizes
from halfpint.models.heads import head_in
from halfpint.stage import Stage, Work

_WEIGHTS = (".safetensors", ".index.json")
_POSITIONS = 512


@dataclass(frozen=True, kw_only=True)
class Student(Stage):
    """A model to be taught by the one it is made from; give `layers` or `size`.

    With `layers` it is the larger model without the others (Sanh et al. 2019, "DistilBERT", section 3: a student
    begins best from its teacher's layers). With `size` it is new, of the same architecture; its token embeddings are
    the larger one's, in the directions in which those differ most.

    Args:
        layers: how many layers are taken, evenly spread, or their numbers from 1 with commas ("1,6").
        size: parameters, embeddings included, such as 5M.
        seed: of new weights.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.ENCODER, Kind.CLASSIFIER, Kind.LANGUAGE)
    gives: ClassVar[Kind] = Kind.SAME
    uses_data: ClassVar[bool] = False

    layers: str = "2"
    size: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size:
            sizes.parse_parameters(self.size)
            return
        parts = self.layers.split(",")
        if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            raise SettingError(
                f"{self.use}: layers", wanted='a number such as "2", or numbers of layers such as "1,6"',
                got=repr(self.layers),
            )  # fmt: skip

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Write the student with the parent's tokenizer."""
        assert bundle is not None
        started = time.monotonic()
        with self.new_bundle(work, bundle) as (folder, card):
            copy_files(bundle, folder, *(f"*{ending}" for ending in _WEIGHTS))
            told = self._new(bundle, folder) if self.size else self._taken(bundle, folder)
            card["stages"].append(self.entry(started, **told))
        return Bundle(work.target)

    def _taken(self, bundle: Bundle, folder: Path) -> dict[str, Any]:
        """The parent's weights with some of its layers, numbered anew."""
        inner = encoder_config(bundle.config)
        total = int(inner.get("num_hidden_layers") or inner["n_layer"])
        numbers = [int(part) - 1 for part in self.layers.split(",")]
        if "," not in self.layers:
            numbers = kept_layers(total, numbers[0] + 1) if numbers[0] + 1 < total else [total]
        if max(numbers) >= total or sorted(set(numbers)) != numbers:
            raise SettingError(
                f"{self.use}: layers", wanted=f"fewer than {total}, or rising numbers from 1 to {total}",
                got=repr(self.layers),
            )  # fmt: skip
        write_weights(folder, without_layers(read_weights(bundle), numbers), shallower(bundle.config, total, numbers))
        return {"kept": [number + 1 for number in numbers]}

    def _new(self, bundle: Bundle, folder: Path) -> dict[str, Any]:
        """A new model; the parent's embeddings are the start of its own."""
        torch = need("torch", "a new student")
        transformers = need("transformers", "a new student")
        transformers.utils.logging.disable_progress_bar()
        inner = encoder_config(bundle.config)
        arch = str(inner["model_type"])
        wanted, vocabulary = sizes.parse_parameters(self.size), int(inner["vocab_size"])
        positions = min(int(inner.get("max_position_embeddings") or _POSITIONS), _POSITIONS)
        settings, _ = sizes.size_dial(arch, wanted, vocabulary, positions)
        special = {key: value for key, value in inner.items() if key.endswith("_token_id")}
        if inner.get("sliding_window", 0) is None:  # the teacher sees all
            special["sliding_window"] = None
        torch.manual_seed(self.seed)
        model = sizes.new_model(arch, {**settings, **special})
        large = _embedding(read_weights(bundle))
        if large is None or large.shape[0] != vocabulary or large.shape[1] < model.config.hidden_size:
            begun = False
        else:
            begun = True
            rows = model.get_input_embeddings().weight
            with torch.no_grad():
                found = _directions(large.float(), rows.shape[1])
                rows.copy_(found * (rows.std() / found.std()))
        if bundle.kind == Kind.CLASSIFIER:
            _write_classifier(bundle, model, folder)
        elif bundle.kind == Kind.LANGUAGE:
            model.save_pretrained(folder)
        else:
            model.base_model.save_pretrained(folder)
        return {"parameters": sizes.parameters_of(model), "embeddings_begun": begun}


def _write_classifier(bundle: Bundle, model: Any, folder: Path) -> None:
    """An encoder with a head on the new encoder, with a last layer of zeros, in `folder`."""
    # `dtype` is how save_pretrained tells of the weights; the encoder's own are those of the whole.
    encoder = {key: value for key, value in model.config.to_dict().items() if key not in ("dtype", "architectures")}
    longest = min(int(bundle.config["max_tokens"]), int(encoder.get("max_position_embeddings") or _POSITIONS))
    dropout = float(bundle.config["classifier_dropout"])
    made = head_in(bundle.path).build(encoder, bundle.labels, longest, dropout, bundle.config)
    made.encoder.load_state_dict(model.base_model.state_dict(), strict=False)
    made.save_pretrained(folder)
    written = Bundle(folder).config
    write_json(folder / "config.json", {**written, "pad_token_id": encoder.get("pad_token_id") or 0})


def _embedding(weights: dict[str, Any]) -> Any:
    return next((tensor for name, tensor in weights.items() if EMBEDDING.search(name)), None)


def _directions(table: Any, width: int) -> Any:
    """The rows of a table in its first `width` principal directions, the mean taken away: (rows, width)."""
    import torch

    centred = table - table.mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # ascending
    return centred @ vectors.flip(-1)[:, :width]
