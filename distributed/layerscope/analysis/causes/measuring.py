"""From attributions to what can be said of features: chosen on one half of the questions, tested on the other.

Shapes as in `result.py`, with `Q` questions, `G` goal groups of the validation half and `B` draws of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from layerscope.analysis.baselines.split import LEAST_GROUPS, Split
from layerscope.analysis.causes.columns import Entries
from layerscope.analysis.causes.result import Causes, Chosen, Depth, Faces
from layerscope.analysis.columns.arrays import Bools, Floats, Ints
from layerscope.analysis.columns.censoring import Paired, PairedLists
from layerscope.analysis.columns.reading import Columns
from layerscope.analysis.result import Features, Firing, Magnitude, Options, Tested
from layerscope.analysis.testing.statistics import (
    false_discovery_rates,
    mean_interval,
    midranks,
    signed_rank_test,
    sums,
)

BY_ATTRIBUTION, BY_CONTRAST = 100, 200
"""How many features the discovery half chooses, at most."""
QUESTIONS_OF_A_FEATURE = 4
"""That are named for each of them."""


class Separating(NamedTuple):
    """What is known of features that tell right from wrong."""

    features: Features
    firing: Tested[Firing]
    magnitude: Tested[Magnitude]

    @property
    def selected(self) -> Ints:
        """The rows that the discovery half selects, the surest on that half first."""
        rows = np.flatnonzero(self.firing.selected | self.magnitude.selected)
        sure = [
            np.where(np.isnan(test.discovery.p[rows]), 0, np.abs(test.discovery.z[rows]))
            for test in (self.firing, self.magnitude)
        ]
        return rows[np.argsort(-np.maximum(*sure), kind="stable")]

    @property
    def confirmed(self) -> Bools:
        """[N]"""
        return self.firing.confirmed | self.magnitude.confirmed


@dataclass(frozen=True)
class _Layer:
    """What one layer's features come to, a column each."""

    feature_id: Ints  # [F]
    discovery: Floats  # [F] mean size of the effect on the discovery half
    sign: Floats  # [F] of its mean there
    mean: Floats  # [F] on the validation half


def find_causes(
    run: Columns, split: Split | None, separating: Separating, options: Options, progress: Callable[[str, float], None]
) -> Causes | None:
    """What the attributions of a run come to; None where it has none."""
    columns, settings = run.attributions, run.manifest.identity.settings
    if columns is None or settings.attribution is None:
        return None
    asked = settings.attribution, settings.attribution_means is not None
    n_questions = max(len(run.questions.correct), 1)
    intervals = np.array([_intervals(columns.of_questions(index), run) for index in range(len(run.layers))])
    depth = Depth(columns.terms / n_questions, columns.mass / n_questions, intervals[:, :-1], intervals[:, -1])
    separate = int(separating.confirmed.sum())
    if split is None:
        why = f"either half of the questions needs {LEAST_GROUPS} goals that differ"
        return Causes(*asked, why, depth, separate=separate)
    layers = []
    for index in range(len(run.layers)):
        layers.append(_layer(columns.entries(index), split))
        progress("weighing attributions", (index + 1) / (2 * len(run.layers)))
    wanted = _wanted(run, layers, separating)
    found, aurocs = [], np.full(len(separating.features.layer), np.nan)
    for index, layer in enumerate(run.layers):
        pairs = PairedLists(run.feature_lists(index))
        of_layer = np.flatnonzero(separating.features.layer == layer)
        aurocs[of_layer] = _aurocs(pairs, separating.features.feature_id[of_layer], split)
        found.append(_of_layer(columns.entries(index), layers[index], wanted[index], pairs, split))
        progress("weighing attributions", 0.5 + (index + 1) / (2 * len(run.layers)))
    chosen = _tested(found, run, wanted, separating, options)
    return Causes(*asked, "", depth, chosen, _faces(run, layers, separating, aurocs), separate)


def _intervals(of_questions: Floats, run: Columns) -> list[tuple[float, float]]:
    """Of the mean of every column."""
    return [mean_interval(column, run.questions.group) for column in of_questions.T]


