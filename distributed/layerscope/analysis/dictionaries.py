"""A run's dictionaries beside its first one: what each finds by depth, and whether they separate the same questions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from layerscope.analysis.columns.arrays import Floats
from layerscope.analysis.findings import Progress, analyse_firing
from layerscope.analysis.result import Analysis, Contrast, Questions
from layerscope.analysis.testing.statistics import group_weights, mean_interval
from layerscope.records.reading.run import Run
from layerscope.records.reading.shards import as_seen_by


@dataclass(frozen=True)
class Overlap:
    """Jaccard index of the held-out questions that two dictionaries' selected features rank right, layer by layer.

    A question is ranked right where its right solution has the higher score (see `HeldOut`); goal groups count once.
    NaN where either has no selected feature, or neither ranks a question right.
    """

    jaccard: Floats  # [L] of those that either ranks right, the share that both do
    interval: Floats  # [L, 2] of the index, 95 %, over goal groups; NaN of one alone
    by_chance: Floats  # [L] what two that rank as many right would have if neither knew of the other


@dataclass(frozen=True)
class Dictionary:
    """What one of them finds that tells right from wrong."""

    name: str
    site: str
    width: str
    """As it was asked for, as `l0` is; both empty where no manifest says."""
    l0: str
    found: Contrast
    overlap: Overlap | None
    """With the first; None of the first itself."""


def dictionaries_by_depth(run: Run, first: Analysis, progress: Progress) -> tuple[Dictionary, ...]:
    """All of a run's dictionaries, the first one first; empty where that is all, or where the control is read.

    Args:
        first: of the first dictionary; the others are read at what it is read at.
    """
    if not run.manifest.dictionaries or first.options.reading == "prompt":
        return ()
    files = [part.path for part in run.parts]
    found = [_named(run, first.options.dictionary, first.right_wrong, None)]
    for name in run.manifest.dictionaries:
        options = replace(first.options, dictionary=name, permutations=0, baseline_dictionary=False)
        other = analyse_firing(files, options, partial(_tell, progress, name))
        sets = [(first.questions, first.right_wrong), (other.questions, other.contrast)]
        found.append(_named(run, name, other.contrast, overlap(sets)))
    return tuple(found)


def overlap(of: Sequence[tuple[Questions, Contrast]]) -> Overlap:
    """That of two dictionaries, over the questions that neither chose with; a run may have grown between the two."""
    (one, first), (other, second) = of
    _, rows, others = np.intersect1d(one.example_id, other.example_id, return_indices=True)
    both = ~(one.discovery[rows] | other.discovery[others])
    rows, others = rows[both], others[both]
    weight = group_weights(one.group[rows]) if len(rows) else np.zeros(0)
    right, also = first.held_out.first_higher[:, rows], second.held_out.first_higher[:, others]
    known = (first.held_out.features > 0) & (second.held_out.features > 0)
    either = _ratio((right & also) @ weight, (right | also) @ weight)
    shared = np.where(right | also, right & also, np.nan)  # the index is the mean of those that either ranks right
    intervals = [mean_interval(layer, one.group[rows], weight) for layer in shared]
    shares = right @ weight / max(weight.sum(), 1), also @ weight / max(weight.sum(), 1)
    together = shares[0] * shares[1]
    by_chance = _ratio(together, shares[0] + shares[1] - together)
    index, ends, chance = (
        np.where(known, each.T, np.nan).T for each in (either, np.array(intervals).reshape(-1, 2), by_chance)
    )
    return Overlap(index, ends, chance)


def _named(run: Run, name: str, found: Contrast, beside: Overlap | None) -> Dictionary:
    settings = as_seen_by(run, name).manifest.identity.settings
    if run.unnoted:
        return Dictionary(name, "", "", "", found, beside)
    return Dictionary(name, settings.site, settings.sae_width, settings.sae_l0, found, beside)


def _ratio(part: Floats, whole: Floats) -> NDArray[np.float64]:
    """NaN of nothing."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)


def _tell(progress: Progress, name: str, stage: str, share: float) -> None:
    progress(f"{stage} {name}", share)
