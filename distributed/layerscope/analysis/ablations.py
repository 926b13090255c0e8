"""What a file of ablations comes to: how far each feature moves the margin, and whether further than its controls do.

Where one half of the questions had a part in the choice of the features, the other is tested alone. Intervals are of a
bootstrap over goal groups, whose questions are no independent observations.

Shapes: Q questions of the file, F features, K kinds of lines (the feature, then its controls), T tested questions,
G goal groups among them.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from scipy import special, stats

from layerscope.analysis.choosing import Key, attributions_of_solutions
from layerscope.analysis.columns.arrays import Bools, Floats, Ints
from layerscope.analysis.testing.statistics import false_discovery_rates
from layerscope.errors import UsageError
from layerscope.records.ablations import AblationFile, digest_of
from layerscope.records.effects import (
    LEVEL,
    AblationSummary,
    Beside,
    ControlEffect,
    Effect,
    FeatureEffect,
    Interval,
    LayerAgreement,
)
from layerscope.records.line.dictionaries import FIRST
from layerscope.records.line.record import Record
from layerscope.records.manifest.identity import ChosenFeature
from layerscope.records.reading.run import Run

_RESAMPLES = 1000
_SEED = 0
_CHOSEN_ON_A_HALF = ("attribution", "contrast")


@dataclass(frozen=True)
class _Columns:
    """The lines of a file; NaN where there is none yet, or no margin."""

    example_ids: list[int]
    missing: int
    margin: Floats  # [Q]
    ablated: Floats  # [Q, F, K]
    tokens: Ints  # [Q, F, K]


def summarise(path: Path, run: Run | None = None) -> AblationSummary:
    """Reads a file of ablations, finished or growing; questions some of whose lines are missing are left out.

    Args:
        run: that it is of, for how far attributions agree with ablations.

    Raises:
        UsageError: it is no file of ablations, or the run is another.
        LayerscopeError: a line is not the one that was written there.
    """
    file = AblationFile.open(path)
    columns, chosen_by = _read(file), file.about.chosen_by
    validation = chosen_by in _CHOSEN_ON_A_HALF
    tested = np.isfinite(columns.margin) & np.isfinite(columns.ablated).all(axis=(1, 2))
    if validation:
        tested &= np.array(list(file.about.discovery)) == "0"
    groups = np.array([int(word) for word in file.about.groups.split()], dtype=np.int64)[tested]
    features = _effects(file, columns, tested, _Bootstrap(groups))
    of_run = file.manifest.identity.settings
    return AblationSummary(
        run=file.about.run,
        chosen_by=chosen_by,
        steer=file.settings.steer,
        tested="validation" if validation else "all",
        groups=len(set(groups.tolist())),
        features=features,
        agreement=_agreement(file, run, columns) if chosen_by == "check" and run is not None else None,
        rule=of_run.attribution or "",
        against_means=of_run.attribution_means is not None,
        missing=columns.missing,
    )


def summaries_beside(paths: Sequence[Path], run: Run, dictionary: str) -> Beside:
    """The summaries of a file of ablations and of one of a check, of either at most one, for the run that they are of.

    Raises:
        UsageError: a file is no such file, of another run or dictionary, or two are of the same kind.
        LayerscopeError: a line is not the one that was written there.
    """
    by_kind: dict[str, AblationSummary] = {}
    for path in paths:
        summary = _summary_beside(path, run, dictionary)
        kind = "check" if summary.chosen_by == "check" else "ablations"
        if kind in by_kind:
            raise UsageError(
                f"--ablations: {path} is the second file of {'a check' if kind == 'check' else 'chosen features'}.\n"
                "The page shows one of features that were chosen and one of a check. Leave one out."
            )
        by_kind[kind] = summary
    return Beside(**by_kind)


def _summary_beside(path: Path, run: Run, dictionary: str) -> AblationSummary:
    """
    Raises:
        UsageError: it is no file of ablations, or it is of another run or dictionary.
        LayerscopeError: a line is not the one that was written there.
    """
    file = AblationFile.open(path)
    if dictionary != FIRST:
        raise UsageError(
            f"{path} has ablations of the run's first dictionary, and --dictionary is {dictionary}.\n"
            "Leave out one of both."
        )
    if file.settings.run != digest_of(run):
        raise UsageError(
            f"{path} has ablations of another run than {run.path}: of {file.about.run}, as it was then.\n"
            "Give the file of that run, or ablate this one: layerscope ablate."
        )
    return summarise(path, run)


def _read(file: AblationFile) -> _Columns:
    plan, features = file.plan, file.settings.features
    question = {example_id: number for number, example_id in enumerate(plan.order)}
    place = {(feature.layer, feature.feature_id): number for number, feature in enumerate(features)}
    kind = {name: number for number, name in enumerate(plan.kinds)}
    shape = (len(question), len(place), len(kind))
    margin, ablated, tokens = np.full(shape[0], np.nan), np.full(shape, np.nan), np.zeros(shape, np.int64)
    missing = plan.lines
    for _, line in file.entries():
        missing -= 1
        at = question[line.example_id], place[line.layer, line.feature_id], kind[line.control]
        if line.margin is not None and line.margin_ablated is not None:
            margin[at[0]], ablated[at], tokens[at] = line.margin, line.margin_ablated, line.tokens
    return _Columns(list(plan.order), missing, margin, ablated, tokens)


class _Bootstrap:
    """Means over questions, and their intervals by drawing goal groups anew."""

    def __init__(self, groups: Ints) -> None:
        """
        Args:
            groups: [T] of every tested question.
        """
        _, self._group = np.unique(groups, return_inverse=True)
        self._sizes = np.bincount(self._group)
        n_groups = len(self._sizes)
        drawn = np.random.default_rng(_SEED)
        equal = np.full(n_groups, 1 / max(1, n_groups))
        self._weights = drawn.multinomial(n_groups, equal, _RESAMPLES).astype(float) if n_groups else np.zeros((1, 0))

    def interval(self, values: Floats) -> Interval | None:
        """Of the mean of [T]; None where there are no two groups, whose draws could differ."""
        if len(self._sizes) < 2:
            return None
        low, high = np.quantile(self._means(values), [0.025, 0.975])
        return Interval(float(low), float(high))

    def p_of_no_more(self, values: Floats) -> float | None:
        """One-sided, that the mean of [T] is not above 0; None where there are no two groups.

        By Student's distribution, as few groups know little of how much they vary; of many it is the normal one.
        """
        groups = len(self._sizes)
        if groups < 2:
            return None
        mean, deviation = float(values.mean()), float(self._means(values).std()) * np.sqrt(groups / (groups - 1))
        return float(special.stdtr(groups - 1, -mean / deviation)) if deviation > 0 else float(mean <= 0)

    def _means(self, values: Floats) -> Floats:
        sums = np.bincount(self._group, values)
        return (self._weights @ sums) / (self._weights @ self._sizes)


def _effects(file: AblationFile, columns: _Columns, tested: Bools, bootstrap: _Bootstrap) -> list[FeatureEffect]:
    margin, ablated, tokens = columns.margin[tested], columns.ablated[tested], columns.tokens[tested]
    change = ablated - margin[:, None, None]  # [T, F, K]
    flips = (ablated > 0) != (margin > 0)[:, None, None]
    found = []
    for number, feature in enumerate(file.settings.features):
        effects = [
            _effect(margin > 0, change[:, number, k], flips[:, number, k], tokens[:, number, k], bootstrap)
            for k in range(tokens.shape[2])
        ]
        sizes = np.abs(change[:, number])  # [T, K]
        controls = {
            name: _beside(effects[k], sizes[:, 0] - sizes[:, k], flips[:, number, [0, k]], bootstrap)
            for k, name in enumerate(file.settings.controls, start=1)
        }
        found.append(_feature(feature, effects[0], controls))
    return sorted(_judged(found), key=lambda each: (-(each.effect.mean_magnitude or 0), each.layer, each.feature_id))


def _effect(right: Bools, change: Floats, flips: Bools, tokens: Ints, bootstrap: _Bootstrap) -> Effect:
    return Effect(
        questions=len(change),
        touched=int((tokens > 0).sum()),
        mean_change=float(change.mean()) if len(change) else None,
        mean_change_interval=bootstrap.interval(change),
        mean_magnitude=float(np.abs(change).mean()) if len(change) else None,
        right_to_wrong=int((flips & right).sum()),
        wrong_to_right=int((flips & ~right).sum()),
    )


def _beside(effect: Effect, excess: Floats, flips: Bools, bootstrap: _Bootstrap) -> ControlEffect:
    """
    Args:
        excess: [T] size of the feature's change less that of the control's.
        flips: [T, 2] whether the answer flips with the feature, and with the control.
    """
    alone, control_alone = (int((flips[:, this] & ~flips[:, 1 - this]).sum()) for this in (0, 1))
    return ControlEffect(
        effect=effect,
        excess=float(excess.mean()) if len(excess) else None,
        excess_interval=bootstrap.interval(excess),
        excess_p=bootstrap.p_of_no_more(excess),
        feature_alone=alone,
        control_alone=control_alone,
        flips_p=float(special.bdtr(control_alone, alone + control_alone, 0.5)),
    )


def _feature(feature: ChosenFeature, effect: Effect, controls: dict[Any, ControlEffect]) -> FeatureEffect:
    return FeatureEffect(
        layer=feature.layer,
        feature_id=feature.feature_id,
        matched=feature.matched,
        effect=effect,
        controls=controls,
        q=None,
        flips_q=None,
        beyond_controls=False,
        flips_beyond_controls=False,
    )


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _judged(found: list[FeatureEffect]) -> Iterator[FeatureEffect]:
    """With what can be known of all of them together alone."""
    excess = [max((_or_nan(of.excess_p) for of in each.controls.values()), default=np.nan) for each in found]
    flips = [max((of.flips_p for of in each.controls.values()), default=np.nan) for each in found]
    q, flips_q = (false_discovery_rates(np.array(ps)) for ps in (excess, flips))
    for each, *of in zip(found, q.tolist(), flips_q.tolist(), strict=True):
        known = [None if np.isnan(one) else one for one in of]
        beyond = [one is not None and one <= LEVEL for one in known]
        yield replace(each, q=known[0], flips_q=known[1], beyond_controls=beyond[0], flips_beyond_controls=beyond[1])


def _agreement(file: AblationFile, run: Run, columns: _Columns) -> list[LayerAgreement] | None:
    """Per layer, of attributions with what the margin loses."""
    if file.settings.run != digest_of(run):
        raise UsageError(
            f"{run.path} is not the run that {file.path} is of, or was changed since.\nName the run's own file."
        )
    number_of = {example_id: number for number, example_id in enumerate(columns.example_ids)}
    place: dict[Key, int] = {(each.layer, each.feature_id): n for n, each in enumerate(file.settings.features)}
    told_by_layer: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for _, record in run.records():
        if isinstance(record, Record):
            question = number_of[record.example_id]
            lost = columns.margin[question] - columns.ablated[question, :, 0]  # [F]
            for key, attribution in attributions_of_solutions(record).items():
                if key in place and np.isfinite(lost[place[key]]):
                    told_by_layer[key[0]].append((attribution, float(lost[place[key]])))
    return [_rank_correlation(layer, told_by_layer[layer]) for layer in sorted(told_by_layer)]


def _rank_correlation(layer: int, pairs: list[tuple[float, float]]) -> LayerAgreement:
    both: NDArray[np.float64] = np.array(pairs).reshape(-1, 2)
    varies = len(both) > 2 and bool((np.ptp(both, axis=0) > 0).all())
    found = float(stats.spearmanr(both[:, 0], both[:, 1]).statistic) if varies else None
    return LayerAgreement(layer=layer, pairs=len(both), rank_correlation=found)
