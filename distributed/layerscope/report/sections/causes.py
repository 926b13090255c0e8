"""The section of causes: which features move the margin, beside which separate, and what taking them out does."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from layerscope.analysis.causes.result import Causes, Chosen
from layerscope.analysis.columns.arrays import Ints
from layerscope.analysis.result import Analysis
from layerscope.records.effects import AblationSummary, Beside, Effect, FeatureEffect
from layerscope.records.line.attributions import GROUPS
from layerscope.records.reading.run import Run
from layerscope.report.charts.cause_charts import causes_chart, faces_chart, legend
from layerscope.report.charts.depth_axis import NARROW, WIDE
from layerscope.report.packs.cause_questions import Case, WantedCase, read_cases
from layerscope.report.sections.feature_tables import (
    Cell,
    Column,
    Descriptions,
    Row,
    described,
    neuronpedia_url,
    shown_q,
)
from layerscope.report.words import causes_said as say
from layerscope.report.words.sentences import number

ROWS = 120
WITH_QUESTIONS = 25
"""Features of which the page shows the questions that have most of them."""
_FACES_WIDTH = 720


class ShownCauses(NamedTuple):
    """What is read of a file for the section, beside its analysis."""

    cases: Sequence[tuple[WantedCase, list[Case]]] = ()
    ablated: Beside = Beside()


NOTHING = ShownCauses()


def shown_causes(run: Run, analysis: Analysis, ablated: Beside, progress: Callable[[float], None]) -> ShownCauses:
    """Reads the questions in which the features of the section matter most.

    Raises:
        LayerscopeError: the file is no longer the one that was analysed.
    """
    chosen = analysis.causes.chosen if analysis.causes else None
    if chosen is None:
        return ShownCauses(ablated=ablated)
    rows = [row for row in _ordered(chosen, ablated.ablations)[:ROWS] if chosen.most[row]][:WITH_QUESTIONS]
    wanted = [WantedCase(int(chosen.layer[row]), int(chosen.feature_id[row]), chosen.most[row]) for row in rows]
    return ShownCauses(list(zip(wanted, read_cases(run, analysis, wanted, progress), strict=True)), ablated)


def section(analysis: Analysis, shown: ShownCauses, descriptions: Descriptions) -> dict[str, Any]:
    """All that the template shows."""
    causes, (ablations, check) = analysis.causes, shown.ablated
    found: dict[str, Any] = {"verdict": say.causes_verdict(analysis, shown.ablated), "ablations": ablations}
    found |= {
        "place": say.place(analysis.header.site),
        "check": check,
        "check_said": say.check_said(check) if check else "",
    }
    found |= {part: [] for part in ("charts", "rows", "cases", "effects")}
    if causes is not None and analysis.header.questions:
        found |= {
            "rule": causes.rule,
            "against_means": causes.against_means,
            "title": say.depth_title(analysis),
            "charts": [causes_chart(analysis, width) for width in (WIDE, NARROW)],
            "legend": legend(causes.depth.term_names),
            "layers": list(_layer_rows(analysis, causes)),
            "groups": GROUPS,
            "terms": causes.depth.term_names,
        }
    if causes is not None and causes.chosen is not None and causes.faces is not None:
        rows = _ordered(causes.chosen, ablations)
        found |= {
            "faces_title": say.faces_title(causes.faces),
            "faces": [faces_chart(causes, *size) for size in ((_FACES_WIDTH, "wide"), (NARROW, "narrow"))],
            "columns": _columns(ablations),
            "rows": [_row(analysis, causes.chosen, ablations, descriptions, int(row)) for row in rows[:ROWS]],
            "left_out": max(len(rows) - ROWS, 0),
            "cases": shown.cases,
        }
    if ablations is not None:
        found["effects"] = [_effect_row(effect, analysis) for effect in ablations.features[:ROWS]]
    return found


def _ordered(chosen: Chosen, ablations: AblationSummary | None) -> Ints:
    """By what they do to the margin on the half that did not choose: those that were taken out, then by attribution."""
    taken_out = [(each.layer, each.feature_id) for each in ablations.features] if ablations is not None else []
    place = {key: number for number, key in enumerate(taken_out)}
    keys = zip(chosen.layer.tolist(), chosen.feature_id.tolist(), strict=True)
    return np.lexsort((-np.abs(chosen.mean), np.array([place.get(key, len(place)) for key in keys], dtype=np.int64)))


def _layer_rows(analysis: Analysis, causes: Causes) -> Iterator[tuple[int, list[str]]]:
    """Of every layer the terms of each group of tokens, and the size of what is listed."""
    for index, layer in enumerate(analysis.layers.layer.tolist()):
        terms = causes.depth.terms[index, :, : len(causes.depth.term_names)]
        numbers = [*terms.ravel().tolist(), *causes.depth.mass[index].tolist()]
        yield layer, [number(value, 3) for value in numbers]


def _columns(ablations: AblationSummary | None) -> list[Column]:
    """Behind layer, feature and description."""
    exact = [
        Column("change", "change", "taken out", "of the margin, mean over questions"),
        Column("95 %", "change_95", "taken out", "by draws of goal groups"),
        Column("controls", "controls", "taken out", "the largest mean change of its controls, by amount"),
        Column("beyond", "beyond", "taken out", "it changes the margin more than each of its controls does"),
    ]
    return [
        Column("chosen by", "chosen_by", "", "what the half of the questions that chooses chose it for"),
        Column("AUROC", "auroc", "separates", "of the difference of its activations within a question, right − wrong"),
        Column("q", "q_separates", "separates", "of the surer of firing and strength, among the selected features"),
        Column("attribution", "attribution", "matters", "mean over the half that did not choose, nats a question"),
        Column("95 %", "attribution_95", "matters", "by draws of goal groups"),
        Column("size", "size", "matters", "the same without its sign in each question"),
        Column("questions", "questions", "matters", "of that half, in which it is listed"),
        Column("q", "q_matters", "matters", "of the signed-rank test, over all features that were chosen"),
        *(exact if ablations is not None else []),
    ]


def _row(
    analysis: Analysis, chosen: Chosen, ablations: AblationSummary | None, descriptions: Descriptions, row: int
) -> Row:
    layer, feature_id = int(chosen.layer[row]), int(chosen.feature_id[row])
    sae = next(sae for sae in analysis.header.saes if sae.layer == layer)
    names = [name for name, by in (("attribution", chosen.by_attribution), ("contrast", chosen.by_contrast)) if by[row]]
    side = "first" if chosen.mean[row] >= 0 else "second"
    bold = "first confirmed" if chosen.auroc[row] >= 0.5 else "second confirmed"
    cells = [
        Cell(" and ".join(names), kind="left"),
        Cell(number(float(chosen.auroc[row])), kind=bold if chosen.separates[row] else ""),
        shown_q(float(chosen.separates_q[row])),
        Cell(number(float(chosen.mean[row]), 3), kind=f"{side} confirmed" if chosen.confirmed[row] else ""),
        Cell(_bounds(chosen.low[row], chosen.high[row])),
        Cell(number(float(chosen.magnitude[row]), 3)),
        Cell(f"{chosen.questions[row]:,}"),
        shown_q(float(chosen.q[row])),
        *(_exact(ablations, layer, feature_id) if ablations is not None else []),
    ]
    state = "confirmed" if chosen.confirmed[row] else ""
    url = neuronpedia_url(sae.neuronpedia_id, feature_id)
    return Row(layer, feature_id, url, *described(descriptions.get(layer, {}).get(feature_id)), state, cells)


def _exact(ablations: AblationSummary, layer: int, feature_id: int) -> list[Cell]:
    """What taking a feature out does; dashes where nobody took it out."""
    for effect in ablations.features:
        if (effect.layer, effect.feature_id) == (layer, feature_id):
            return _cells_of(effect)
    return [Cell("–")] * 4


def _cells_of(effect: FeatureEffect) -> list[Cell]:
    controls = [control.effect.mean_change for control in effect.controls.values()]
    known = [change for change in controls if change is not None]
    side = "first" if (effect.effect.mean_change or 0) >= 0 else "second"
    return [
        Cell(_number(effect.effect.mean_change), kind=f"{side} confirmed" if effect.beyond_controls else ""),
        Cell(_interval(effect.effect)),
        Cell(_number(max(known, key=abs, default=None))),
        Cell("yes" if effect.beyond_controls else "no"),
    ]


def _effect_row(effect: FeatureEffect, analysis: Analysis) -> dict[str, Any]:
    """A feature that was taken out, with each of its controls."""
    controls = [
        {
            "name": name,
            "change": _number(control.effect.mean_change),
            "flips": _flips(control.effect),
            "excess": _number(control.excess),
            "excess_interval": "–" if control.excess_interval is None else _bounds(*control.excess_interval),
        }
        for name, control in effect.controls.items()
    ]
    of = effect.effect
    return {
        "layer": effect.layer,
        "feature_id": effect.feature_id,
        "separates": (effect.layer, effect.feature_id) in say.separating(analysis),
        "beyond": effect.beyond_controls,
        "questions": of.questions,
        "touched": of.touched,
        "change": _number(of.mean_change),
        "interval": _interval(of),
        "flips": _flips(of),
        "q": _q(effect.q),
        "flips_q": _q(effect.flips_q),
        "controls": controls,
    }


def _flips(effect: Effect) -> str:
    return f"{effect.right_to_wrong:,} / {effect.wrong_to_right:,}"


def _q(value: float | None) -> str:
    return "–" if value is None else shown_q(value).shown


def _interval(effect: Effect) -> str:
    return "–" if effect.mean_change_interval is None else _bounds(*effect.mean_change_interval)


def _bounds(low: float, high: float) -> str:
    return f"{number(float(low), 3)} to {number(float(high), 3)}"


def _number(value: float | None) -> str:
    return "–" if value is None else number(value, 3)


def case_title(feature: WantedCase, cases: Sequence[Case]) -> str:
    """What stands over a feature's questions."""
    largest = cases[0].effect
    return (
        f"Layer {feature.layer}, feature {feature.feature_id}: {number(largest, 3)} nats of the margin in the question "
        "that has most of it"
    )
