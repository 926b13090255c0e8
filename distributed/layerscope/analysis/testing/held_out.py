"""What a layer's selected features come to on questions that had no part in the choice. Nothing is computed here.

Shapes: `Q` scored questions, `L` layers, as in `result`.
"""

from dataclasses import dataclass, field

import numpy as np

from layerscope.analysis.columns.arrays import Bools, Floats, Ints


@dataclass(frozen=True)
class HeldOut:
    """How well a layer's selected features tell the sides apart on the validation half.

    A solution's score is the sum of the discovery half's log-odds over the features selected for firing that fire on
    it. NaN for a layer without any.
    """

    features: Ints  # [L] how many are selected
    paired: Floats  # [L] P(score first > score second) + P(=)/2 within a question; every goal group counts once
    paired_error: Floats  # [L] its standard error
    auroc: Floats  # [L] the same over any first and any second, whatever the question
    auroc_low: Floats  # [L] its 95 % interval, by a bootstrap of goal groups; NaN where there are too few of these
    auroc_high: Floats  # [L]
    first_higher: Bools = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))
    """[L, Q] score first > score second, of the discovery half too, which chose; not kept of a contrast with a mean."""
