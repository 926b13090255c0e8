"""The whole: a file in, an `Analysis` out.

Two passes over the layers, one layer in memory at a time. The first tests every feature and flips labels; then q-values
are taken over all layers together and features are selected; the second scores the validation half with them.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from layerscope.analysis import overview
from layerscope.analysis.against_mean import against_mean
from layerscope.analysis.baselines.comparison import compare
from layerscope.analysis.baselines.features import FeatureScores
from layerscope.analysis.baselines.residuals import lacking, residual_differences
from layerscope.analysis.baselines.split import Split
from layerscope.analysis.causes.measuring import Separating, find_causes
from layerscope.analysis.columns.arrays import Bools, Floats, Ints
from layerscope.analysis.columns.censoring import Paired, PairedLists, layer_row
from layerscope.analysis.columns.reading import Columns, reading
from layerscope.analysis.method import method
from layerscope.analysis.random_dictionary import random_features, recorded_features
from layerscope.analysis.result import (
    Analysis,
    Contrast,
    Features,
    Firing,
    Layers,
    Magnitude,
    Options,
    Questions,
    Tested,
)
from layerscope.analysis.testing import contrast, statistics
from layerscope.analysis.testing.held_out import HeldOut
from layerscope.analysis.testing.judging import NOTHING, Judged, held_out_of, judged
from layerscope.analysis.testing.label_flips import LabelFlips
from layerscope.analysis.testing.layer_tests import ContrastTests, LayerTests, joined, joined_tests, layer_tests
from layerscope.records.line.dictionaries import FIRST, RANDOM
from layerscope.records.reading.residuals import expect_residuals
from layerscope.records.reading.shards import Files, read_run

Progress = Callable[[str, float], None]
"""Gets what is being done, and which share of it is done, from 0 to 1."""

_CONTRASTS = (("right vs wrong", "right", "wrong"), ("chosen vs rejected", "chosen", "rejected"))
_DENSE = 0.1


def analyse(files: Files, options: Options | None = None, progress: Progress = lambda *_: None) -> Analysis:
    """Analyses a file, or the shards of one job, finished or still growing: whole lines, read once, as a stream.

    Raises:
        UsageError: there is no such file, it has no manifest or not the reading, several are not shards of one job, or
            there are no residuals to make a random dictionary of.
        LayerscopeError: a line is not a record, or the solutions differ at the prompt, which they share.
    """
    options = options or Options()
    recorded = options.dictionary == FIRST and RANDOM in read_run(files).manifest.dictionaries
    if options.baseline_dictionary and not recorded:
        expect_residuals(files, options.reading)
    need = lacking(files, options.reading, options.dictionary)  # before minutes of work
    with reading(files, options.reading, lambda share: progress("reading", share), options.dictionary) as run:
        questions = run.questions
        signs = np.ones(len(questions.correct)), np.where(questions.correct, 1.0, -1.0)  # as in _CONTRASTS
        scores = FeatureScores(Split.of(questions, options.seed))
        found = _both_passes(run, signs, options, scores, scores.split, progress)
        residuals = need or residual_differences(run.scored, options.reading)
        of_random, missing = FeatureScores(scores.split), dict[str, str]()
        if recorded or options.baseline_dictionary:
            made = recorded_features(files, options.reading, run) if recorded else None
            random = made or random_features(run, options.reading, options.seed)
            _pass_random_features(random, signs, options, of_random, progress)
        else:
            missing = dict.fromkeys(of_random.of_random(), _what_random_features_need(need, options))
        features = {**({} if missing else of_random.of_random()), **scores.of_saes()}
        comparison = compare(questions, scores.split, run.layers, run.texts, features, residuals, missing, progress)
        separating = Separating(found.features, found.firing[0], found.magnitude[0])
        causes = find_causes(run, scores.split, separating, options, progress)
        of_all = against_mean(run, scores.split, options, progress)
    right_wrong, chosen_rejected = (
        contrast.assemble(*parts, found.layers, found.features, found.stratum_shares, options)
        for parts in zip(_CONTRASTS, found.contrasts, found.firing, found.magnitude, found.held_out, strict=True)
    )
    return Analysis(
        options,
        overview.header(run, statistics.mean(found.layers.cut_share)),
        questions,
        found.layers,
        found.features,
        right_wrong,
        chosen_rejected,
        overview.length_bins(questions),
        comparison,
        method(options.reading, causes is not None, of_all is not None),
        causes,
        of_all,
    )


class FoundFiring(NamedTuple):
    """What a run's or a dictionary's features say of right and wrong."""

    questions: Questions
    layers: Layers
    features: Features
    contrast: Contrast


def _what_random_features_need(need: str, options: Options) -> str:
    """Where there are none.

    Args:
        need: what is needed to make some of residuals, besides being asked to.
    """
    if options.dictionary != FIRST:
        return need or "needs --baseline-dictionary"
    return (
        f"needs {'a run with --baseline-dictionary' if need else '--baseline-dictionary, of the report or of the run'}"
    )


def analyse_firing(files: Files, options: Options, progress: Progress = lambda *_: None) -> FoundFiring:
    """Of what `analyse` finds, right vs wrong alone, to stand beside another's: no baselines, no causes.

    Args:
        options: whose `permutations` take the time that they take.

    Raises:
        UsageError, LayerscopeError: as `analyse`.
    """
    with reading(files, options.reading, lambda share: progress("reading", share), options.dictionary) as run:
        signs = (np.ones(len(run.questions.correct)),)
        split = Split.of(run.questions, options.seed)
        found = _both_passes(run, signs, options, FeatureScores(None), split, progress)
        parts = found.contrasts[0], found.firing[0], found.magnitude[0], found.held_out[0]
        whole = contrast.assemble(_CONTRASTS[0], *parts, found.layers, found.features, found.stratum_shares, options)
        return FoundFiring(run.questions, found.layers, found.features, whole)


class _Found(NamedTuple):
    """What the two passes come to; lists have an entry for each of _CONTRASTS."""

    layers: Layers
    features: Features
    stratum_shares: dict[str, float]
    contrasts: list[ContrastTests]
    firing: list[Tested[Firing]]
    magnitude: list[Tested[Magnitude]]
    held_out: list[HeldOut]


def _both_passes(
    run: Columns,
    signs: Sequence[Floats],
    options: Options,
    scores: FeatureScores,
    split: Split | None,
    progress: Progress,
) -> _Found:
    layers, tests, stratum_shares = _first_pass(run, signs, options, scores, progress)
    features = _features(run.layers, tests, len(run.questions.correct))
    largest_firing = np.max([layer.largest_firing for layer in tests], axis=0)  # [contrast, P]
    largest_magnitude = np.max([layer.largest_magnitude for layer in tests], axis=0)
    contrasts = [joined_tests([layer.contrasts[number] for layer in tests]) for number in range(len(signs))]
    del tests  # as large as what was joined from them
    firing = [
        contrast.settle(found.firing, largest, options)
        for found, largest in zip(contrasts, largest_firing, strict=True)
    ]
    magnitude = [
        contrast.settle(found.magnitude, largest, options)
        for found, largest in zip(contrasts, largest_magnitude, strict=True)
    ]
    held_out = _second_pass(run, signs, features, firing, scores, split, progress)
    return _Found(layers, features, stratum_shares, contrasts, firing, magnitude, held_out)


def _pass_random_features(
    of_random: AbstractContextManager[Columns],
    signs: Sequence[Floats],
    options: Options,
    scores: FeatureScores,
    progress: Progress,
) -> None:
    """Puts random features to the same passes, for what they say of every pair."""

    def tell(stage: str, share: float) -> None:
        progress(f"{stage} random features", share)

    with of_random as random:
        _both_passes(random, signs, replace(options, permutations=0), scores, None, tell)


def _first_pass(
    run: Columns, signs: Sequence[Floats], options: Options, scores: FeatureScores, progress: Progress
) -> tuple[Layers, list[LayerTests], dict[str, float]]:
    """Tests every layer; also the share of the pairs (of all layers) in each stratum."""
    questions = run.questions
    flips = LabelFlips.random(len(questions.group_sizes), options.permutations, options.seed)
    layers, tests, shares = [], [], []
    for index, layer in enumerate(run.layers):
        lists = run.feature_lists(index)
        pairs = PairedLists(lists)
        scores.add_layer(pairs)
        strata = _strata(questions, pairs)
        layers.append(layer_row(layer, lists, pairs, questions.group))
        found = layer_tests(pairs, questions.group, questions.discovery, strata, signs, flips, options.min_pairs)
        tests.append(found)
        shares.append({name: statistics.mean(members) for name, members in strata.items()})
        progress("testing", (index + 1) / len(run.layers))
    return joined(layers), tests, {name: float(np.mean([share[name] for share in shares])) for name in strata}


def _strata(questions: Questions, pairs: Paired) -> dict[str, Bools]:
    """Which of a layer's pairs are in each, [Q]."""
    return {
        "same final token": questions.same_final_token,
        "full stop": questions.full_stop,
        "lists not cut": pairs.whole,
    }


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


