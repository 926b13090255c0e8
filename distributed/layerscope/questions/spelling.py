"""What each of a solution's tokens stands for in its text."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from unicodedata import category


def last_word(spelled: Sequence[str]) -> int:
    """Which of a solution's tokens is the last with a letter or a digit, of whatever script; the last if none is.

    A letter ends with its marks: accents, and the vowels of many scripts, which may be tokens of their own.
    """
    text = "".join(spelled)
    end = next((i for i in range(len(text), 0, -1) if text[i - 1].isalnum()), 0)
    while 0 < end < len(text) and category(text[end]).startswith("M"):
        end += 1
    ends = accumulate(map(len, spelled))
    return next(i for i, reached in enumerate(ends) if reached >= end) if end else len(spelled) - 1


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
