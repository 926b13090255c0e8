"""Where the tokens of a batch of pairs lie, and attention over them.

All rows of a batch lie end to end as one row of T tokens, so that no linear layer sees padding. Only inside attention
are they laid out side by side as [B, W], and there each token sees what it would see if its solution were alone.

Shapes: B pairs, S solutions of all of them, T tokens of a batch, W tokens of its widest row, H heads, K
key-value heads, d their width, P positions that predict a solution token, N solution tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface

from layerscope.numerics.transfers import Transfers
from layerscope.questions.pairs import Pair, common_tokens

ATTENTION = "layerscope_pairs"
_Ints = NDArray[np.int64]
_PADDING = -1  # for a segment
_MAX_SCORES = 1 << 25  # attention scores held at once: 128 MiB in float32


@dataclass(frozen=True)
class PairLayout:
    """Where the tokens of a batch lie: end to end for the linear layers, side by side inside attention."""

    common: int  # tokens that all rows begin with, which lie in T once, before all others; as a rule none
    tokens: Tensor  # [T] int64
    positions: Tensor  # [T] int64; of each token in its own text
    gather: Tensor  # [B, W] int64; where in T each place of the rows comes from (0 for padding)
    scatter: Tensor  # [T] int64; where each token lies in the common ones, then the B * (W - common) others
    row_starts: Tensor  # [T] int32 into T; where what is its row's own begins
    segments: Tensor  # [T] int32, as in `row_segments`
    row_positions: Tensor  # [B, W] int32
    row_segments: Tensor  # [B, W] int8; 0 shared, 1 rest of solution 1, 2 rest of solution 2 …, -1 padding
    read_tokens: Tensor  # [R] int64 into T; whose residual stream is wanted, pair by pair
    read_starts: NDArray[np.int64]  # [B + 1]; where each pair's begin
    predictors: Tensor  # [P] int64 into T; every position that predicts a solution token, once
    targets: Tensor  # [N] int64; the solution tokens of all solutions, one after the other
    target_predictors: Tensor  # [N] int64 into P; which position predicts each
    target_starts: NDArray[np.int64]  # [S + 1]; where each solution's tokens begin
    solution_starts: NDArray[np.int64]  # [B + 1] into S; where each pair's solutions begin


def lay_out(
    pairs: Sequence[Pair], transfers: Transfers, places: Sequence[Sequence[int]] | None = None, share: bool = True
) -> PairLayout:
    """The index arithmetic of a batch, on the device of `transfers`.

    Args:
        places: of every pair, the tokens of its row whose residual stream is wanted; by default the final ones.
        share: tokens that all rows begin with, as far as the pairs say so, are there once.
    """
    places = places or [[pair.final_index(solution) for solution in pair.solutions] for pair in pairs]
    widths = [len(pair.tokens) for pair in pairs]
    common = common_tokens(pairs) if share else 0
    owned = np.array(widths) - common
    offsets = np.concatenate([[0], np.cumsum(owned)])  # a row's own tokens lie from here on, behind the common ones
    width = max(widths)
    gather = np.zeros((len(pairs), width), dtype=np.int64)
    row_positions = np.zeros_like(gather)
    row_segments = np.full_like(gather, _PADDING)
    for row, pair in enumerate(pairs):
        offset, length = int(offsets[row]), widths[row]
        gather[row, :length] = np.arange(offset, offset + length)
        gather[row, :common] = np.arange(common)
        row_positions[row, :length] = pair.positions()
        row_segments[row, :length] = pair.segments()
    predictors, targets, target_starts = _predictions(pairs, offsets, common)
    real = row_segments != _PADDING
    own = real[:, common:]
    unique_predictors, target_predictors = np.unique(predictors, return_inverse=True)
    tensor = transfers.upload

    return PairLayout(
        common=common,
        tokens=tensor(np.concatenate([pairs[0].tokens[:common], *(pair.tokens[common:] for pair in pairs)])),
        positions=tensor(np.concatenate([np.arange(common), row_positions[:, common:][own]])),
        gather=tensor(gather),
        scatter=tensor(np.concatenate([np.arange(common), common + np.flatnonzero(own)])),
        row_starts=tensor(np.repeat(np.append(0, common + offsets[:-1]), [common, *owned]), np.int32),
        segments=tensor(np.concatenate([np.zeros(common), row_segments[:, common:][own]]), np.int32),
        row_positions=tensor(row_positions, np.int32),
        row_segments=tensor(row_segments, np.int8),
        read_tokens=tensor(
            [
                place if place < common else int(offset) + place
                for offset, of_pair in zip(offsets, places, strict=False)
                for place in of_pair
            ]
        ),
        read_starts=np.concatenate([[0], np.cumsum([len(of_pair) for of_pair in places])]),
        predictors=tensor(unique_predictors),
        targets=tensor(targets),
        target_predictors=tensor(target_predictors),
        target_starts=target_starts,
        solution_starts=np.concatenate([[0], np.cumsum([len(pair.solutions) for pair in pairs])]),
    )


def _predictions(pairs: Sequence[Pair], offsets: _Ints, common: int) -> tuple[_Ints, list[int], _Ints]:
    """Where each token of each solution is predicted, these tokens, and where among them each solution begins."""
    predictors: list[int] = []
    targets: list[int] = []
    starts = [0]
    for pair, offset in zip(pairs, offsets.tolist(), strict=False):  # the last one is where they end
        for solution in pair.solutions:
            before = range(pair.prompt - 1, pair.lengths[solution] - 1)
            at = (pair.row_index(solution, position) for position in before)
            predictors += [place if place < common else offset + place for place in at]
            targets += pair.solution_tokens(solution)
            starts.append(len(targets))
    return np.array(predictors), targets, np.array(starts)


class PairMask(NamedTuple):
    """What the attention of one kind of layer needs; it travels through transformers in place of the mask."""

    layout: PairLayout
    hidden: Tensor  # [B, 1, 1, W, W] bool; true where a query does not see a key


def pair_masks(layout: PairLayout, sliding_window: int | None) -> dict[str, PairMask]:
    """The masks of both kinds of layers, by the names that transformers has for them."""
    full = PairMask(layout, ~visible(layout, None)[:, None, None])
    if sliding_window is None or layout.gather.shape[1] <= sliding_window:
        return {"full_attention": full, "sliding_attention": full}
    return {
        "full_attention": full,
        "sliding_attention": PairMask(layout, ~visible(layout, sliding_window)[:, None, None]),
    }


def visible(layout: PairLayout, sliding_window: int | None) -> Tensor:
    """Which tokens of its row each query may look at: [B, W, W], true where it would see them in its own text.

    A query sees what stands before it in the row and is shared or of its own solution, and in a layer with a sliding
    window nobody looks further back than that in the text's own positions. Padding looks at the row's first token, so
    that no softmax is empty; nothing reads it.
    """
    index = torch.arange(layout.gather.shape[1], device=layout.gather.device)
    query_segments, segments = layout.row_segments[:, :, None], layout.row_segments[:, None]
    mask = (index[:, None] >= index) & ((segments == 0) | (segments == query_segments)) & (segments != _PADDING)
    if sliding_window is None:
        return mask
    return mask & (layout.row_positions[:, :, None] - layout.row_positions[:, None] < sliding_window)


def attend(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor, scaling: float, softcap: float | None) -> Tensor:
    """The attention of some queries of rows side by side: [B, K, H / K, q, d].

    Args:
        query: [B, K, H / K, q, d]; key, value: [B, K, W, d]; hidden: [B, 1, 1, q, W] bool.
    """
    # In float32, because bfloat16 has no digits to spare for a score of 50 and its exponential.
    products = query.flatten(2, 3).float() @ key.transpose(2, 3).float()
    scores = torch.unflatten(products, 2, query.shape[2:4])
    if softcap is None:
        scores.mul_(scaling)
    elif scores.requires_grad:  # going backwards needs what tanh gave
        scores = torch.tanh(scores * (scaling / softcap)) * softcap
    else:
        scores.mul_(scaling / softcap).tanh_().mul_(softcap)
    scores.masked_fill_(hidden, -torch.inf)
    weights = torch.softmax(scores, dim=-1).to(value.dtype)
    return torch.unflatten(weights.flatten(2, 3) @ value, 2, query.shape[2:4])


def pair_attention(
    _module: nn.Module | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: PairMask,
    scaling: float,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within each solution of each pair, with Gemma 2's soft-cap if there is one, softmax in float32.

    The function that transformers calls in every decoder layer.

    Args:
        query: [1, H, T, d]; key and value: [1, K, T, d].

    Returns:
        [1, T, H, d], as transformers expects it.
    """
    layout, hidden = attention_mask
    width = layout.gather.shape[1]
    heads, kv_heads, n_tokens = query.shape[1], key.shape[1], query.shape[2]

    # The query heads that share a key head are stacked over one another, so that keys need not be copied for each.
    query = side_by_side(query, layout, kv_heads)
    key = side_by_side(key, layout, kv_heads)[:, :, 0]  # [B, K, W, d]
    value = side_by_side(value, layout, kv_heads)[:, :, 0]
    chunk = queries_at_once(query)

    def attended(rows: slice, begin: int, end: int) -> Tensor:
        """Of some queries of some rows: [rows * queries, H * d]."""
        outputs = []
        for start in range(begin, end, chunk):
            at = slice(start, min(start + chunk, end))
            states = query[rows, :, :, at], key[rows], value[rows], hidden[rows, ..., at, :]
            outputs.append(attend(*states, scaling, softcap))
        return torch.cat(outputs, dim=3).permute(0, 3, 1, 2, 4).reshape((end - begin) * len(query[rows]), -1)

    output = attended(slice(None), layout.common, width)
    if layout.common:  # which see themselves alone, so those of one row are those of all
        output = torch.cat([attended(slice(1), 0, layout.common), output])
    return output.index_select(0, layout.scatter).view(1, n_tokens, heads, -1), None


def side_by_side(states: Tensor, layout: PairLayout, kv_heads: int) -> Tensor:
    """[1, h, T, d], end to end, to [B, K, h / K, W, d], side by side; padding is the first token once more."""
    tokens = states[0].transpose(0, 1).reshape(states.shape[2], -1)  # a view: the projections made it so
    rows = tokens.index_select(0, layout.gather.flatten()).view(*layout.gather.shape, kv_heads, -1, states.shape[-1])
    return rows.permute(0, 2, 3, 1, 4)


def queries_at_once(query: Tensor, width: int = 0) -> int:
    """Of how many queries [B, K, H / K, q, d] of a row scores are taken at once: long rows do not fill the memory.

    Args:
        width: how many tokens each may see; by default as many as there are queries.
    """
    n_pairs, kv_heads, heads_of_each, n_queries, _ = query.shape
    return max(1, _MAX_SCORES // (n_pairs * kv_heads * heads_of_each * (width or n_queries)))


@contextmanager
def attention_by(config: Any, name: str) -> Iterator[None]:
    """Has the modules of a model with this configuration take attention from what is registered by this name."""
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


AttentionInterface.register(ATTENTION, pair_attention)
