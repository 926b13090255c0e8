"""Which questions and features a page keeps, so that it is bounded whatever the run's size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layerscope.analysis.columns.arrays import Ints
from layerscope.analysis.result import Analysis
from layerscope.report.sections.feature_tables import selected_rows, table_rows

QUESTIONS = 2000  # at most, in a page


def choose_questions(analysis: Analysis) -> tuple[Ints, str]:
    """The indices of the questions that a page keeps, in the file's order, and why these.

    All where they fit; else half of the room for the smallest margins, a quarter for the most confidently wrong ones,
    and the rest for others, evenly from the file.
    """
    margin = analysis.questions.margin
    total = len(margin)
    if total <= QUESTIONS:
        return np.arange(
            total
        ), f"All {total:,} scored questions are here." if total != 1 else "The one scored question is here."
    closest = np.argsort(np.abs(margin), kind="stable")[: QUESTIONS // 2]
    wrong = np.argsort(margin, kind="stable")[: QUESTIONS // 4]
    chosen = np.union1d(closest, wrong)
    others = np.setdiff1d(np.arange(total), chosen)
    evenly = np.linspace(0, len(others) - 1, QUESTIONS - len(chosen)).astype(np.int64)
    why = (
        f"{QUESTIONS:,} of {total:,} scored questions are here: the {len(closest):,} with the smallest margins, the "
        f"{len(wrong):,} most confidently wrong, and others evenly from the file. They are no random sample."
    )
    return np.union1d(chosen, others[evenly]), why


@dataclass(frozen=True)
class Tracked:
    """The features whose every firing is in the page, by layer: the surest first, as far as there is room."""

    all: dict[int, set[int]]
    selected: dict[int, set[int]]
    """Of these, the ones that a contrast selected."""

    @property
    def count(self) -> int:
        return sum(map(len, self.all.values()))


def tracked_features(analysis: Analysis, questions: int, room: float) -> Tracked:
    """Those selected in either contrast, then the others that the page's tables hold.

    Args:
        questions: how many the page keeps.
        room: for so many entries, a feature in a solution's list being one.
    """
    features = analysis.features
    share = questions / max(analysis.header.questions, 1)
    contrasts = (analysis.right_wrong, analysis.chosen_rejected)
    ranked = [selected_rows(contrast) for contrast in contrasts]
    selected = _in_turn(ranked)
    others = np.setdiff1d(_in_turn([table_rows(analysis, contrast) for contrast in contrasts]), selected)
    kept: tuple[dict[int, set[int]], ...] = tuple({int(layer): set() for layer in analysis.layers.layer} for _ in "12")
    for rows, into in ((selected, kept), (others, kept[:1])):
        for row in rows:
            needed = float(features.listed[row]) * share
            if needed <= room:
                room -= needed
                for by_layer in into:
                    by_layer[int(features.layer[row])].add(int(features.feature_id[row]))
    return Tracked(*kept)


def _in_turn(ranked: Sequence[Ints]) -> Ints:
    """The rows of several rankings, the first of each before the second of any; each once."""
    rows = np.concatenate(ranked)[np.argsort(np.concatenate([np.arange(len(each)) for each in ranked]), kind="stable")]
    _, first = np.unique(rows, return_index=True)
    return rows[np.sort(first)]
