"""Sentences hold what the numbers do: a table of cases in which they once said more, or something else."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from layerscope.analysis.testing.stratum import Survival
from layerscope.report.words.depth_said import depth_correlation, with_depth
from layerscope.report.words.strata_said import _survive

NAN = float("nan")

DEPTHS: dict[str, tuple[list[float], str]] = {
    "nothing is known": ([NAN] * 6, ""),
    "one layer alone is no best of several": ([NAN, 0.7, NAN], "; their held-out AUROC in layer 1 is 0.70"),
    "the first layer": ([0.8, 0.6, 0.6], "; they do so best in layer 0, with a held-out AUROC of 0.80"),
    "a tie": ([0.6, 0.8, 0.6, 0.8], "; they do so best in layers 1, 3, with a held-out AUROC of 0.80"),
    "a tie as it is shown": ([0.6, 0.801, 0.799], "; they do so best in layers 1, 2, with a held-out AUROC of 0.80"),
    "all alike": ([0.7] * 6, "; they do so alike in all of these layers, with a held-out AUROC of 0.70"),
    "no better than chance": ([0.48, 0.5, 0.41], "; held out, they do so in no layer, with an AUROC of 0.50 at most"),
    "better and better": (
        [0.55, 0.6, 0.65, 0.7, 0.8, 0.9],
        "; the deeper the layer, the better they do so, best in layer 5, with a held-out AUROC of 0.90",
    ),
    "worse and worse": (
        [0.9, 0.8, 0.7, 0.65, 0.6, 0.55],
        "; the deeper the layer, the less they do so, best in layer 0, with a held-out AUROC of 0.90",
    ),
    "mostly better, and best in the first": (
        [0.95, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85],
        "; how well they do so follows no steady course with depth, and is best in layer 0, with a held-out AUROC of "
        "0.95",
    ),
    "no course": (
        [0.6, 0.8, 0.55, 0.82, 0.6, 0.7],
        "; how well they do so follows no steady course with depth, and is best in layer 3, with a held-out AUROC of "
        "0.82",
    ),
}


@pytest.mark.parametrize("case", DEPTHS)
def test_depth_is_told_as_it_is(case: str) -> None:
    auroc, said = DEPTHS[case]
    layers = len(auroc)
    by_layer = SimpleNamespace(selectable=np.ones(layers, int), selected=(~np.isnan(auroc)).astype(int))
    contrast: Any = SimpleNamespace(held_out=SimpleNamespace(auroc=np.array(auroc)), firing_by_layer=by_layer)
    analysis: Any = SimpleNamespace(layers=SimpleNamespace(layer=np.arange(layers)))
    assert with_depth(analysis, contrast) == said
    if "the deeper" in said:
        trend = depth_correlation(analysis, contrast)
        assert (trend > 0) == ("better they" in said)
        assert (int(np.argmax(auroc)) >= layers / 2) == (trend > 0)


@pytest.mark.parametrize(
    ("kept", "untested", "confirmed", "said"),
    [
        (1, 0, 1, "1 survives"),
        (0, 0, 1, "0 survive"),
        (3, 0, 3, "3 survive"),
        (1, 1, 3, "1 of 2 tested survives"),
        (2, 1, 3, "2 of 2 tested survive"),
        (0, 2, 2, "none could be tested"),
    ],
)
def test_what_survives_is_counted_among_what_was_tested(kept: int, untested: int, confirmed: int, said: str) -> None:
    survival = Survival(kept, confirmed - untested - kept, 0, untested, kept)
    assert _survive(survival, confirmed) == said
