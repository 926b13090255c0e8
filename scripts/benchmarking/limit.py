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
from layerscope.engine.batches.readings import read_batch
from layerscope.models.spec import tokenizer_path
from layerscope.numerics.matrix_products import linear, pack
from layerscope.planning.job import Job
from layerscope.questions.pairs import Pair, PairTokenizer

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


@dataclass(frozen=True)
class Work:
    """FLOP of the matrix products of a question; those inside attention, about one in a hundred, are left out."""

    body: float
    projection: float
    encode: float


@dataclass(frozen=True)
class Counts:
    """What there is of all questions."""

    questions: int
    tokens: int
    """Of all pair rows, shared ones once."""
    predictors: int
    """Positions that predict a solution token."""
    rows: int
    """Of the residual stream that the SAEs encode."""


def counts(job: Job) -> Counts:
    """What a job is about, by its tokeniser and its readings."""
    tokenizer = PairTokenizer(tokenizer_path(job.model), job.spec.context, job.reading.prompt, spell=job.reading.spells)
    pairs = [pair for pair in tokenizer.pairs(list(job.selection)) if isinstance(pair, Pair)]
    two = [[0, 1] for _ in pairs]  # of more, the right one and the strongest wrong one are read
    read = read_batch(pairs, job.reading.names, two, job.reading.attribution is not None)
    return Counts(
        len(pairs),
        sum(len(pair.tokens) for pair in pairs),
        sum(len(_predictors(pair)) for pair in pairs),
        sum(map(len, read.places)),
    )


def _predictors(pair: Pair) -> set[int]:
    return {
        pair.row_index(solution, position)
        for solution in pair.solutions
        for position in range(pair.prompt - 1, pair.lengths[solution] - 1)
    }


def work(shape: Shape, counted: Counts, dictionaries: int = 1, attributed: bool = False) -> Work:
    """
    Args:
        attributed: weights are frozen, so that the way back is one more product with each, as the way there was.
    """
    ways, n = 1 + attributed, counted.questions
    return Work(
        ways * 2 * shape.body_parameters * counted.tokens / n,
        ways * 2 * shape.vocabulary * shape.d_model * counted.predictors / n,
        dictionaries * 2 * shape.n_layers * shape.d_model * shape.d_sae * counted.rows / n,
    )
