"""Attributions of a file as columns: of every layer which feature has how much of which question.

What a cut list does not name counts as 0 here: it is at most as much as the least that is named.
"""

from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from layerscope.analysis.columns.arrays import Floats, Ints
from layerscope.analysis.columns.spilling import Column
from layerscope.records.line.attributions import GROUPS, TERMS, Attributions
from layerscope.records.line.record import Record

OF_SOLUTIONS = ("positive", "negative", "common")
"""Groups of tokens over which a feature's attributions are added up: the solutions', at which it can be ablated."""
_feature_id, _attribution = attrgetter("feature_id"), attrgetter("attribution")


class Entries(NamedTuple):
    """What a layer's features have of the margin of each question, over the solutions' tokens: ordered by feature."""

    feature_id: Ints  # [F] ascending
    feature: Ints  # [E] index into `feature_id`
    question: Ints  # [E] index of the question; each once for a feature
    attribution: Floats  # [E] signed


class AttributionColumns:
    """The attributions of a file while it is read, and what they add up to."""

    def __init__(self, layers: Sequence[int], stack: ExitStack) -> None:
        self._layers = layers
        self._columns = [(Column("i", stack), Column("f", stack)) for _ in layers]
        self._counts = [array("i") for _ in layers]
        self.terms: Floats = np.zeros((len(layers), len(GROUPS), len(TERMS)))
        """Sums over the questions, of every layer and group of tokens."""
        self.mass: Floats = np.zeros((len(layers), len(GROUPS)))
        """The same of what is listed, without its sign."""
        self._of_questions = [Column("d", stack) for _ in layers]

    def add(self, record: Record) -> None:
        """Adds a question."""
        attributions = record.attributions
        for index, layer in enumerate(self._layers):
            of_groups = np.zeros((len(GROUPS), len(TERMS) + 1))
            for number, name in enumerate(GROUPS):
                group = attributions[name]
                terms, mass = group.terms[layer], sum(map(abs, map(_attribution, group.lists[layer])))
                of_groups[number] = *(getattr(terms, term) for term in TERMS), mass
            self.terms[index] += of_groups[:, :-1]
            self.mass[index] += of_groups[:, -1]
            self._of_questions[index].extend(of_groups[: len(OF_SOLUTIONS)].sum(axis=0).tolist())
            self._add_lists(index, layer, [attributions[name] for name in OF_SOLUTIONS])

    def of_questions(self, index: int) -> Floats:
        """[Q, 6] of the layer with this index what every question has over its solutions' tokens: terms, then mass."""
        return self._of_questions[index].read().reshape(-1, len(TERMS) + 1)

    def _add_lists(self, index: int, layer: int, groups: Sequence[Attributions]) -> None:
        feature_ids, attributions = self._columns[index]
        for group in groups:
            feature_ids.extend(map(_feature_id, group.lists[layer]))
            attributions.extend(map(_attribution, group.lists[layer]))
        self._counts[index].append(sum(len(group.lists[layer]) for group in groups))

    def entries(self, index: int) -> Entries:
        """Those of the layer with this index."""
        counts = np.array(self._counts[index], dtype=np.int64)
        question = np.repeat(np.arange(len(counts)), counts)
        listed, value = (column.read() for column in self._columns[index])
        feature_id, feature = np.unique(listed, return_inverse=True)
        keys, place = np.unique(feature * max(len(counts), 1) + question, return_inverse=True)
        sums = np.bincount(place, value.astype(np.float64), minlength=len(keys)).astype(np.float64)
        feature, question = np.divmod(keys, max(len(counts), 1))
        return Entries(feature_id.astype(np.int64), feature, question, sums)
