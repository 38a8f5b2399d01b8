"""Linformer under the house's heads goes to ONNX, for texts of any length up to its fixed maximum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from halfpint.bundle import Bundle

torch = pytest.importorskip("torch", reason="exporting an encoder needs torch")
pytest.importorskip("onnxscript", reason="exporting an encoder needs onnxscript")

LONGEST = 24
LABELS = ("one", "two", "three")


@pytest.mark.parametrize(("head", "sharing"), [("pooled_classifier", "layerwise"), ("tagger", "none")])
def test_a_linformer_exports_with_dynamic_lengths(head: str, sharing: str, tmp_path: Path) -> None:
    from halfpint.engines._onnx import open_session
    from halfpint.export.onnx import _export_encoder
    from halfpint.models.heads import _load
    from halfpint.models.linformer import LinformerConfig

    module = _load(head, "here")
    config = LinformerConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=LONGEST, sharing=sharing,
    )  # fmt: skip
    torch.manual_seed(0)
    model = module.build(config.to_dict(), LABELS, LONGEST, 0.0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    model.save_pretrained(tmp_path / "trained")
    (tmp_path / "exported").mkdir()
    _export_encoder(Bundle(tmp_path / "trained"), tmp_path / "exported")
    session = open_session(tmp_path / "exported" / "model.onnx", 1)
    random = np.random.default_rng(0)
    for texts, tokens in ((1, 2), (3, 9), (2, LONGEST)):
        given = {name: np.ones((texts, tokens), dtype=np.int64) for name in module.INPUTS}
        given["input_ids"] = random.integers(0, 50, (texts, tokens))
        given["attention_mask"][-1, tokens // 2 :] = 0
        found = session.run(None, given)[0]
        with torch.no_grad():
            expected = model(**{name: torch.from_numpy(values) for name, values in given.items()}).logits.numpy()
        assert expected.std() > 0.01
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
