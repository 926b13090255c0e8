"""The right solution against the mean of all wrong ones, where a run has the features of all.

Selected on one half of the questions and confirmed on the other, as every contrast, and mixed with none.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from layerscope.analysis.baselines.split import Split
from layerscope.analysis.columns.arrays import Floats, Ints
from layerscope.analysis.columns.lists import Others
from layerscope.analysis.columns.reading import Columns
from layerscope.analysis.columns.solution_sets import LayerSets, gather
from layerscope.analysis.result import AgainstMean, Features, Options, SetTest, Tested
from layerscope.analysis.testing import contrast, statistics
from layerscope.analysis.testing.held_out import HeldOut
from layerscope.analysis.testing.judging import NOTHING, Judged, held_out_of, judged
from layerscope.analysis.testing.layer_tests import EVERYTHING, HALVES, joined
from layerscope.analysis.testing.set_tests import firing_test, ranges_of, strength_test

_DENSE = 0.1


class _Layer(NamedTuple):
    """What the tests of one layer's features come to, [F]; of the parts of the questions, by name."""

    feature_id: Ints
    listed: Ints
    right: Floats
    wrong: Floats
    firing: dict[str, SetTest]
    strength: dict[str, SetTest]


def against_mean(
    run: Columns, split: Split | None, options: Options, progress: Callable[[str, float], None]
) -> AgainstMean | None:
    """None where no question has more than two solutions, or the run has not the features of all."""
    if run.others is None:
        return None
    layers = []
    for index in range(len(run.layers)):
        layers.append(_tests(run, run.others, _sets(run, run.others, index), options))
        progress("testing against the mean", (index + 1) / len(run.layers))
    features = _features(run, run.others, layers)
    firing, strength = (
        contrast.settle(
            {part: joined([of[part] for of in of_layers]) for part in (EVERYTHING, *HALVES)},
            np.zeros(0, dtype=np.float32),
            options,
        )
        for of_layers in ([layer.firing for layer in layers], [layer.strength for layer in layers])
    )
    of_layer = np.searchsorted(run.layers, features.layer)
    depths = (contrast.by_layer(each, of_layer, len(run.layers), options.level) for each in (firing, strength))
    firing_by_layer, strength_by_layer = depths
    held_out = _held_out(run, run.others, features, firing, split)
    right, wrong = (np.concatenate([getattr(layer, side) for layer in layers]) for side in ("right", "wrong"))
    return AgainstMean(features, right, wrong, firing, strength, firing_by_layer, strength_by_layer, held_out)


def _sets(run: Columns, others: Others, index: int) -> LayerSets:
    return gather(run.feature_lists(index).read(), others.feature_lists(index).read(), others.question)


def _tests(run: Columns, others: Others, sets: LayerSets, options: Options) -> _Layer:
    group, discovery, least = run.questions.group, run.questions.discovery, options.min_pairs
    sets = sets.restricted(np.bincount(sets.feature, minlength=len(sets.feature_id)) >= least)
    ranges, n_features = ranges_of(sets), len(sets.feature_id)
    parts = {EVERYTHING: np.ones(len(group), dtype=bool)} | dict(zip(HALVES, (discovery, ~discovery), strict=True))
    rest = (sets.firing - sets.right) / (others.solutions[sets.question] - 1)
    right, wrong = (
        statistics.sums(sets.feature, values, n_features) / max(len(group), 1)
        for values in (sets.right.astype(np.float64), rest)
    )
    return _Layer(
        sets.feature_id,
        sets.listed,
        right,
        wrong,
        {part: firing_test(sets, others.solutions, group, members, least) for part, members in parts.items()},
        {part: strength_test(ranges, n_features, group, members, least) for part, members in parts.items()},
    )


def _features(run: Columns, others: Others, layers: Sequence[_Layer]) -> Features:
    listed = np.concatenate([layer.listed for layer in layers])
    density = listed / max(int(others.solutions.sum()), 1)
    return Features(
        np.repeat(np.array(run.layers), [len(layer.listed) for layer in layers]),
        np.concatenate([layer.feature_id for layer in layers]),
        listed,
        density,
        density > _DENSE,
    )


def _held_out(
    run: Columns, others: Others, features: Features, firing: Tested[SetTest], split: Split | None
) -> HeldOut:
    """Scores the validation half: the right solution against every wrong one of its question, all of these together."""
    n_questions = len(run.questions.group)
    question = np.concatenate([np.arange(n_questions), others.question])  # of every wrong solution
    held = ~run.questions.discovery[question]
    group = run.questions.group[question[held]]
    rows = list[Judged]()
    for index, layer in enumerate(run.layers):
        chosen = firing.selected & (features.layer == layer)
        if not chosen.any():
            rows.append(NOTHING)
            continue
        sets = _sets(run, others, index)
        weight = np.zeros(len(sets.feature_id))
        weight[np.searchsorted(sets.feature_id, features.feature_id[chosen])] = firing.discovery.effect[chosen]
        score = statistics.sums(sets.solution, weight[sets.feature[sets.cell]], n_questions + len(question))
        first, second = score[question[held]], score[n_questions:][held]
        rows.append(judged(int(chosen.sum()), first, second, group, split))
    return held_out_of(rows)
