"""The tests and effects, vectorised over features. Pure functions of arrays; nothing of files, layers or labels.

A contrast is a sign per pair: 1 where its first side is the positive solution, -1 where it is the negative one. To flip
a label is to flip a sign, and changes nothing else: ranks and counts of pairs serve every contrast and permutation.
Shapes: `M` feature x pair, ordered by feature; `F` features; `Q` pairs; `P` permutations.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from layerscope.analysis.columns.arrays import Bools, Floats, Ints
from layerscope.analysis.result import Firing, Magnitude
from layerscope.analysis.testing.draws import DRAWS, Draws
from layerscope.analysis.testing.proportion import Proportion
from layerscope.records.goals import interval_of_mean

_DRAWN = 1 << 16  # numbers of a table of drawn weights at once: what a core has at hand


def sums(index: Ints, values: Floats | Ints, size: int) -> Floats:
    """The sum of the values at every index from 0 to `size`."""
    return np.bincount(index, weights=values, minlength=size).astype(np.float64, copy=False)


def sign_test(first_only: Ints, second_only: Ints, min_pairs: int) -> Firing:
    """McNemar's exact test: of the discordant pairs, as many one way as the other."""
    pairs = first_only + second_only
    fewer = np.minimum(first_only, second_only)
    p = np.minimum(1.0, 2 * special.bdtr(fewer.astype(np.float64), pairs, 0.5))
    effect = np.where(pairs > 0, np.log((first_only + 0.5) / (second_only + 0.5)), np.nan)
    z = (first_only - second_only) / np.sqrt(np.maximum(pairs, 1))
    return Firing(first_only, second_only, effect, z, np.where(pairs >= min_pairs, p, np.nan), np.full(len(p), np.nan))


def midranks(feature: Ints, value: Floats) -> Floats:
    """Ranks from 1 within each feature, ties sharing their mean (scipy.stats.rankdata's `average`).

    Args:
        feature, value: [M], ordered by feature, then by value.
    """
    if not len(feature):
        return np.zeros(0)
    new_feature = np.append(True, feature[1:] != feature[:-1])
    starts = np.flatnonzero(new_feature | np.append(True, value[1:] != value[:-1]))  # of runs of ties
    sizes = np.diff(np.append(starts, len(feature)))
    before = np.maximum.accumulate(np.where(new_feature, np.arange(len(feature)), 0))[starts]
    return np.repeat(starts - before + (sizes + 1) / 2, sizes)


def signed_rank_test(feature: Ints, signed: Floats, rank: Floats, n_features: int, min_pairs: int) -> Magnitude:
    """Wilcoxon's signed-rank test as scipy.stats.wilcoxon defines it with its defaults and `method="asymptotic"`.

    Zeros are left out, ties share their mean rank, the variance is that of the ranks as they are, and there is no
    continuity correction. Without many ties the normal approximation errs to the safe side where q-values need it,
    in the far tail of few pairs.

    Args:
        signed: [M] differences first - second of the pairs in which both are known.
        rank: [M] of their amounts within the feature, 0 for zeros.
    """
    differs = signed != 0
    known = np.bincount(feature, minlength=n_features)
    pairs = np.bincount(feature[differs], minlength=n_features)
    z = sums(feature, rank * np.sign(signed), n_features) / np.sqrt(np.maximum(sums(feature, rank**2, n_features), 1))
    mean = _ratio(sums(feature, signed, n_features), known)
    deviation = np.sqrt(_ratio(sums(feature, (signed - mean[feature]) ** 2, n_features), known - 1))
    spread = deviation > 1e-9 * np.abs(mean)  # not the rounding of equal differences
    p = np.where(pairs >= min_pairs, 2 * stats.norm.sf(np.abs(z)), np.nan)
    return Magnitude(
        known, pairs, mean, _ratio(mean, np.where(spread, deviation, 0)), z, p, np.full(n_features, np.nan)
    )


def false_discovery_rates(p: Floats) -> Floats:
    """Benjamini-Hochberg's q of every p that is not NaN, over all of these."""
    q = np.full(len(p), np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested])
    return q


class Outcome(Protocol):
    """What every test has."""

    @property
    def z(self) -> NDArray[np.floating]: ...  # [N]

    @property
    def p(self) -> Floats: ...  # [N]


class Selection(NamedTuple):
    """What one half of the questions selects and the other confirms, [N]."""

    discovery_q: Floats
    validation_p: Floats
    """Only where selected."""
    validation_q: Floats
    """Over the selected."""
    selected: Bools
    confirmed: Bools


def select_and_confirm(discovery: Outcome, validation: Outcome, level: float) -> Selection:
    """Selects by q on one half, and confirms by q among the selected, and by sign, on the other."""
    discovery_q = false_discovery_rates(discovery.p)
    selected = discovery_q <= level  # NaN is not
    validation_p = np.where(selected, validation.p, np.nan)
    validation_q = false_discovery_rates(validation_p)
    confirmed = (validation_q <= level) & (np.sign(validation.z) == np.sign(discovery.z))
    return Selection(discovery_q, validation_p, validation_q, selected, confirmed)


