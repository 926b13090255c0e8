"""Attention of Gemma 2 on a GPU, over texts that lie end to end and share their beginnings, as one Triton kernel.

Scores and sums are float32; rotary embedding and attention are rounded less often than by transformers' modules. The
order of summation does not depend on what ran before. Like `kernels.py` only for a GPU, or with TRITON_INTERPRET=1.

Shapes: T tokens, H heads, K key-value heads, d their width.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from layerscope.numerics.kernels import capped


class Texts(NamedTuple):
    """Which token may look at which, as the attention of every layer needs it."""

    positions: Tensor  # [T] int32; of each token in its own text
    common: int  # tokens at the start that are every row's
    row_starts: Tensor  # [T] int32; where what is its row's own begins
    segments: Tensor  # [T] int32; 0 shared, 1 rest of solution 1, 2 rest of solution 2, and so on
    cosines: Tensor  # [T, d / 2] float32, of rotary embedding
    sines: Tensor  # [T, d / 2] float32


def attention(
    projected: Tensor,
    texts: Texts,
    heads: tuple[int, int],
    scaling: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """Rotary embedding, and attention of every token to what it sees of its own text: [T, H d].

    Args:
        projected: [T, (H + 2 K) d], queries, keys and values as the projections gave them.
        heads: H and K.
        window: how far back a token looks, in its text's own positions; None for no bound.
    """
    n_heads, n_kv_heads = heads
    n_tokens, width = projected.shape
    half = width // (n_heads + 2 * n_kv_heads) // 2
    result = projected.new_empty(n_tokens, n_heads * 2 * half)
    queries, keys = (32 if projected.dtype == torch.float32 else 64), 32  # so that registers do not spill
    _attention[(triton.cdiv(n_tokens, queries), n_heads)](
        projected,
        texts.cosines,
        texts.sines,
        texts.positions,
        texts.row_starts,
        texts.segments,
        result,
        n_tokens,
        scaling,
        softcap or 1.0,
        window or 0,
        texts.common,
        HEADS=n_heads,
        KV_HEADS=n_kv_heads,
        HALF=half,
        BLOCK=max(16, triton.next_power_of_2(half)),
        QUERIES=queries,
        KEYS=keys,
        CAPPED=softcap is not None,
        WINDOWED=window is not None,
        num_warps=8,
        num_stages=1,  # 48 KiB of shared memory, not 128: two programs at a time on a processor of the card
    )
    return result


@triton.jit
def _halves(projected, token, width, head, lane, mask, HALF: tl.constexpr):
    """A head of some tokens, in the two halves that rotary embedding mixes: products of heads are sums of two."""
    at = token[:, None].to(tl.int64) * width + head * 2 * HALF + lane[None, :]
    return tl.load(projected + at, mask=mask, other=0), tl.load(projected + at + HALF, mask=mask, other=0)


@triton.jit
def _store_halves(result, left, right, token, width, head, lane, mask, HALF: tl.constexpr):
    at = token[:, None].to(tl.int64) * width + head * 2 * HALF + lane[None, :]
    tl.store(result + at, left.to(result.dtype.element_ty), mask=mask)
    tl.store(result + at + HALF, right.to(result.dtype.element_ty), mask=mask)


@triton.jit
def _turned(projected, cosines, sines, token, width, head, lane, mask, HALF: tl.constexpr):
    """The same after rotary embedding, rounded to the type it came in."""
    left, right = _halves(projected, token, width, head, lane, mask, HALF)
    number = left.dtype
    left = left.to(tl.float32)
    right = right.to(tl.float32)
    angle_at = token[:, None] * HALF + lane[None, :]
    cosine = tl.load(cosines + angle_at, mask=mask, other=0)
    sine = tl.load(sines + angle_at, mask=mask, other=0)
    return (left * cosine - right * sine).to(number), (right * cosine + left * sine).to(number)


@triton.jit
def _keys(block, blocks_before, before, first, end, KEYS: tl.constexpr):
    """The tokens of a block of keys, of the common ones first, and which of them are any."""
    in_common = block < blocks_before
    start = tl.where(in_common, block * KEYS, first + (block - blocks_before) * KEYS)
    key = start + tl.arange(0, KEYS)
    return key, key < tl.where(in_common, before, end)


@triton.jit
def _scores(query_left, query_right, key_left, key_right, scaling, softcap, CAPPED: tl.constexpr):
    """Of each query with each key, in float32."""
    scores = tl.dot(query_left, tl.trans(key_left), input_precision="ieee")
    scores = tl.dot(query_right, tl.trans(key_right), scores, input_precision="ieee") * scaling
    if CAPPED:
        scores = capped(scores, softcap)
    return scores


@triton.jit
def _seen(segments, positions, query, key, known, row_start, common, segment, position, window, WINDOWED: tl.constexpr):
    """Which keys each query sees: those before it in its row, shared or of its own branch, and in its window."""
    key_segment = tl.load(segments + key, mask=known, other=0)
    seen = ((key[None, :] >= row_start[:, None]) | (key[None, :] < common)) & (key[None, :] <= query[:, None])
    seen = seen & known[None, :]
    seen = seen & ((key_segment[None, :] == 0) | (key_segment[None, :] == segment[:, None]))
    if WINDOWED:
        key_position = tl.load(positions + key, mask=known, other=0)
        seen = seen & (position[:, None] - key_position[None, :] < window)
    return seen


@triton.jit
def _weighed(scores, peak):
    """The exponentials of scores, what those before them shrink by, and the largest score of each query so far."""
    new_peak = tl.maximum(peak, tl.max(scores, axis=1))
    shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)  # of a query that has seen nothing yet
    return tl.exp(scores - shift[:, None]), tl.exp(peak - shift), new_peak


@triton.jit
def _attention(
    projected,
    cosines,
    sines,
    positions,
    row_starts,
    segments,
    result,
    n_tokens,
    scaling,
    softcap,
    window,
    common,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr,
):
    width: tl.constexpr = (HEADS + 2 * KV_HEADS) * 2 * HALF
    number = result.dtype.element_ty
    begin = tl.program_id(0) * QUERIES
    head = tl.program_id(1)
    kv_head = head // (HEADS // KV_HEADS)
    query = begin + tl.arange(0, QUERIES)
    there = query < n_tokens
    lane = tl.arange(0, BLOCK)
    inside = lane < HALF
    mask = there[:, None] & inside[None, :]
    query_left, query_right = _turned(projected, cosines, sines, query, width, head, lane, mask, HALF)

    row_start = tl.load(row_starts + query, mask=there, other=n_tokens)
    segment = tl.load(segments + query, mask=there, other=0)
    position = tl.load(positions + query, mask=there, other=0)
    peak = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    sum_left = tl.zeros([QUERIES, BLOCK], tl.float32)
    sum_right = tl.zeros([QUERIES, BLOCK], tl.float32)
    end = tl.max(tl.where(there, query, 0), axis=0) + 1
    first = tl.min(row_start, axis=0)
    before = tl.minimum(common, first)  # what is every row's, where these queries' rows begin further back
    blocks_before = tl.cdiv(before, KEYS)
    for block in range(0, blocks_before + tl.cdiv(tl.maximum(end - first, 0), KEYS)):
        key, known = _keys(block, blocks_before, before, first, end, KEYS)
        key_mask = known[:, None] & inside[None, :]
        key_left, key_right = _turned(projected, cosines, sines, key, width, HEADS + kv_head, lane, key_mask, HALF)
        scores = _scores(query_left, query_right, key_left, key_right, scaling, softcap, CAPPED)
        seen = _seen(segments, positions, query, key, known, row_start, common, segment, position, window, WINDOWED)
        scores = tl.where(seen, scores, float("-inf"))
        weights, shrunk, peak = _weighed(scores, peak)
        total = total * shrunk + tl.sum(weights, axis=1)
        weights = weights.to(number)
        value_left, value_right = _halves(projected, key, width, HEADS + KV_HEADS + kv_head, lane, key_mask, HALF)
        sum_left = tl.dot(weights, value_left, sum_left * shrunk[:, None], input_precision="ieee")
        sum_right = tl.dot(weights, value_right, sum_right * shrunk[:, None], input_precision="ieee")
    total = tl.where(there, total, 1.0)[:, None]
    _store_halves(result, sum_left / total, sum_right / total, query, HEADS * 2 * HALF, head, lane, mask, HALF)
