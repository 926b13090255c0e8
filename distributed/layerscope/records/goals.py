"""Goal groups: questions that ask the same thing, told by their goals alone. Knows nothing of what is done with them.

Two goals are one where they are equal after case, digits, punctuation and white space are taken away: "Cut 2 apples."
and "cut 3 apples". Such questions are no independent observations: whatever one of them says, the others repeat.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import ArrayLike

from layerscope.formatting import count_of


@lru_cache(maxsize=4096)
def _kept(character: str) -> bool:
    """Letters, and the marks that belong to them."""
    return unicodedata.category(character)[0] in "LM"


def goal_key(goal: str) -> bytes:
    """16 bytes, the same for goals of one group.

    A goal without a letter ("12 + 5 =") would be equal to every other one: of such a goal all but case and white space
    is kept.
    """
    plain = unicodedata.normalize("NFKC", goal).casefold()
    if not goal.isascii():  # numbers of any kind, before Ⅱ becomes two letters
        goal = "".join(each for each in goal if unicodedata.category(each)[0] != "N")
    letters = "".join(filter(_kept, unicodedata.normalize("NFKC", goal).casefold()))
    kept = letters or "\0" + "".join(plain.split())
    return blake2b(kept.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass
class GoalGroups:
    """The groups of the questions of a file, while they are read: about 150 bytes a group."""

    sizes: list[int] = field(default_factory=list)
    """Questions of each group, in the order in which the groups first appear."""
    _numbers: dict[bytes, int] = field(default_factory=dict)

    def add(self, goal: str) -> int:
        """The number of the group of a question, which may be a new one."""
        number = self._numbers.setdefault(goal_key(goal), len(self.sizes))
        if number == len(self.sizes):
            self.sizes.append(0)
        self.sizes[number] += 1
        return number

    @property
    def shared(self) -> int:
        """Groups of more than one question."""
        return sum(size > 1 for size in self.sizes)

    @property
    def questions_sharing(self) -> int:
        """Questions in these."""
        return sum(size for size in self.sizes if size > 1)

    @property
    def effective(self) -> float:
        """As many independent questions say as much, if those of a group are always alike (Kish's n² / Σ size²)."""
        return sum(self.sizes) ** 2 / max(sum(size**2 for size in self.sizes), 1)

    def result(self) -> dict[str, int]:
        """For programs."""
        return {"groups": len(self.sizes), "shared": self.shared, "questions_sharing": self.questions_sharing}


def count_goals(goals: Iterable[str], count: int) -> dict[str, int]:
    """The `GoalGroups.result` of so many goals: eight bytes a goal, by which two of a billion groups may be taken for
    one."""
    eight = (int.from_bytes(goal_key(goal)[:8], "little") for goal in goals)
    keys = np.fromiter(eight, np.uint64, count)
    keys.sort()
    edges = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1], [True]])) if count else np.zeros(1, int)
    sizes = np.diff(edges)
    shared = sizes[sizes > 1]
    return {"groups": len(sizes), "shared": len(shared), "questions_sharing": int(shared.sum())}


def told_goals(found: dict[str, int]) -> str:
    """For people, from `GoalGroups.result`; empty where every question has a goal of its own."""
    if not found["shared"]:
        return ""
    return (
        f"{count_of(found['questions_sharing'], 'question')} in {count_of(found['shared'], 'group')} of equal goals "
        f"(but for case, digits, punctuation, spaces): a group counts once"
    )


def interval_of_mean(sums: ArrayLike, sizes: ArrayLike) -> tuple[float, float]:
    """The 95 % interval of a mean over what lies in goal groups, which alone are independent; NaN of fewer than two.

    By the variance of the linearised ratio of the groups' sums to their sizes, which is what draws of whole groups have
    in the long run (Cochran, Sampling Techniques, chapter 6), and Student's t.

    Args:
        sums: [G] of the values in each group.
        sizes: [G] how many values, or how much weight, each group has; those with none do not count.
    """
    from scipy.special import stdtrit

    there = np.asarray(sizes) > 0
    sums, sizes = (np.asarray(each, dtype=np.float64)[there] for each in (sums, sizes))
    n_groups, total = len(sizes), float(sizes.sum())
    if n_groups < 2:
        return float("nan"), float("nan")
    middle = float(sums.sum()) / total
    off = sums - middle * sizes
    error = float(np.sqrt(n_groups / (n_groups - 1) * (off @ off))) / total
    reach = float(stdtrit(n_groups - 1, 0.975)) * error
    return middle - reach, middle + reach
