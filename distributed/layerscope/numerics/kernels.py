"""What a GPU computes between the matrix products of Gemma 2, but for attention: Triton kernels of one pass each.

PyTorch's own functions take several passes for each of these, and passes over memory are what such a card lacks most.
The numbers are those of transformers' modules: sums in float32, rounded where those round. No kernel's order of
summation depends on what ran before it.

Only for a GPU, or with TRITON_INTERPRET=1 in the environment for a test on a CPU. Shapes: T tokens, D d_model, I width
of the MLP, P rows of logits, C columns taken at once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS = 1024  # that a program takes at once


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
def capped(numbers, softcap):
    # cap * tanh(x / cap); the exponential of a large number is infinite, which gives the cap itself
    return softcap - 2 * softcap / (1 + tl.exp(2 * numbers / softcap))


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
            numbers = tl.where(inside, capped(numbers, softcap), float("-inf"))
        new_peak = tl.maximum(peak, tl.max(numbers, axis=0))
        total = total * tl.exp(peak - new_peak) + tl.sum(tl.exp(numbers - new_peak), axis=0)
        peak = new_peak
    tl.store(peaks + row, peak)
    tl.store(totals + row, total)
