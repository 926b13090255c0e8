"""The whole: a file in, an `Analysis` out.

Two passes over the layers, one layer in memory at a time. The first tests every feature and flips labels; then q-values
are taken over all layers together and features are selected; the second scores the validation half with them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from layerscope.analysis import overview, statistics
from layerscope.analysis.censoring import LayerPairs, pair_up
from layerscope.analysis.layer_tests import ContrastTests, LayerTests, Part, test_layer
from layerscope.analysis.reading import FeatureLists, Run, reading
from layerscope.analysis.result import (
    Analysis,
    Bools,
    Contrast,
    Features,
    Firing,
    Floats,
    HeldOut,
    Ints,
    Layers,
    Magnitude,
    Options,
    Questions,
    Stratum,
    Survival,
    T,
    TestByLayer,
    Tested,
)

Progress = Callable[[str, float], None]
"""Gets what is being done, and which share of it is done, from 0 to 1."""

_ALL_PAIRS = "all pairs"
_NOT_CUT = "lists not cut"
_DENSE = 0.1
_NAMES = (("right vs wrong", "right", "wrong"), ("chosen vs rejected", "chosen", "rejected"))
_LARGEST = ("largest_firing", "largest_magnitude")
_Columns = TypeVar("_Columns")


def analyse(path: Path, options: Options | None = None, progress: Progress = lambda *_: None) -> Analysis:
    """Analyses a file, finished or still growing: its whole lines, read once, as a stream.

    Raises:
        UsageError: there is no such file, or it has no manifest.
        LayerscopeError: a line is not a record.
    """
    options = options or Options()
    with reading(path, lambda share: progress("reading", share)) as run:
        questions = run.questions
        signs = np.ones(len(questions.correct)), np.where(questions.correct, 1.0, -1.0)
        layers, tests, stratum_shares = _first_pass(run, signs, options, progress)
        features = _features(run.layers, tests, len(questions.correct))
        contrasts = [_join_tests([layer.contrasts[number] for layer in tests]) for number in range(len(signs))]
        largest = [np.max([getattr(layer, name) for layer in tests], axis=0) for name in _LARGEST]
        tested = [
            (_tested(contrast.firing, largest[0], options), _tested(contrast.magnitude, largest[1], options))
            for contrast in contrasts
        ]
        held_out = _second_pass(run, signs, features, [firing for firing, _ in tested], progress)
    right_wrong, chosen_rejected = (
        Contrast(
            *names,
            **vars(contrast.comparison),
            firing=firing,
            magnitude=magnitude,
            firing_by_layer=_by_layer(firing, features, layers, options),
            magnitude_by_layer=_by_layer(magnitude, features, layers, options),
            held_out=scores,
            strata=_survivals(contrast, firing, magnitude, features, stratum_shares, options),
        )
        for names, contrast, (firing, magnitude), scores in zip(_NAMES, contrasts, tested, held_out, strict=True)
    )
    return Analysis(
        options,
        overview.header(path, run, _mean(layers.cut_share)),
        questions,
        layers,
        features,
        right_wrong,
        chosen_rejected,
        overview.length_bins(questions),
    )


def _first_pass(
    run: Run, signs: Sequence[Floats], options: Options, progress: Progress
) -> tuple[Layers, list[LayerTests], dict[str, float]]:
    """Tests every layer; also the share of pairs in each stratum."""
    flips = statistics.label_flips(len(run.questions.correct), options.permutations, options.seed)
    layers, tests = [], []
    whole = 0.0
    for index, layer in enumerate(run.layers):
        lists = run.feature_lists(index)
        pairs = pair_up(lists)
        strata = _strata(run.questions, pairs)
        layers.append(_layer(layer, lists, pairs))
        tests.append(test_layer(pairs, _parts(strata, run.questions.discovery), signs, flips, options.min_pairs))
        whole += _mean(pairs.whole) / len(run.layers)
        progress("testing", (index + 1) / len(run.layers))
    shares = {name: _mean(members) for name, members in strata.items()} | {_NOT_CUT: whole}
    return _joined(layers), tests, shares


def _strata(questions: Questions, pairs: LayerPairs) -> dict[str, Bools]:
    """Which pairs are in each, [Q]; the first holds all."""
    return {
        _ALL_PAIRS: np.ones(len(questions.correct), dtype=bool),
        "same final token": questions.same_final_token,
        "full stop": questions.full_stop,
        _NOT_CUT: pairs.whole,
    }


def _parts(strata: Mapping[str, Bools], discovery: Bools) -> dict[Part, Bools]:
    parts = {Part(_ALL_PAIRS, "both"): strata[_ALL_PAIRS]}
    for name, members in strata.items():
        parts[Part(name, "discovery")] = members & discovery
        parts[Part(name, "validation")] = members & ~discovery
    return parts


def _layer(layer: int, lists: FeatureLists, pairs: LayerPairs) -> Layers:
    """The one row of a layer."""
    active = lists.active.mean(axis=0) if len(lists.active) else np.full(2, np.nan)
    row = (layer, *active, _mean(lists.active > lists.listed), pairs.mean_jaccard())
    return Layers(*(np.array([value]) for value in row))


def _features(layers: Sequence[int], tests: Sequence[LayerTests], n_questions: int) -> Features:
    listed = np.concatenate([layer.listed for layer in tests])
    density = listed / max(2 * n_questions, 1)
    return Features(
        np.repeat(np.array(layers), [len(layer.listed) for layer in tests]),
        np.concatenate([layer.feature_id for layer in tests]),
        listed,
        density,
        density > _DENSE,
    )


def _tested(tests: Mapping[Part, T], largest: NDArray[np.float32], options: Options) -> Tested[T]:
    everything = tests[Part(_ALL_PAIRS, "both")]
    discovery, validation, selected, confirmed = statistics.select_and_confirm(
        tests[Part(_ALL_PAIRS, "discovery")], tests[Part(_ALL_PAIRS, "validation")], options.level
    )
    adjusted, threshold = statistics.family_wise(everything.z, ~np.isnan(everything.p), largest, options.level)
    everything = replace(everything, q=statistics.false_discovery_rates(everything.p))
    return Tested(everything, discovery, validation, selected, confirmed, adjusted, threshold)


def _by_layer(tested: Tested[Any], features: Features, layers: Layers, options: Options) -> TestByLayer:
    everything = tested.everything
    has_p = ~np.isnan(everything.p)
    significant = everything.q <= options.level
    of_layer = np.searchsorted(layers.layer, features.layer)

    def count(marked: Bools) -> Ints:
        return np.bincount(of_layer[marked], minlength=len(layers.layer))

    def largest(values: Floats, marked: Bools) -> Floats:
        """By amount, signed."""
        found = np.full(len(layers.layer), np.nan)
        for index in np.flatnonzero(count(marked)):
            inside = values[marked & (of_layer == index)]
            found[index] = inside[np.argmax(np.abs(inside))]
        return found

    return TestByLayer(
        count(has_p),
        count(significant),
        count(tested.selected),
        count(tested.confirmed),
        largest(everything.effect, significant & ~np.isnan(everything.effect)),
        np.abs(largest(everything.z, has_p)),
    )


def _survivals(
    tests: ContrastTests,
    firing: Tested[Firing],
    magnitude: Tested[Magnitude],
    features: Features,
    shares: Mapping[str, float],
    options: Options,
) -> tuple[Stratum, ...]:
    """What of the confirmed features is confirmed in every stratum, and without dense features."""

    def survival(tested: Tested[T], by_part: Mapping[Part, T], stratum: str, left_out: Bools) -> Survival:
        discovery, validation = (by_part[Part(stratum, half)] for half in ("discovery", "validation"))
        discovery = replace(discovery, p=np.where(left_out, np.nan, discovery.p))
        discovery, validation, _, confirmed = statistics.select_and_confirm(discovery, validation, options.level)
        had_p = tested.confirmed & ~np.isnan(discovery.p)
        same_sign = np.sign(validation.z) == np.sign(tested.discovery.z)
        kept = had_p & confirmed & same_sign
        lost = had_p & ~kept
        counts = (kept, lost & same_sign, lost & ~same_sign, tested.confirmed & ~had_p, confirmed)
        return Survival(*(int(marked.sum()) for marked in counts))

    def stratum(name: str, share: float, part: str, left_out: Bools) -> Stratum:
        return Stratum(
            name,
            share,
            survival(firing, tests.firing, part, left_out),
            survival(magnitude, tests.magnitude, part, left_out),
        )

    none = np.zeros(len(features.dense), dtype=bool)
    return (
        *(stratum(name, share, name, none) for name, share in shares.items() if name != _ALL_PAIRS),
        stratum("without dense features", 1.0, _ALL_PAIRS, features.dense),
    )


def _second_pass(
    run: Run, signs: Sequence[Floats], features: Features, tested: Sequence[Tested[Firing]], progress: Progress
) -> list[HeldOut]:
    """Scores the validation half of every contrast with what was selected for it on the discovery half."""
    rows: list[list[tuple[float, ...]]] = [[] for _ in tested]
    held_out = ~run.questions.discovery
    for index, layer in enumerate(run.layers):
        chosen = [firing.selected & (features.layer == layer) for firing in tested]
        pairs = pair_up(run.feature_lists(index)) if any(map(np.any, chosen)) else None
        for sign, firing, mask, found in zip(signs, tested, chosen, rows, strict=True):
            if pairs is None or not mask.any():
                found.append((0, np.nan, np.nan, np.nan))
                continue
            positive, negative = _scores(pairs, features.feature_id[mask], firing.discovery.effect[mask])
            first = np.where(sign > 0, positive, negative)[held_out]
            second = np.where(sign > 0, negative, positive)[held_out]
            found.append(
                (int(mask.sum()), *statistics.paired_superiority(first, second), statistics.auroc(first, second))
            )
        progress("scoring", (index + 1) / len(run.layers))
    return [HeldOut(counts.astype(np.int64), *columns) for counts, *columns in (np.array(found).T for found in rows)]


def _scores(pairs: LayerPairs, feature_ids: Ints, weights: Floats) -> tuple[Floats, Floats]:
    """The sum of the weights of the features that fire, of every positive and of every negative solution, [Q]."""
    weight = np.zeros(len(pairs.feature_id))
    weight[np.searchsorted(pairs.feature_id, feature_ids)] = weights
    positive, negative = (
        statistics.sums(pairs.pair, weight[pairs.feature] * (side > 0), len(pairs.whole))
        for side in (pairs.positive, pairs.negative)
    )
    return positive, negative


def _join_tests(layers: Sequence[ContrastTests]) -> ContrastTests:
    parts = layers[0].firing
    return ContrastTests(
        _joined([layer.comparison for layer in layers]),
        {part: _joined([layer.firing[part] for layer in layers]) for part in parts},
        {part: _joined([layer.magnitude[part] for layer in layers]) for part in parts},
    )


def _joined(parts: Sequence[_Columns]) -> _Columns:
    """Dataclasses of columns, end to end."""
    kind: Any = type(parts[0])
    joined: _Columns = kind(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(kind)))
    return joined


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if values.size else float("nan")
