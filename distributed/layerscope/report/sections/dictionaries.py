"""What the first dictionary's page says of a run's others: a title, a sentence for each, a chart, a table by layer."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from layerscope.analysis.dictionaries import Dictionary
from layerscope.analysis.result import Analysis
from layerscope.report.charts.depth_axis import NARROW, WIDE
from layerscope.report.charts.dictionaries_strip import dictionaries_strip
from layerscope.report.words.depth_said import auroc_interval
from layerscope.report.words.sentences import number, percent
from layerscope.report.words.untested import confirmed_in, is_untested, selected_in


def section(analysis: Analysis, dictionaries: Sequence[Dictionary]) -> dict[str, Any] | None:
    """All that the template shows of them; None of a run with one.

    Args:
        analysis: the first one's, which the page is of.
    """
    if not dictionaries:
        return None
    layers = [int(layer) for layer in analysis.layers.layer]
    return {
        "title": title(dictionaries),
        "said": [_beside_first(dictionaries[0], each, layers) for each in dictionaries[1:]],
        "charts": [dictionaries_strip(layers, dictionaries, width) for width in (WIDE, NARROW)],
        "rows": list(_rows(dictionaries, layers)),
        "another": dictionaries[1].name,
        "reading": analysis.options.reading,
    }


def of_which(dictionary: Dictionary) -> str:
    """Its name, with what was asked for where that is known: `wide (resid_post, width 65k, L0 canonical)`."""
    if not dictionary.site:
        return dictionary.name
    asked = (f"width {dictionary.width}", f"L0 {dictionary.l0}")
    told = [dictionary.site, *(each for each in asked if not each.endswith(" auto"))]
    return f"{dictionary.name} ({', '.join(told)})"


def title(dictionaries: Sequence[Dictionary]) -> str:
    """How many features each finds."""
    if all(is_untested(each.found) for each in dictionaries):
        return "Not known what any of the dictionaries finds, for too few pairs that tell"
    found = sorted(dictionaries, key=lambda each: -int(each.found.firing_by_layer.confirmed.sum()))
    return f"Features that tell right from wrong: {', '.join(map(_found, found))}"


def _found(dictionary: Dictionary) -> str:
    if is_untested(dictionary.found):
        return f"not known by {dictionary.name}"
    return f"{int(dictionary.found.firing_by_layer.confirmed.sum()):,} by {dictionary.name}"


def _beside_first(first: Dictionary, other: Dictionary, layers: Sequence[int]) -> str:
    """Where a further one tells the solutions apart best, and whether by the questions by which the first one does."""
    auroc, own = other.found.held_out.auroc, first.found.held_out.auroc
    if np.isnan(auroc).all():
        return f"{of_which(other)} has no selected feature, so nothing is known of the questions that it separates."
    best = int(np.nanargmax(auroc))
    told = f"{of_which(other)} does best in layer {layers[best]}, with a held-out AUROC of {number(auroc[best])}"
    if np.isnan(own[best]):
        return f"{told}; there {first.name} has no selected feature."
    told += f" ({first.name}: {number(own[best])})"
    if other.overlap is None or np.isnan(other.overlap.jaccard[best]):
        return f"{told}; neither ranks a question right there."
    shared, chance = other.overlap.jaccard[best], other.overlap.by_chance[best]
    return (
        f"{told}: of the questions that either ranks right there, both do of {percent(shared)}, where two that knew "
        f"nothing of one another would share {percent(chance)}."
    )


def _rows(dictionaries: Sequence[Dictionary], layers: Sequence[int]) -> Iterator[tuple[str, ...]]:
    """As the table has them: every dictionary of the first layer, then of the next."""
    for index, layer in enumerate(layers):
        for each in dictionaries:
            found, beside = each.found, each.overlap
            by_layer, nan = found.firing_by_layer, float("nan")
            yield (
                str(layer),
                each.name,
                f"{by_layer.tested[index]:,}",
                selected_in(by_layer, index),
                confirmed_in(by_layer, index),
                number(found.held_out.auroc[index]),
                auroc_interval(found.held_out, index) or "–",
                number(beside.jaccard[index] if beside else nan),
                number(beside.by_chance[index] if beside else nan),
            )
