"""The rows of the report's feature tables: which features are shown, and what is said of each. Draws nothing."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson

from layerscope.analysis.columns.arrays import Ints
from layerscope.analysis.result import Analysis, Contrast, Tested
from layerscope.formatting import ranges, visible
from layerscope.neuronpedia.explanations import Explanation
from layerscope.report.words.sentences import number, percent, run_name

ROWS_PER_LAYER = 25
CONFIRMED_ROWS = 200
QUICK_LIST = 40  # features in one link to Neuronpedia

Descriptions = Mapping[int, Mapping[int, Explanation]]
"""What Neuronpedia's explainers say of a feature, by layer and feature id."""


@dataclass(frozen=True)
class Column:
    """A column: its name in the head and in CSV, and the head it stands under."""

    name: str
    csv: str
    group: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Cell:
    """What is shown, and what it is sorted by where that is something else."""

    shown: str
    value: str | None = None
    kind: str = ""


@dataclass(frozen=True)
class Row:
    """One feature."""

    layer: int
    feature_id: int
    url: str | None
    description: str
    source: str
    """Whose description it is."""
    state: str
    """`confirmed`, `selected` or nothing."""
    cells: Sequence[Cell]


@dataclass(frozen=True)
class QuickList:
    """Neuronpedia's page of many features at once."""

    url: str
    features: int
    """How many it shows: at most `QUICK_LIST`, of layers whose SAE has pages."""


@dataclass(frozen=True)
class Table:
    """The features of one layer, or the confirmed ones of all."""

    rows: Sequence[Row]
    left_out: int
    quick_list: QuickList | None


def columns(contrast: Contrast) -> list[Column]:
    """The columns behind layer, feature and description."""
    first, second = contrast.first, contrast.second
    return [
        Column(
            first,
            f"{first}_fires",
            "fires on",
            f"pairs in which it fires on the {first} solution, above the pair's limit",
        ),
        Column(second, f"{second}_fires", "fires on", f"the same for the {second} solution"),
        Column(
            f"{first} only",
            f"{first}_only",
            "discordant pairs",
            f"pairs in which it fires on the {first} solution alone",
        ),
        Column(f"{second} only", f"{second}_only", "discordant pairs", f"the same for the {second} solution"),
        Column("discovery", "log_odds_discovery", "firing, log-odds", "on the half that selects"),
        Column("validation", "log_odds_validation", "firing, log-odds", "on the half that confirms"),
        Column("discovery", "q_firing_discovery", "firing, q", "among all features tested"),
        Column("validation", "q_firing_validation", "firing, q", "among the selected features"),
        Column("difference", "mean_difference", "where both fire", f"mean activation, {first} − {second}, all pairs"),
        Column(
            "d_z disc.", "d_z_discovery", "where both fire", "mean difference / its standard deviation, discovery half"
        ),
        Column("d_z valid.", "d_z_validation", "where both fire", "the same on the validation half"),
        Column("q disc.", "q_magnitude_discovery", "where both fire", "among all features tested"),
        Column("q valid.", "q_magnitude_validation", "where both fire", "among the selected features"),
        Column("density", "density", "", "share of all lists that name the feature"),
    ]


def explainers(descriptions: Descriptions) -> str:
    """Who describes the features of which layers: a difference between layers may be one between explainers."""
    layers: dict[str, list[int]] = {}
    for layer, found in descriptions.items():
        for name, _ in Counter(each.explainer for each in found.values()).most_common(1):
            layers.setdefault(visible(name), []).append(layer)
    return "; ".join(f"layers {ranges(sorted(of_name))} mostly by {name}" for name, of_name in layers.items())


def layer_tables(analysis: Analysis, contrast: Contrast, descriptions: Descriptions) -> list[Table]:
    """For each layer all that is selected, then the surest others, within bounds."""
    return [
        _table(analysis, contrast, descriptions, rows, ROWS_PER_LAYER) for rows in _ranked_by_layer(analysis, contrast)
    ]


def confirmed_table(analysis: Analysis, contrast: Contrast, descriptions: Descriptions) -> Table:
    """The confirmed features of all layers, the surest first, within bounds."""
    return _table(analysis, contrast, descriptions, _confirmed(contrast), CONFIRMED_ROWS)


def table_rows(analysis: Analysis, contrast: Contrast) -> Ints:
    """The features that the tables of a contrast hold, the surest first; each once."""
    by_layer = [rows[:ROWS_PER_LAYER] for rows in _ranked_by_layer(analysis, contrast)]
    return ranked(contrast, np.unique(np.concatenate([_confirmed(contrast)[:CONFIRMED_ROWS], *by_layer])))


def _confirmed(contrast: Contrast) -> Ints:
    return ranked(contrast, np.flatnonzero(contrast.firing.confirmed | contrast.magnitude.confirmed))


def _ranked_by_layer(analysis: Analysis, contrast: Contrast) -> list[Ints]:
    return [ranked(contrast, np.flatnonzero(analysis.features.layer == layer)) for layer in analysis.layers.layer]


def selected_rows(contrast: Contrast) -> Ints:
    """The features that are selected for either test, the surest first."""
    return ranked(contrast, np.flatnonzero(contrast.firing.selected | contrast.magnitude.selected))


