"""What a run comes to: counts over records, as they are made or as they are read."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import NamedTuple

from msgspec import UnsetType
from msgspec.structs import asdict

from layerscope.records.line.record import Record, Unscored
from layerscope.records.manifest.noted import NotedTotals, Progress


class Counts(NamedTuple):
    """Of one record."""

    correct: bool
    correct_per_character: bool
    active_features: int
    cells: int
    """Solution x layer cells that `active_features` is summed over."""


class Effort(NamedTuple):
    """What a run took."""

    rate: float = 0.0
    """Questions per second; 0 where it had nothing to do."""
    begun_again: int = 0
    """Questions that it computed once more, because an actor or a node was lost."""
    writers_lost: int = 0
    """Of parts, whose batches under way are not among these."""


@dataclass
class Totals:
    """Counts over the lines of a file."""

    questions: int = 0
    errors: int = 0
    correct: int = 0
    correct_per_character: int = 0
    active_features: int = 0
    cells: int = 0
    """Solution x layer cells that `active_features` is summed over."""

    @classmethod
    def noted(cls, of: Progress) -> "Totals | None":
        """Of the lines that a manifest notes; None where it does not say what these come to."""
        if isinstance(of.totals, UnsetType) or of.totals.of != of.digest:
            return None
        counts = asdict(of.totals)
        del counts["of"]
        return cls(of.lines, **counts)

    @classmethod
    def of_all(cls, several: Iterable["Totals"]) -> "Totals":
        """Of the lines of several files."""
        listed = list(several)
        return cls(**{each.name: sum(getattr(one, each.name) for one in listed) for each in fields(cls)})

    def note(self, of: Progress) -> NotedTotals:
        """What a manifest keeps of those lines."""
        counts = {name: getattr(self, name) for name in NotedTotals.__struct_fields__ if name != "of"}
        return NotedTotals(of=of.digest, **counts)

    @property
    def scored(self) -> int:
        return self.questions - self.errors

    def add_error(self) -> None:
        self.questions += 1
        self.errors += 1

    def join(self, more: "Totals") -> None:
        """Counts the lines behind these as well."""
        for each in fields(more):
            setattr(self, each.name, getattr(self, each.name) + getattr(more, each.name))

    def add_counts(self, counts: Counts | None) -> None:
        """Counts a record as it is made, or an error line."""
        if counts is None:
            self.add_error()
            return
        self.questions += 1
        self.correct += counts.correct
        self.correct_per_character += counts.correct_per_character
        self.active_features += counts.active_features
        self.cells += counts.cells

    def add_record(self, record: Record | Unscored) -> None:
        """Counts a record as it stands in a file."""
        if isinstance(record, Unscored):
            self.add_error()
            return
        counts = [count for details in record.solutions for count in details.active_feature_count_by_layer.values()]
        self.add_counts(Counts(record.model_is_correct, record.correct_per_character(), sum(counts), len(counts)))

    def standing(self, planned: int) -> str:
        """What a person sees of it while the run is on, and why that is not yet the run's: the plan goes from long
        questions to short ones.
        """
        order = ", longest questions first" if self.questions < planned else ""
        return f"accuracy {self.accuracy_so_far()}{order}"

    def accuracy(self) -> str:
        """Share of scored questions whose right solution has the higher log-likelihood, with its standard error."""
        return _share(self.correct, self.scored)

    def accuracy_per_character(self) -> str:
        """The same by log-likelihood per character."""
        return _share(self.correct_per_character, self.scored)

    def accuracy_so_far(self) -> str:
        """The same with its 95 % Wilson interval, for whoever watches it grow."""
        n, share, z = self.scored, self.correct / max(self.scored, 1), 1.96
        if not n:
            return "no question scored"
        middle, reach = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        low, high = ((middle + side * reach) / (1 + z**2 / n) for side in (-1, 1))
        return f"{share:.1%} (95%: {low:.1%} to {high:.1%})"

    def mean_active_features(self) -> str:
        return f"{self.active_features / self.cells:.1f}" if self.cells else "none"


def _share(count: int, total: int) -> str:
    """A proportion and the standard error of its mean, sqrt(p (1 - p) / (n - 1)), as lm-evaluation-harness gives it."""
    if not total:
        return "no question scored"
    share = count / total
    if total == 1:
        return f"{share:.2%}"
    return f"{share:.2%} ± {math.sqrt(share * (1 - share) / (total - 1)):.2%}"
