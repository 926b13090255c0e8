"""The typed result of comparing features with baselines. Nothing is computed here.

Right against wrong, on the held-out half. Shapes: `L` layers, ascending; `S` scores of one baseline: L, or 1 where it
knows of no layers. NaN is "not defined": a layer without a selected feature.
"""

from dataclasses import dataclass

from layerscope.analysis.columns.arrays import Floats, Ints

NAMES = {
    "likelihood": "log-likelihood",
    "length": "length",
    "words": "bag of tokens",
    "last": "last token",
    "means": "difference of means",
    "dense": "probe on residuals",
    "random": "selected random features",
    "random-20": "probe on 20 random features",
    "selected": "selected features",
    "sparse-1": "probe on 1 feature",
    "sparse-5": "probe on 5 features",
    "sparse-20": "probe on 20 features",
}
"""Of all that are compared, in this order."""
OF_FEATURES = ("selected", "sparse-1", "sparse-5", "sparse-20")
"""Those that are no baselines but what is compared with them."""


@dataclass(frozen=True)
class Measured:
    """How well scores tell the right solution from the wrong one, with 95 % intervals over draws of goal groups."""

    auroc: Floats  # [S] of differences, right - wrong: P(d_i + d_j > 0) + P(=)/2 over pairs i, j; a group counts once
    auroc_low: Floats
    auroc_high: Floats
    ranked: Floats  # [S] share of pairs whose right solution has the higher score; a tie is half a pair
    ranked_low: Floats
    ranked_high: Floats


@dataclass(frozen=True)
class Ahead:
    """By how much the features' AUROC is above a baseline's, over the same draws of goal groups."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Baseline:
    """One of `NAMES`."""

    key: str
    measured: Measured
    chosen: int
    """Which of its scores stands for it: the layer that is best by the discovery half's folds."""
    ahead: Ahead | None
    """None of the features themselves."""

    @property
    def by_depth(self) -> bool:
        return self.key not in ("likelihood", "length", "words", "last")


@dataclass(frozen=True)
class HiddenKnowledge:
    """Pairs that a probe ranks right beside those that the log-likelihood does (arXiv:2503.15299)."""

    probe: str
    """The key of the baseline that it is: on residuals, or else on features."""
    probe_only: Ints  # [L] goal groups in which the probe ranks more pairs right than the log-likelihood
    likelihood_only: Ints  # [L] fewer
    p: Floats  # [L] McNemar's exact test; NaN where no group tells


@dataclass(frozen=True)
class Comparison:
    """Features, and what else tells the right solution from the wrong one."""

    why: str
    """Why nothing is compared; empty where something is."""
    baselines: tuple[Baseline, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()
    """Keys of those that could not be measured, with what they need."""
    best: str = ""
    """Which of `OF_FEATURES` stands for the features: the probe that is best by the discovery half's folds."""
    hidden: HiddenKnowledge | None = None
    groups: int = 0
    """Goal groups of the held-out half."""
    tokens: bool = False
    """Words are tokens of the file, and not of its texts."""

    def of(self, key: str) -> Baseline | None:
        return next((baseline for baseline in self.baselines if baseline.key == key), None)
