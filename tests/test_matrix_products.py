"""The product that everything is made of: the same numbers whichever library takes it; mapped weights read early."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from layerscope import matrix_products
from layerscope.matrix_products import Linear, adopt, linear, read_in


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(1, 64, 100), (40, 64, 256), (0, 64, 100), (3, 1, 1)])
def test_it_is_rows_times_the_transposed_weight(
    dtype: torch.dtype, transposed: bool, shape: tuple[int, int, int]
) -> None:
    n_rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(n_rows, inner, generator=generator).to(dtype)
    weight = torch.randn(*((inner, columns) if transposed else (columns, inner)), generator=generator).to(dtype)
    weight = weight.T if transposed else weight
    got = linear(rows, weight)
    assert got.dtype == dtype
    assert got.shape == (n_rows, columns)
    exact = rows.double() @ weight.double().T
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    np.testing.assert_allclose(got.double().numpy(), exact.numpy(), rtol=tolerance, atol=20 * tolerance)


def test_without_the_fast_product_the_numbers_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an internal name of torch, which may go away."""
    rows, weight = torch.randn(7, 64), torch.randn(100, 64)
    fast = linear(rows, weight)
    monkeypatch.setattr(matrix_products, "_onednn_linear", None)
    torch.testing.assert_close(linear(rows, weight), fast, rtol=1e-5, atol=1e-4)


def test_layers_without_bias_are_adopted_and_no_others() -> None:
    plain, biased = torch.nn.Linear(8, 4, bias=False), torch.nn.Linear(4, 2)
    model = torch.nn.Sequential(plain, biased)
    rows = torch.randn(5, 8)
    before = model(rows)
    adopt(model)
    assert isinstance(plain, Linear)
    assert type(biased) is torch.nn.Linear
    torch.testing.assert_close(model(rows), before)


def test_a_mapped_weight_is_in_memory_once_it_is_read_in(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(4 << 20)}, tmp_path / "w.safetensors")
    weight = load_file(tmp_path / "w.safetensors")["weight"]
    before = _resident_file_kib()
    read_in(weight, torch.empty(0))
    assert _resident_file_kib() - before > (16 << 10) * 0.9


def _resident_file_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))
