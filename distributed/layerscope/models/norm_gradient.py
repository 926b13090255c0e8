"""Root mean square norms with a lean way back: what went in is kept in its own format, and nothing in float32.

With s = (mean(x²) + ε)^(-1/2), y = s x (1 + w), and g = ∂M/∂y (1 + w):  ∂M/∂x = s (g - s² x mean(g x)).

Shapes: T tokens, D the width of what is normed.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def lean_norms(model: nn.Module) -> Iterator[None]:
    """Has passes inside keep less of norms; what they give stays the same to the bit."""
    with ExitStack() as stack:
        for norm in norms(model):
            stack.callback(norm.register_forward_hook(_of_norm).remove)
        yield


def norms(model: nn.Module) -> list[nn.Module]:
    """The norms of a model, whose gains are 1 + weight."""
    return [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]


def scale_of(norm: Any, states: Tensor) -> Tensor:
    """s of states [..., D] in float32: [..., 1]."""
    return torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + norm.eps)


def _of_norm(norm: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    return _Norm.apply(inputs[0], output.detach(), norm)  # type: ignore[no-any-return,no-untyped-call]


class _Norm(torch.autograd.Function):
    """Gives `output`, what a norm made of its input."""

    @staticmethod
    def forward(context: Any, states: Tensor, output: Tensor, norm: Any) -> Tensor:
        context.save_for_backward(states)
        context.norm = norm
        return output.view_as(output)

    @staticmethod
    def backward(context: Any, by_output: Tensor) -> tuple[Tensor, None, None]:
        states, norm = context.saved_tensors[0].float(), context.norm
        by_normed = by_output.float() * (1.0 + norm.weight.float())
        scale = scale_of(norm, states)
        along = (by_normed * states).mean(-1, keepdim=True) * scale.pow(2)
        return ((by_normed - states * along) * scale).to(by_output.dtype), None, None
