"""Who chooses and who judges: the discovery half in folds, the held-out half in bootstrap draws, both by goal group.

Shapes: `Q` questions; `H` of them held out; `G` goal groups held out; `B` draws.
"""

from dataclasses import dataclass

import numpy as np

from layerscope.analysis.columns.arrays import Bools, Floats, Ints
from layerscope.analysis.result import Questions
from layerscope.analysis.testing.draws import Draws
from layerscope.analysis.testing.statistics import group_weights

FOLDS = 5
LEAST_GROUPS = 10
"""Goal groups that either half needs: below that neither folds nor an interval mean anything."""


@dataclass(frozen=True)
class Split:
    """The halves of the analysis, with the folds of the one and the draws of the other."""

    discovery: Bools  # [Q]
    fold: Ints  # [Q] from 0 to FOLDS in the discovery half, -1 in the other; a goal group is in one
    weight: Floats  # [Q] so that every goal group counts once
    judging: Ints  # [G] the goal groups held out, by their numbers in the analysis, ascending
    group: Ints  # [H] of every held-out question, from 0: its place among these
    draws: Draws  # of these groups

    @classmethod
    def of(cls, questions: Questions, seed: int) -> "Split | None":
        """None where a half has too few goal groups."""
        discovery, group = questions.discovery, questions.group
        choosing = np.unique(group[discovery])
        judging, of_held_out = np.unique(group[~discovery], return_inverse=True)
        if min(len(choosing), len(judging)) < LEAST_GROUPS:
            return None
        rng = np.random.default_rng(seed)
        of_group = np.full(int(group.max()) + 1, -1)
        of_group[choosing] = rng.permutation(len(choosing)) % FOLDS
        return cls(discovery, of_group[group], group_weights(group), judging, of_held_out, Draws(len(judging), rng))

    @property
    def held_out(self) -> Bools:
        return ~self.discovery
