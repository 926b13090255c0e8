"""How well a score tells the right solution from the wrong one, with an interval.

A score is a difference d of every pair, right solution less wrong one. Shown a pair in either order, it says which one
is right by its sign, and how surely by its amount: its AUROC is that of d against -d, P(d_i + d_j > 0) + P(= 0) / 2 of
any two pairs i and j. (Of a score of solutions this leaves out what the questions differ in, which is what a
log-likelihood is mostly made of.) The share ranked right is P(d > 0) + P(d = 0) / 2.
"""

from typing import NamedTuple

import numpy as np

from layerscope.analysis.baselines.split import Split
from layerscope.analysis.columns.arrays import Floats, Ints
from layerscope.analysis.testing.draws import DRAWS
from layerscope.analysis.testing.statistics import auroc, wins

_HELD = 1 << 16  # numbers of a table of weights at once: what a core has at hand


class Drawn(NamedTuple):
    """Of the held-out half, and of every draw of its goal groups, [1 + B]: the half itself is the first."""

    auroc: Floats
    ranked: Floats


def settled(difference: Floats) -> Floats:
    """Without the last digits, which differ between sums of the same numbers, and would decide ties."""
    largest = np.abs(difference).max(initial=0)
    return np.round(difference / largest, 9) + 0.0 if largest else difference


def discovery_auroc(difference: Floats, split: Split) -> float:
    """Of the discovery half's pairs, each of which was scored by the other folds.

    Args:
        difference: [Q]
    """
    inside = settled(difference[split.discovery])
    return auroc(inside, -inside, split.weight[split.discovery])


def drawn(difference: Floats, split: Split) -> Drawn:
    """Of the held-out half, and its bootstrap by goal group: the same draws whatever the score, so they can be paired.

    Args:
        difference: [Q]
    """
    held_out = settled(difference[split.held_out])
    order = np.argsort(held_out, kind="stable")
    d, weight, group = held_out[order], split.weight[split.held_out][order], split.group[order]
    below, up_to = np.searchsorted(d, -d, "left"), np.searchsorted(d, -d, "right")
    right = (np.sign(d) + 1) / 2
    parts = [_of_draws(np.ones((len(d), 1)) * weight[:, None], below, up_to, right)]
    step = max(_HELD // len(d), 1)
    for start in range(0, DRAWS, step):
        drawn_weight = split.draws.of_pairs(group, start, start + step) * weight[:, None]
        parts.append(_of_draws(drawn_weight, below, up_to, right))
    return Drawn(*map(np.concatenate, zip(*parts, strict=True)))


def _of_draws(weight: Floats, below: Ints, up_to: Ints, right: Floats) -> tuple[Floats, Floats]:
    """AUROC and share of pairs that are ordered by d, [H, b] weighted."""
    total = weight.sum(axis=0)
    return 1 - wins(weight, weight, below, up_to) / total**2, right @ weight / total
