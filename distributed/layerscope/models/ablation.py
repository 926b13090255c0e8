"""The margin once more, with something of a layer changed: what can be another then is run again, no more.

Of one pass over a batch of pairs what SAEs read of the layers of interest is kept, the residual stream from which a
layer goes on, and of the layers above the lowest of them the keys and values. A change is made to some tokens of one
pair's row. After it only those tokens are run that see one of these, through the layers above; what they see of other
tokens, the prompt above all, was kept. Many changes in the same layer, of whichever pairs, are rows of one batch.

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
from torch import Tensor

from layerscope.config import Site
from layerscope.models.family import SitePoint, d_model
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

_BEFORE = SitePoint("", "input", d_model)


class KeptPass(NamedTuple):
    """A pass over a batch of pairs, and what is needed to run it again from chosen layers on."""

    pairs: Sequence[Pair]  # B
    scores: list[PairScore]  # B
    starts: list[int]  # [B + 1] into T; where each pair's row begins
    point: SitePoint  # what is changed: what SAEs read, but of transcoders
    read: Mapping[int, Tensor]  # by layer [T, its width], what SAEs read of it, as the model has it
    states: Mapping[int, Tensor]  # by layer [T, D], the residual stream after it, or before where the change is within
    seen: Mapping[int, KeysAndValues]  # by layer above the lowest of these
    log_probs: NDArray[np.float32]  # [N] of the solution tokens, solution by solution

    def joined(self, other: "KeptPass") -> "KeptPass":
        """With the pairs of a pass from the same layers on behind its own."""
        return KeptPass(
            [*self.pairs, *other.pairs],
            [*self.scores, *other.scores],
            [*self.starts, *(self.starts[-1] + start for start in other.starts[1:])],
            self.point,
            {layer: torch.cat([read, other.read[layer]]) for layer, read in self.read.items()},
            {layer: torch.cat([states, other.states[layer]]) for layer, states in self.states.items()},
            {
                layer: (torch.cat([keys, other.seen[layer][0]]), torch.cat([values, other.seen[layer][1]]))
                for layer, (keys, values) in self.seen.items()
            },
            np.concatenate([self.log_probs, other.log_probs]),
        )


class Change(NamedTuple):
    """What is added to what SAEs write of a pair's row."""

    pair: int
    """Which of the pass."""
    tokens: Tensor  # [n] int64, of its row, ascending
    delta: Tensor  # [n, width of what is written] float32


@torch.inference_mode()
def keep_pass(
    model: LanguageModel,
    pairs: Sequence[Pair],
    layers: Sequence[int],
    site: Site = "resid_post",
    writes: Site | None = None,
) -> KeptPass:
    """Scores the solutions of every pair, and keeps what SAEs read of all tokens in some layers, and what is beside.

    Args:
        writes: where changes are made; by default where SAEs read, which an input of a projection must be.
    """
    layout = lay_out(pairs, model.transfers, [range(len(pair.tokens)) for pair in pairs], share=False)
    config, body = model.model.config, model.model.model
    seen = dict[int, KeysAndValues]()
    masks = pair_masks(layout, config.sliding_window)
    keeping = {name: Keeping(mask, seen, min(layers)) for name, mask in masks.items()}
    with model.turn, ExitStack() as stack:
        stack.enter_context(attention_by(config, KEEPING))
        reads, point = (model.family.site(at) for at in (site, writes or site))
        read = stack.enter_context(capture_rows(body.layers, layers, reads, layout.read_tokens))
        from_there = _BEFORE if point.takes == "projection" else model.family.site(*RESIDUAL)
        states = read
        if from_there != reads:
            states = stack.enter_context(capture_rows(body.layers, layers, from_there, layout.read_tokens))
        hidden = _through(body, layout.tokens, layout.positions, keeping)
        finite = torch.stack([torch.isfinite(read[layer]).all(dim=-1) for layer in layers])  # [L, T]
        log_probs = target_log_probs(hidden, model.model.lm_head.weight, layout, model.softcap)
        log_probs, finite = (part.cpu() for part in (log_probs, finite))
    scores = pair_scores(log_probs.numpy(), layout, finite.numpy(), layers)
    starts = list(accumulate((len(pair.tokens) for pair in pairs), initial=0))
    return KeptPass(pairs, scores, starts, point, read, states, seen, log_probs.numpy())


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
    """The score of every change's pair, with the change made in a layer."""
    pairs = [kept.pairs[change.pair] for change in changes]
    places = [moved(pair, change.tokens.cpu().numpy()) for pair, change in zip(pairs, changes, strict=True)]
    layout = lay_out(pairs, model.transfers, [at.tolist() for at in places], share=False)
    log_probs = np.concatenate([_log_probs_of(kept, change.pair) for change in changes])
    if len(layout.read_tokens):
        config, body = model.model.config, model.model.model
        layers, projected = body.layers[: layer + 1], None
        states = _rows(kept.states[layer], kept.starts, changes, places)
        if kept.point.takes == "projection":
            inside = _change(_rows(kept.read[layer], kept.starts, changes, places), changes, places)
            projected = layers[-1].self_attn.o_proj(inside[None])
        else:
            states = _change(states, changes, places)
        with model.turn, attention_by(config, AGAIN), _given(layers, states[None], projected):
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


def _rows(
    kept: Tensor, starts: Sequence[int], changes: Sequence[Change], places: Sequence[NDArray[np.int64]]
) -> Tensor:
    """[t, D] of what was kept [T, D], a copy, at what is run again."""
    at = np.concatenate([starts[change.pair] + of_row for change, of_row in zip(changes, places, strict=True)])
    return kept[torch.from_numpy(at).to(kept.device)]


def _change(rows: Tensor, changes: Sequence[Change], places: Sequence[NDArray[np.int64]]) -> Tensor:
    """The rows [t, D], with the changes."""
    for change, at, states in zip(changes, places, rows.split([len(of_row) for of_row in places]), strict=True):
        again = torch.from_numpy(at).to(rows.device)
        mine = torch.isin(change.tokens, again)
        where = torch.searchsorted(again, change.tokens[mine])
        states[where] = (states[where].float() + change.delta[mine]).to(states.dtype)
    return rows


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
def _given(decoder_layers: Sequence[Any], states: Tensor, projected: Tensor | None) -> Iterator[None]:
    """Has the last of some layers give these states [1, T, D], whatever it gets, and those below it compute nothing.

    Args:
        projected: [1, T, D] that its attention gives, and the states are what the layer gets; None as above.
    """
    layer = decoder_layers[-1]

    def passing(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states

    def giving(_: Tensor, *others: Any, **named: Any) -> Any:
        return states if projected is None else type(layer).forward(layer, states, *others, **named)

    for module in decoder_layers[:-1]:
        module.forward = passing
    layer.forward = giving
    changed = list(decoder_layers)
    if projected is not None:
        layer.self_attn.forward = lambda **_: (projected, None)
        changed.append(layer.self_attn)
    try:
        yield
    finally:
        for module in changed:
            del module.forward  # its class has it yet
