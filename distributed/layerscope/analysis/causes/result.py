"""The typed result of an analysis of attributions. Nothing is computed here.

Shapes: `L` layers; `N` features that one half chose; `S` features that are drawn; NaN is "not known", never zero.
A feature's effect on a question is what it has of the margin over all tokens of the solutions: positive speaks for the
right one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from layerscope.analysis.columns.arrays import Bools, Floats, Ints
from layerscope.records.line.attributions import TERMS


@dataclass(frozen=True)
class Depth:
    """Of each layer and group of tokens, the mean over questions."""

    terms: Floats
    """[L, 4 groups, 5 terms] signed: features, decoder's bias, SAE's error, the sum of all, what passes beside"""
    mass: Floats  # [L, 4 groups] of the listed attributions without their signs
    terms_interval: (
        Floats  # [L, 5 terms, 2] of their sum over the solutions' tokens, 95 %, over goal groups; NaN of one
    )
    mass_interval: Floats  # [L, 2] of the same of the mass

    @property
    def term_names(self) -> tuple[str, ...]:
        """Without what a dictionary passes on beside its features, where it does not."""
        return TERMS if self.terms[..., -1].any() else TERMS[:-1]


@dataclass(frozen=True)
class Chosen:
    """Features that the discovery half chose, a column each: by attribution, or because they separate."""

    layer: Ints  # [N]
    feature_id: Ints  # [N]
    by_attribution: Bools  # [N] among those with the largest effects, whatever their signs
    by_contrast: Bools  # [N] among the surest that tell right from wrong
    mean: Floats  # [N] effect on the validation half; every goal group counts once, here and in all that follows
    low: Floats  # [N] of its 95 % interval, by draws of goal groups
    high: Floats  # [N]
    magnitude: Floats  # [N] mean of the effect without its sign, validation half
    questions: Ints  # [N] of the validation half, in which it is listed
    q: Floats  # [N] of the signed-rank test of its effects on that half, over the N
    confirmed: Bools  # [N] q at most the level, and the sign of the discovery half
    auroc: Floats  # [N] of its activation's difference within a question, validation half
    separates: Bools  # [N] confirmed to tell right from wrong
    separates_q: Floats  # [N] the validation half's, of the surer of both tests
    most: Sequence[tuple[int, ...]]
    """[N] Questions that have most of it, by index."""


@dataclass(frozen=True)
class Faces:
    """Every feature that was tested for telling right from wrong, by what it does to the margin; validation half."""

    layer: Ints  # [S]
    feature_id: Ints  # [S]
    auroc: Floats  # [S]
    mean: Floats  # [S]
    correlation: float
    """Spearman's, of |AUROC - 1/2| and |mean effect|."""


@dataclass(frozen=True)
class Causes:
    """Everything."""

    rule: str
    """`gradient` or `relp`."""
    against_means: bool
    """Against what features are on average, not against their silence."""
    why: str
    """Why nothing is tested; empty where something is."""
    depth: Depth
    chosen: Chosen | None = None
    faces: Faces | None = None
    separate: int = 0
    """Features confirmed to tell right from wrong, those that are not among the chosen too."""
