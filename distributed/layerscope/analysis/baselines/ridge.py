"""Ridge regression of the label on differences, in closed form, with its penalty chosen by folds.

A pair's difference x is right less wrong, so its label is 1, and the other way round -x has -1: no constant is needed.
Minimised is Σ w (1 - x·β)² + λ |β|². Everything is solved by the smaller Gram matrix. Of few pairs it is that of the
pairs, XXᵀ, and what the fit without a fold says of it needs no other fit: its errors are those of the whole fit, taken
through the inverse of the fold's own block of 1 - X (XᵀX + λ)⁻¹ Xᵀ, which is λ (XXᵀ + λ)⁻¹. Of many it is that of the
columns, XᵀX, from which a fold's own part is taken away: nothing is held then that is as long as the pairs but X, which
may be sparse.
Shapes: `Q` questions; `D` of them in the discovery half; `C` columns. X and y are weighted by √w.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from layerscope.analysis.baselines.measuring import discovery_auroc
from layerscope.analysis.baselines.split import FOLDS, Split
from layerscope.analysis.columns.arrays import Floats
from layerscope.analysis.columns.spilling import Aside

PENALTIES = 10.0 ** np.arange(-2, 4)
"""Times the mean of the eigenvalues of the smaller Gram matrix. Of equal AUROCs by folds the largest is taken."""


@dataclass(frozen=True)
class Probe:
    """What a learnt score says of every pair."""

    held: Floats | Callable[[], Floats]
    """Its `difference`, or what reads it."""
    discovery: float
    """AUROC of the discovery half."""

    @property
    def difference(self) -> Floats:
        """[Q] the discovery half's by the folds that do not have it, the held-out half's by all of them."""
        return self.held() if callable(self.held) else self.held

    def put(self, aside: Aside) -> "Probe":
        """The same, on disk: there are several of every layer."""
        return Probe(aside.put(self.difference), self.discovery)


Scores = dict[str, Sequence[Probe | None]]
"""By the name of a baseline its scores, layer by layer; None where a layer has none."""


class _Fit(NamedTuple):
    """One penalty's."""

    coefficients: Floats  # [C]
    left_out: Floats  # [D] predictions of y of the fits without each one's fold


def ridge(columns: Any, split: Split) -> Probe:
    """A probe on differences, learnt on the discovery half.

    Args:
        columns: [Q, C], an array or a sparse one.
    """
    inside = split.discovery
    y = np.sqrt(split.weight[inside])
    few = len(y) <= columns.shape[1]
    if few and sparse.issparse(columns):
        columns = columns.toarray()
    x = columns[inside].astype(np.float64)
    x = sparse.diags_array(y) @ x if sparse.issparse(x) else x * y[:, None]
    best = Probe(np.zeros(len(inside)), -1.0)
    for fit in (_of_pairs if few else _of_columns)(x, y, split.fold[inside]):
        difference = np.zeros(len(inside))
        difference[inside] = fit.left_out / y
        quality = discovery_auroc(difference, split)
        if quality >= best.discovery:
            difference[~inside] = columns[~inside] @ fit.coefficients
            best = Probe(difference, quality)
    return best if best.discovery >= 0 else Probe(np.zeros(len(inside)), 0.5)


def _of_pairs(x: Floats, y: Floats, fold: NDArray[np.int64]) -> Iterator[_Fit]:
    """By the Gram matrix of the pairs and its own axes, on which every penalty is a sum; nothing where X is 0."""
    unit = float(np.square(x).sum()) / max(len(x), 1)
    if not unit:
        return
    squares, vectors = np.linalg.eigh(x @ x.T)
    squares = np.maximum(squares, 0)
    for penalty in unit * PENALTIES:
        shrunk = vectors / (squares + penalty)
        error = shrunk @ (vectors.T @ y)
        left_out = np.empty(len(y))
        for number in range(FOLDS):
            rows = np.flatnonzero(fold == number)
            left_out[rows] = y[rows] - np.linalg.solve(shrunk[rows] @ vectors[rows].T, error[rows])
        yield _Fit(x.T @ error, left_out)


def _of_columns(x: Any, y: Floats, fold: NDArray[np.int64]) -> Iterator[_Fit]:
    """By the Gram matrix of the columns; nothing where X is 0."""
    of_folds = [x[fold == number] for number in range(FOLDS)]
    ys = [y[fold == number] for number in range(FOLDS)]
    grams = [_dense(part.T @ part) for part in of_folds]
    targets = [part.T @ of_part for part, of_part in zip(of_folds, ys, strict=True)]
    gram, target = np.sum(grams, axis=0), np.sum(targets, axis=0)
    unit = float(np.trace(gram)) / max(len(target), 1)
    if not unit:
        return
    for penalty in unit * PENALTIES:
        ridged, left_out = gram + penalty * np.eye(len(target)), np.empty(len(y))
        for number, part in enumerate(of_folds):
            without = linalg.solve(ridged - grams[number], target - targets[number], assume_a="pos")
            left_out[fold == number] = part @ without
        yield _Fit(linalg.solve(ridged, target, assume_a="pos"), left_out)


def _dense(matrix: Any) -> Floats:
    found: Floats = matrix.toarray() if sparse.issparse(matrix) else matrix
    return found


def mean_difference(columns: NDArray[np.floating], split: Split) -> Probe:
    """The difference of means as a direction, [Q, C]: what a pair's own difference has of it."""
    inside = split.discovery
    sums = np.stack([split.weight[rows] @ columns[rows] for rows in (split.fold == n for n in range(FOLDS))])
    difference = columns @ sums.sum(axis=0)
    for number in range(FOLDS):
        rows = split.fold == number
        difference[rows] = columns[rows] @ (sums.sum(axis=0) - sums[number])
    return Probe(difference, discovery_auroc(np.where(inside, difference, 0), split))
