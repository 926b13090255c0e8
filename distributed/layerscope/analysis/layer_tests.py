"""Every test of one layer's features: on all pairs, on the two halves, in every stratum, in both contrasts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerscope.analysis import statistics
from layerscope.analysis.arrays import Bools, Floats, Ints
from layerscope.analysis.censoring import LayerPairs
from layerscope.analysis.label_flips import LabelFlips
from layerscope.analysis.result import Firing, Magnitude
from layerscope.analysis.votes import Cells, leading_signs

Largest = NDArray[np.float32]  # [P]

EVERYTHING = "everything"

HALVES = ("discovery", "validation")


@dataclass(frozen=True)
class Brief:
    """What is kept of a test in a stratum: there are many of them, and they serve to select and confirm alone."""

    z: NDArray[np.float32]  # [F]
    p: Floats  # [F]


@dataclass(frozen=True)
class Comparison:
    """How often a layer's features fire on the two sides of a contrast,"""

    first_fires: Ints  # [F]
    second_fires: Ints  # [F]


@dataclass(frozen=True)
class ContrastTests:
    """What the tests of a layer's features come to in one contrast."""

    comparison: Comparison
    firing: Mapping[str, Firing]
    """Over all pairs: `everything`, and in either of `HALVES`."""
    magnitude: Mapping[str, Magnitude]
    firing_strata: Mapping[tuple[str, str], Brief]
    """By stratum and half."""
    magnitude_strata: Mapping[tuple[str, str], Brief]


@dataclass(frozen=True)
class LayerTests:
    """What the tests of one layer come to."""

    feature_id: Ints  # [F] those with enough pairs
    listed: Ints  # [F]
    contrasts: tuple[ContrastTests, ...]
    largest_firing: tuple[Largest, ...]  # of each contrast [P], the largest |z| of every label flip
    largest_magnitude: tuple[Largest, ...]


@dataclass(frozen=True)
class _BothFire:
    """The pairs in which both sides fire, ordered by feature, then by the amount of the difference."""

    n_features: int
    feature: Ints
    pair: Ints
    difference: Floats
    cells: Cells


@dataclass(frozen=True)
class _Ranked:
    """What the groups of some pairs say of strength, ordered by feature, then by the amount of the difference."""

    feature: Ints
    group: Ints
    difference: Floats  # mean over the group's pairs, first - second
    rank: Floats


def layer_tests(
    pairs: LayerPairs,
    group: Ints,
    discovery: Bools,
    strata: Mapping[str, Bools],
    signs: Sequence[Floats],
    flips: LabelFlips,
    min_pairs: int,
) -> LayerTests:
    """Tests the features that have enough pairs, in every contrast, on all pairs and on parts of them.

    Args:
        group: the goal group of every pair, [Q].
        discovery: which pairs are in the discovery half, [Q].
        strata: which pairs are in each stratum, [Q].
        signs: of every contrast, [Q].
    """
    pairs = pairs.restricted(_testable(pairs, group, signs, min_pairs))
    cells, both = Cells.of(pairs.feature, pairs.pair, group), _both_fire(pairs, group)

    def tests(members: Bools) -> list[tuple[Firing, Magnitude]]:
        return [
            (_firing(pairs, cells, members, sign, min_pairs), _magnitude(both, members, sign, min_pairs))
            for sign in signs
        ]

    halves = dict(zip(HALVES, (discovery, ~discovery), strict=True))
    everyone = np.ones(len(discovery), dtype=bool)
    whole = {EVERYTHING: tests(everyone)} | {half: tests(halves[half]) for half in HALVES}
    parts = {
        (name, half): [(_brief(firing), _brief(magnitude)) for firing, magnitude in tests(members & halves[half])]
        for name, members in strata.items()
        for half in HALVES
    }
    contrasts = tuple(
        ContrastTests(
            _comparison(pairs, sign),
            {part: found[number][0] for part, found in whole.items()},
            {part: found[number][1] for part, found in whole.items()},
            {part: found[number][0] for part, found in parts.items()},
            {part: found[number][1] for part, found in parts.items()},
        )
        for number, sign in enumerate(signs)
    )
    largest = list[tuple[Largest, Largest]]()
    for sign, tested in zip(signs, whole[EVERYTHING], strict=True):
        # Contrasts are alike to label flips, unless questions of a group have other signs than the rest of it.
        alike = largest and not (cells.merged and (leading_signs(sign, group)[group] != sign).any())
        largest.append(largest[0] if alike else _largest(pairs, cells, both, group, sign, tested, flips))
    firing, magnitude = zip(*largest, strict=True)
    return LayerTests(pairs.feature_id, pairs.listed, contrasts, firing, magnitude)


