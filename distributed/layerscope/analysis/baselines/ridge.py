"""Ridge regression of the label on differences, in closed form, with its penalty chosen by folds.

A pair's difference x is right less wrong, so its label is 1, and the other way round -x has -1: no constant is needed.
Minimised is Σ w (1 - x·β)² + λ |β|². What the fit without a fold says of it needs no other fit: its errors are those of
the whole fit, taken through the inverse of the fold's own block of 1 - X (XᵀX + λ)⁻¹ Xᵀ, which is λ (XXᵀ + λ)⁻¹.
Shapes: `Q` questions; `D` of them in the discovery half; `C` columns. X and y are weighted by √w.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerscope.analysis.arrays import Floats
from layerscope.analysis.baselines.measuring import discovery_auroc
from layerscope.analysis.baselines.split import FOLDS, Split

PENALTIES = 10.0 ** np.arange(-2, 4)
"""Times the mean of the eigenvalues of the smaller Gram matrix. Of equal AUROCs by folds the largest is taken."""


class Probe(NamedTuple):
    """What a learnt score says of every pair."""

    difference: Floats  # [Q] the discovery half's by the folds that do not have it, the held-out half's by all of them
    discovery: float
    """AUROC of the discovery half."""


Scores = dict[str, Sequence[Probe | None]]
"""By the name of a baseline its scores, layer by layer; None where a layer has none."""


def ridge(columns: NDArray[np.floating], split: Split) -> Probe:
    """A probe on differences, [Q, C], learnt on the discovery half."""
    inside = split.discovery
    y = np.sqrt(split.weight[inside])
    x = columns[inside].astype(np.float64) * y[:, None]
    unit = float(np.square(x).sum()) / max(min(x.shape), 1)
    if not unit:
        return Probe(np.zeros(len(inside)), 0.5)
    axes = _Axes.of(x)
    best = Probe(np.zeros(len(inside)), -1.0)
    for penalty in unit * PENALTIES:
        coefficients, left_out = _fit(x, y, axes, penalty, split.fold[inside])
        difference = np.zeros(len(inside))
        difference[inside] = left_out / y
        quality = discovery_auroc(difference, split)
        if quality >= best.discovery:
            difference[~inside] = columns[~inside] @ coefficients
            best = Probe(difference, quality)
    return best


class _Axes(NamedTuple):
    """The smaller of the two Gram matrices of X by its own axes, on which every penalty is a sum; `R` is its size."""

    squares: Floats  # [R] eigenvalues
    vectors: Floats  # [R, R]
    pairs: Floats  # [D, R] pairs along the axes
    wide: bool
    """It is that of the pairs, XXᵀ, and R is D; else XᵀX, and R is C."""

    @classmethod
    def of(cls, x: Floats) -> "_Axes":
        wide = x.shape[0] <= x.shape[1]
        squares, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
        return cls(np.maximum(squares, 0), vectors, vectors if wide else x @ vectors, wide)


def _fit(x: Floats, y: Floats, axes: _Axes, penalty: float, fold: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """The coefficients [C], and predictions of y [D] of the fits without each one's fold."""
    shrunk = axes.pairs / (axes.squares + penalty)
    if axes.wide:
        error = shrunk @ (axes.pairs.T @ y)
        coefficients = x.T @ error
    else:
        coefficients = axes.vectors @ (shrunk.T @ y)
        error = y - x @ coefficients
    left_out = np.empty(len(y))
    for number in range(FOLDS):
        rows = np.flatnonzero(fold == number)
        own = shrunk[rows] @ axes.pairs[rows].T
        block = own if axes.wide else np.eye(len(rows)) - own
        left_out[rows] = y[rows] - np.linalg.solve(block, error[rows])
    return coefficients, left_out


def mean_difference(columns: NDArray[np.floating], split: Split) -> Probe:
    """The difference of means as a direction, [Q, C]: what a pair's own difference has of it."""
    inside = split.discovery
    sums = np.stack([split.weight[rows] @ columns[rows] for rows in (split.fold == n for n in range(FOLDS))])
    difference = columns @ sums.sum(axis=0)
    for number in range(FOLDS):
        rows = split.fold == number
        difference[rows] = columns[rows] @ (sums.sum(axis=0) - sums[number])
    return Probe(difference, discovery_auroc(np.where(inside, difference, 0), split))
