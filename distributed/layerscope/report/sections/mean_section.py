"""The section and the table of the contrast that is about all solutions: right against the mean of the wrong ones."""

from typing import Any

import numpy as np
import pyarrow as pa

from layerscope.analysis.columns.arrays import Ints
from layerscope.analysis.result import AgainstMean, Analysis, SetTest, Tested
from layerscope.errors import UsageError
from layerscope.report.sections.feature_tables import (
    Cell,
    Column,
    Descriptions,
    Row,
    described,
    neuronpedia_url,
    shown_q,
)
from layerscope.report.words.many_said import mean_title, without_features
from layerscope.report.words.sentences import number, percent

_ROWS = 200
_COLUMNS = (
    Column("right", "right_fires", "fires for", "share of the questions whose right solution it fires for"),
    Column("wrong, mean", "wrong_fires", "fires for", "share of a question's wrong solutions, mean over questions"),
    Column("questions", "questions_firing", "firing", "in which it fires for some solutions and not for all"),
    Column("discovery", "log_odds_discovery", "firing", "log-odds on the half that selects"),
    Column("validation", "log_odds_validation", "firing", "log-odds on the half that confirms"),
    Column("q disc.", "q_firing_discovery", "firing", "among all features tested"),
    Column("q valid.", "q_firing_validation", "firing", "among the selected features"),
    Column(
        "questions", "questions_strength", "where right and wrong fire", "in which it fires for both, unlike strong"
    ),
    Column(
        "d_z disc.", "d_z_discovery", "where right and wrong fire", "right less the mean of the wrong, half by half"
    ),
    Column("d_z valid.", "d_z_validation", "where right and wrong fire", "the same on the validation half"),
    Column("q disc.", "q_strength_discovery", "where right and wrong fire", "among all features tested"),
    Column("q valid.", "q_strength_validation", "where right and wrong fire", "among the selected features"),
    Column("density", "density", "", "share of all lists that name the feature"),
)


def section(analysis: Analysis, descriptions: Descriptions) -> dict[str, Any] | None:
    """All that the template shows; nothing of a run in which every question has two solutions."""
    many, mean = analysis.header.many, analysis.against_mean
    if many is None:
        return None
    if mean is None:
        return {"title": without_features(), "rows": []}
    rows = _ranked(mean, _confirmed(mean))
    return {
        "title": mean_title(mean),
        "layers": [_layer(analysis, mean, index) for index in range(len(analysis.layers.layer))],
        "columns": _COLUMNS,
        "rows": [_row(analysis, mean, descriptions, int(row)) for row in rows[:_ROWS]],
        "left_out": max(len(rows) - _ROWS, 0),
    }


def mean_findings(analysis: Analysis, descriptions: Descriptions, every: bool = False) -> pa.Table:
    """A row for each confirmed feature, the surest first; numbers that are not known are null.

    Args:
        every: all that fire in enough questions, not the confirmed alone.

    Raises:
        UsageError: the run has not this contrast.
    """
    mean = analysis.against_mean
    if mean is None:
        why = without_features() if analysis.header.many else "Every question of this run has two solutions."
        raise UsageError(f"There is no contrast 'mean': right against the mean of the wrong ones.\n{why}")
    confirmed, selected = _confirmed(mean), _marked(mean, "selected")
    rows = _ranked(mean, np.ones(len(confirmed), dtype=bool) if every else confirmed)
    layers, ids = (column[rows].tolist() for column in (mean.features.layer, mean.features.feature_id))
    pages = {sae.layer: sae.neuronpedia_id for sae in analysis.header.saes}
    described = [descriptions.get(layer, {}).get(id_) for layer, id_ in zip(layers, ids, strict=True)]
    named = zip((column.csv for column in _COLUMNS), _numbers(mean), strict=True)
    return pa.table(
        {
            "layer": pa.array(layers, pa.int16()),
            "feature_id": pa.array(ids, pa.int32()),
            "state": ["confirmed" if confirmed[row] else "selected" if selected[row] else "" for row in rows],
            **{name: pa.array(values[rows], from_pandas=True) for name, values in named},
            "description": pa.array([each and each.description for each in described], pa.string()),
            "url": pa.array(
                [neuronpedia_url(pages[layer], id_) for layer, id_ in zip(layers, ids, strict=True)], pa.string()
            ),
        }
    )


def _marked(mean: AgainstMean, name: str) -> Any:
    return getattr(mean.firing, name) | getattr(mean.strength, name)


def _confirmed(mean: AgainstMean) -> Any:
    return _marked(mean, "confirmed")


def _ranked(mean: AgainstMean, kept: Any) -> Ints:
    """Confirmed before selected before others; within each by the larger |z| of the two tests' discovery halves."""
    rows = np.flatnonzero(kept)
    z = [np.where(np.isnan(test.discovery.p), 0, np.abs(test.discovery.z))[rows] for test in _tests(mean)]
    order = np.lexsort((-np.maximum(*z), ~_marked(mean, "selected")[rows], ~_confirmed(mean)[rows]))
    ranked: Ints = rows[order]
    return ranked


def _tests(mean: AgainstMean) -> tuple[Tested[SetTest], Tested[SetTest]]:
    return mean.firing, mean.strength


def _numbers(mean: AgainstMean) -> list[Any]:
    """Of every feature, as `_COLUMNS` names them."""
    found: list[Any] = [mean.right_fires, mean.wrong_fires]
    for test in _tests(mean):
        halves = test.discovery, test.validation
        found += [test.everything.questions, *(half.effect for half in halves), *(half.q for half in halves)]
    return [*found, mean.features.density]


def _row(analysis: Analysis, mean: AgainstMean, descriptions: Descriptions, row: int) -> Row:
    features = mean.features
    layer, feature_id = int(features.layer[row]), int(features.feature_id[row])
    sae = next(sae for sae in analysis.header.saes if sae.layer == layer)
    right, wrong, *of_tests, density = (float(values[row]) for values in _numbers(mean))
    cells = [Cell(percent(share, 0), f"{share:.3g}") for share in (right, wrong)]
    for test, numbers in zip(_tests(mean), (of_tests[:5], of_tests[5:]), strict=True):
        questions, discovery, validation, *q = numbers
        side = "first" if validation >= 0 else "second"
        kind = f"{side} confirmed" if test.confirmed[row] else ""
        cells += [Cell(f"{int(questions):,}"), Cell(number(discovery)), Cell(number(validation), kind=kind)]
        cells += map(shown_q, q)
    cells.append(Cell(percent(density), f"{density:.3g}", "dense" if features.dense[row] else ""))
    url, explained = neuronpedia_url(sae.neuronpedia_id, feature_id), descriptions.get(layer, {}).get(feature_id)
    return Row(layer, feature_id, url, *described(explained), "confirmed", cells)


def _layer(analysis: Analysis, mean: AgainstMean, index: int) -> tuple[int, list[str]]:
    """Of a layer: how many are tested, selected and confirmed for firing, then for strength; and what is held out."""
    cells = []
    for depth in (mean.firing_by_layer, mean.strength_by_layer):
        known = bool(depth.selectable[index])
        cells += [
            f"{depth.tested[index]:,}",
            *(f"{values[index]:,}" if known else "–" for values in (depth.selected, depth.confirmed)),
        ]
    held_out = mean.held_out
    cells += [number(float(held_out.auroc[index])), number(float(held_out.paired[index]))]
    return int(analysis.layers.layer[index]), cells