def _brief(test: Firing | Magnitude) -> Brief:
    return Brief(test.z.astype(np.float32), test.p)


def _testable(pairs: LayerPairs, group: Ints, signs: Sequence[Floats], min_pairs: int) -> Bools:
    n_features = len(pairs.feature_id)
    cells, enough = Cells.of(pairs.feature, pairs.pair, group), np.zeros(n_features, dtype=bool)
    for sign in signs if cells.merged else signs[:1]:
        signed = sign[pairs.pair]
        for values, rows in (
            (pairs.firing, pairs.firing != 0),
            (pairs.positive - pairs.negative, pairs.firing == 0),
        ):
            telling = cells.sums(values * signed, rows) != 0
            enough |= np.bincount(cells.feature[telling], minlength=n_features) >= min_pairs
    return enough


def _both_fire(pairs: LayerPairs, group: Ints) -> _BothFire:
    both = pairs.firing == 0
    feature, pair, difference = pairs.feature[both], pairs.pair[both], (pairs.positive - pairs.negative)[both]
    order = np.lexsort((np.abs(difference), feature))
    feature, pair = feature[order], pair[order]
    return _BothFire(len(pairs.feature_id), feature, pair, difference[order], Cells.of(feature, pair, group))


def _ranked(both: _BothFire, members: Bools, sign: Floats) -> _Ranked:
    """The differences of the groups among some pairs, and the ranks of their amounts in a feature, zeros left out."""
    inside, cells = members[both.pair], both.cells
    if cells.merged:
        counts = cells.counts(inside)
        there = counts > 0
        difference = cells.sums(both.difference * sign[both.pair], inside)[there] / counts[there]
        feature, group = cells.feature[there], cells.group[there]
        order = np.lexsort((np.abs(difference), feature))
        feature, group, difference = feature[order], group[order], difference[order]
    else:
        feature, group = both.feature[inside], cells.group[inside]
        difference = both.difference[inside] * sign[both.pair[inside]]
    rank, differs = np.zeros(len(difference)), difference != 0
    rank[differs] = statistics.midranks(feature[differs], np.abs(difference[differs]))
    return _Ranked(feature, group, difference, rank)


def _votes(pairs: LayerPairs, cells: Cells, members: Bools, sign: Floats) -> Floats:
    """For which side each feature fires in each group among some pairs, [C]: 1 for the first, -1, or 0 for neither."""
    votes: Floats = np.sign(cells.sums(pairs.firing * sign[pairs.pair], members[pairs.pair]))
    return votes


def _firing(pairs: LayerPairs, cells: Cells, members: Bools, sign: Floats, min_pairs: int) -> Firing:
    votes = _votes(pairs, cells, members, sign)
    first_only, second_only = (
        np.bincount(cells.feature[votes == side], minlength=len(pairs.feature_id)) for side in (1, -1)
    )
    return statistics.sign_test(first_only, second_only, min_pairs)


def _magnitude(both: _BothFire, members: Bools, sign: Floats, min_pairs: int) -> Magnitude:
    ranked = _ranked(both, members, sign)
    return statistics.signed_rank_test(ranked.feature, ranked.difference, ranked.rank, both.n_features, min_pairs)


def _comparison(pairs: LayerPairs, sign: Floats) -> Comparison:
    n_features = len(pairs.feature_id)
    signed = pairs.firing * sign[pairs.pair]
    return Comparison(
        np.bincount(pairs.feature[signed >= 0], minlength=n_features),
        np.bincount(pairs.feature[signed <= 0], minlength=n_features),
    )


def _largest(
    pairs: LayerPairs,
    cells: Cells,
    both: _BothFire,
    group: Ints,
    sign: Floats,
    tested: tuple[Firing, Magnitude],
    flips: LabelFlips,
) -> tuple[Largest, Largest]:
    """Over the features tested for firing, and over those tested for strength, [P] each."""
    everyone, leads = np.ones(len(group), dtype=bool), leading_signs(sign, group)
    votes, ranked = _votes(pairs, cells, everyone, sign), _ranked(both, everyone, sign)
    firing, magnitude = (
        _largest_flipped(feature, of, value * leads[of], ~np.isnan(test.p), flips)
        for feature, of, value, test in (
            (cells.feature, cells.group, votes, tested[0]),
            (ranked.feature, ranked.group, np.sign(ranked.difference) * ranked.rank, tested[1]),
        )
    )
    return firing, magnitude


def _largest_flipped(feature: Ints, group: Ints, value: Floats, tested: Bools, flips: LabelFlips) -> Largest:
    kept = tested[feature] & (value != 0)
    index = np.cumsum(tested) - 1
    return statistics.largest_flipped(index[feature[kept]], group[kept], value[kept], int(tested.sum()), flips)
