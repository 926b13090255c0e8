"""Which features are ablated and what stands beside them, from a run's records: of the half that discovers alone.

So what is found on the other half was no part of the choice. Memory grows with the features that are listed, not with
the questions.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Options
from layerscope.analysis.testing.halves import Halves
from layerscope.errors import UsageError
from layerscope.records.line.record import Record, SolutionDetails
from layerscope.records.manifest.identity import ChosenFeature
from layerscope.records.reading.run import Run

Key = tuple[int, int]
"""Layer and feature_id."""
_OF_SOLUTIONS = ("positive", "negative", "common")
"""Groups of tokens that an ablation touches."""


@dataclass
class Tally:
    """What the records say of features."""

    groups: list[int] = field(default_factory=list)
    """Of every question, in the file's order, its goal group; 0 where it is not scored."""
    discovery: list[bool] = field(default_factory=list)
    """Of every question, whether it is in the half that discovers."""
    scored: int = 0
    """Questions of that half."""
    attributed: bool = False
    """Whether the records have attributions."""
    attribution: dict[Key, float] = field(default_factory=lambda: defaultdict(float))
    """Summed sizes over the questions of that half."""
    fires: dict[Key, int] = field(default_factory=lambda: defaultdict(int))
    """Solutions of that half whose records list the feature."""
    activation: dict[Key, float] = field(default_factory=lambda: defaultdict(float))
    """Summed over these."""
    difference: dict[int, dict[int, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    """By layer: summed activations at right solutions less those at wrong ones, at the final token."""


def tally(run: Run, layers: Collection[int]) -> Tally:
    """Reads a finished run twice.

    Raises:
        UsageError: it is not finished.
        LayerscopeError: a line is not the record that was written there.
    """
    found, halves = Tally(), Halves()
    has = list[bool]()
    for _, record in run.records():
        scored = isinstance(record, Record)
        has.append(scored)
        if isinstance(record, Record):
            halves.add(record.question)
    if len(has) < run.planned:
        raise UsageError(
            f"{run.path} is not finished: it has {len(has)} of {run.planned} lines.\n"
            "Every question is ablated, so go on with it first: `layerscope status` says how."
        )
    found.attributed = run.manifest.identity.settings.attribution is not None
    group, of_group = halves.groups()
    places = np.cumsum(has) - 1
    found.groups = [int(group[place]) if scored else 0 for scored, place in zip(has, places.tolist(), strict=True)]
    found.discovery = [scored and bool(of_group[each]) for scored, each in zip(has, found.groups, strict=True)]
    for number, (_, record) in enumerate(run.records()):
        if isinstance(record, Record) and found.discovery[number]:
            _count(found, record, layers)
    return found


def _count(found: Tally, record: Record, layers: Collection[int]) -> None:
    found.scored += 1
    for key, attribution in attributions_of_solutions(record).items():
        if key[0] in layers:
            found.attribution[key] += abs(attribution)
    for details in record.solutions:
        for layer, feature_id, activation in _fired(record, details):
            if layer in layers:
                found.fires[layer, feature_id] += 1
                found.activation[layer, feature_id] += activation
    for sign, details in zip((1, -1), record.solutions, strict=True):
        for layer, features in details.active_features_by_layer.items():
            if layer in layers:
                for feature in features:
                    found.difference[layer][feature.feature_id] += sign * feature.activation


def attributions_of_solutions(record: Record) -> dict[Key, float]:
    """Of every feature that is listed, its attribution over the tokens that an ablation touches."""
    sums: dict[Key, float] = defaultdict(float)
    for name in _OF_SOLUTIONS:
        if (group := record.attributions.get(name)) is not None:
            for layer, features in group.lists.items():
                for feature in features:
                    sums[layer, feature.feature_id] += feature.attribution
    return sums


def _fired(record: Record, details: SolutionDetails) -> Iterator[tuple[int, int, float]]:
    """Layer, feature and activation of what fires at a solution's tokens, as far as the record says it."""
    if "max" in details.readings:
        for layer, features in details.readings["max"].active_features_by_layer.items():
            yield from ((layer, feature.feature_id, feature.activation) for feature in features)
    elif record.attributions:
        own = record.attributions["positive" if details is record.positive else "negative"]
        for layer, attributed in own.lists.items():
            common = record.attributions["common"].lists[layer]
            of_each = {feature.feature_id: feature.activation for feature in (*common, *attributed)}
            yield from ((layer, feature_id, activation) for feature_id, activation in of_each.items())
    else:
        for layer, features in details.active_features_by_layer.items():
            yield from ((layer, feature.feature_id, feature.activation) for feature in features)


def by_attribution(found: Tally, count: int) -> list[Key]:
    """Those with the largest mean size of attribution, ties by layer and id.

    Raises:
        UsageError: the run has no attributions, or none in that half.
    """
    if not found.attribution:
        raise _nothing(found, "--by attribution needs", "gradient, or take --by contrast or --features")
    return sorted(found.attribution, key=lambda key: (-found.attribution[key], key))[:count]


def by_contrast(run: Run, layers: Collection[int], count: int) -> list[Key]:
    """Those that fire most surely more often on one side, by the sign test on the half that discovers.

    Raises:
        UsageError: none can be tested.
    """
    analysis = analyse([part.path for part in run.parts], Options(permutations=0))
    test, features = analysis.right_wrong.firing.discovery, analysis.features
    able = np.flatnonzero(~np.isnan(test.p) & np.isin(features.layer, list(layers)))
    order = able[np.lexsort((features.feature_id[able], features.layer[able], -np.abs(test.z[able]), test.p[able]))]
    if not len(order):
        raise UsageError(
            "--by contrast: no feature fires in enough questions to be tested.\n"
            "Run over more questions, or name features with --features."
        )
    return [(int(features.layer[index]), int(features.feature_id[index])) for index in order[:count]]


def sample(found: Tally, count: int) -> list[Key]:
    """So many features of every layer that have an attribution, by a hash of their names.

    Raises:
        UsageError: the run has no attributions, or none in that half.
    """
    by_layer: dict[int, list[Key]] = defaultdict(list)
    for key in found.attribution:
        by_layer[key[0]].append(key)
    if not by_layer:
        raise _nothing(found, "--check needs", "gradient or relp")

    def drawn(key: Key) -> bytes:
        return blake2b("{} {}".format(*key).encode(), digest_size=8).digest()

    return [key for layer in sorted(by_layer) for key in sorted(by_layer[layer], key=drawn)[:count]]


def _nothing(found: Tally, asked: str, instead: str) -> UsageError:
    if found.attributed:
        return UsageError(
            f"{asked} features with an attribution in the half of the questions that discovers, and there is none "
            f"(of its questions {found.scored} are scored).\n"
            "Run over more questions, or name features with --features."
        )
    return UsageError(
        f"{asked} a run with attributions, and this one has none.\nRun again with --attribution {instead}."
    )


def with_controls(
    keys: Sequence[Key], found: Tally, norms: Callable[[int], Sequence[float]] | None
) -> list[ChosenFeature]:
    """The features by layer and id, each once, and of each the other that is nearest in rate and size.

    The distance is that of the logarithms: of how often it fires, and of how much its firing writes.

    Args:
        norms: by layer, how long each feature's row of the decoder is; None for no controls.
    """
    chosen, result = sorted(set(keys)), list[ChosenFeature]()
    for layer in sorted({layer for layer, _ in chosen}):
        ids = [feature_id for of, feature_id in chosen if of == layer]
        lengths = norms(layer) if norms else None
        for feature_id in ids:
            result.append(ChosenFeature(layer, feature_id, _matched(found, layer, feature_id, ids, lengths)))
    return result


def _matched(
    found: Tally, layer: int, feature_id: int, taken: Collection[int], norms: Sequence[float] | None
) -> int | None:
    def told(of: int) -> tuple[float, float]:
        fires = found.fires[layer, of]
        return math.log(fires), math.log(max(found.activation[layer, of] / fires * norms[of], 1e-30)) if norms else 0.0

    if norms is None or (layer, feature_id) not in found.fires:
        return None
    own, others = told(feature_id), [key[1] for key in found.fires if key[0] == layer and key[1] not in taken]
    distances = {other: math.dist(told(other), own) for other in others}
    return min(distances, key=lambda other: (distances[other], other), default=None)


def mean_differences(found: Tally) -> Mapping[int, Mapping[int, float]]:
    """By layer and feature, in ascending order: how much more active it is on average at right solutions."""
    return {
        layer: {feature_id: of_layer[feature_id] / found.scored for feature_id in sorted(of_layer)}
        for layer, of_layer in found.difference.items()
    }
