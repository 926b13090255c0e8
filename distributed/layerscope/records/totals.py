"""What a run comes to: counts over records, from frames as they are made or from lines as they are read."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from layerscope.records.lines import Frame, choice


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

    @property
    def scored(self) -> int:
        return self.questions - self.errors

    def add_error(self) -> None:
        self.questions += 1
        self.errors += 1

    def add_frame(self, frame: Frame, active_features: int, cells: int) -> None:
        """Counts a record as it is made."""
        self._add(frame.correct, frame.correct_per_character, active_features, cells)

    def add_record(self, record: dict[str, Any]) -> None:
        """Counts a record as it stands in a file.

        Raises:
            KeyError, TypeError, ZeroDivisionError: it is not a record.
        """
        if "error" in record:
            self.add_error()
            return
        counts = [
            *record["positive_solution_details"]["active_feature_count_by_layer"].values(),
            *record["negative_solution_details"]["active_feature_count_by_layer"].values(),
        ]
        self._add(bool(record["model_is_correct"]), correct_per_character(record), sum(counts), len(counts))

    def _add(self, correct: bool, correct_per_character: bool, active_features: int, cells: int) -> None:
        self.questions += 1
        self.correct += correct
        self.correct_per_character += correct_per_character
        self.active_features += active_features
        self.cells += cells

    def accuracy(self) -> str:
        """Share of scored questions whose right solution has the higher log-likelihood, with its standard error."""
        return _share(self.correct, self.scored)

    def accuracy_per_character(self) -> str:
        """The same by log-likelihood per character."""
        return _share(self.correct_per_character, self.scored)

    def mean_active_features(self) -> str:
        return f"{self.active_features / self.cells:.1f}" if self.cells else "none"


def correct_per_character(record: dict[str, Any]) -> bool:
    """Whether the right solution of a scored record has the higher log-likelihood per character.

    Raises:
        KeyError, TypeError, ZeroDivisionError: it is not such a record.
    """
    positive, negative = record["positive_solution_details"], record["negative_solution_details"]
    solutions = (positive, negative) if record["label"] == 0 else (negative, positive)
    # The float32 that was written, not the decimal that gives it back: a tie must stay one.
    log_likelihoods = [float(np.float32(solution["log_likelihood"])) for solution in solutions]
    preferred = choice(*(sum_ / len(s["text"]) for sum_, s in zip(log_likelihoods, solutions, strict=True)))
    return bool(preferred == record["label"])


def _share(count: int, total: int) -> str:
    """A proportion and the standard error of its mean, sqrt(p (1 - p) / (n - 1)), as lm-evaluation-harness gives it."""
    if not total:
        return "no question scored"
    share = count / total
    if total == 1:
        return f"{share:.2%}"
    return f"{share:.2%} ± {math.sqrt(share * (1 - share) / (total - 1)):.2%}"
