"""Chosen products are those of the matrices, each the same to the bit whatever else is taken beside it."""

import pytest
import torch

from layerscope.numerics import chosen_products as chosen
from layerscope.numerics.chosen_products import chosen_products, products_in_place

F, R, D, N = 60, 50, 77, 1000


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_product_is_its_own(in_place: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    if not in_place:
        monkeypatch.setattr(chosen, "products_in_place", lambda: False)
    elif not products_in_place():
        pytest.skip("torch has no such products on this processor")
    rng = torch.Generator().manual_seed(3)
    weight, rows = torch.randn(F, D, generator=rng), torch.randn(R, D, generator=rng).to(dtype)
    some = torch.randperm(F * R, generator=rng)[:N]
    feature, row = some // R, some % R
    found = chosen_products(weight, rows, feature, row)
    expected = (rows.double() @ weight.double().T)[row, feature]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    for part in (slice(0, 1), slice(17, 900, 3)):
        assert torch.equal(chosen_products(weight, rows, feature[part], row[part]), found[part])
    assert chosen_products(weight, rows, feature[:0], row[:0]).shape == (0,)
