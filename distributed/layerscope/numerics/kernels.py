"""What a GPU computes between the matrix products of Gemma 2, each in one pass over its data, as Triton kernels.

PyTorch's own functions take several passes for each of these, and passes over memory are what such a card lacks most.
The numbers are those of transformers' modules: sums in float32, rounded where those round, but for rotary embedding
and attention, which are rounded less often. No kernel's order of summation depends on what ran before it.

Only for a GPU, or with TRITON_INTERPRET=1 in the environment for a test on a CPU. Shapes: T tokens, D d_model, I width
of the MLP, H heads, K key-value heads, d their width, P rows of logits, C columns taken at once.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS = 1024  # that a program takes at once


class Texts(NamedTuple):
    """Which token may look at which, as the attention of every layer needs it."""

    positions: Tensor  # [T] int32; of each token in its own text
    row_starts: Tensor  # [T] int32; where the row of each token begins
    segments: Tensor  # [T] int32; 0 shared, 1 rest of solution 1, 2 rest of solution 2, and so on
    cosines: Tensor  # [T, d / 2] float32, of rotary embedding
    sines: Tensor  # [T, d / 2] float32


def norm(rows: Tensor, scale: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square norm: [T, D] in the rows' format.

    Args:
        scale: [D] float32, what a normed row is multiplied by.
    """
    result = torch.empty_like(rows)
    width = rows.shape[1]
    _norm[(len(rows),)](rows, scale, result, width, epsilon, BLOCK=triton.next_power_of_2(width), num_warps=8)
    return result


def add_norm(residual: Tensor, branch: Tensor, after: Tensor, before: Tensor, epsilon: float) -> Tensor:
    """Adds the norm of what a branch gave to the residual stream, in place, and gives the norm for the next branch.

    Args:
        residual: [T, D], changed; branch: [T, D].
        after: [D] float32, the scale of the branch's norm; before: [D] float32, of the next one's.
    """
    result = torch.empty_like(residual)
    width = residual.shape[1]
    _add_norm[(len(residual),)](
        residual, branch, after, before, result, width, epsilon, BLOCK=triton.next_power_of_2(width), num_warps=8
    )
    return result


def gelu_product(gate_up: Tensor) -> Tensor:
    """GELU, by its tanh formula, of the left half of every row, times the right half: [T, 2 I] to [T, I]."""
    n_tokens, width = gate_up.shape[0], gate_up.shape[1] // 2
    result = gate_up.new_empty(n_tokens, width)
    _gelu_product[(n_tokens, triton.cdiv(width, _COLUMNS))](gate_up, result, width, BLOCK=_COLUMNS, num_warps=4)
    return result


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


def add_exponentials(logits: Tensor, peak: Tensor, total: Tensor, softcap: float | None) -> None:
    """Takes more columns of every row into the sum of its exponentials, after the soft-cap.

    Args:
        logits: [P, C] float32.
        peak: [P] float32, the largest logit of a row so far; total: [P] float32, the sum of exponentials less `peak`.
            Both are changed.
    """
    n_rows, width = logits.shape
    _add_exponentials[(n_rows,)](
        logits, peak, total, width, softcap or 1.0, BLOCK=_COLUMNS, CAPPED=softcap is not None, num_warps=4
    )


@triton.jit
def _normed(row, scale, width, epsilon):
    mean_square = tl.sum(row * row, axis=0) / width
    return row * (1 / tl.sqrt(mean_square + epsilon)) * scale


