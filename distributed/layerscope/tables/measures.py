"""What two runs come to, question by question: which of them is right, and how far their features are the same."""

from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

import numpy as np
from scipy.stats import binomtest

from layerscope.records.goals import interval_of_mean
from layerscope.records.line.readings import Feature
from layerscope.records.line.record import Record

Json = dict[str, Any]

_MOST_CHANGED = 500  # questions that are kept of each run that alone is right
_LONGEST = 500  # characters of a text of theirs


@dataclass
class Paired:
    """In how many of the questions that both runs scored, which of them is right."""

    both: int = 0
    only_a: int = 0
    only_b: int = 0
    neither: int = 0
    groups: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """Of each goal group with a question that only one run has right: by how many more A has them than B."""

    def add(self, group: int, a: bool, b: bool) -> None:
        self.both += a and b
        self.only_a += a and not b
        self.only_b += b and not a
        self.neither += not (a or b)
        if a != b:
            self.groups[group] += a - b

    @property
    def questions(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def votes(self) -> tuple[int, int]:
        """Goal groups of which A has more questions right, and of which B has."""
        a, b = (sum(side * more > 0 for more in self.groups.values()) for side in (1, -1))
        return a, b

    def p(self) -> float | None:
        """McNemar's exact test, two-sided: a binomial test of the questions that only one run has right.

        Of a goal group it is one vote. None where no question or group tells: nothing was tested then.
        """
        votes_a, votes_b = self.votes
        return float(binomtest(votes_a, votes_a + votes_b).pvalue) if votes_a + votes_b else None

    def result(self) -> Json:
        return {
            "a_right": self.both + self.only_a,
            "b_right": self.both + self.only_b,
            "only_a_right": self.only_a,
            "only_b_right": self.only_b,
            "goals_ahead": dict(zip("ab", self.votes, strict=True)),
            "p": self.p(),
        }


@dataclass
class Changed:
    """The questions that one run alone has right: of either side those whose margins differ most are kept."""

    kept: dict[str, list[tuple[float, int, Json]]] = field(default_factory=lambda: {"a": [], "b": []})
    """Heaps by the amount of the difference, for the run that is right."""
    found: int = 0

    def add(self, a: Record, b: Record) -> None:
        if a.model_is_correct == b.model_is_correct:
            return
        self.found += 1
        right, other = ("a", b) if a.model_is_correct else ("b", a)
        entry = {
            "right": right,
            "example_id": {"a": a.example_id, "b": b.example_id},
            "margin": {"a": a.margin, "b": b.margin},
            "question": _short(a.question),
            "right_solution": _short(a.positive.text),
            "chosen_instead": _short(other.negative.text),
        }
        heap = self.kept[right]
        heappush(heap, (abs(a.margin - b.margin), -self.found, entry))  # of equal ones the earlier stays
        if len(heap) > _MOST_CHANGED:
            heappop(heap)

    def result(self) -> Json:
        """The largest differences first."""
        kept = sorted((each for heap in self.kept.values() for each in heap), key=lambda each: (-each[0], -each[1]))
        return {"questions": [entry for *_, entry in kept], "left_out": self.found - len(kept)}


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


@dataclass
class Overlap:
    """How far the features of one layer are the same in both runs, over the solutions of the common questions."""

    solutions: int = 0
    """Those for which either run lists a feature."""
    jaccard: float = 0.0
    """Sum over these of |shared| / |in either|."""
    of_groups: "tuple[array[float], array[float]]" = field(default_factory=lambda: (array("d"), array("f")))
    """[G] that sum and that number again, of every goal group."""
    largest: float | None = None
    """Absolute difference of the activations of a shared feature, the largest; None where none is shared."""

    def add(self, group: int, a: Sequence[Feature], b: Sequence[Feature]) -> None:
        """Adds the lists of a solution.

        Args:
            group: the goal group of its question; they are numbered from 0 as they appear.
        """
        of_a = {feature.feature_id: feature.activation for feature in a}
        of_b = {feature.feature_id: feature.activation for feature in b}
        shared, either = of_a.keys() & of_b.keys(), of_a.keys() | of_b.keys()
        if either:
            self.solutions += 1
            self.jaccard += (jaccard := len(shared) / len(either))
            for column, more in zip(self.of_groups, (jaccard, 1), strict=True):
                column.extend([0.0] * (group + 1 - len(column)))
                column[group] += more
        if shared:
            self.largest = max(self.largest or 0.0, *(abs(of_a[feature] - of_b[feature]) for feature in shared))

    def result(self) -> Json:
        interval = interval_of_mean(*self.of_groups)
        return {
            "mean_jaccard": self.jaccard / self.solutions if self.solutions else None,
            "mean_jaccard_95": None if np.isnan(interval[0]) else list(interval),
            "largest_activation_difference": self.largest,
        }


@dataclass
class Margins:
    """How far the right solution is ahead in either run, in nats: of the strongest wrong one, of the mean of all."""

    questions: int = 0
    more: bool = False
    """Some question has more than two solutions, so that the two are not the same."""
    sums: dict[str, list[float]] = field(
        default_factory=lambda: {"strongest_wrong": [0.0, 0.0], "mean_of_wrong": [0.0, 0.0]}
    )

    def add(self, a: Record, b: Record) -> None:
        self.questions += 1
        self.more = self.more or bool(a.more)
        for run, record in enumerate((a, b)):
            self.sums["strongest_wrong"][run] += record.margin
            self.sums["mean_of_wrong"][run] += record.margin_to_mean

    def result(self) -> Json:
        """Means; of pairs the one contrast that there is."""
        of = self.sums if self.more else {"wrong": self.sums["strongest_wrong"]}
        return {name: {"a": a / self.questions, "b": b / self.questions} for name, (a, b) in of.items()}


def told_margins(margins: Json) -> list[str]:
    """A line for each contrast, by its name."""
    return [
        f"{'margin' if number == 0 else '':<16}right − {name.replace('_', ' ')}: {of['a']:.2f} nats in A, "
        f"{of['b']:.2f} in B, on average"
        for number, (name, of) in enumerate(margins.items())
    ]
