"""The right solution against the mean of all wrong ones: two tests of every feature of a layer.

Under the null hypothesis any of a question's k solutions is as likely to be the right one. Given that a feature fires
for m of them, the right one is among these with a probability of m / k: that, and not one half, is what firing is held
against (the score test of conditional logistic regression; Breslow and Day 1980, chapter 7), with its exact
distribution. Strength is asked of the questions in which the feature fires for the right solution and a wrong one: the
rank of the right one among those that fire, weighted by the rank of the question's range (Quade 1979). With two
solutions the one is McNemar's test and the other Wilcoxon's. Of a goal group the first question that tells is counted.
Shapes: as in `solution_sets`; `C` the cells that tell.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from layerscope.analysis.columns.arrays import Bools, Floats, Ints
from layerscope.analysis.columns.solution_sets import LayerSets
from layerscope.analysis.result import SetTest
from layerscope.analysis.testing import statistics

_HELD = 1 << 22  # numbers of the distributions that are held at once
_LEAST_P = 1e-15  # what the sums of a distribution in double precision can tell from nothing


class Ranges(NamedTuple):
    """The questions in which a feature fires for the right solution and a wrong one, with unlike strength, [C]."""

    cell: Ints
    feature: Ints
    question: Ints
    difference: Floats  # the right one's activation less the mean of the wrong ones that fire
    range: Floats  # the largest activation less the smallest
    rank: Floats  # the right one's among those that fire, less the mean of the ranks
    variance: Floats  # of the rank


def ranges_of(sets: LayerSets) -> Ranges:
    """What the test of strength ranks, ordered by feature, then by question."""
    order = np.lexsort((sets.activation, sets.cell))
    cell, activation = sets.cell[order], sets.activation[order]
    rank, right = statistics.midranks(cell, activation), sets.of_right[order]
    n_cells = len(sets.feature)
    ends = np.cumsum(sets.firing)
    starts, m = ends - sets.firing, sets.firing
    spread = activation[ends - 1] - activation[starts] if n_cells else np.zeros(0)
    of_right, rank_of_right = (statistics.sums(cell[right], values[right], n_cells) for values in (activation, rank))
    rest = statistics.sums(cell, activation, n_cells) - of_right
    variance = statistics.sums(cell, rank**2, n_cells) / m - ((m + 1) / 2) ** 2
    kept = np.flatnonzero(sets.right & (m > 1) & (spread > 0))
    difference = of_right[kept] - rest[kept] / (m[kept] - 1)
    centred = rank_of_right[kept] - (m[kept] + 1) / 2
    return Ranges(kept, sets.feature[kept], sets.question[kept], difference, spread[kept], centred, variance[kept])


def firing_test(sets: LayerSets, solutions: Ints, group: Ints, members: Bools, min_questions: int) -> SetTest:
    """Whether the right solution is among those that a feature fires for more often than any solution would be.

    Args:
        solutions: of every question, [Q].
        group: goal group of every question, [Q].
        members: which questions are tested, [Q].
    """
    k = solutions[sets.question]
    kept = _counted(sets.feature, sets.question, group, members[sets.question] & (sets.firing < k))
    feature, right, m, k = sets.feature[kept], sets.right[kept], sets.firing[kept], k[kept]
    n_features, share = len(sets.feature_id), m / k

    def total(values: Floats | Ints) -> Floats:
        return statistics.sums(feature, values, n_features)

    questions, hits = np.bincount(feature, minlength=n_features), total(right.astype(np.int64))
    z = (hits - total(share)) / np.sqrt(np.maximum(total(share * (1 - share)), 1e-9))
    alone, missing = total(right * (k - m) / (k - 1)), total(~right * m / (k - 1))
    effect = np.where(questions > 0, np.log((alone + 0.5) / (missing + 0.5)), np.nan)
    p = np.full(n_features, np.nan)
    tested = questions >= min_questions
    p[tested] = _two_sided(feature, share, hits, tested)
    return SetTest(questions, effect, z, p, np.full(n_features, np.nan))


def _two_sided(feature: Ints, share: Floats, hits: Floats, tested: Bools) -> Floats:
    """Twice the smaller tail of the number of hits, of the tested features: a sum of outcomes of unlike probabilities.

    Args:
        feature, share: [C] of every outcome.
        hits: how many came true, [F].
    """
    shares, kind = np.unique(share, return_inverse=True)
    index = np.cumsum(tested) - 1
    inside = tested[feature]
    shape = int(tested.sum()), len(shares)
    place = index[feature[inside]] * len(shares) + kind[inside]
    counts = np.bincount(place, minlength=shape[0] * shape[1]).reshape(shape)
    of_each = hits[tested].astype(np.int64)
    size = 1 << np.ceil(np.log2(counts.sum(axis=1) + 1)).astype(np.int64)
    p = np.ones(len(counts))
    for length in np.unique(size):
        rows = np.flatnonzero(size == length)
        step = max(1, _HELD // int(length))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            p[part] = _tails(counts[part], shares, of_each[part], int(length))
    return p


def _tails(counts: Ints, shares: Floats, hits: Ints, length: int) -> Floats:
    """By way of the characteristic function, at the points that give the distribution back (Hong 2013)."""
    turn = np.exp(2j * np.pi * np.arange(length // 2 + 1) / length)
    product = np.ones((len(counts), len(turn)), dtype=np.complex128)
    for share, count in zip(shares, counts.T, strict=True):
        product *= (1 - share + share * turn) ** count[:, None]
    mass, rows = np.maximum(np.fft.irfft(product.conj(), n=length), 0), np.arange(len(counts))
    below = np.cumsum(mass, axis=1)[rows, hits]
    above = np.cumsum(mass[:, ::-1], axis=1)[rows, length - 1 - hits]
    p: Floats = np.clip(2 * np.minimum(below, above), _LEAST_P, 1)
    return p


def strength_test(ranges: Ranges, n_features: int, group: Ints, members: Bools, min_questions: int) -> SetTest:
    """Whether the right solution is the stronger of those that a feature fires for.

    Args:
        group: goal group of every question, [Q].
        members: which questions are tested, [Q].
    """
    kept = _counted(ranges.feature, ranges.question, group, members[ranges.question])
    kept = kept[np.lexsort((ranges.range[kept], ranges.feature[kept]))]
    feature, difference = ranges.feature[kept], ranges.difference[kept]
    weight = statistics.midranks(feature, ranges.range[kept])

    def total(values: Floats | Ints) -> Floats:
        return statistics.sums(feature, values, n_features)

    questions = np.bincount(feature, minlength=n_features)
    norm = np.sqrt(total(weight**2 * ranges.variance[kept]))
    z = total(weight * ranges.rank[kept]) / np.where(norm > 0, norm, 1)
    mean = total(difference) / np.maximum(questions, 1)
    deviation = np.sqrt(total((difference - mean[feature]) ** 2) / np.maximum(questions - 1, 1))
    spread = (questions > 1) & (deviation > 1e-9 * np.abs(mean))  # not the rounding of equal differences
    effect = np.where(spread, mean / np.where(spread, deviation, 1), np.nan)
    p = np.where(questions >= min_questions, 2 * stats.norm.sf(np.abs(z)), np.nan)
    return SetTest(questions, effect, z, p, np.full(n_features, np.nan))


def _counted(feature: Ints, question: Ints, group: Ints, telling: Bools) -> Ints:
    """Which cells count: those that tell, and of a goal group the first, whatever is right there.

    Args:
        feature, question, telling: of every cell, ordered by feature, then by question.
    """
    cells = np.flatnonzero(telling)
    if not len(group) or int(group.max()) + 1 == len(group):
        return cells
    _, firsts = np.unique(feature[cells] * (int(group.max()) + 1) + group[question[cells]], return_index=True)
    return cells[firsts]
