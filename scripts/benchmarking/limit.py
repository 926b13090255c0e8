"""How fast this machine multiplies matrices, and how many multiplications the job cannot do without."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarking.inputs import Shape
from benchmarking.measure import synchronise
from layerscope.numerics.matrix_products import linear, pack

_SECONDS = 1.0

Product = Callable[[Tensor], Tensor]


def matrix_rate(shape: Shape, dtype: str, device: str) -> float:
    """FLOP/s of the best of some large products on all cores: squares, and the model's own with 1,024 rows.

    Each through torch's own function and through those that layerscope takes, which may be others.
    """
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    number_format: Any = getattr(torch, dtype)
    wide = 8192 if device == "cuda" else 2048
    sizes = [(wide, wide, wide), (1024, shape.d_model, shape.d_mlp), (1024, shape.d_mlp, shape.d_model)]
    ways = (_plain,) if device == "cuda" else (_plain, _mapped, _packed)  # there they are the same
    return max(_rate(way, *size, number_format, device) for size in sizes for way in ways)


def _plain(layer: nn.Linear) -> Product:
    return lambda rows: nn.functional.linear(rows, layer.weight)


def _mapped(layer: nn.Linear) -> Product:
    return lambda rows: linear(rows, layer.weight)


def _packed(layer: nn.Linear) -> Product:
    model = nn.Sequential(layer)
    pack(model, layer.weight.dtype)
    return model


@torch.inference_mode()
def _rate(
    way: Callable[[nn.Linear], Product], rows: int, inner: int, columns: int, dtype: torch.dtype, device: str
) -> float:
    left = torch.randn(rows, inner, device=device).to(dtype)
    product = way(nn.Linear(inner, columns, bias=False, device=device).to(dtype))
    product(left)
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        synchronise()
        start = time.perf_counter()
        product(left)
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


def there_and_back(once: Work, tokens: int, solutions: int) -> Work:
    """The same with attributions: weights are frozen, so that the way back is one more product with each, as the way
    there was; and every token is encoded, where else the final ones of the solutions are."""
    return Work(2 * once.body, 2 * once.projection, once.encode * tokens / solutions)
