"""Shares of questions, with how sure they are. Nothing is computed here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Proportion:
    """A share with its 95 % Wilson interval, by goal group; NaN of nothing."""

    count: int
    total: int
    low: float
    high: float

    @property
    def share(self) -> float:
        return self.count / self.total if self.total else float("nan")


@dataclass(frozen=True)
class ManySolutions:
    """Of questions with more than two solutions; margins are to the mean of the wrong ones, over all questions."""

    questions: int
    most: int
    chance: float
    above_mean: Proportion
    median_margin_to_mean: float
