"""Which questions of a source a run takes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerscope.formatting import count_of
from layerscope.questions.drawing import ranked
from layerscope.questions.opening import Wanted, open_source
from layerscope.questions.sources import Question, Source


@dataclass(frozen=True)
class Selection:
    """The questions of a run: some rows of a source, as the settings ask for them."""

    source: Source
    drawn: NDArray[np.int64] | range | None = None
    """The ids of those that are taken, ascending; None for all, as a million need no list of their own."""
    strip_solutions: bool = False

    @property
    def example_ids(self) -> NDArray[np.int64]:
        """The ids of all that are taken."""
        return np.asarray(range(len(self.source)) if self.drawn is None else self.drawn, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.source) if self.drawn is None else len(self.drawn)

    def __getitem__(self, example_id: int) -> Question:
        question = self.source[example_id]
        return question.stripped() if self.strip_solutions else question

    def __iter__(self) -> Iterator[Question]:
        return self.read(range(len(self.source)) if self.drawn is None else self.drawn)

    def read(self, example_ids: Iterable[int]) -> Iterator[Question]:
        """Several, in the order asked for."""
        questions = self.source.read(map(int, example_ids))
        return (question.stripped() for question in questions) if self.strip_solutions else questions

    def part(self, first: int, last: int) -> "Selection":
        """Those from one place on to before another."""
        drawn = range(first, last) if self.drawn is None else self.drawn[first:last]
        return Selection(self.source, drawn, self.strip_solutions)


def select_questions(
    wanted: Wanted, count: int | None = None, seed: int = 0, strip_solutions: bool = False
) -> tuple[Selection, list[str]]:
    """A sample of a data set's questions, in ascending order of their ids, and warnings for the user.

    Args:
        count: how many; None takes them all.

    Raises:
        UsageError: an unknown data set, or a question file that cannot be read.
    """
    source = open_source(wanted)
    warnings = []
    if count is not None and count > len(source):
        warnings.append(
            f"--num-samples is {count:,}, and there are {count_of(len(source), 'question')}: all are taken."
        )
    drawn = None if count is None or count >= len(source) else draw(len(source), count, seed)
    return Selection(source, drawn, strip_solutions), warnings


def draw(population: int, count: int | None, seed: int) -> NDArray[np.int64]:
    """The row indices of a sample, ascending: those whose hash with the seed is smallest, or all.

    A hash instead of a random generator: the same seed draws the same rows in every version of everything, and a
    larger sample holds the smaller one.
    """
    if count is None or count >= population:
        return np.arange(population, dtype=np.int64)
    return np.sort(ranked(population, seed)[:count])
