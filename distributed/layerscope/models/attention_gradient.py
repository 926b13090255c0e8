"""`pair_attention` with a way back: the same output bit for bit, and the gradient by queries, keys and values.

Nothing but those is kept between the two: the scores are taken again, for as many queries at once as the pass takes.

Shapes: B pairs, T tokens of a batch, W tokens of its widest row, H heads, K key-value heads, d their width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from layerscope.models.pair_attention import PairMask, attend, pair_attention, queries_at_once, side_by_side

WITH_GRADIENT = "layerscope_pairs_with_gradient"


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: PairMask,
        scaling: float,
        softcap: float | None,
    ) -> Tensor:
        context.save_for_backward(query, key, value)
        context.mask, context.scaling, context.softcap = mask, scaling, softcap
        return pair_attention(None, query, key, value, mask, scaling, softcap)[0]

    @staticmethod
    def backward(context: Any, by_output: Tensor) -> tuple[Tensor | None, ...]:
        layout, hidden = context.mask
        query, key, value = (states.detach() for states in context.saved_tensors)
        kv_heads, width = key.shape[1], layout.gather.shape[1]
        query = side_by_side(query, layout, kv_heads)
        key, value = side_by_side(key, layout, kv_heads)[:, :, 0], side_by_side(value, layout, kv_heads)[:, :, 0]
        by_output = side_by_side(by_output.transpose(1, 2), layout, kv_heads)  # [B, K, H / K, W, d]
        # Padding is the first token once more, and what comes back of it stays in its own place, which nobody reads.
        by_queries, by_key, by_value = list[Tensor](), torch.zeros_like(key), torch.zeros_like(value)
        chunk = queries_at_once(query)
        padding = (layout.row_segments < 0)[:, None, None, :, None]
        by_output = by_output.masked_fill(padding, 0)
        for start in range(0, width, chunk):
            at = slice(start, start + chunk)
            leaves = [states.detach().requires_grad_() for states in (query[:, :, :, at], key, value)]
            queries, keys, values = leaves
            with torch.enable_grad():
                output = attend(queries, keys, values, hidden[..., at, :], context.scaling, context.softcap)
                by_query, more_by_key, more_by_value = torch.autograd.grad(output, leaves, by_output[:, :, :, at])
            by_queries.append(by_query)
            by_key, by_value = by_key + more_by_key, by_value + more_by_value
        by_query = torch.cat(by_queries, dim=3)
        grads = (by_query, by_key[:, :, None], by_value[:, :, None])
        return (*(_end_to_end(states, layout.scatter) for states in grads), None, None, None)


def _end_to_end(states: Tensor, scatter: Tensor) -> Tensor:
    """[B, K, h / K, W, d] to [1, h, T, d]."""
    rows = states.permute(0, 3, 1, 2, 4).flatten(0, 1).flatten(1, 2)  # [B * W, h, d]
    return rows.index_select(0, scatter).transpose(0, 1)[None]


def _with_gradient(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: PairMask,
    scaling: float,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    output: Tensor = _Attention.apply(query, key, value, attention_mask, scaling, softcap)  # type: ignore[no-untyped-call]
    return output, None


AttentionInterface.register(WITH_GRADIENT, _with_gradient)
