"""Damaged files of language models, typed at the command: one clear error, exit code 2; unfinished work that is damaged
or of another shape begins again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halfpint.bundle import Bundle, file_sha256, write_json
from halfpint.data.token_store import TokenStore, write_tokens
from halfpint.errors import DamagedError
from halfpint.models.packed_gguf import GGUF_FILE, PACKED_FILE
from halfpint.progress import SILENT
from halfpint.tokenizers.load import open_tokenizer

Typed = Callable[..., tuple[int, str, str]]
FILES = (
    ("gguf", GGUF_FILE), ("packed", PACKED_FILE), ("ngram", "config.json"), ("ngram", "model.safetensors"),
    ("ngram", "vocabulary.txt"),
    ("language", "model.safetensors"), ("language", "tokenizer.json"),
)  # fmt: skip
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda content: content[: len(content) // 2], "empty": lambda _: b"", "zeros": lambda one: bytes(len(one)),
    "start": lambda content: content[:16] + bytes(len(content) - 16),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("kind", "name"), FILES)
def test_a_damaged_file_whose_hash_fits(
    kind: str, name: str, damage: str, bundles: Callable[[str], Bundle], tmp_path: Path, typed: Typed
) -> None:
    folder = Path(shutil.copytree(bundles(kind).path, tmp_path / "changed"))
    (folder / name).write_bytes(DAMAGES[damage]((folder / name).read_bytes()))
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    card["files"][name] = file_sha256(folder / name)
    write_json(folder / "card.json", card)
    code, said, errors = typed("generate", folder, "the parcel", "--max-tokens", "2")
    assert code == 2 and not said and errors.startswith("error: ") and str(folder) in errors, errors
    assert "a fault in halfpint itself" not in errors and len(errors) < 1000


def test_a_checkpoint_of_another_shape_is_damage(tmp_path: Path) -> None:
    """The pipeline begins such unfinished work again (tests/test_pipeline.py)."""
    torch = pytest.importorskip("torch")
    from halfpint.train import checkpoint

    def made(width: int) -> tuple[Any, Any]:
        model = torch.nn.Linear(4, width)
        optimiser = torch.optim.AdamW(model.parameters())
        model(torch.ones(1, 4)).sum().backward()
        optimiser.step()
        return model, optimiser

    checkpoint.save(tmp_path, *made(3), {"step": 7})
    assert checkpoint.load(tmp_path, *made(3)) == {"step": 7}
    with pytest.raises(DamagedError, match=r"weight: expected a tensor of shape \(5, 4\), got one of shape \(3, 4\)"):
        checkpoint.load(tmp_path, *made(5))


def test_a_token_store_that_was_cut_off_is_made_again(bundles: Callable[[str], Bundle], tmp_path: Path) -> None:
    tokenizer, texts = open_tokenizer(bundles("language").path), ["the first one", "and another"]
    store = write_tokens(texts, tokenizer, tmp_path / "store", "key", SILENT)
    whole = store.tokens.tolist()
    for name in ("tokens.bin", "documents.npy", "meta.json"):
        file = tmp_path / "store" / name
        file.write_bytes(file.read_bytes()[:-3])
        with pytest.raises(DamagedError, match=str(tmp_path / "store")):
            TokenStore(tmp_path / "store")
        assert write_tokens(texts, tokenizer, tmp_path / "store", "key", SILENT).tokens.tolist() == whole