def _second_pass(
    run: Columns,
    signs: Sequence[Floats],
    features: Features,
    tested: Sequence[Tested[Firing]],
    scores: FeatureScores,
    split: Split | None,
    progress: Progress,
) -> list[HeldOut]:
    """Scores the validation half of every contrast with what was selected for it on the discovery half.

    Args:
        split: whose draws make the intervals; NaN without one.
        scores: get what is selected by label, the first of the contrasts.
    """
    rows: list[list[Judged]] = [[] for _ in tested]
    higher: list[list[Bools]] = [[] for _ in tested]
    held_out = ~run.questions.discovery
    group = run.questions.group[held_out]
    for index, layer in enumerate(run.layers):
        chosen = [firing.selected & (features.layer == layer) for firing in tested]
        pairs = PairedLists(run.feature_lists(index)) if any(map(np.any, chosen)) else None
        for number, (sign, firing, mask, found) in enumerate(zip(signs, tested, chosen, rows, strict=True)):
            if pairs is None or not mask.any():
                found.append(NOTHING)
                higher[number].append(np.zeros(len(sign), dtype=bool))
                if number == 0:
                    scores.add_selected(None)
                continue
            positive, negative = _scores(pairs, features.feature_id[mask], firing.discovery.effect[mask])
            if number == 0:
                scores.add_selected(positive - negative)
            higher[number].append((positive - negative) * sign > 0)
            first = np.where(sign > 0, positive, negative)[held_out]
            second = np.where(sign > 0, negative, positive)[held_out]
            found.append(judged(int(mask.sum()), first, second, group, split))
        progress("scoring", (index + 1) / len(run.layers))
    return [held_out_of(found, first_higher) for found, first_higher in zip(rows, higher, strict=True)]


def _scores(pairs: Paired, feature_ids: Ints, weights: Floats) -> tuple[Floats, Floats]:
    """The sum of the weights of the features that fire, of every positive and of every negative solution, [Q]."""
    positive, negative = np.zeros((2, len(pairs.whole)))
    for part in pairs.parts(feature_ids):
        here = np.isin(feature_ids, part.feature_id)
        weight = np.zeros(len(part.feature_id))
        weight[np.searchsorted(part.feature_id, feature_ids[here])] = weights[here]
        for total, side in ((positive, part.positive), (negative, part.negative)):
            total += statistics.sums(part.pair, weight[part.feature] * (side > 0), len(total))
    return positive, negative
