"""Few-shot examples: questions with their right solutions that stand before the prompt of every question.

They are drawn once, so that all questions begin with the same tokens, which a batch then reads once. A question that is
one of them does not see itself: it gets the next one drawn in its stead.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from layerscope.errors import UsageError
from layerscope.formatting import count_of, visible
from layerscope.questions.drawing import ranked
from layerscope.questions.sources import Question, Source

BETWEEN = "\n\n"
"""What stands behind every example, as lm-evaluation-harness has it."""


@dataclass(frozen=True)
class Shots:
    """The examples of a run."""

    count: int
    """How many stand before each question."""
    examples: tuple[Question, ...]
    """As many, and one more where the file has it; in the file's order."""
    spare: int = -1
    """Which of them stands in where a question is one of the others; -1 where there is none."""
    told: str = ""
    """Where they come from, for people."""

    def of(self, question: Question) -> tuple[Question, ...]:
        """The examples that stand before a question.

        Raises:
            UsageError: it is one of them, and there is none to stand in.
        """
        if not self.holds(question):
            return self.usual
        others = tuple(each for each in self.examples if _content(each) != _content(question))
        if len(others) < self.count:
            raise UsageError(
                f"--shots {self.count}: {self.told} has no more different questions, and question "
                f"{question.example_id} of the data set is one of them.\n"
                "It would be answered by its own example. Take fewer, or a file with more questions."
            )
        return others

    def holds(self, question: Question) -> bool:
        """Whether a question is itself one of the examples that all others see."""
        return any(_content(question) == _content(each) for each in self.usual)

    @property
    def usual(self) -> tuple[Question, ...]:
        """Those that stand before every question but themselves."""
        return tuple(each for number, each in enumerate(self.examples) if number != self.spare)

    @property
    def in_stead(self) -> tuple[Question, ...]:
        """The one that stands in where a question is one of those, if there is one."""
        return () if self.spare < 0 else (self.examples[self.spare],)

    def digest(self) -> str:
        """SHA-256 over what the examples say, and in which order."""
        digest = hashlib.sha256(f"{self.count} {self.spare}".encode())
        for each in self.examples:
            for text in (each.goal, *each.solutions, str(each.label)):
                encoded = text.encode("utf-8", "surrogatepass")
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.hexdigest()


def draw_shots(source: Source, count: int, seed: int, told: str, strip_solutions: bool = False) -> Shots:
    """Examples drawn as questions are: those rows whose hash with the seed is smallest, equal rows counting once.

    Args:
        told: where they come from, for people.

    Raises:
        UsageError: there are fewer.
    """
    found = dict[int, Question]()
    for question in _different(source, seed, strip_solutions):
        found[question.example_id] = question
        if len(found) > count:
            break
    if len(found) < count:
        raise UsageError(
            f"--shots {count}: {visible(told)} has {count_of(len(found), 'different question')}.\n"
            "Take fewer, or a file with more of them."
        )
    order = sorted(found)
    spare = order.index(list(found)[count]) if len(found) > count else -1
    return Shots(count, tuple(found[example_id] for example_id in order), spare, visible(told))


def _different(source: Source, seed: int, strip_solutions: bool) -> Iterator[Question]:
    seen = set[object]()
    for example_id in ranked(len(source), seed):
        question = source[int(example_id)].stripped() if strip_solutions else source[int(example_id)]
        if _content(question) not in seen:
            seen.add(_content(question))
            yield question


def _content(question: Question) -> tuple[str, ...]:
    return question.goal, *question.solutions