def family_wise_threshold(tested: Bools, largest: NDArray[np.float32], level: float) -> float:
    """The |z| to exceed so that with a probability of `level` at most anything does by chance (Westfall and Young).

    Args:
        tested: [N] which features are.
        largest: [P] |z| of every permutation over everything tested.

    Returns:
        NaN where nothing is tested; infinity where there are too few permutations for the level.
    """
    if not tested.any() or not len(largest):
        return float("nan")
    ordered = np.sort(largest.astype(np.float64))
    allowed = int(level * (1 + len(ordered))) - 1  # permutations that may reach a significant |z|
    return float(ordered[-1 - allowed]) if allowed >= 0 else float("inf")


def paired_superiority(first: Floats, second: Floats, group: Ints) -> tuple[float, float]:
    """P(first > second) + P(=)/2 within pairs, every group counting once, and its standard error; NaN of nothing."""
    if not len(group):
        return float("nan"), float("nan")
    sizes = np.bincount(group)
    wins = sums(group, (np.sign(first - second) + 1) / 2, len(sizes))[sizes > 0] / sizes[sizes > 0]
    return float(wins.mean()), float(wins.std() / np.sqrt(len(wins)))


def auroc(first: Floats, second: Floats, weight: Floats) -> float:
    """P(first > second) + P(=)/2 over any of the one and any of the other, of weighted pairs; NaN of nothing."""
    if not len(weight):
        return float("nan")
    scores, place = np.unique(np.concatenate([first, second]), return_inverse=True)
    of_first, of_second = (sums(part, weight, len(scores)) for part in np.split(place, 2))
    below = np.cumsum(of_second) - of_second
    return float((of_first * (below + of_second / 2)).sum() / weight.sum() ** 2)


def auroc_interval(first: Floats, second: Floats, weight: Floats, group: Ints, draws: Draws) -> tuple[float, float]:
    """Between which 95 % of the `auroc`s of draws of whole goal groups lie.

    Args:
        group: [H] the row of `draws` that every pair's goal group has.
        draws: of the groups.
    """
    order = np.argsort(second, kind="stable")
    below, up_to = (np.searchsorted(second[order], first, side) for side in ("left", "right"))
    found, step = [], max(_DRAWN // max(len(weight), 1), 1)
    for start in range(0, DRAWS, step):
        drawn = draws.of_pairs(group, start, start + step) * weight[:, None]
        found.append(wins(drawn, drawn[order], below, up_to) / drawn.sum(axis=0) ** 2)
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return float(low), float(high)


def mean(values: NDArray[Any]) -> float:
    """NaN of nothing."""
    return float(values.mean()) if values.size else float("nan")


def mean_interval(values: Floats | Ints, group: Ints, weight: Floats | None = None) -> tuple[float, float]:
    """The 95 % interval of a mean over questions whose goal groups are what is independent; NaN of fewer than two.

    Args:
        values: [Q]; NaN does not count.
        group: [Q].
        weight: [Q] how much each question counts; all the same by default.
    """
    known = ~np.isnan(values)
    present, group = np.unique(group[known], return_inverse=True)
    weight = np.ones(len(group)) if weight is None else weight[known]
    return interval_of_mean(*(np.bincount(group, each, len(present)) for each in (weight * values[known], weight)))


def wins(weight: Floats, beside: Floats, below: Ints, up_to: Ints) -> Floats:
    """Of every column of weights the sum, over all rows of `weight`, of what of `beside` they are above; ties half.

    Args:
        weight, beside: [H, B].
        below, up_to: [H] how many rows of `beside` each row of `weight` is above, and is not below.
    """
    sums_up_to = np.zeros((len(beside) + 1, beside.shape[1]))
    np.cumsum(beside, axis=0, out=sums_up_to[1:])
    total: Floats = np.einsum("hb,hb->b", weight, sums_up_to[below] + sums_up_to[up_to]) / 2
    return total


def group_weights(group: Ints) -> Floats:
    """Of every pair, so that every group counts once."""
    return 1 / np.bincount(group)[group]


def proportion(outcomes: Bools, group: Ints) -> Proportion:
    """The share of true ones, with its 95 % Wilson interval.

    The interval is that of so many independent outcomes as there are if those of a group are always alike (Kish's
    n² / sum of squared sizes): an upper bound of its width, and Wilson's own where every group has one.
    """
    count, total = int(outcomes.sum()), len(outcomes)
    if not total:
        return Proportion(0, 0, float("nan"), float("nan"))
    return wilson(count, total, total**2 / int((np.bincount(group) ** 2).sum()))


def wilson(count: int, total: int, effective: float) -> Proportion:
    """A share with the 95 % Wilson interval of so many independent outcomes; NaN of nothing."""
    if not total:
        return Proportion(0, 0, float("nan"), float("nan"))
    share, z = count / total, special.ndtri(0.975)
    denominator = 2 * (effective + z**2)
    middle = (2 * effective * share + z**2) / denominator
    reach = z / denominator * np.sqrt(4 * effective * share * (1 - share) + z**2)
    low = middle - reach if count else 0.0
    high = middle + reach if count < total else 1.0
    return Proportion(count, total, float(low), float(high))


def _ratio(numerator: Floats | Ints, denominator: Floats | Ints) -> Floats:
    """Their ratio, NaN where the denominator is not positive."""
    positive = denominator > 0
    return np.where(positive, numerator / np.where(positive, denominator, 1), np.nan)
