"""A float32 weight of which a processor with bfloat16 products multiplies in float32 only what may be large enough.

Wanted are the products x · w above a limit of their own, which few of thousands are. All are multiplied in bfloat16,
which is twice as fast, and left out where even what that may be off would not lift them above. How much that is is
bounded row by row, by norms. With b(·) for rounded to bfloat16, u = 2^-24 and |·| the Euclidean norm:

    x · w - b(x) · b(w)  <=  |x - b(x)| |w|  +  |b(x)| |w - b(w)|               (Cauchy-Schwarz)
    a sum of n products in float32, in any order, is off by  n u |x| |w|  at most (Higham, Accuracy and Stability, 3.1)

Bound and limit are further columns of the product itself, so that its sign alone says what is left out. What is not is
multiplied again in float32, each by itself and always in the same way: its bits depend on its row and column alone.

Shapes: R rows, D d_model, F d_sae, N products that may be above.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerscope.numerics.chosen_products import chosen_products, products_in_place
from layerscope.numerics.matrix_products import PackedLinear, can_pack

_U = 2.0**-24
_FEWEST = 1 << 22  # elements of a weight; with a smaller one there is little to win
_COLUMNS_AT_ONCE = 32  # of which a product in bfloat16 is made
_LEAST = 2.0**-40  # norm that is reckoned with: the squares of smaller numbers may be nothing in float32
_UP = 1 + 2.0**-7  # times a positive number, then rounded to bfloat16, is no less


@dataclass(frozen=True)
class ScreenedWeight:
    """A weight, and what says which of its products need not be taken."""

    weight: Tensor  # [F, D] float32
    _screen: PackedLinear  # [F, D and further columns] bfloat16

    @staticmethod
    def of(weight: Tensor, thresholds: Tensor, bias: Tensor) -> "ScreenedWeight | None":
        """None where it does not pay: another processor, or a small weight.

        Args:
            weight: [F, D] float32, contiguous.
            thresholds: [F] float32; products are wanted that are, with the bias [F] added in float32, above them.
        """
        if weight.numel() < _FEWEST or not _multiplies_bfloat16():
            return None
        limits = thresholds - bias - 2.0**-20 * (thresholds.abs() + bias.abs())  # what adding the bias may round away
        return ScreenedWeight(weight, PackedLinear(_with_limits(weight, limits)))

    def above(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Row and feature [N] int64, row by row, and product [N] float32: all above their limits, and some more.

        Args:
            rows: [R, D], float32 or bfloat16.
        """
        wide = rows.float()
        signs = self._screen(_with_norms(wide, rows.bfloat16(), self._screen_width))
        found = torch.from_numpy(np.flatnonzero((~(signs < 0)).numpy()))  # a NaN is never left out
        row, feature = found // len(self.weight), found % len(self.weight)
        return row, feature, chosen_products(self.weight, wide, feature, row)

    @property
    def _screen_width(self) -> int:
        return _padded(self.weight.shape[1])


def _with_limits(weight: Tensor, limits: Tensor) -> Tensor:
    """[F, D + 4, padded] bfloat16: the weight, its parts of the bound, and the limit with the sign of what it takes."""
    rounded = weight.bfloat16()
    norms = torch.linalg.vector_norm(weight, dim=1).clamp(min=_LEAST)
    off = torch.linalg.vector_norm(weight - rounded.float(), dim=1)
    sums = 6 * (weight.shape[1] + 8) * _U  # both sums' errors, and those of the norms
    limits = limits - limits.abs() * 2.0**-10  # what its own sum, and its being in two parts, may be off
    high = limits.bfloat16()
    further = [(norms * _UP * _UP).bfloat16(), ((off + sums * norms) * _UP * _UP).bfloat16()]
    further += [-high, -(limits - high.float()).bfloat16()]
    wide = torch.zeros(len(weight), _padded(weight.shape[1]), dtype=torch.bfloat16)
    wide[:, : weight.shape[1]] = rounded
    wide[:, weight.shape[1] : weight.shape[1] + 4] = torch.stack(further, dim=1)
    return wide


def _with_norms(wide: Tensor, rounded: Tensor, width: int) -> Tensor:
    """[R, width] bfloat16: rows, how far they are from what they were rounded to, how long they are, and 1 twice."""
    off = torch.linalg.vector_norm(wide - rounded.float(), dim=1)
    norms = torch.maximum(torch.linalg.vector_norm(wide, dim=1), torch.linalg.vector_norm(rounded.float(), dim=1))
    norms = norms.clamp(min=_LEAST)
    one = torch.ones_like(norms)
    padded = torch.zeros(len(wide), width, dtype=torch.bfloat16)
    padded[:, : wide.shape[1]] = rounded
    padded[:, wide.shape[1] : wide.shape[1] + 4] = torch.stack([off * _UP, norms * _UP, one, one], dim=1)
    return padded


def _padded(width: int) -> int:
    return -(-(width + 4) // _COLUMNS_AT_ONCE) * _COLUMNS_AT_ONCE


def _multiplies_bfloat16() -> bool:
    """Whether this processor does so itself (else it is several times slower than in float32), and all that is needed
    is there."""
    supported: Any = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return supported is not None and supported() and can_pack(torch.bfloat16) and products_in_place()
