"""The one product that everything here is made of, rows times the transpose of a weight, and its mapped weights."""

import platform
from typing import Any

import torch
from torch import Tensor, nn

# What torch.compile calls on x86 processors: oneDNN's product, where torch's own functions take MKL's for float32,
# which on AMD's does without AVX-512: 2.1 times as fast for many rows there and 2.8 for 40. An internal name of torch.
_onednn_linear: Any = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    else None
)

_PAGE = 4096


def linear(rows: Tensor, weight: Tensor) -> Tensor:
    """`rows @ weight.T` in the number format of both.

    Args:
        rows: [..., D]; weight: [F, D], transposed in memory or not.

    Returns:
        [..., F]
    """
    if rows.dtype == torch.float32 and rows.device.type == "cpu" and _onednn_linear is not None and rows.numel():
        product: Tensor = _onednn_linear(rows, weight, None, "none", [], "")
        return product
    return nn.functional.linear(rows, weight)


class Linear(nn.Linear):
    """A linear layer without bias that multiplies this way."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight)


def adopt(model: nn.Module) -> None:
    """Makes all linear layers without bias multiply this way."""
    for module in model.modules():
        if type(module) is nn.Linear and module.bias is None:
            module.__class__ = Linear


def read_in(*weights: Tensor) -> None:
    """Reads weights that are mapped from a file now, and not when they are first multiplied with."""
    for weight in weights:
        if weight.device.type == "cpu":
            weight.view(-1).view(torch.uint8)[::_PAGE].sum()
