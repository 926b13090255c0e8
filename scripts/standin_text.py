"""The text that the stand-in is trained on: what everyday things are good for, from `standin_facts.txt`.

A document is a question with a solution and a verdict, or a plain sentence. The bundled questions are not read.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from layerscope.questions.prompts import PROMPT

FACTS = Path(__file__).with_name("standin_facts.txt")
RIGHT, WRONG = " Right", " Wrong"  # a token each, which so is settled at the solution's final token

_ASKED = (
    "{}",
    "{}",
    "{}",
    "{}?",
    "{}.",
    "How do I {}?",
    "How can I {}?",
    "How can you {}?",
    "How should one {}?",
    "What is a good way to {}?",
    "What helps to {}?",
    "I want to {}",
    "We need to {}",
    "To {},",
    "When you {}",
)
_SAID = ("To {goal}, {solution}.", "If you want to {goal}: {solution}.", "You can {goal} like this: {solution}.")
_BEFORE = (
    "Be careful.",
    "Take your time.",
    "First find a clear place.",
    "It is easy.",
    "This is simple.",
    "Get ready.",
)
_AFTER = (
    "Take your time.",
    "Then wait a little.",
    "Do it slowly.",
    "Be careful.",
    "Wait for ten minutes.",
    "Then look at it again.",
    "That is all.",
    "Do it again if you have to.",
    "Let it rest for an hour.",
)
_ENDINGS = (".", ".", ".", ".", "", "", ". ", " ")


@dataclass(frozen=True)
class Task:
    """Something one may want to do or know, and what serves for it."""

    goals: tuple[str, ...]
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    frames: tuple[str, ...]
    """Sentences with `{}` where one of `right` or `wrong` goes."""


class Document(NamedTuple):
    """One text to learn from."""

    text: str
    verdict: str
    """What follows the text; empty for a plain sentence."""

    @property
    def is_true(self) -> bool:
        """Whether the text is learnt too; of a wrong solution only the verdict is."""
        return self.verdict != WRONG


def read_tasks(path: Path = FACTS) -> list[Task]:
    """The tasks of a facts file; its first lines say how it is written."""
    blocks = [block.splitlines() for block in path.read_text(encoding="utf-8").strip().split("\n\n")]
    return [
        Task(*(tuple(part.strip() for part in line.lstrip("+-~ ").split("|")) for line in block))
        for block in blocks
        if not block[0].startswith("#")
    ]


def documents(tasks: list[Task], seed: int) -> Iterator[Document]:
    """Documents without end, the same for the same seed."""
    dice = random.Random(seed)
    while True:
        task = dice.choice(tasks)
        goal = dice.choice(task.goals)
        is_right = dice.random() < 0.55
        solution = _solution(dice, tasks, task, is_right)
        if is_right and not goal.startswith("=") and dice.random() < 0.15:
            yield Document(dice.choice(_SAID).format(goal=goal, solution=solution[:1].lower() + solution[1:]), "")
        else:
            prompt = PROMPT.format(goal=_asked(dice, goal))
            yield Document(f"{prompt} {_finished(dice, solution)}", RIGHT if is_right else WRONG)


def _asked(dice: random.Random, goal: str) -> str:
    if goal.startswith("="):
        return goal.removeprefix("=").strip()
    asked = dice.choice(_ASKED).format(goal)
    return asked[0].upper() + asked[1:] if dice.random() < 0.9 else asked


def _solution(dice: random.Random, tasks: list[Task], task: Task, is_right: bool) -> str:
    """A solution without its full stop: what serves, what does not, or what serves for something else."""
    frames, means = task.frames, task.right if is_right else task.wrong
    if not is_right and (kind := dice.random()) < 0.4:
        other = dice.choice(tasks)
        means = [each for each in other.right if each not in task.right] or means
        frames = frames if kind < 0.15 else other.frames
    mean = dice.choice(means)
    if dice.random() < 0.1:
        mean = mean.removeprefix("a ").removeprefix("an ")
    sentences = [frame.format(mean).rstrip(".") for frame in dice.sample(frames, dice.choice((1, 1, 1, 2)))]
    return ". ".join(sentence[:1].upper() + sentence[1:] for sentence in sentences)


def _finished(dice: random.Random, solution: str) -> str:
    """The solution among sentences that do not matter, and with one of the ends that PIQA's solutions have."""
    if dice.random() < 0.1:
        return solution[:1].lower() + solution[1:]
    before = f"{dice.choice(_BEFORE)} " if dice.random() < 0.12 else ""
    after = f". {dice.choice(_AFTER).rstrip('.')}" if dice.random() < 0.2 else ""
    return f"{before}{solution}{after}{dice.choice(_ENDINGS)}"
