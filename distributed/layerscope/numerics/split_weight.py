"""A float32 weight as three bfloat16 ones that add up to it, which a GPU multiplies four times as fast.

A float32 has 24 binary digits and a bfloat16 8, so three hold it exactly. The product of two bfloat16 numbers is exact
in float32. So rows in bfloat16 times the three parts, added up in float32, is the product in float32: no digit of a
factor is lost, as it would be in TF32, and only the order of the sum is another.

Shapes: R rows, D d_model, F d_sae.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SplitWeight:
    """A weight [D, F] in parts."""

    parts: Tensor  # [3 D, F] bfloat16; the three D rows each, the largest part first

    @staticmethod
    def of(weight: Tensor) -> "SplitWeight | None":
        """A float32 weight in parts; None if they would not add up to it (a number of 1e-35, or one that is not)."""
        parts = []
        rest = weight
        for _ in range(3):
            parts.append(rest.bfloat16())
            rest = rest - parts[-1].float()
        split = SplitWeight(torch.cat(parts))
        return split if torch.equal(split.whole(), weight) else None

    def whole(self) -> Tensor:
        """The weight in float32: [D, F]."""
        large, middle, small = self.parts.chunk(3)
        return large.float() + (middle.float() + small.float())

    def product(self, rows: Tensor) -> Tensor:
        """Rows [R, D] times the weight, in float32: [R, F]."""
        if rows.dtype != torch.bfloat16:
            return rows @ self.whole()
        return torch.mm(rows.repeat(1, 3), self.parts, out_dtype=torch.float32)
