"""What the feature panel says of a feature beside its questions: of all that the page's tables and charts name."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson

from layerscope.analysis.causes.result import Chosen
from layerscope.analysis.columns.arrays import Ints
from layerscope.analysis.result import Analysis, Contrast
from layerscope.formatting import count_of
from layerscope.records.effects import AblationSummary, FeatureEffect
from layerscope.report.packs.kept import Tracked
from layerscope.report.sections.feature_tables import Descriptions, columns, described, row_of, shown_q, table_rows
from layerscope.report.words.sentences import number


def feature_pack(
    analysis: Analysis, descriptions: Descriptions, tracked: Tracked, ablations: AblationSummary | None
) -> bytes:
    """JSON: both contrasts' columns and the cells of every feature, as the tables have them; then, by layer/id, the
    descriptions, and sentences on what causes and ablations came to.
    """
    contrasts = (analysis.right_wrong, analysis.chosen_rejected)
    in_tables = [table_rows(analysis, contrast) for contrast in contrasts]
    rows = np.unique(np.concatenate([*in_tables, _tested(analysis, tracked)])).astype(np.int64)
    names = _names(analysis, rows)
    told = _told(analysis, ablations)
    words = {
        f"{layer}/{feature_id}": described(explanation)
        for layer, feature_id in map(_parsed, {*names, *told})
        if (explanation := descriptions.get(layer, {}).get(feature_id))
    }
    return orjson.dumps(
        {
            "contrasts": [_contrast(analysis, contrast, rows) for contrast in contrasts],
            "names": names,
            "words": words,
            "told": told,
        }
    )


def _contrast(analysis: Analysis, contrast: Contrast, rows: Ints) -> dict[str, Any]:
    of_features = [row_of(analysis, contrast, {}, int(row)) for row in rows]
    return {
        "name": contrast.name,
        "first": contrast.first,
        "columns": [asdict(column) for column in columns(contrast)],
        "states": [row.state for row in of_features],
        "cells": [[cell.shown for cell in column] for column in zip(*(row.cells for row in of_features), strict=True)],
    }


def _tested(analysis: Analysis, tracked: Tracked) -> Ints:
    """The rows of the features whose every firing is in the page."""
    features = analysis.features
    named = zip(features.layer.tolist(), features.feature_id.tolist(), strict=True)
    return np.flatnonzero([feature_id in tracked.all[layer] for layer, feature_id in named])


def _names(analysis: Analysis, rows: Ints) -> list[str]:
    layers, ids = (column[rows].tolist() for column in (analysis.features.layer, analysis.features.feature_id))
    return [f"{layer}/{feature_id}" for layer, feature_id in zip(layers, ids, strict=True)]


def _parsed(name: str) -> tuple[int, int]:
    layer, _, feature_id = name.partition("/")
    return int(layer), int(feature_id)


def _told(analysis: Analysis, ablations: AblationSummary | None) -> dict[str, list[str]]:
    """What moves the margin, in sentences, by layer/id."""
    told: dict[str, list[str]] = defaultdict(list)
    chosen = analysis.causes.chosen if analysis.causes else None
    for name, sentence in _attributions(chosen) if chosen is not None else ():
        told[name].append(sentence)
    for effect in ablations.features if ablations is not None else ():
        told[f"{effect.layer}/{effect.feature_id}"].append(ablation_sentence(effect))
    return told


def _attributions(chosen: Chosen) -> Iterator[tuple[str, str]]:
    for row, (layer, feature_id) in enumerate(zip(chosen.layer.tolist(), chosen.feature_id.tolist(), strict=True)):
        bounds = f"{number(float(chosen.low[row]), 3)} to {number(float(chosen.high[row]), 3)}"
        yield (
            f"{layer}/{feature_id}",
            f"Attribution: {number(float(chosen.mean[row]), 3)} nats of the margin a question (95 %: {bounds}), "
            f"listed in {count_of(int(chosen.questions[row]), 'question')} of the half that did not choose it; "
            f"q {shown_q(float(chosen.q[row])).shown}.",
        )


def ablation_sentence(effect: FeatureEffect) -> str:
    """What taking a feature out did."""
    of = effect.effect
    if of.mean_change is None:
        return "Taken out: of no question is it known yet what that does."
    within = of.mean_change_interval
    sure = f" (95 %: {number(within.low, 3)} to {number(within.high, 3)})" if within is not None else ""
    controls = [control.effect.mean_change for control in effect.controls.values()]
    largest = max((change for change in controls if change is not None), key=abs, default=None)
    beside = f"its controls change it by {number(largest, 3)} at most, " if largest is not None else ""
    more = "more than each of its controls does" if effect.beyond_controls else "no more than its controls do"
    return (
        f"Taken out at every solution token at which it fires, in {of.touched:,} of "
        f"{count_of(of.questions, 'question')}: the margin changes by {number(of.mean_change, 3)} nats{sure}, "
        f"{of.right_to_wrong:,} answers become wrong and {of.wrong_to_right:,} right; {beside}and it moves it {more}."
    )
