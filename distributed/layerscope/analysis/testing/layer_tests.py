"""Every test of one layer's features: on all pairs, on the two halves, in every stratum, in both contrasts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from layerscope.analysis.columns.arrays import Bools, Floats, Ints
from layerscope.analysis.columns.censoring import LayerPairs, Paired
from layerscope.analysis.result import Firing, Magnitude
from layerscope.analysis.testing import statistics
from layerscope.analysis.testing.label_flips import LabelFlips, LargestFlipped
from layerscope.analysis.testing.votes import Cells, leading_signs

_Table = TypeVar("_Table")

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


class _Tests(NamedTuple):
    """Of some of its features."""

    feature_id: Ints
    listed: Ints
    contrasts: list[ContrastTests]


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
    pairs: Paired,
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
    halves = dict(zip(HALVES, (discovery, ~discovery), strict=True))
    parts = {(name, half): members & halves[half] for name, members in strata.items() for half in HALVES}
    leads = [leading_signs(sign, group) for sign in signs]
    alike = [(leading[group] == sign).all() for leading, sign in zip(leads, signs, strict=True)]
    largest = [(LargestFlipped(flips), LargestFlipped(flips)) for _ in signs]
    found, merged = list[_Tests](), False
    for part in pairs.parts():
        part = part.restricted(_testable(part, group, signs, min_pairs))
        cells, both = Cells.of(part.feature, part.pair, group), _both_fire(part, group)
        contrasts = [_contrast_tests(part, cells, both, halves, parts, sign, min_pairs) for sign in signs]
        found.append(_Tests(part.feature_id, part.listed, contrasts))
        merged |= cells.merged
        for number, (sign, tests) in enumerate(zip(signs, contrasts, strict=True)):
            if number == 0 or not alike[number]:
                tested = tests.firing[EVERYTHING], tests.magnitude[EVERYTHING]
                _add_flipped(part, cells, both, sign, leads[number], tested, largest[number])
    # Contrasts are alike to label flips, unless questions of a group have other signs than the rest of it.
    told = [largest[number if merged and not alike[number] else 0] for number in range(len(signs))]
    return LayerTests(
        np.concatenate([part.feature_id for part in found]),
        np.concatenate([part.listed for part in found]),
        tuple(joined_tests([part.contrasts[number] for part in found]) for number in range(len(signs))),
        tuple(firing.result() for firing, _ in told),
        tuple(magnitude.result() for _, magnitude in told),
    )


def joined_tests(tests: Sequence[ContrastTests]) -> ContrastTests:
    """The tests of some features after others', end to end."""
    first = tests[0]
    return ContrastTests(
        joined([each.comparison for each in tests]),
        {part: joined([each.firing[part] for each in tests]) for part in first.firing},
        {part: joined([each.magnitude[part] for each in tests]) for part in first.magnitude},
        {part: joined([each.firing_strata[part] for each in tests]) for part in first.firing_strata},
        {part: joined([each.magnitude_strata[part] for each in tests]) for part in first.magnitude_strata},
    )


def joined(tables: Sequence[_Table]) -> _Table:
    """Dataclasses of columns, end to end."""
    kind: Any = type(tables[0])
    table: _Table = kind(*(np.concatenate([getattr(table, field.name) for table in tables]) for field in fields(kind)))
    return table


def _contrast_tests(
    pairs: LayerPairs,
    cells: Cells,
    both: _BothFire,
    halves: Mapping[str, Bools],
    strata: Mapping[tuple[str, str], Bools],
    sign: Floats,
    min_pairs: int,
) -> ContrastTests:
    whole = {EVERYTHING: np.ones(len(sign), dtype=bool), **halves}
    return ContrastTests(
        _comparison(pairs, sign),
        {part: _firing(pairs, cells, members, sign, min_pairs) for part, members in whole.items()},
        {part: _magnitude(both, members, sign, min_pairs) for part, members in whole.items()},
        {part: _brief(_firing(pairs, cells, members, sign, min_pairs)) for part, members in strata.items()},
        {part: _brief(_magnitude(both, members, sign, min_pairs)) for part, members in strata.items()},
    )


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


def _add_flipped(
    pairs: LayerPairs,
    cells: Cells,
    both: _BothFire,
    sign: Floats,
    leads: Floats,
    tested: tuple[Firing, Magnitude],
    largest: tuple[LargestFlipped, LargestFlipped],
) -> None:
    """Flips the labels of the features tested for firing, and of those tested for strength."""
    everyone = np.ones(len(sign), dtype=bool)
    votes, ranked = _votes(pairs, cells, everyone, sign), _ranked(both, everyone, sign)
    for feature, of, value, test, into in (
        (cells.feature, cells.group, votes, tested[0], largest[0]),
        (ranked.feature, ranked.group, np.sign(ranked.difference) * ranked.rank, tested[1], largest[1]),
    ):
        able, amount = ~np.isnan(test.p), value * leads[of]
        kept, index = able[feature] & (amount != 0), np.cumsum(able) - 1
        into.add(index[feature[kept]], of[kept], amount[kept], int(able.sum()))