class _Wanted(NamedTuple):
    """Features of a layer that are chosen, and by what."""

    feature_id: Ints
    by_attribution: Bools
    by_contrast: Bools


class _Found(NamedTuple):
    """What is known of a layer's chosen features, before q-values are taken over all layers."""

    by_group: Floats  # [n, G] mean effect of every goal group
    low: Floats
    high: Floats
    magnitude: Floats
    questions: Ints
    sign: Floats  # of the discovery half
    auroc: Floats
    most: list[tuple[int, ...]]


def _layer(entries: Entries, split: Split) -> _Layer:
    n = len(entries.feature_id)
    means = []
    for half, value in (
        (split.discovery, np.abs(entries.attribution)),
        (split.discovery, entries.attribution),
        (split.held_out, entries.attribution),
    ):
        weight = np.where(half, split.weight, 0)
        means.append(sums(entries.feature, value * weight[entries.question], n) / weight.sum())
    return _Layer(entries.feature_id, means[0], np.sign(means[1]), means[2])


def _wanted(run: Columns, layers: list[_Layer], separating: Separating) -> list[_Wanted]:
    """Of every layer, what the discovery half chooses."""
    of_layer = np.repeat(np.arange(len(layers)), [len(each.feature_id) for each in layers])
    ids = np.concatenate([each.feature_id for each in layers])
    size = np.concatenate([each.discovery for each in layers])
    largest = np.argsort(-size, kind="stable")[:BY_ATTRIBUTION]
    largest = largest[size[largest] > 0]
    surest = separating.selected[:BY_CONTRAST]
    wanted = []
    for index, layer in enumerate(run.layers):
        first = ids[largest[of_layer[largest] == index]]
        second = separating.features.feature_id[surest[separating.features.layer[surest] == layer]]
        both = np.union1d(first, second)
        wanted.append(_Wanted(both, np.isin(both, first), np.isin(both, second)))
    return wanted


def _of_layer(entries: Entries, layer: _Layer, wanted: _Wanted, pairs: Paired, split: Split) -> _Found:
    n, n_groups = len(wanted.feature_id), len(split.draws)
    rows = np.searchsorted(wanted.feature_id, entries.feature_id)
    there = np.append(wanted.feature_id, -1)[rows] == entries.feature_id
    kept = there[entries.feature]
    row, question, value = rows[entries.feature[kept]], entries.question[kept], entries.attribution[kept]
    place = np.cumsum(split.held_out) - 1  # of a question among those held out
    mine = split.held_out[question]
    group = split.group[place[question[mine]]]
    by_group = np.zeros((n, n_groups))
    np.add.at(by_group, (row[mine], group), (value * split.weight[question])[mine])
    size = sums(row[mine], np.abs(value * split.weight[question])[mine], n) / n_groups
    drawn = np.concatenate([by_group @ some.astype(np.float64) for some in split.draws.blocks()], axis=1) / n_groups
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
    sign = np.zeros(n)
    sign[rows[there]] = layer.sign[there]
    most = [_largest(question[row == number], value[row == number]) for number in range(n)]
    counts = np.bincount(row[mine], minlength=n)
    return _Found(by_group, low, high, size, counts, sign, _aurocs(pairs, wanted.feature_id, split), most)


def _largest(question: Ints, value: Floats) -> tuple[int, ...]:
    order = np.argsort(-np.abs(value), kind="stable")[:QUESTIONS_OF_A_FEATURE]
    return tuple(map(int, question[order]))


