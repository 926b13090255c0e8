"""The product that everything is made of: the same numbers whichever library takes it; mapped weights read early."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from layerscope.numerics import matrix_products
from layerscope.numerics.matrix_products import PackedLinear, can_pack, converted, let_go, linear, pack, read_in


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("inner", "columns"), [(8, 4), (64, 64), (128, 1000), (2304, 256)])
def test_packed_layers_multiply_as_before(dtype: torch.dtype, inner: int, columns: int) -> None:
    """Their plain weights, which lie in this process's own memory here, are gone."""
    if not can_pack(dtype):
        pytest.skip("oneDNN packs no weights of this format on this processor")
    plain, biased = nn.Linear(inner, columns, bias=False), nn.Linear(columns, 2)
    model = nn.Sequential(nn.Sequential(plain), biased).to(dtype)
    weight, rows = plain.weight.detach().clone(), torch.randn(5, 1, inner).to(dtype)
    pack(model, dtype)
    packed = model[0][0]
    assert isinstance(packed, PackedLinear)
    assert type(model[1]) is nn.Linear
    assert list(packed.parameters()) == []
    with torch.inference_mode():
        got = packed(rows)
    assert got.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(got, rows @ weight.T, rtol=tolerance, atol=tolerance)


def test_without_packing_the_layers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_products, "_onednn_pack", None)
    model = nn.Sequential(nn.Linear(8, 4, bias=False))
    before = model[0].weight.detach().clone()
    pack(model, torch.float32)
    assert torch.equal(model[0].weight, before)


def test_gelu_of_a_product_is_that_of_the_tanh_formula() -> None:
    plain, rows = nn.Linear(64, 300, bias=False), 4 * torch.randn(50, 64)
    expected = nn.functional.gelu(plain(rows), approximate="tanh").detach()
    layer = PackedLinear(plain.weight.detach())
    layer.then_gelu()
    torch.testing.assert_close(layer(rows), expected, rtol=1e-5, atol=1e-5)


def test_dropped_pages_take_nothing_from_their_neighbours() -> None:
    memory = torch.ones(1 << 20, dtype=torch.uint8)
    let_go(memory[1000:900_000])
    assert bool(memory[:1000].all())
    assert bool(memory[900_000:].all())
    assert int(memory.sum()) < 200_000, "whole pages within are gone"


def test_a_mapped_weight_is_in_memory_once_it_is_read_in(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(4 << 20)}, tmp_path / "w.safetensors")
    weight = load_file(tmp_path / "w.safetensors")["weight"]
    before = _resident_file_kib()
    read_in(weight, torch.empty(0))
    assert _resident_file_kib() - before > (16 << 10) * 0.9
    let_go(weight)
    assert _resident_file_kib() - before < (16 << 10) * 0.1
    assert bool((weight == 1).all()), "what is mapped is read from the file again"


@pytest.mark.parametrize("shape", [(9_000, 200), (1_800_000,)])
def test_a_weight_is_converted_whole_and_its_source_is_let_go_of(tmp_path: Path, shape: tuple[int, ...]) -> None:
    source = torch.randn(shape)
    save_file({"weight": source}, tmp_path / "w.safetensors")
    before = _resident_file_kib()
    got = converted(load_file(tmp_path / "w.safetensors")["weight"], torch.bfloat16)
    assert torch.equal(got, source.to(torch.bfloat16))
    assert _resident_file_kib() - before < source.nbytes / 1024 * 0.1


def test_a_weight_of_the_right_format_is_not_copied() -> None:
    weight = torch.ones(8, 8)
    assert converted(weight, torch.float32) is weight
    assert bool(weight.all())


def _resident_file_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))