def neuronpedia_url(neuronpedia_id: str | None, feature_id: int | str) -> str | None:
    """A feature's page; None where its SAE has none. Of the feature "" it is what every page of the SAE begins with."""
    return f"https://www.neuronpedia.org/{quote(neuronpedia_id)}/{feature_id}" if neuronpedia_id else None


def ranked(contrast: Contrast, rows: Ints) -> Ints:
    """Confirmed before selected before others; within each by the larger |z| of the two tests' discovery halves."""
    tests: tuple[Tested[Any], ...] = (contrast.firing, contrast.magnitude)
    tested = [np.where(np.isnan(test.discovery.p), 0, np.abs(test.discovery.z))[rows] for test in tests]
    confirmed, selected = (
        np.logical_or(*(getattr(test, name)[rows] for test in tests)) for name in ("confirmed", "selected")
    )
    order: Ints = np.lexsort((-np.maximum(*tested), ~selected, ~confirmed))
    return rows[order]


def _table(analysis: Analysis, contrast: Contrast, descriptions: Descriptions, listed: Ints, limit: int) -> Table:
    rows = [row_of(analysis, contrast, descriptions, int(row)) for row in listed[:limit]]
    return Table(rows, max(len(listed) - limit, 0), _quick_list(analysis, contrast, rows))


def row_of(analysis: Analysis, contrast: Contrast, descriptions: Descriptions, row: int) -> Row:
    """What is said of the feature in a row of the analysis."""
    features, firing, magnitude = analysis.features, contrast.firing, contrast.magnitude
    layer, feature_id = int(features.layer[row]), int(features.feature_id[row])
    sae = next(sae for sae in analysis.header.saes if sae.layer == layer)
    total = analysis.header.questions
    confirmed = firing.confirmed[row] or magnitude.confirmed[row]
    selected = firing.selected[row] or magnitude.selected[row]
    cells = [
        _share(int(contrast.first_fires[row]), total),
        _share(int(contrast.second_fires[row]), total),
        Cell(f"{firing.everything.first_only[row]:,}"),
        Cell(f"{firing.everything.second_only[row]:,}"),
        Cell(number(float(firing.discovery.effect[row]))),
        _effect(float(firing.validation.effect[row]), firing, row),
        shown_q(float(firing.discovery.q[row])),
        shown_q(float(firing.validation.q[row])),
        Cell(_rounded(float(magnitude.everything.mean_difference[row]))),
        Cell(number(float(magnitude.discovery.effect[row]))),
        _effect(float(magnitude.validation.effect[row]), magnitude, row),
        shown_q(float(magnitude.discovery.q[row])),
        shown_q(float(magnitude.validation.q[row])),
        Cell(
            percent(float(features.density[row])),
            f"{features.density[row]:.3g}",
            "dense" if features.dense[row] else "",
        ),
    ]
    state = "confirmed" if confirmed else "selected" if selected else ""
    url = neuronpedia_url(sae.neuronpedia_id, feature_id)
    return Row(layer, feature_id, url, *described(descriptions.get(layer, {}).get(feature_id)), state, cells)


def described(explanation: Explanation | None) -> tuple[str, str]:
    """What an explainer says of a feature, and whose words these are; nothing of none."""
    if explanation is None:
        return "", ""
    fires = (
        f"; fires on {percent(explanation.density, 2)} of Neuronpedia's tokens"
        if explanation.density is not None
        else ""
    )
    return visible(explanation.description), f"by {visible(explanation.explainer)}{fires}"


def _share(count: int, total: int) -> Cell:
    return Cell(f"{count:,} ({percent(count / total, 0)})", str(count))


def _effect(effect: float, tested: Tested[Any], row: int) -> Cell:
    """Of the validation half: in bold colour where confirmed."""
    side = "first" if effect >= 0 else "second"
    return Cell(number(effect), kind=f"{side} confirmed" if tested.confirmed[row] else "")


def shown_q(q: float) -> Cell:
    """A false discovery rate; a dash for what was not tested."""
    if math.isnan(q):
        return Cell("–")
    return Cell("< 0.0001" if q < 1e-4 else f"{q:.4f}" if q < 0.01 else f"{q:.2f}", f"{q:.3g}")


def _rounded(value: float) -> str:
    """To three significant digits at most, and never to more than three decimals."""
    if math.isnan(value) or value == 0:
        return number(value)
    return number(value, int(np.clip(2 - math.floor(math.log10(abs(value))), 0, 3)))


def _quick_list(analysis: Analysis, contrast: Contrast, rows: Sequence[Row]) -> QuickList | None:
    """None where no SAE has pages."""
    ids = {sae.layer: sae.neuronpedia_id for sae in analysis.header.saes if sae.neuronpedia_id}
    named = [(ids[row.layer].split("/"), row.feature_id) for row in rows if row.layer in ids][:QUICK_LIST]
    if not named:
        return None
    features = [{"modelId": parts[0], "layer": parts[-1], "index": str(feature_id)} for parts, feature_id in named]
    name = quote(f"{run_name(analysis)}: {contrast.name}", safe="")
    query = f"name={name}&features={quote(orjson.dumps(features).decode(), safe='')}"
    return QuickList(f"https://neuronpedia.org/quick-list/?{query}", len(named))
