"""The one product that everything here is made of, rows times the transpose of a weight, and how weights lie for it."""

import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.numerics.memory import drop_pages

# What torch.compile calls on x86 processors: oneDNN's product, where torch's own functions take MKL's for float32,
# which on AMD's does without AVX-512: 2.1 times as fast for many rows there and 2.8 for 40. Internal names of torch.
_has_onednn = platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()
_onednn_linear: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if _has_onednn else None
_onednn_pack: Any = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None) if _onednn_linear is not None else None

_USUAL_ROWS = 1024  # for which weights are packed; others are multiplied as fast and to the same bits
_ROWS_AT_ONCE = 4096  # of a weight that is converted
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


def product(rows: Tensor, weight: Tensor) -> Tensor:
    """`rows @ weight` in the number format of both: what leads back through `linear`.

    Args:
        rows: [..., F]; weight: [F, D].

    Returns:
        [..., D]
    """
    return linear(rows, weight.T) if rows.dtype == torch.bfloat16 else rows @ weight


def product_in_float32(rows: Tensor, weight: Tensor) -> Tensor:
    """`rows @ weight.T` on a GPU, in float32 whatever the format of both.

    Args:
        rows: [R, D]; weight: [F, D].

    Returns:
        [R, F] float32
    """
    if rows.dtype == torch.float32:
        return rows @ weight.T
    return torch.mm(rows, weight.T, out_dtype=torch.float32)


class PackedLinear(nn.Module):
    """A linear layer without bias whose weight lies as oneDNN multiplies with it, 5 % faster, and nowhere else."""

    gelu_backward: Callable[[Tensor, Tensor], Tensor]
    """From the gradient by what `then_gelu` gives, and the product before, to the gradient by that product."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self._weight = _onednn_pack(weight.contiguous(), _USUAL_ROWS)
        self.gives_gelu = False
        self.gelu_backward = _gelu_backward

    def then_gelu(self) -> None:
        """From now on gives GELU of the product, by its tanh formula, taken before it is rounded to its format."""
        self.gives_gelu = True

    def forward(self, rows: Tensor) -> Tensor:
        """[..., D] to [..., F]."""
        if torch.is_grad_enabled() and rows.requires_grad:
            return _Packed.apply(rows, self)  # type: ignore[no-any-return,no-untyped-call]
        return self.product(rows, self.gives_gelu)

    def product(self, rows: Tensor, gelu: bool) -> Tensor:
        """[..., D] to [..., F], with GELU of it or without; autograd does not see it."""
        kind, algorithm = ("gelu", "tanh") if gelu else ("none", "")
        result: Tensor = _onednn_linear(rows, self._weight, None, kind, [], algorithm)
        return result

    def plain_weight(self) -> Tensor:
        """A copy of the weight as it is usually written, [F, D]: the one other way to lie that a way back needs."""
        plain: Tensor = self._weight.to_dense()
        return plain


class _Packed(torch.autograd.Function):
    """A packed product with a way back, for which nothing is kept but, under a GELU, what was multiplied."""

    @staticmethod
    def forward(context: Any, rows: Tensor, packed: PackedLinear) -> Tensor:
        context.packed, context.gelu_backward = packed, packed.gelu_backward
        if packed.gives_gelu:
            context.save_for_backward(rows)
        return packed.product(rows, packed.gives_gelu)

    @staticmethod
    def backward(context: Any, by_output: Tensor) -> tuple[Tensor, None]:
        packed: PackedLinear = context.packed
        if packed.gives_gelu:
            by_output = context.gelu_backward(by_output, packed.product(context.saved_tensors[0], gelu=False))
        return product(by_output, packed.plain_weight()), None


def _gelu_backward(by_output: Tensor, before: Tensor) -> Tensor:
    by_product: Tensor = torch.ops.aten.gelu_backward(by_output, before, approximate="tanh")
    return by_product


def pack(model: nn.Module, dtype: torch.dtype) -> None:
    """Packs all linear layers without bias in a number format, where oneDNN multiplies; elsewhere nothing happens.

    One after the other, and each plain weight is let go of before the next: never are there two copies of the model.
    """
    if not can_pack(dtype):
        return
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and layer.bias is None and layer.weight.device.type == "cpu":
                plain = converted(layer.weight.detach(), dtype)
                setattr(parent, name, PackedLinear(plain))
                let_go(plain)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN packs weights of a format on this processor: bfloat16 needs AVX-512 or its like."""
    if _onednn_pack is None:
        return False
    try:
        _onednn_pack(torch.zeros(1, 1, dtype=dtype), _USUAL_ROWS)
    except RuntimeError:
        return False
    return True


def converted(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in a number format; one in another format, which nobody may read again, is let go of piece by piece."""
    if weight.dtype == dtype:
        return weight
    result = torch.empty_like(weight, dtype=dtype)
    for part, source in zip(torch.split(result, _ROWS_AT_ONCE), torch.split(weight, _ROWS_AT_ONCE), strict=True):
        part.copy_(source)
        let_go(source)
    return result


def let_go(weight: Tensor) -> None:
    """Takes the pages of a weight that nobody will read again out of this process's memory, mapped or not."""
    if weight.device.type == "cpu":
        drop_pages(weight.data_ptr(), weight.nbytes)


def read_in(*weights: Tensor) -> None:
    """Reads weights that are mapped from a file now, and not when they are first multiplied with."""
    for weight in weights:
        if weight.device.type == "cpu":
            weight.view(-1).view(torch.uint8)[::_PAGE].sum()
