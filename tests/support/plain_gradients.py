"""Gradients as anybody would take them: transformers' own model and autograd, one solution at a time."""

from typing import Any

import torch
from torch import Tensor

from layerscope.models.family import SitePoint
from layerscope.questions.pairs import Pair

RESIDUAL = SitePoint("", "output", lambda sizes: sizes["hidden_size"])


def whole(pair: Pair, solution: int) -> list[int]:
    """The tokens of a solution's text."""
    return [pair.tokens[pair.row_index(solution, position)] for position in range(pair.lengths[solution])]


def gradient_alone(plain: Any, pair: Pair, solution: int, point: SitePoint = RESIDUAL) -> tuple[Tensor, Tensor]:
    """What every layer has at a site for every token of a text, and the gradient of its log-likelihood by it.

    Returns:
        [L, T, D] twice.
    """
    states = list[Tensor]()

    def keep(tensor: Tensor) -> Tensor:
        states.append(tensor if states else tensor.detach().requires_grad_())
        return states[-1]

    hooks = []
    for layer in plain.model.layers:
        module = layer.get_submodule(point.module)
        hooks.append(
            module.register_forward_pre_hook(lambda _m, inputs: (keep(inputs[0]), *inputs[1:]))
            if point.side == "input"
            else module.register_forward_hook(lambda _m, _i, output: keep(output))
        )
    tokens = whole(pair, solution)
    log_probs = plain(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].log_softmax(dim=-1)
    for hook in hooks:
        hook.remove()
    score = sum(log_probs[at - 1, tokens[at]] for at in range(pair.prompt, len(tokens)))
    return torch.stack(states)[:, 0].detach(), torch.stack(torch.autograd.grad(score, states))[:, 0]
