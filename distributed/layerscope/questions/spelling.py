"""What each of a solution's tokens stands for in its text."""

from collections.abc import Sequence
from itertools import pairwise


def last_word(spelled: Sequence[str]) -> int:
    """Which of a solution's tokens is the last with a letter or a digit, of whatever script; the last if none is."""
    return next((i for i in reversed(range(len(spelled))) if any(map(str.isalnum, spelled[i]))), len(spelled) - 1)


def spelled(text: str, start: int, offsets: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """What each of a solution's tokens stands for in it, so that all together are the solution.

    A character of several tokens stands at the last of them, and the others are empty. What the tokeniser merged into
    the prompt stands at the first.

    Args:
        text: that ends with the solution, which begins at `start`.
        offsets: of each token, from where to where it goes in the text, in characters.
    """
    borders = [start]
    for (_, end), (next_start, _) in pairwise(offsets):
        borders.append(max(borders[-1], min(end, next_start)))
    return tuple(text[one:other] for one, other in pairwise([*borders, len(text)]))
