"""Every test of one layer's features: on all pairs, on the two halves, in every stratum, in both contrasts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerscope.analysis import statistics
from layerscope.analysis.censoring import LayerPairs
from layerscope.analysis.result import Bools, Firing, Floats, Ints, Magnitude

Flips = NDArray[np.float32]  # [Q, P]

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
    largest_firing: Flips  # [P] largest |z| of every label flip
    largest_magnitude: Flips  # [P]


@dataclass(frozen=True)
class _BothFire:
    """The pairs in which both sides fire, ordered by feature, then by the amount of the difference."""

    n_features: int
    feature: Ints
    pair: Ints
    difference: Floats


def layer_tests(
    pairs: LayerPairs,
    discovery: Bools,
    strata: Mapping[str, Bools],
    signs: Sequence[Floats],
    flips: Flips,
    min_pairs: int,
) -> LayerTests:
    """Tests the features that have enough pairs, in every contrast, on all pairs and on parts of them.

    Args:
        discovery: which pairs are in the discovery half, [Q].
        strata: which pairs are in each stratum, [Q].
        signs: of every contrast, [Q].
    """
    pairs = pairs.restricted(_testable(pairs, min_pairs))
    both = _both_fire(pairs)

    def tests(members: Bools) -> list[tuple[Firing, Magnitude]]:
        return list(
            zip(_firing(pairs, members, signs, min_pairs), _magnitude(both, members, signs, min_pairs), strict=True)
        )

    halves = dict(zip(HALVES, (discovery, ~discovery), strict=True))
    whole = {EVERYTHING: tests(np.ones(len(discovery), dtype=bool))} | {half: tests(halves[half]) for half in HALVES}
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
    tested = [~np.isnan(test.p) for test in whole[EVERYTHING][0]]  # alike in every contrast
    discordant, differs = pairs.firing != 0, both.difference != 0
    signed_rank = np.sign(both.difference) * _rank(both.feature, both.difference)
    return LayerTests(
        pairs.feature_id,
        pairs.listed,
        contrasts,
        _largest(pairs.feature[discordant], pairs.pair[discordant], pairs.firing[discordant], tested[0], flips),
        _largest(both.feature[differs], both.pair[differs], signed_rank[differs], tested[1], flips),
    )


def _brief(test: Firing | Magnitude) -> Brief:
    return Brief(test.z.astype(np.float32), test.p)


def _testable(pairs: LayerPairs, min_pairs: int) -> Bools:
    n_features = len(pairs.feature_id)
    discordant = np.bincount(pairs.feature[pairs.firing != 0], minlength=n_features)
    differs = (pairs.firing == 0) & (pairs.positive != pairs.negative)
    return (discordant >= min_pairs) | (np.bincount(pairs.feature[differs], minlength=n_features) >= min_pairs)


def _both_fire(pairs: LayerPairs) -> _BothFire:
    both = pairs.firing == 0
    feature, pair, difference = pairs.feature[both], pairs.pair[both], (pairs.positive - pairs.negative)[both]
    order = np.lexsort((np.abs(difference), feature))
    return _BothFire(len(pairs.feature_id), feature[order], pair[order], difference[order])


def _rank(feature: Ints, difference: Floats) -> Floats:
    """Of the differences' amounts within a feature, zeros left out; ordered as in `_BothFire`."""
    rank = np.zeros(len(difference))
    differs = difference != 0
    rank[differs] = statistics.midranks(feature[differs], np.abs(difference[differs]))
    return rank


def _firing(pairs: LayerPairs, members: Bools, signs: Sequence[Floats], min_pairs: int) -> list[Firing]:
    discordant = members[pairs.pair] & (pairs.firing != 0)
    feature, pair, firing = pairs.feature[discordant], pairs.pair[discordant], pairs.firing[discordant]
    found = []
    for sign in signs:
        first = firing * sign[pair] > 0
        first_only, second_only = (
            np.bincount(feature[side], minlength=len(pairs.feature_id)) for side in (first, ~first)
        )
        found.append(statistics.sign_test(first_only, second_only, min_pairs))
    return found


def _magnitude(both: _BothFire, members: Bools, signs: Sequence[Floats], min_pairs: int) -> list[Magnitude]:
    inside = members[both.pair]
    feature, pair, difference = both.feature[inside], both.pair[inside], both.difference[inside]
    rank = _rank(feature, difference)
    return [
        statistics.signed_rank_test(feature, difference * sign[pair], rank, both.n_features, min_pairs)
        for sign in signs
    ]


def _comparison(pairs: LayerPairs, sign: Floats) -> Comparison:
    n_features = len(pairs.feature_id)
    signed = pairs.firing * sign[pairs.pair]
    return Comparison(
        np.bincount(pairs.feature[signed >= 0], minlength=n_features),
        np.bincount(pairs.feature[signed <= 0], minlength=n_features),
    )


def _largest(feature: Ints, pair: Ints, value: Floats | Ints, tested: Bools, flips: Flips) -> Flips:
    kept = tested[feature]
    index = np.cumsum(tested) - 1
    return statistics.largest_flipped(index[feature[kept]], pair[kept], value[kept], int(tested.sum()), flips)