def _tested(
    found: list[_Found], run: Columns, wanted: list[_Wanted], separating: Separating, options: Options
) -> Chosen:
    by_group = np.concatenate([each.by_group for each in found])
    feature, place = np.nonzero(by_group)
    value = by_group[feature, place]
    order = np.lexsort((np.abs(value), feature))
    feature, value = feature[order], value[order]
    test = signed_rank_test(feature, value, midranks(feature, np.abs(value)), len(by_group), options.min_pairs)
    q, mean = false_discovery_rates(test.p), by_group.mean(axis=1)
    layer = np.repeat(np.array(run.layers), [len(each.feature_id) for each in wanted])
    feature_id = np.concatenate([each.feature_id for each in wanted])
    row = _rows_of(separating.features, layer, feature_id)
    qs = np.append(np.fmin(separating.firing.validation.q, separating.magnitude.validation.q), np.nan)

    def column(name: str) -> Floats:
        return np.concatenate([getattr(each, name) for each in found])

    return Chosen(
        layer,
        feature_id,
        np.concatenate([each.by_attribution for each in wanted]),
        np.concatenate([each.by_contrast for each in wanted]),
        mean,
        column("low"),
        column("high"),
        column("magnitude"),
        column("questions").astype(np.int64),
        q,
        (q <= options.level) & (np.sign(mean) == column("sign")),
        column("auroc"),
        np.append(separating.confirmed, False)[row],
        qs[row],
        [most for each in found for most in each.most],
    )


def _rows_of(features: Features, layer: Ints, feature_id: Ints) -> Ints:
    """Where features are among those that were tested; -1 for those that were not."""
    keys = {key: row for row, key in enumerate(zip(features.layer.tolist(), features.feature_id.tolist(), strict=True))}
    wanted = zip(layer.tolist(), feature_id.tolist(), strict=True)
    return np.array([keys.get(key, -1) for key in wanted], dtype=np.int64)


def _faces(run: Columns, layers: list[_Layer], separating: Separating, aurocs: Floats) -> Faces:
    """Of all that could be selected; chosen by neither face, so that their correlation is none of the choice."""
    rows = np.flatnonzero(separating.firing.selectable)
    layer, feature_id = separating.features.layer[rows], separating.features.feature_id[rows]
    mean = np.zeros(len(rows))
    for number, of in zip(run.layers, layers, strict=True):
        mine = np.flatnonzero(layer == number)
        place = np.searchsorted(of.feature_id, feature_id[mine])
        there = np.append(of.feature_id, -1)[place] == feature_id[mine]
        mean[mine[there]] = of.mean[place[there]]
    auroc = aurocs[rows]
    sizes = np.abs(auroc - 0.5), np.abs(mean)
    varied = all(len(each) > 2 and np.ptp(each) > 0 for each in sizes)
    return Faces(layer, feature_id, auroc, mean, float(stats.spearmanr(*sizes).statistic) if varied else float("nan"))


def _aurocs(pairs: Paired, feature_ids: Ints, split: Split) -> Floats:
    """Of features' differences within a question, on the validation half; 1/2 of one that never differs."""
    total = float(split.weight[split.held_out].sum())
    found = np.full(len(feature_ids), 0.5)
    for part in pairs.parts(feature_ids):
        starts = np.searchsorted(part.feature, np.arange(len(part.feature_id) + 1))
        here = np.flatnonzero(np.isin(feature_ids, part.feature_id))
        places = np.searchsorted(part.feature_id, feature_ids[here])
        for number, place in zip(here.tolist(), places.tolist(), strict=True):
            rows = slice(starts[place], starts[place + 1])
            mine = split.held_out[part.pair[rows]]
            difference = (part.positive[rows] - part.negative[rows])[mine]
            found[number] = auroc_of_differences(difference, split.weight[part.pair[rows]][mine], total)
    return found


def auroc_of_differences(difference: Floats, weight: Floats, total: float) -> float:
    """P(d_i + d_j > 0) + P(= 0) / 2 of any two pairs, where all others of a total weight do not differ.

    Args:
        difference, weight: of the pairs that may differ.
    """
    order = np.argsort(difference, kind="stable")
    d, w = difference[order], weight[order]
    below = np.concatenate([[0.0], np.cumsum(w)])
    lost = below[np.searchsorted(d, -d, "left")] + below[np.searchsorted(d, -d, "right")]
    rest = total - float(w.sum())
    with_rest = rest * (2 * float(w[d > 0].sum()) + float(w[d == 0].sum()))
    won = float((w * (below[-1] - lost / 2)).sum())
    return (won + with_rest + rest**2 / 2) / total**2
