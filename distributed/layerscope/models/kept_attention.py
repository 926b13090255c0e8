"""Keys and values that one pass keeps, and attention of a later one over some of its tokens, to which they are added.

Shapes: T tokens of the pass that is kept, K key-value heads, H heads, d their width; of the later one t tokens, R rows,
Q of them in a row at most, W tokens of the widest row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface

from layerscope.models.pair_attention import PairMask, attend, pair_attention, queries_at_once

KEEPING, AGAIN = "layerscope_pairs_keeping", "layerscope_pairs_again"
_KEYS_AT_ONCE = 1 << 14  # tokens of rows side by side: 32 MiB of Gemma-2-2B's keys in bfloat16

KeysAndValues = tuple[Tensor, Tensor]  # [T, K, d] each, keys with their positions in them


class Keeping(NamedTuple):
    """A mask, and where the keys and values that go by are put."""

    mask: PairMask
    kept: dict[int, KeysAndValues]
    """By layer."""
    above: int
    """Of which layers alone."""


@dataclass(frozen=True)
class Again:
    """Which tokens are run again, and where the keys are that they see."""

    kept: Mapping[int, KeysAndValues]
    queries: Tensor  # [R, Q] int64 into t; 0 for padding
    scatter: Tensor  # [t] int64 into R * Q
    keys: Tensor  # [R, W] int64; into T, and behind it into t


class AgainMask(NamedTuple):
    """What the attention of one kind of layer needs."""

    again: Again
    hidden: Tensor  # [R, 1, 1, Q, W] bool; true where a query does not see a key


def _keep(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Keeping,
    scaling: float,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """`pair_attention`, of whose keys and values a copy stays."""
    if module.layer_idx > attention_mask.above:
        # Where no angle turns them (values) these are views of a projection's result, which would stay as a whole.
        copies = (states[0].transpose(0, 1).clone(memory_format=torch.contiguous_format) for states in (key, value))
        attention_mask.kept[module.layer_idx] = (next(copies), next(copies))
    return pair_attention(module, query, key, value, attention_mask.mask, scaling, softcap)


def _again(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: AgainMask,
    scaling: float,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of tokens that are run again, in rows of which the other tokens' keys and values were kept.

    Args:
        query: [1, H, t, d]; key and value: [1, K, t, d].

    Returns:
        [1, t, H, d]
    """
    again, hidden = attention_mask
    heads, kv_heads, n_tokens, width = *query.shape[1:2], *key.shape[1:3], key.shape[3]
    queries = query[0].transpose(0, 1)  # [t, H, d]
    keys, values = (
        torch.cat([kept, new[0].transpose(0, 1)])
        for kept, new in zip(again.kept[module.layer_idx], (key, value), strict=True)
    )
    rows_at_once = max(1, _KEYS_AT_ONCE // again.keys.shape[1])
    outputs = []
    for start in range(0, len(again.keys), rows_at_once):
        rows = slice(start, start + rows_at_once)
        of_rows = queries[again.queries[rows]].unflatten(2, (kv_heads, -1)).permute(0, 2, 3, 1, 4)
        seen = (states[again.keys[rows]].transpose(1, 2) for states in (keys, values))  # [R, K, W, d]
        outputs.append(_attend(of_rows, next(seen), next(seen), hidden[rows], scaling, softcap))
    output = torch.cat(outputs).index_select(0, again.scatter)
    return output.view(1, n_tokens, heads, width), None


def _attend(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor, scaling: float, softcap: float | None) -> Tensor:
    """`attend`, for as many queries at once as the memory takes: [R * Q, H * d]."""
    chunk = queries_at_once(query, key.shape[2])
    some = zip(query.split(chunk, dim=3), hidden.split(chunk, dim=3), strict=True)
    output = torch.cat([attend(each, key, value, covered, scaling, softcap) for each, covered in some], dim=3)
    return output.permute(0, 3, 1, 2, 4).reshape(query.shape[0] * query.shape[3], -1)


AttentionInterface.register(KEEPING, _keep)
AttentionInterface.register(AGAIN, _again)
