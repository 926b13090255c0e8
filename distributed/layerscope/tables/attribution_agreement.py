"""How far two runs attribute the margins of the same questions to the same features in the same order.

Such as one by the gradient and one by RelP. The two lists of a layer and group of tokens are compared question by
question: by the rank correlation of what both list, which says nothing of what one of them leaves out, and so by how
much of them is the same as well.
"""

from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from layerscope.formatting import told
from layerscope.records.line.attributions import GROUPS, AttributedFeature, Attributions

Json = dict[str, Any]
Floats = NDArray[np.float64]

LEAST_SHARED = 3
"""Features that both lists need before their order says anything."""
_DRAWS, _DRAWS_AT_ONCE = 1000, 100


@dataclass
class Agreement:
    """Of one layer and group of tokens, over the common questions."""

    goals: "array[int]" = field(default_factory=lambda: array("q"))
    """Of each question that is compared its goal group."""
    correlations: "array[float]" = field(default_factory=lambda: array("d"))
    """Of these Spearman's rank correlation."""
    lists: int = 0
    """Questions for which either run lists a feature."""
    jaccard: float = 0.0
    """Sum over these of |shared| / |in either|."""

    def add(self, goal: int, a: Sequence[AttributedFeature], b: Sequence[AttributedFeature]) -> None:
        """Adds the lists of a question."""
        of_a, of_b = ({feature.feature_id: feature.attribution for feature in features} for features in (a, b))
        shared, either = of_a.keys() & of_b.keys(), of_a.keys() | of_b.keys()
        if either:
            self.lists += 1
            self.jaccard += len(shared) / len(either)
        if len(shared) >= LEAST_SHARED:
            correlation = _rank_correlation(*([of[feature] for feature in shared] for of in (of_a, of_b)))
            if not np.isnan(correlation):
                self.goals.append(goal)
                self.correlations.append(correlation)

    def result(self) -> Json:
        mean, low, high = mean_of_goals(np.array(self.goals, dtype=np.int64), np.array(self.correlations))
        return {
            "rank_correlation": mean,
            "low": low,
            "high": high,
            "questions": len(self.goals),
            "mean_jaccard": self.jaccard / self.lists if self.lists else None,
        }


@dataclass
class Agreements:
    """Of every layer that both runs have with the same SAE, and group of tokens."""

    layers: Sequence[int]
    top_k: int | None
    """Of the largest of each list only so many are compared: what the shorter lists of the two hold."""
    cells: dict[tuple[int, str], Agreement] = field(default_factory=lambda: defaultdict(Agreement))

    def add(self, goal: int, a: Mapping[str, Attributions], b: Mapping[str, Attributions]) -> None:
        """Adds a question, of which both have attributions or neither.

        Args:
            goal: its goal group.
        """
        for group in a if b else ():
            for layer in self.layers:
                self.cells[layer, group].add(goal, *(of[group].lists[layer][: self.top_k] for of in (a, b)))

    def result(self) -> Json:
        """By layer and group of tokens."""
        found: Json = {str(layer): {} for layer in self.layers} if self.cells else {}
        for (layer, group), cell in self.cells.items():
            found[str(layer)][group] = cell.result()
        return found


def rows_of_text(attributions: Json) -> list[list[str]]:
    """`Agreements.result` as rows for people, a head first; none of nothing."""
    if not attributions:
        return []
    rows = [["layer", *(f"{group} tokens" for group in GROUPS)]]
    for layer, of_layer in attributions.items():
        cells = []
        for group in GROUPS:
            found = of_layer[group]
            said = told(found["rank_correlation"], ".3f", "–")
            bounds = "" if found["low"] is None else f" [{found['low']:.3f}, {found['high']:.3f}]"
            cells.append(f"{said}{bounds}, {told(found['mean_jaccard'], '.2f', '–')}")
        rows.append([layer, *cells])
    return rows


def mean_of_goals(goals: NDArray[np.int64], values: Floats) -> tuple[float | None, float | None, float | None]:
    """The mean, every goal group counting once, and its 95 % bootstrap interval by goal group; None of nothing.

    Args:
        goals: [N] group of each value.
    """
    if not len(values):
        return None, None, None
    _, number, sizes = np.unique(goals, return_inverse=True, return_counts=True)
    by_goal = np.bincount(number, values) / sizes
    if len(by_goal) < 2:
        return float(by_goal.mean()), None, None
    rng, n = np.random.default_rng(0), len(by_goal)
    draws = [
        rng.multinomial(n, np.full(n, 1 / n), size=_DRAWS_AT_ONCE) @ by_goal / n
        for _ in range(_DRAWS // _DRAWS_AT_ONCE)
    ]
    low, high = np.quantile(np.concatenate(draws), [0.025, 0.975])
    return float(by_goal.mean()), float(low), float(high)


def _rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, ties sharing their mean rank; NaN where all of one are equal."""
    ranks = rankdata([a, b], axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    norms = np.sqrt((ranks**2).sum(axis=1))
    return float((ranks[0] * ranks[1]).sum() / norms.prod()) if norms.all() else float("nan")
