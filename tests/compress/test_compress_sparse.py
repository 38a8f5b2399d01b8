"""Weights that are zero: which, by each paper's own words; what the others make up for; and a file without them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfpint.bundle import Bundle
from halfpint.compress._zeros import by_magnitude, by_sparsegpt, by_wanda
from halfpint.compress.depth import Depth
from halfpint.compress.sparse import Sparse
from halfpint.errors import HalfpintError
from halfpint.models.sparse_weights import SPARSE_FILE, open_sparse, read_sparse, write_sparse
from halfpint.stage import Work

torch = pytest.importorskip("torch", reason="pruning needs torch")

Make = Callable[..., Work]
Get = Callable[[str], Bundle]


def seen(features: int = 40) -> tuple[Any, Any, Any]:
    """A matrix, inputs of unlike size that depend on each other, and the sums of their products."""
    torch.manual_seed(0)
    inputs = (torch.randn(500, features) @ torch.randn(features, features)) * torch.rand(features)
    return torch.randn(24, features), inputs, (inputs.T @ inputs).double()


def error(matrix: Any, other: Any, inputs: Any) -> float:
    return float((inputs @ (matrix - other).T).square().sum())


def test_wanda_zeroes_what_its_formula_says() -> None:
    matrix, inputs, products = seen()
    scores = matrix.abs() * inputs.norm(dim=0)
    found = by_wanda(matrix, products, 0.5, None)
    for row in range(24):
        gone = set(scores[row].argsort()[:20].tolist())
        assert set((found[row] == 0).nonzero()[:, 0].tolist()) == gone
        assert torch.equal(found[row][found[row] != 0], matrix[row][found[row] != 0])


def test_magnitude_zeroes_the_smallest_of_the_layer() -> None:
    matrix, _, _ = seen()
    found = by_magnitude(matrix, 0.3, None)
    assert int((found == 0).sum()) == round(0.3 * matrix.numel())
    assert float(matrix[found == 0].abs().max()) < float(matrix[found != 0].abs().min())


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize(("kept", "of"), [(2, 4), (4, 8)])
def test_patterns_hold_in_every_group(method: str, kept: int, of: int) -> None:
    matrix, _, products = seen()
    found = {
        "magnitude": lambda: by_magnitude(matrix, 0.5, (kept, of)),
        "wanda": lambda: by_wanda(matrix, products, 0.5, (kept, of)),
        "sparsegpt": lambda: by_sparsegpt(matrix, products, 0.5, (kept, of), 0.01),
    }[method]()
    assert ((found != 0).reshape(24, -1, of).sum(-1) == kept).all()


@pytest.mark.parametrize("pattern", [None, (2, 4)])
@pytest.mark.parametrize("features", [40, 200])
def test_sparsegpt_is_better_than_wanda_and_wanda_than_magnitude(pattern: Any, features: int) -> None:
    matrix, inputs, products = seen(features)
    found = [
        by_sparsegpt(matrix, products, 0.5, pattern, 0.01),
        by_wanda(matrix, products, 0.5, pattern),
        by_magnitude(matrix, 0.5, pattern),
    ]
    errors = [error(matrix, one, inputs) for one in found]
    assert errors[0] < 0.9 * errors[1] and errors[1] < errors[2]


def test_sparsegpt_leaves_what_one_column_leaves_to_least_squares() -> None:
    """The first columns zero: those behind are what a least-squares fit of them gives."""
    matrix, inputs, products = seen(6)
    matrix[:, 0] *= 1e-6  # what every row gives up of six, first of all
    found = by_sparsegpt(matrix, products, 1 / 6, None, 1e-9)
    assert (found[:, 0] == 0).all() and (found[:, 1:] != 0).all()
    best = torch.linalg.lstsq(inputs[:, 1:].double(), inputs.double() @ matrix.double().T).solution.T
    torch.testing.assert_close(found[:, 1:].double(), best, atol=1e-4, rtol=1e-3)


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    share=st.floats(0, 1),
    dtype=st.sampled_from(["f4", "f2", "bf16"]),
)
def test_the_file_gives_back_what_it_was_given(
    rows: int, columns: int, share: float, dtype: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    generator = np.random.default_rng(rows * 10 + columns)
    values = generator.normal(size=(rows, columns)) * (generator.random((rows, columns)) >= share)
    kind = {"f4": torch.float32, "f2": torch.float16, "bf16": torch.bfloat16}[dtype]
    weights = {"a.weight": torch.tensor(values).to(kind), "b": torch.arange(3), "c.weight": torch.zeros(2, 2)}
    path = tmp_path_factory.mktemp("sparse") / SPARSE_FILE
    write_sparse(path, weights, ["a.weight", "c.weight"])
    found = read_sparse(path)
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


def test_a_file_that_lacks_a_value_is_told(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = tmp_path / SPARSE_FILE
    write_sparse(path, {"a": torch.eye(4)}, ["a"])
    with safe_open(path, framework="pt") as held:
        metadata = held.metadata()
    tensors = load_file(path)
    tensors["a.values"] = tensors["a.values"][:-1]
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(HalfpintError, match="expected 4 values of a, got 3"):
        read_sparse(path)


@pytest.mark.parametrize("name", ["language", "classifier"])
def test_bytes_are_saved_and_the_model_is_the_one_that_was_made(
    name: str, bundles: Get, work: Make, text_work: Make, few: list[Any], tmp_path: Path
) -> None:
    import transformers

    from halfpint.models import pooled_classifier  # noqa: F401 - registers the architecture

    parent = bundles(name)
    stage = Sparse(share=0.6, samples=0 if name == "classifier" else 16, tokens=32)
    target = tmp_path / "made"
    made = stage.run(parent, work(target, train=few) if name == "classifier" else text_work(target))
    entry = made.card["stages"][-1]
    assert entry["zero_share"] == pytest.approx(0.6, abs=0.01)
    sizes = [(parent.path / "model.safetensors").stat().st_size, (made.path / SPARSE_FILE).stat().st_size]
    assert sizes == [entry["bytes_before"], entry["bytes_after"]] and sizes[1] < sizes[0]
    assert not (made.path / "model.safetensors").exists()
    kind = getattr(transformers, "AutoModelForCausalLM" if name == "language" else "AutoModelForSequenceClassification")
    before, after = kind.from_pretrained(parent.path).eval(), open_sparse(made.path, kind)
    ids = torch.arange(40).reshape(2, 20) + 5
    with torch.inference_mode():
        answers = [model(input_ids=ids).logits for model in (before, after)]
    assert 0 < float((answers[0] - answers[1]).norm() / answers[0].norm()) < 2
    matrices = {key: tensor for key, tensor in after.state_dict().items() if tensor.ndim == 2}
    zeros = {key for key, tensor in matrices.items() if (tensor == 0).float().mean() > 0.3}
    linears = [key for key, module in before.named_modules() if isinstance(module, torch.nn.Linear)]
    assert zeros == {f"{key}.weight" for key in linears if "layer" in key}
    for key, tensor in after.state_dict().items():
        if key not in zeros:
            assert torch.equal(tensor, before.state_dict()[key])
    with pytest.raises(HalfpintError, match="one with sparse weights"):
        Depth(keep=1, measure="even").run(made, text_work(tmp_path / "again"))


def test_sparsegpt_harms_the_model_least(bundles: Get, text_work: Make, tmp_path: Path) -> None:
    errors = {}
    for method in ("sparsegpt", "magnitude"):
        stage = Sparse(method=method, samples=32, tokens=32)
        entry = stage.run(bundles("language"), text_work(tmp_path / method)).card["stages"][-1]
        errors[method] = [block["error"] for block in entry["blocks"]]
        assert (method == "magnitude") != ("layers" in entry["blocks"][0])
    assert errors["sparsegpt"][0] < errors["magnitude"][0]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"share": 1.0}, "share must be a share above 0 and below 1"),
        ({"method": "sparsgpt"}, "Did you mean 'sparsegpt'"),
        ({"pattern": "2:5"}, "pattern must be"),
        ({"damping": 0.0}, "damping must be a number above 0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(HalfpintError, match=told):
        Sparse(**settings)


def test_a_share_that_saves_nothing_is_refused(bundles: Get, text_work: Make, tmp_path: Path) -> None:
    with pytest.raises(HalfpintError, match=r"share must be more than 0.03125, for weights of 32 bits, not 0.03"):
        Sparse(share=0.03).run(bundles("language"), text_work(tmp_path / "made"))
    assert not list(tmp_path.iterdir())
