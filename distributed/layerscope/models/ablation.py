"""The margin once more, with something of the residual stream changed: what can be another then is run again, no more.

Of one pass over a batch of pairs the residual stream after the layers of interest is kept, and of the layers above the
lowest of them the keys and values. A change is made to some tokens of one pair's row. After it only those tokens are
run that see one of these, through the layers above; what they see of other tokens, the prompt above all, was kept. Many
changes after the same layer, of whichever pairs, are rows of one batch.

Shapes: B pairs, T tokens of a batch, N solution tokens, D d_model; of what is run again R rows, t tokens, Q of them in
a row at most, W tokens of the widest whole row.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from layerscope.models.kept_attention import AGAIN, KEEPING, Again, AgainMask, Keeping, KeysAndValues
from layerscope.models.language_model import (
    RESIDUAL,
    LanguageModel,
    PairScore,
    log_sum_exp,
    logits_at,
    pair_scores,
    target_log_probs,
)
from layerscope.models.pair_attention import PairLayout, attention_by, lay_out, pair_masks
from layerscope.models.sites import capture_rows
from layerscope.questions.pairs import Pair


class KeptPass(NamedTuple):
    """A pass over a batch of pairs, and what is needed to run it again from chosen layers on."""

    pairs: Sequence[Pair]  # B
    scores: list[PairScore]  # B
    starts: list[int]  # [B + 1] into T; where each pair's row begins
    states: Mapping[int, Tensor]  # by layer [T, D], the residual stream after it, as the model has it
    seen: Mapping[int, KeysAndValues]  # by layer above the lowest of these
    log_probs: NDArray[np.float32]  # [N] of the solution tokens, solution by solution

    def joined(self, other: "KeptPass") -> "KeptPass":
        """With the pairs of a pass from the same layers on behind its own."""
        return KeptPass(
            [*self.pairs, *other.pairs],
            [*self.scores, *other.scores],
            [*self.starts, *(self.starts[-1] + start for start in other.starts[1:])],
            {layer: torch.cat([states, other.states[layer]]) for layer, states in self.states.items()},
            {
                layer: (torch.cat([keys, other.seen[layer][0]]), torch.cat([values, other.seen[layer][1]]))
                for layer, (keys, values) in self.seen.items()
            },
            np.concatenate([self.log_probs, other.log_probs]),
        )


class Change(NamedTuple):
    """What is added to the residual stream of a pair's row."""

    pair: int
    """Which of the pass."""
    tokens: Tensor  # [n] int64, of its row, ascending
    delta: Tensor  # [n, D] float32


@torch.inference_mode()
def keep_pass(model: LanguageModel, pairs: Sequence[Pair], layers: Sequence[int]) -> KeptPass:
    """Scores the solutions of every pair, and keeps the residual stream of all tokens after some layers."""
    layout = lay_out(pairs, model.transfers, [range(len(pair.tokens)) for pair in pairs], share=False)
    config, body = model.model.config, model.model.model
    seen = dict[int, KeysAndValues]()
    masks = pair_masks(layout, config.sliding_window)
    keeping = {name: Keeping(mask, seen, min(layers)) for name, mask in masks.items()}
    with model.turn, ExitStack() as stack:
        stack.enter_context(attention_by(config, KEEPING))
        point = model.family.site(*RESIDUAL)
        states = stack.enter_context(capture_rows(body.layers, layers, point, layout.read_tokens))
        hidden = _through(body, layout.tokens, layout.positions, keeping)
        finite = torch.stack([torch.isfinite(states[layer]).all(dim=-1) for layer in layers])  # [L, T]
        log_probs = target_log_probs(hidden, model.model.lm_head.weight, layout, model.softcap)
        log_probs, finite = (part.cpu() for part in (log_probs, finite))
    scores = pair_scores(log_probs.numpy(), layout, finite.numpy(), layers)
    starts = list(accumulate((len(pair.tokens) for pair in pairs), initial=0))
    return KeptPass(pairs, scores, starts, states, seen, log_probs.numpy())


