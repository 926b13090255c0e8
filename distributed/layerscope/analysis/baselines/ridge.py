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

from layerscope.analysis.baselines.measuring import discovery_auroc
from layerscope.analysis.baselines.split import FOLDS, Split
from layerscope.analysis.result import Floats

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
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    best = Probe(np.zeros(len(inside)), -1.0)
    for penalty in unit * PENALTIES:
        coefficients, left_out = _fit(x, y, gram + penalty * np.eye(len(gram)), split.fold[inside])
        difference = np.zeros(len(inside))
        difference[inside] = left_out / y
        quality = discovery_auroc(difference, split)
        if quality >= best.discovery:
            difference[~inside] = columns[~inside] @ coefficients
            best = Probe(difference, quality)
    return best


def _fit(x: Floats, y: Floats, penalised: Floats, fold: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """The coefficients [C], and predictions of y [D] of the fits without each one's fold.

    Args:
        penalised: the smaller of the two Gram matrices of x, [D, D] or [C, C], with the penalty on its diagonal.
    """
    inverse = np.linalg.inv(penalised)
    by_pairs = len(inverse) == len(x)
    if by_pairs:
        error = inverse @ y
        coefficients = x.T @ error
    else:
        coefficients = inverse @ (x.T @ y)
        error = y - x @ coefficients
    left_out = np.empty(len(y))
    for number in range(FOLDS):
        rows = np.flatnonzero(fold == number)
        own = x[rows]
        block = inverse[np.ix_(rows, rows)] if by_pairs else np.eye(len(rows)) - own @ inverse @ own.T
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
