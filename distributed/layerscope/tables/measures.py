"""What two runs come to, question by question: which of them is right, and how far their features are the same."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scipy.stats import binomtest

from layerscope.records.readings import Feature
from layerscope.records.record import Record

Json = dict[str, Any]


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

    def p(self) -> float | None:
        """McNemar's exact test, two-sided: a binomial test of the questions that only one run has right.

        Of a goal group it is one vote. None where no question or group tells: nothing was tested then.
        """
        votes_a, votes_b = (sum(side * more > 0 for more in self.groups.values()) for side in (1, -1))
        return float(binomtest(votes_a, votes_a + votes_b).pvalue) if votes_a + votes_b else None

    def result(self) -> Json:
        a, b = self.both + self.only_a, self.both + self.only_b
        return {"a_right": a, "b_right": b, "only_a_right": self.only_a, "only_b_right": self.only_b, "p": self.p()}


@dataclass
class Overlap:
    """How far the features of one layer are the same in both runs, over the solutions of the common questions."""

    solutions: int = 0
    """Those for which either run lists a feature."""
    jaccard: float = 0.0
    """Sum over these of |shared| / |in either|."""
    largest: float | None = None
    """Absolute difference of the activations of a shared feature, the largest; None where none is shared."""

    def add(self, a: Sequence[Feature], b: Sequence[Feature]) -> None:
        of_a = {feature.feature_id: feature.activation for feature in a}
        of_b = {feature.feature_id: feature.activation for feature in b}
        shared, either = of_a.keys() & of_b.keys(), of_a.keys() | of_b.keys()
        if either:
            self.solutions += 1
            self.jaccard += len(shared) / len(either)
        if shared:
            self.largest = max(self.largest or 0.0, *(abs(of_a[feature] - of_b[feature]) for feature in shared))

    def result(self) -> Json:
        return {
            "mean_jaccard": self.jaccard / self.solutions if self.solutions else None,
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
