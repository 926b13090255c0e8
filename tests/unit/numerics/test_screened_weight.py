"""What is left out by bfloat16 products could not have been wanted; what is not, is multiplied in one fixed way."""

import numpy as np
import pytest
import torch
from torch import Tensor

from layerscope.numerics import screened_weight
from layerscope.numerics.chosen_products import chosen_products
from layerscope.numerics.screened_weight import ScreenedWeight
from layerscope.saes.encoder import SaeEncoder, active, encode_top_k

D, F, R = 96, 1024, 40

pytestmark = pytest.mark.skipif(
    not screened_weight._multiplies_bfloat16(), reason="this processor has no products in bfloat16"
)


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screened_weight, "_FEWEST", 1)


def numbers(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def an_encoder(weight: Tensor, bias: Tensor, threshold: Tensor) -> tuple[SaeEncoder, SaeEncoder]:
    """Screened and plain."""
    screened = ScreenedWeight.of(weight, threshold.clamp(min=0), bias)
    assert screened is not None
    return SaeEncoder(screened, bias, threshold), SaeEncoder(weight.T, bias, threshold)


ROWS = {
    "bfloat16": numbers(R, D, seed=1).bfloat16(),
    "float32": numbers(R, D, seed=2),
    "of all sizes": numbers(R, D, seed=3) * 10.0 ** torch.arange(-6, 34)[:, None],
    "one number large": numbers(R, D, seed=4) + 1e4 * torch.eye(R, D),
    "nothing": torch.zeros(R, D),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("threshold", [-1.0, 0.0, 2.5])
def test_all_that_fires_is_there_and_nothing_else(name: str, threshold: float) -> None:
    rows = ROWS[name]
    bias = 0.1 * numbers(F, seed=5)
    sae, _ = an_encoder(numbers(F, D, seed=6) * D**-0.5, bias, torch.full((F,), threshold))
    row, feature, activation = active(rows, sae)
    found = torch.zeros(R, F).index_put_((row, feature), activation)
    assert torch.equal(torch.stack([row, feature]), torch.nonzero(found).T), "row by row"
    # The products that a processor leaves out, taken as those that it does not are.
    weight = sae.w_enc.weight  # type: ignore[union-attr]
    every = torch.arange(F).repeat_interleave(R), torch.arange(R).repeat(F)
    whole = chosen_products(weight, rows, *every).view(F, R).T + bias
    assert torch.equal(found, torch.where(whole > max(threshold, 0), whole, 0.0))
    exact = rows.double() @ weight.double().T
    rounding = D * 2.0**-24 * rows.double().norm(dim=1, keepdim=True) * weight.double().norm(dim=1)
    assert ((whole.double() - bias - exact).abs() <= rounding + 2e-7 * whole.abs() + 1e-7).all()


def test_numbers_a_hair_from_their_limit_are_not_lost() -> None:
    """The worst that bfloat16 can do: every number of a weight is rounded down as far as it can be."""
    weight = torch.full((F, D), 1 + 2.0**-8 - 2.0**-20)
    rows = torch.full((2, D), 1 + 2.0**-8 - 2.0**-20)
    rows[1] *= 64
    plain = chosen_products(weight, rows, torch.arange(F).repeat_interleave(2), torch.arange(2).repeat(F))
    least = plain.view(F, 2)[:, 0]
    screened = ScreenedWeight.of(weight, torch.nextafter(least, torch.tensor(0.0)), torch.zeros(F))
    assert screened is not None
    row, _, product = screened.above(rows[:1])
    assert len(row) == F
    assert torch.equal(product, least)


def test_numbers_whose_squares_are_nothing_are_not_lost() -> None:
    sae, plain = an_encoder(numbers(F, D, seed=6) * D**-0.5, torch.zeros(F), torch.zeros(F))
    rows = 1e-25 * ROWS["float32"]
    fires = [set(zip(*(part.tolist() for part in active(rows, each)[:2]), strict=True)) for each in (sae, plain)]
    off = rows.double() @ plain.w_enc.double()  # type: ignore[union-attr]
    assert all(abs(float(off[place])) < 1e-30 for place in fires[0] ^ fires[1])
    assert len(fires[0]) > R * F / 3


def test_a_product_does_not_depend_on_what_else_is_multiplied() -> None:
    weight, bias = numbers(F, D, seed=7) * D**-0.5, torch.zeros(F)
    few, _ = an_encoder(weight, bias, torch.full((F,), 2.5))
    many, _ = an_encoder(weight, bias, torch.zeros(F))
    rows = ROWS["float32"]
    large, of_many = (
        {
            (row, feature): value
            for row, feature, value in zip(*(part.tolist() for part in active(rows, sae)), strict=True)
        }
        for sae in (few, many)
    )
    assert 0 < len(large) < len(of_many) / 10
    assert all(of_many[place] == value for place, value in large.items())
    alone = [active(rows[number : number + 1], few)[2] for number in range(R)]
    assert torch.equal(torch.cat(alone), active(rows, few)[2])
    torch.set_num_threads(1)
    one_thread = active(rows, few)[2]
    torch.set_num_threads(2)
    assert torch.equal(active(rows, few)[2], one_thread)


def test_lists_are_those_of_the_plain_product() -> None:
    sae, plain = an_encoder(numbers(F, D, seed=8) * D**-0.5, 0.1 * numbers(F, seed=9), torch.full((F,), 1.5))
    for rows in (ROWS["bfloat16"], ROWS["float32"]):
        mine, theirs = (encode_top_k(rows, each, 20) for each in (sae, plain))
        np.testing.assert_array_equal(mine.feature_ids, theirs.feature_ids)
        np.testing.assert_array_equal(mine.active_counts, theirs.active_counts)
        np.testing.assert_allclose(mine.activations, theirs.activations, rtol=1e-5)


def test_a_number_that_is_none_is_not_left_out() -> None:
    sae, plain = an_encoder(numbers(F, D, seed=8), torch.zeros(F), torch.ones(F))
    rows = ROWS["float32"].clone()
    rows[3, 5], rows[4, 6] = float("nan"), float("inf")
    mine, theirs = (encode_top_k(rows, each, None) for each in (sae, plain))
    assert mine.active_counts[3] == theirs.active_counts[3] == F
    assert mine.active_counts[4] == theirs.active_counts[4]


def test_small_weights_are_multiplied_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert ScreenedWeight.of(torch.ones(4, 8), torch.ones(4), torch.ones(4)) is None