def moved(pair: Pair, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """The tokens of a pair's row that are run again where some are changed, ascending.

    They are those and what sees them; but for the last of a text, which nothing sees and which predicts nothing.
    """
    segments = pair.segments()
    changed = np.zeros(len(segments), dtype=bool)
    changed[tokens] = True
    shared = segments == 0
    changed |= np.maximum.accumulate(changed & shared)
    for solution in pair.solutions:
        own = segments == solution + 1
        changed[own] = np.maximum.accumulate(changed[own])
        if own.any() or max(pair.lengths) == pair.shared:
            changed[pair.final_index(solution)] = False
    return np.flatnonzero(changed)


@torch.inference_mode()
def run_again(model: LanguageModel, kept: KeptPass, layer: int, changes: Sequence[Change]) -> list[PairScore]:
    """The score of every change's pair, with the change made to the residual stream after a layer."""
    pairs = [kept.pairs[change.pair] for change in changes]
    places = [moved(pair, change.tokens.cpu().numpy()) for pair, change in zip(pairs, changes, strict=True)]
    layout = lay_out(pairs, model.transfers, [at.tolist() for at in places], share=False)
    log_probs = np.concatenate([_log_probs_of(kept, change.pair) for change in changes])
    if len(layout.read_tokens):
        config, body = model.model.config, model.model.model
        states = _changed(kept, layer, changes, places, model.device)
        with model.turn, attention_by(config, AGAIN), _given(body.layers, layer, states[None]):
            at, masks = layout.read_tokens, _masks(model, kept, changes, places, layout)
            hidden = _through(body, layout.tokens[at], layout.positions[at], masks)
            predicted, again = _predicted(model, layout, hidden)
        log_probs[predicted] = again
    return pair_scores(log_probs, layout, np.ones((1, len(layout.read_tokens)), dtype=bool), [layer])


def _through(body: Any, tokens: Tensor, positions: Tensor, masks: Mapping[str, Any]) -> Tensor:
    """[T, D] after the final norm."""
    hidden: Tensor = body(
        input_ids=tokens[None], position_ids=positions[None], attention_mask=masks, use_cache=False
    ).last_hidden_state[0]
    return hidden


def _log_probs_of(kept: KeptPass, pair: int) -> NDArray[np.float32]:
    """Of the solution tokens of a pair."""
    counts = [sum(length - each.prompt for length in each.lengths) for each in kept.pairs[: pair + 1]]
    return kept.log_probs[sum(counts[:-1]) : sum(counts)]


def _changed(
    kept: KeptPass,
    layer: int,
    changes: Sequence[Change],
    places: Sequence[NDArray[np.int64]],
    device: torch.device,
) -> Tensor:
    """[t, D] of the residual stream after a layer, at what is run again."""
    rows = []
    for change, at in zip(changes, places, strict=True):
        again = torch.from_numpy(at).to(device)
        states = kept.states[layer][kept.starts[change.pair] + again]  # a copy
        mine = torch.isin(change.tokens, again)
        where = torch.searchsorted(again, change.tokens[mine])
        states[where] = (states[where].float() + change.delta[mine]).to(states.dtype)
        rows.append(states)
    return torch.cat(rows)


def _masks(
    model: LanguageModel,
    kept: KeptPass,
    changes: Sequence[Change],
    places: Sequence[NDArray[np.int64]],
    layout: PairLayout,
) -> dict[str, AgainMask]:
    """Where the keys of all rows are, and which of them each query does not see."""
    counts = [len(at) for at in places]
    width, starts = layout.gather.shape[1], np.concatenate([[0], np.cumsum(counts)])
    queries = np.zeros((len(places), max(counts)), dtype=np.int64)
    in_row, keys = np.zeros_like(queries), np.zeros((len(places), width), dtype=np.int64)
    for row, (change, at, start) in enumerate(zip(changes, places, starts.tolist(), strict=False)):
        new = np.arange(start, start + len(at))
        queries[row, : len(at)], in_row[row, : len(at)] = new, at
        first, behind = kept.starts[change.pair : change.pair + 2]
        keys[row, : behind - first] = np.arange(first, behind)
        keys[row, at] = kept.starts[-1] + new
    real = np.arange(max(counts)) < np.array(counts)[:, None]
    upload = model.transfers.upload
    again = Again(kept.seen, upload(queries), upload(np.flatnonzero(real)), upload(keys))
    of_query = upload(in_row)[:, None, None, :, None].expand(-1, 1, 1, -1, width)
    masks = pair_masks(layout, model.model.config.sliding_window)
    return {name: AgainMask(again, mask.hidden.gather(3, of_query)) for name, mask in masks.items()}


def _predicted(
    model: LanguageModel, layout: PairLayout, hidden: Tensor
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which solution tokens what is run again predicts, of N, and their log-probabilities.

    Args:
        hidden: [t, D] after the final norm.
    """
    weight, softcap = model.model.lm_head.weight, model.softcap
    run, predictors = layout.read_tokens, layout.predictors
    live = torch.isin(predictors, run)
    rows = hidden[torch.searchsorted(run, predictors[live])]
    wanted = torch.nonzero(live[layout.target_predictors])[:, 0]
    row = (live.cumsum(0) - 1)[layout.target_predictors[wanted]]
    logits = logits_at(rows, weight, row, layout.targets[wanted], softcap)
    log_probs = logits - log_sum_exp(rows, weight, softcap)[row]
    return wanted.cpu().numpy(), log_probs.cpu().numpy()


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
