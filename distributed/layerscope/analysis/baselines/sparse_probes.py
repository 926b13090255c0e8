"""Probes on few features: those of one layer that lean most to one side, weighted by ridge regression."""

import numpy as np

from layerscope.analysis.arrays import Bools, Floats, Ints
from layerscope.analysis.baselines.measuring import discovery_auroc
from layerscope.analysis.baselines.ridge import PENALTIES, Probe
from layerscope.analysis.baselines.split import FOLDS, Split
from layerscope.analysis.censoring import LayerPairs
from layerscope.analysis.statistics import sums

SIZES = (1, 5, 20)
"""Features of a probe."""


def sparse_probes(pairs: LayerPairs, split: Split) -> list[Probe]:
    """A probe of every one of `SIZES`, on the activations above each pair's limit, right less wrong.

    Features are chosen by |Σ x| / √Σ x², of all folds but one for what is said of that one.
    """
    everyone = split.discovery
    difference = np.zeros((len(SIZES), len(PENALTIES), len(everyone)))
    leaning = _leaning(pairs, split)
    for fold in range(FOLDS):
        rows = split.fold == fold
        difference[..., rows] = _predictions(pairs, leaning[fold], everyone & ~rows, rows, split.weight)
    judged = _predictions(pairs, leaning[FOLDS], everyone, ~everyone, split.weight)
    probes = []
    for number in range(len(SIZES)):
        qualities = [discovery_auroc(difference[number, p], split) for p in range(len(PENALTIES))]
        best = max(range(len(PENALTIES)), key=lambda p: (qualities[p], p))
        told = difference[number, best]
        told[~everyone] = judged[number, best]
        probes.append(Probe(told, qualities[best]))
    return probes


def _leaning(pairs: LayerPairs, split: Split) -> list[Ints]:
    """The features that lean most, most first, without each of the folds, and with all of them."""
    n_features, fold = len(pairs.feature_id), split.fold[pairs.pair]
    inside = fold >= 0
    x, weight = (pairs.positive - pairs.negative)[inside], split.weight[pairs.pair[inside]]
    place = fold[inside] * n_features + pairs.feature[inside]
    first, second = (
        sums(place, weight * power, FOLDS * n_features).reshape(FOLDS, n_features) for power in (x, np.square(x))
    )
    without = [(first.sum(axis=0) - out, second.sum(axis=0) - of) for out, of in zip(first, second, strict=True)]
    chosen = []
    for total, square in (*without, (first.sum(axis=0), second.sum(axis=0))):
        known = square > 1e-9 * square.max(initial=0)
        amount = np.abs(total) / np.sqrt(np.where(known, square, np.inf))
        chosen.append(np.argsort(-amount, kind="stable")[: max(SIZES)])
    return chosen


def _predictions(pairs: LayerPairs, features: Ints, learnt_on: Bools, of: Bools, weight: Floats) -> Floats:
    """What probes of every size and penalty say of some pairs, [size, penalty, pairs]."""
    x = _columns(pairs, features)
    known = weight[learnt_on, None] * x[learnt_on]
    scale = np.sqrt(np.einsum("qc,qc->c", known, x[learnt_on]))
    x = x / np.where(scale > 0, scale, 1)
    known = weight[learnt_on, None] * x[learnt_on]
    gram, target, asked = known.T @ x[learnt_on], known.sum(axis=0), x[of]
    predicted = []
    for size in SIZES:
        penalised = gram[:size, :size] + PENALTIES[:, None, None] * np.eye(len(gram[:size]))
        coefficients = np.linalg.solve(penalised, np.broadcast_to(target[:size, None], (*penalised.shape[:2], 1)))
        predicted.append(coefficients[..., 0] @ asked[:, :size].T)
    return np.stack(predicted)


def _columns(pairs: LayerPairs, features: Ints) -> Floats:
    """Differences of some features, [Q, C]."""
    columns = np.zeros((len(pairs.whole), len(features)))
    starts, ends = np.searchsorted(pairs.feature, features), np.searchsorted(pairs.feature, features, "right")
    for column, rows in enumerate(map(slice, starts, ends)):
        columns[pairs.pair[rows], column] = pairs.positive[rows] - pairs.negative[rows]
    return columns
