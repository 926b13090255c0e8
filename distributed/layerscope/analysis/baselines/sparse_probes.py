"""Probes on few features: those of one layer that lean most to one side, weighted by ridge regression."""

from collections.abc import Iterator

import numpy as np

from layerscope.analysis.baselines.measuring import discovery_auroc
from layerscope.analysis.baselines.ridge import PENALTIES, Probe
from layerscope.analysis.baselines.split import FOLDS, Split
from layerscope.analysis.columns.arrays import Bools, Floats, Ints
from layerscope.analysis.columns.censoring import Paired
from layerscope.analysis.columns.spilling import Rows
from layerscope.analysis.testing.statistics import sums

SIZES = (1, 5, 20)
"""Features of a probe."""
QUESTIONS = 1 << 16
"""Whose differences are numbers side by side at once."""


def sparse_probes(pairs: Paired, split: Split) -> list[Probe]:
    """A probe of every one of `SIZES`, on the activations above each pair's limit, right less wrong.

    Features are chosen by |Σ x| / √Σ x², of all folds but one for what is said of that one.
    """
    everyone = split.discovery
    leaning = _leaning(pairs, split)
    table = _Differences(pairs, np.unique(np.concatenate(leaning)))
    place = np.cumsum(everyone) - 1
    difference = np.zeros((len(SIZES), len(PENALTIES), int(everyone.sum())))
    for fold in range(FOLDS):
        rows = split.fold == fold
        for some, predicted in _predictions(table, leaning[fold], everyone & ~rows, rows, split.weight):
            difference[..., place[some]] = predicted
    told, qualities = np.zeros((len(SIZES), len(everyone))), list[float]()
    best = list[int]()
    for number in range(len(SIZES)):
        of_each = list[float]()
        for candidate in difference[number]:
            told[number, everyone] = candidate
            of_each.append(discovery_auroc(told[number], split))
        best.append(max(range(len(PENALTIES)), key=lambda p: (of_each[p], p)))
        qualities.append(of_each[best[-1]])
        told[number, everyone] = difference[number, best[-1]]
    for some, predicted in _predictions(table, leaning[FOLDS], everyone, ~everyone, split.weight):
        told[:, some] = predicted[np.arange(len(SIZES)), best]
    return [Probe(*each) for each in zip(told, qualities, strict=True)]


def _leaning(pairs: Paired, split: Split) -> list[Ints]:
    """The features that lean most, most first, without each of the folds, and with all of them: their ids."""
    ids, firsts, seconds = list[Ints](), list[Floats](), list[Floats]()
    for part in pairs.parts():
        n_features, fold = len(part.feature_id), split.fold[part.pair]
        inside = fold >= 0
        x, weight = (part.positive - part.negative)[inside], split.weight[part.pair[inside]]
        place = fold[inside] * n_features + part.feature[inside]
        for power, into in ((x, firsts), (np.square(x), seconds)):
            into.append(sums(place, weight * power, FOLDS * n_features).reshape(FOLDS, n_features))
        ids.append(part.feature_id)
    first, second = np.concatenate(firsts, axis=1), np.concatenate(seconds, axis=1)
    without = [(first.sum(axis=0) - out, second.sum(axis=0) - of) for out, of in zip(first, second, strict=True)]
    chosen = []
    for total, square in (*without, (first.sum(axis=0), second.sum(axis=0))):
        known = square > 1e-9 * square.max(initial=0)
        amount = np.abs(total) / np.sqrt(np.where(known, square, np.inf))
        chosen.append(np.concatenate(ids)[np.argsort(-amount, kind="stable")[: max(SIZES)]])
    return chosen


class _Differences:
    """The differences of some features, on disk, of which some questions' are in memory at once."""

    def __init__(self, pairs: Paired, feature_id: Ints) -> None:
        """
        Args:
            feature_id: [C] ascending.
        """
        self._feature_id, self._size, self._rows = feature_id, len(pairs.whole), Rows(np.float64)
        for part in pairs.parts(feature_id):
            for place in np.flatnonzero(np.isin(part.feature_id, feature_id)):
                of_feature = slice(*np.searchsorted(part.feature, (place, place + 1)))
                column = np.zeros(self._size)
                column[part.pair[of_feature]] = part.positive[of_feature] - part.negative[of_feature]
                self._rows.write(self._begin(part.feature_id[place]), column)

    def _begin(self, feature_id: int) -> int:
        return int(np.searchsorted(self._feature_id, feature_id)) * self._size

    def of(self, feature_id: Ints) -> Iterator[tuple[slice, Floats]]:
        """Of these features, in their order, [some of Q, C]: some questions after the others."""
        for start in range(0, max(self._size, 1), QUESTIONS):
            some = slice(start, min(start + QUESTIONS, self._size))
            found = np.empty((some.stop - start, len(feature_id)))
            for column, each in enumerate(feature_id):
                found[:, column] = self._rows.read(self._begin(each) + start, some.stop - start)
            yield some, found


def _predictions(
    table: _Differences, feature_id: Ints, learnt_on: Bools, of: Bools, weight: Floats
) -> Iterator[tuple[Ints, Floats]]:
    """What probes of every size and penalty say of some pairs: which, and [size, penalty, pairs]."""
    squares = np.zeros(len(feature_id))
    for some, x in table.of(feature_id):
        x = x[learnt_on[some]]
        squares += np.einsum("qc,qc->c", weight[some][learnt_on[some], None] * x, x)
    scale = np.where(squares > 0, np.sqrt(squares), 1)
    gram, target = np.zeros((len(scale), len(scale))), np.zeros(len(scale))
    for some, x in table.of(feature_id):
        x = (x / scale)[learnt_on[some]]
        known = weight[some][learnt_on[some], None] * x
        gram, target = gram + known.T @ x, target + known.sum(axis=0)
    coefficients = []
    for size in SIZES:
        penalised = gram[:size, :size] + PENALTIES[:, None, None] * np.eye(len(gram[:size]))
        solved = np.linalg.solve(penalised, np.broadcast_to(target[:size, None], (*penalised.shape[:2], 1)))
        coefficients.append(solved[..., 0])
    for some, x in table.of(feature_id):
        asked = (x / scale)[of[some]]
        predicted = [each @ asked[:, :size].T for size, each in zip(SIZES, coefficients, strict=True)]
        yield some.start + np.flatnonzero(of[some]), np.stack(predicted)
