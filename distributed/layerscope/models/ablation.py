"""The margin once more, with something of the residual stream changed: the layers above are run again, and no others.

The residual stream after the layers of interest is kept from one pass over a batch of pairs. A change is made to some
tokens of one pair's row; many changes after the same layer, of whichever pairs, are rows of one batch.

Shapes: B pairs, T tokens of a batch, D d_model.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from layerscope.models.language_model import LanguageModel, PairScore, pair_scores, target_log_probs
from layerscope.models.pair_attention import PairLayout, lay_out
from layerscope.questions.pairs import Pair


class KeptPass(NamedTuple):
    """A pass over a batch of pairs, and what is needed to run it again from chosen layers on."""

    pairs: Sequence[Pair]  # B
    scores: list[PairScore]  # B
    starts: list[int]  # [B + 1] into T; where each pair's row begins
    states: Mapping[int, Tensor]  # by layer [T, D], the residual stream after it, as the model has it


class Change(NamedTuple):
    """What is added to the residual stream of a pair's row."""

    pair: int
    """Which of the pass."""
    tokens: Tensor  # [n] int64, of its row
    delta: Tensor  # [n, D] float32


@torch.inference_mode()
def keep_pass(model: LanguageModel, pairs: Sequence[Pair], layers: Sequence[int]) -> KeptPass:
    """Scores the solutions of every pair, and keeps the residual stream of all tokens after some layers."""
    layout = lay_out(pairs, model.transfers, [range(len(pair.tokens)) for pair in pairs], share=False)
    with model.turn:
        hidden, states = model.through_modules(layout, layers, layout.read_tokens)
        finite = torch.isfinite(states).all(dim=-1)  # [L, T]
        scores = _scores(model, layout, hidden, finite, layers)
    starts = list(accumulate((len(pair.tokens) for pair in pairs), initial=0))
    return KeptPass(pairs, scores, starts, dict(zip(layers, states, strict=True)))


@torch.inference_mode()
def run_again(model: LanguageModel, kept: KeptPass, layer: int, changes: Sequence[Change]) -> list[PairScore]:
    """The score of every change's pair, with the change made to the residual stream after a layer."""
    layout = lay_out([kept.pairs[change.pair] for change in changes], model.transfers, share=False)
    of_layer = kept.states[layer]
    rows = [of_layer[kept.starts[change.pair] : kept.starts[change.pair + 1]] for change in changes]
    states = torch.cat(rows)  # a copy
    first = 0
    for change, row in zip(changes, rows, strict=True):
        at = first + change.tokens
        states[at] = (states[at].float() + change.delta).to(states.dtype)
        first += len(row)
    with model.turn, _given(model.model.model.layers, layer, states[None]):
        hidden, read = model.through_modules(layout, [layer], layout.read_tokens)
        return _scores(model, layout, hidden, torch.isfinite(read).all(dim=-1), [layer])


def _scores(
    model: LanguageModel, layout: PairLayout, hidden: Tensor, finite: Tensor, layers: Sequence[int]
) -> list[PairScore]:
    log_probs = target_log_probs(hidden, model.model.lm_head.weight, layout, model.softcap)
    log_probs, finite = (part.cpu() for part in (log_probs, finite))
    return pair_scores(log_probs.numpy(), layout, finite.numpy(), layers)


@contextmanager
def _given(decoder_layers: nn.ModuleList, layer: int, states: Tensor) -> Iterator[None]:
    """Has a layer give these states [1, T, D], whatever it gets, and those below it compute nothing."""

    def passing(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states

    def giving(*_: Any, **__: Any) -> Tensor:
        return states

    below = decoder_layers[: layer + 1]
    for number, module in enumerate(below):
        module.forward = giving if number == layer else passing
    try:
        yield
    finally:
        for module in below:
            del module.forward  # its class has it yet