@triton.jit
def _norm(rows, scale, result, width, epsilon, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * width
    lane = tl.arange(0, BLOCK)
    inside = lane < width
    row = tl.load(rows + start + lane, mask=inside, other=0).to(tl.float32)
    normed = _normed(row, tl.load(scale + lane, mask=inside, other=0), width, epsilon)
    tl.store(result + start + lane, normed.to(result.dtype.element_ty), mask=inside)


@triton.jit
def _add_norm(residual, branch, after, before, result, width, epsilon, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * width
    lane = tl.arange(0, BLOCK)
    inside = lane < width
    row = tl.load(branch + start + lane, mask=inside, other=0).to(tl.float32)
    normed = _normed(row, tl.load(after + lane, mask=inside, other=0), width, epsilon)
    # Rounded as transformers rounds: the norm before it is added, the sum before it is normed again.
    normed = normed.to(result.dtype.element_ty).to(tl.float32)
    stream = tl.load(residual + start + lane, mask=inside, other=0).to(tl.float32) + normed
    stream = stream.to(result.dtype.element_ty)
    tl.store(residual + start + lane, stream, mask=inside)
    normed = _normed(stream.to(tl.float32), tl.load(before + lane, mask=inside, other=0), width, epsilon)
    tl.store(result + start + lane, normed.to(result.dtype.element_ty), mask=inside)


@triton.jit
def _gelu_product(gate_up, result, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    lane = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = lane < width
    gate = tl.load(gate_up + row * 2 * width + lane, mask=inside, other=0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + lane, mask=inside, other=0).to(tl.float32)
    # (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)), which keeps its digits where the gate is far below 0
    inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
    gelu = gate / (1 + tl.exp(-2 * inner))
    gelu = gelu.to(result.dtype.element_ty).to(tl.float32)
    tl.store(result + row * width + lane, (gelu * up).to(result.dtype.element_ty), mask=inside)


@triton.jit
def _capped(numbers, softcap):
    # cap * tanh(x / cap); the exponential of a large number is infinite, which gives the cap itself
    return softcap - 2 * softcap / (1 + tl.exp(2 * numbers / softcap))


@triton.jit
def _halves(projected, token, width, head, lane, mask, HALF: tl.constexpr):
    """A head of some tokens, in the two halves that rotary embedding mixes: products of heads are sums of two."""
    at = token[:, None].to(tl.int64) * width + head * 2 * HALF + lane[None, :]
    return tl.load(projected + at, mask=mask, other=0), tl.load(projected + at + HALF, mask=mask, other=0)


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
    for start in range(tl.min(row_start, axis=0), end, KEYS):
        key = start + tl.arange(0, KEYS)
        known = key < end
        key_mask = known[:, None] & inside[None, :]
        key_left, key_right = _turned(projected, cosines, sines, key, width, HEADS + kv_head, lane, key_mask, HALF)
        scores = tl.dot(query_left, tl.trans(key_left), input_precision="ieee")
        scores = tl.dot(query_right, tl.trans(key_right), scores, input_precision="ieee") * scaling
        if CAPPED:
            scores = _capped(scores, softcap)
        key_segment = tl.load(segments + key, mask=known, other=0)
        seen = (key[None, :] >= row_start[:, None]) & (key[None, :] <= query[:, None])
        seen = seen & ((key_segment[None, :] == 0) | (key_segment[None, :] == segment[:, None]))
        if WINDOWED:
            key_position = tl.load(positions + key, mask=known, other=0)
            seen = seen & (position[:, None] - key_position[None, :] < window)
        scores = tl.where(seen, scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)  # of a query that has seen nothing yet
        weights = tl.exp(scores - shift[:, None])
        shrunk = tl.exp(peak - shift)
        peak = new_peak
        total = total * shrunk + tl.sum(weights, axis=1)
        weights = weights.to(number)
        value_left, value_right = _halves(projected, key, width, HEADS + KV_HEADS + kv_head, lane, key_mask, HALF)
        sum_left = tl.dot(weights, value_left, sum_left * shrunk[:, None], input_precision="ieee")
        sum_right = tl.dot(weights, value_right, sum_right * shrunk[:, None], input_precision="ieee")
    mask = there[:, None] & inside[None, :]
    at = query[:, None].to(tl.int64) * (HEADS * 2 * HALF) + head * 2 * HALF + lane[None, :]
    total = tl.where(there, total, 1.0)
    tl.store(result + at, (sum_left / total[:, None]).to(number), mask=mask)
    tl.store(result + at + HALF, (sum_right / total[:, None]).to(number), mask=mask)


@triton.jit
def _add_exponentials(logits, peaks, totals, width, softcap, BLOCK: tl.constexpr, CAPPED: tl.constexpr):
    row = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    peak = tl.load(peaks + row)
    total = tl.load(totals + row)
    for start in range(0, width, BLOCK):
        inside = start + lane < width
        numbers = tl.load(logits + row.to(tl.int64) * width + start + lane, mask=inside, other=float("-inf"))
        if CAPPED:
            numbers = tl.where(inside, _capped(numbers, softcap), float("-inf"))
        new_peak = tl.maximum(peak, tl.max(numbers, axis=0))
        total = total * tl.exp(peak - new_peak) + tl.sum(tl.exp(numbers - new_peak), axis=0)
        peak = new_peak
    tl.store(peaks + row, peak)
    tl.store(totals + row, total)
