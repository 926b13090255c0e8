"""How fast this machine multiplies matrices, and how many multiplications the job cannot do without."""

import time
from dataclasses import dataclass
from typing import Any

import torch

from benchmarking.inputs import Shape
from benchmarking.measure import synchronise

_SECONDS = 2.0


def matrix_rate(shape: Shape, dtype: str, device: str, threads: int | None) -> float:
    """FLOP/s of the best of some large products through torch: squares, and the model's own with 1,024 rows."""
    if threads:
        torch.set_num_threads(threads)
    number_format: Any = getattr(torch, dtype)
    wide = 8192 if device == "cuda" else 2048
    sizes = [(wide, wide, wide), (1024, shape.d_model, shape.d_mlp), (1024, shape.d_mlp, shape.d_model)]
    return max(_rate(*size, number_format, device) for size in sizes)


def _rate(rows: int, inner: int, columns: int, dtype: torch.dtype, device: str) -> float:
    left = torch.randn(rows, inner, device=device).to(dtype)
    right = torch.randn(columns, inner, device=device).to(dtype)
    torch.nn.functional.linear(left, right)
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        synchronise()
        start = time.perf_counter()
        torch.nn.functional.linear(left, right)
        synchronise()
        best = min(best, time.perf_counter() - start)
    return 2 * rows * inner * columns / best


@dataclass
class Work:
    """FLOP of the matrix products of some questions; those inside attention, about one in a hundred, are left out."""

    body: float
    projection: float
    encode: float


def work(shape: Shape, tokens: int, predictors: int, solutions: int) -> Work:
    """Args:
    tokens: of all pair rows, shared ones once.
    predictors: positions that predict a solution token.
    """
    return Work(
        2 * shape.body_parameters * tokens,
        2 * shape.vocabulary * shape.d_model * predictors,
        2 * shape.n_layers * shape.d_model * shape.d_sae * solutions,
    )
