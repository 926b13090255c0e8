"""RelP (arXiv:2508.21258): relevance in place of the gradient, by other rules on the way back alone.

Its authors' rules for a transformer with gated MLPs: a norm's denominator counts as a constant; so does act(g) / g of
an activation; and of a product of two the gradient of each is halved. Attention is left as it is.

Shapes: T tokens, D the width of what is normed, I that of the MLP.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.models.norm_gradient import norms, scale_of
from layerscope.numerics.matrix_products import PackedLinear


@contextmanager
def relevance_rules(model: nn.Module) -> Iterator[None]:
    """Has the ways back of passes inside follow the rules; what the passes give stays the same to the bit."""
    with ExitStack() as stack:
        for norm in norms(model):
            stack.callback(norm.register_forward_hook(_of_norm).remove)
        for module in model.modules():
            if isinstance(getattr(module, "down_proj", None), nn.Module):
                stack.enter_context(_of_gated(module))
        yield


def _of_norm(norm: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """A norm's output, as if it were its input times constants."""
    scale = scale_of(norm, inputs[0].detach().float())
    return _Scaled.apply(inputs[0], output.detach(), scale, 1.0 + norm.weight.float())  # type: ignore[no-any-return,no-untyped-call]


@contextmanager
def _of_gated(mlp: Any) -> Iterator[None]:
    """Those of a gated MLP, whose activation may be taken together with the product before it."""
    handles = [mlp.down_proj.register_forward_pre_hook(_halved)]
    packed = mlp.gate_proj if isinstance(mlp.gate_proj, PackedLinear) and mlp.gate_proj.gives_gelu else None
    if packed is None:
        handles.append(mlp.act_fn.register_forward_hook(_of_activation))
    else:
        packed.gelu_backward, before = _relevance_of_gelu, packed.gelu_backward
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        if packed is not None:
            packed.gelu_backward = before


def _halved(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (_Halved.apply(inputs[0]),)  # type: ignore[no-untyped-call]


def _of_activation(_module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """An activation's output, as if it were its input times a constant."""
    ratio = _ratio(output.detach(), inputs[0].detach())
    return _Scaled.apply(inputs[0], output.detach(), ratio, torch.ones((), device=ratio.device))  # type: ignore[no-any-return,no-untyped-call]


def _relevance_of_gelu(by_output: Tensor, before: Tensor) -> Tensor:
    """In place of GELU's gradient, where it was taken together with the product before it."""
    return by_output * _ratio(nn.functional.gelu(before, approximate="tanh"), before)


def _ratio(output: Tensor, before: Tensor) -> Tensor:
    """act(g) / g; at 0, where an activation is about its slope times g, that of GELU and SiLU."""
    return torch.where(before == 0, torch.full_like(before, 0.5), output / before)


class _Scaled(torch.autograd.Function):
    """Gives `output`, and on the way back takes it for input * scale * gain."""

    @staticmethod
    def forward(context: Any, _states: Tensor, output: Tensor, scale: Tensor, gain: Tensor) -> Tensor:
        context.save_for_backward(scale, gain)
        return output.view_as(output)

    @staticmethod
    def backward(context: Any, by_output: Tensor) -> tuple[Tensor, None, None, None]:
        scale, gain = context.saved_tensors
        return (by_output.float() * gain * scale).to(by_output.dtype), None, None, None


class _Halved(torch.autograd.Function):
    """The product of gate and values, of whose two sides each gets half of what comes back."""

    @staticmethod
    def forward(_context: Any, product: Tensor) -> Tensor:
        return product.view_as(product)

    @staticmethod
    def backward(_context: Any, by_output: Tensor) -> Tensor:
        return by_output / 2
