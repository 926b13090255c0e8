"""One contrast, put together from the tests of all layers: q-values and findings, layer by layer, and in strata."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerscope.analysis.columns.arrays import Bools, Floats, Ints
from layerscope.analysis.result import ByLayer, Contrast, Features, Firing, Layers, Magnitude, Options, T, Tested
from layerscope.analysis.testing import statistics
from layerscope.analysis.testing.held_out import HeldOut
from layerscope.analysis.testing.layer_tests import EVERYTHING, HALVES, ContrastTests
from layerscope.analysis.testing.statistics import Outcome
from layerscope.analysis.testing.stratum import Stratum, Survival


def settle(tests: Mapping[str, T], largest: NDArray[np.float32], options: Options) -> Tested[T]:
    """One test with what needs all layers at once: q-values, selection and confirmation, the permutations' verdict.

    Args:
        tests: over all pairs and in either half, of all layers.
        largest: [P] largest |z| of every label flip, over all layers.
    """
    everything, discovery, validation = (tests[part] for part in (EVERYTHING, *HALVES))
    selection = statistics.select_and_confirm(discovery, validation, options.level)
    return Tested(
        replace(everything, q=statistics.false_discovery_rates(everything.p)),
        replace(discovery, q=selection.discovery_q),
        replace(validation, p=selection.validation_p, q=selection.validation_q),
        selection.selected,
        selection.confirmed,
        statistics.family_wise_threshold(~np.isnan(everything.p), largest, options.level),
    )


def assemble(
    names: tuple[str, str, str],
    tests: ContrastTests,
    firing: Tested[Firing],
    magnitude: Tested[Magnitude],
    held_out: HeldOut,
    layers: Layers,
    features: Features,
    stratum_shares: Mapping[str, float],
    options: Options,
) -> Contrast:
    """Everything of one contrast.

    Args:
        names: of the contrast, and of its first and second side.
        stratum_shares: share of the pairs in every stratum of pairs.
    """
    name, first, second = names
    of_layer = np.searchsorted(layers.layer, features.layer)  # [N]
    n_layers = len(layers.layer)
    return Contrast(
        name,
        first,
        second,
        **vars(tests.comparison),
        firing=firing,
        magnitude=magnitude,
        firing_by_layer=by_layer(firing, of_layer, n_layers, options.level),
        magnitude_by_layer=by_layer(magnitude, of_layer, n_layers, options.level),
        held_out=held_out,
        strata=tuple(_strata(tests, firing, magnitude, features.dense, stratum_shares, options.level)),
    )


def by_layer(tested: Tested[Any], of_layer: Ints, n_layers: int, level: float) -> ByLayer:
    def count(marked: Bools) -> Ints:
        return np.bincount(of_layer[marked], minlength=n_layers)

    everything = tested.everything
    has_p = ~np.isnan(everything.p)
    significant = everything.q <= level
    return ByLayer(
        count(has_p),
        count(significant),
        count(tested.selectable),
        count(tested.selected),
        count(tested.confirmable),
        count(tested.confirmed),
        _largest(everything.effect, significant & ~np.isnan(everything.effect), of_layer, n_layers),
        np.abs(_largest(everything.z, has_p, of_layer, n_layers)),
    )


def _largest(values: Floats, marked: Bools, of_layer: Ints, n_layers: int) -> Floats:
    """The marked value that is largest by amount in each layer, signed; NaN where none is marked."""
    found = np.full(n_layers, np.nan)
    for index in range(n_layers):
        inside = values[marked & (of_layer == index)]
        if len(inside):
            found[index] = inside[np.argmax(np.abs(inside))]
    return found


def _strata(
    tests: ContrastTests,
    firing: Tested[Firing],
    magnitude: Tested[Magnitude],
    dense: Bools,
    shares: Mapping[str, float],
    level: float,
) -> Iterator[Stratum]:
    for name, share in shares.items():
        yield Stratum(
            name,
            share,
            _survival(firing, [tests.firing_strata[name, half] for half in HALVES], level),
            _survival(magnitude, [tests.magnitude_strata[name, half] for half in HALVES], level),
        )
    yield Stratum(
        "without dense features",
        1.0,
        _survival(firing, [_without(dense, tests.firing[half]) for half in HALVES], level),
        _survival(magnitude, [_without(dense, tests.magnitude[half]) for half in HALVES], level),
    )


def _without(features: Bools, test: T) -> T:
    return replace(test, p=np.where(features, np.nan, test.p))


def _survival(tested: Tested[Any], halves: Sequence[Outcome], level: float) -> Survival:
    """What becomes of the confirmed features when all is done again on less."""
    discovery, validation = halves
    confirmed = statistics.select_and_confirm(discovery, validation, level).confirmed
    again = tested.confirmed & ~np.isnan(discovery.p)
    same_sign = np.sign(validation.z) == np.sign(tested.discovery.z)
    kept = again & confirmed & same_sign
    lost = again & ~kept
    outcomes = (kept, lost & same_sign, lost & ~same_sign, tested.confirmed & ~again, confirmed)
    return Survival(*(int(marked.sum()) for marked in outcomes))
