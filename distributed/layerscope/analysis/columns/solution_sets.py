"""From the feature lists of all solutions of a question to sets of which nothing is guessed.

As in a pair, the solutions of a question are compared at one limit: the largest of their lists' limits.
"""

from dataclasses import dataclass

import numpy as np

from layerscope.analysis.columns.arrays import Bools, Floats, Ints
from layerscope.analysis.columns.censoring import list_limits
from layerscope.analysis.columns.lists import FeatureLists


@dataclass(frozen=True)
class LayerSets:
    """The features of one layer that fire above the limit in each question, for at least one of its solutions.

    Shapes: `E` feature x solution that fires; `M` feature x question, both ordered by feature, then by question;
    `F` features; `Q` questions; `S` solutions of all questions: the right ones, the strongest wrong ones, the others.
    """

    feature_id: Ints  # [F] ascending
    listed: Ints  # [F] lists that name it, below the limit too
    feature: Ints  # [M] index into `feature_id`
    question: Ints  # [M]
    firing: Ints  # [M] how many of the question's solutions it fires for
    right: Bools  # [M] it fires for the right one
    cell: Ints  # [E] which of the M a row belongs to
    solution: Ints  # [E] index into the S
    of_right: Bools  # [E] it is a right one
    activation: Floats  # [E] above the limit

    def restricted(self, features: Bools) -> "LayerSets":
        """Of some features alone, [F]."""
        kept, rows = features[self.feature], features[self.feature[self.cell]]
        return LayerSets(
            self.feature_id[features],
            self.listed[features],
            (np.cumsum(features) - 1)[self.feature[kept]],
            self.question[kept],
            self.firing[kept],
            self.right[kept],
            (np.cumsum(kept) - 1)[self.cell[rows]],
            self.solution[rows],
            self.of_right[rows],
            self.activation[rows],
        )


def gather(pairs: FeatureLists, others: FeatureLists, question_of: Ints) -> LayerSets:
    """Compares all solutions of every question above its limit.

    Args:
        question_of: each of the others, [O].
    """
    n_questions = len(pairs.listed)
    limit = list_limits(pairs).max(axis=1, initial=0)  # [Q]
    np.maximum.at(limit, question_of, list_limits(others)[:, 0])
    of_pair = np.repeat(np.arange(2 * n_questions), pairs.listed.ravel())
    of_other = np.repeat(np.arange(len(question_of)), others.listed.ravel())
    question = np.concatenate([of_pair // 2, question_of[of_other]])
    solution = np.concatenate([of_pair // 2 + n_questions * (of_pair % 2), 2 * n_questions + of_other])
    activation = np.concatenate([pairs.activation, others.activation]).astype(np.float64)
    ids = np.concatenate([pairs.feature_id, others.feature_id])
    feature_id, code, listed = np.unique(ids, return_inverse=True, return_counts=True)
    shown = activation > limit[question]
    code, question, solution, activation = code[shown], question[shown], solution[shown], activation[shown]
    order = np.argsort(code * n_questions + question, kind="stable")  # the right one before the wrong ones
    code, question, solution, activation = code[order], question[order], solution[order], activation[order]
    first = np.ones(len(code), dtype=bool)
    first[1:] = (question[1:] != question[:-1]) | (code[1:] != code[:-1])
    cell, of_right = np.cumsum(first) - 1, solution < n_questions
    cells = code[first], question[first], np.bincount(cell, minlength=int(first.sum())), of_right[first]
    return LayerSets(feature_id, listed, *cells, cell, solution, of_right, activation)
