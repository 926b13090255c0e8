"""What ablations come to: how far each feature moves the margin, beside what its controls do.

Changes are of the margin, afterwards less before: what speaks for the right answer makes it fall when it is taken out.
"""

from typing import NamedTuple

from msgspec import Struct

from layerscope.records.manifest.identity import Control


class Interval(NamedTuple):
    """Of 95 %, from a bootstrap over goal groups."""

    low: float
    high: float


class Effect(Struct, frozen=True, kw_only=True):
    """Over the questions that are tested; None where there are none."""

    questions: int
    touched: int
    """Of them, those in which any token was touched."""
    mean_change: float | None
    mean_change_interval: Interval | None
    mean_magnitude: float | None
    """Of the change, without its sign."""
    right_to_wrong: int
    """Answers that were right and are wrong afterwards."""
    wrong_to_right: int


class ControlEffect(Struct, frozen=True, kw_only=True):
    """What is done beside a feature, for comparison."""

    effect: Effect
    excess: float | None
    """Mean magnitude of the feature's change less the control's, question by question."""
    excess_interval: Interval | None
    excess_p: float | None
    """Of no excess, one-sided: of its mean by the standard deviation of the bootstrap."""
    feature_alone: int
    """Questions whose answer flips with the feature, and not with the control."""
    control_alone: int
    flips_p: float
    """Of McNemar's exact test of these, one-sided: that the feature flips no more answers than the control."""


class FeatureEffect(Struct, frozen=True, kw_only=True):
    """A feature and its controls."""

    layer: int
    feature_id: int
    matched: int | None
    """The feature that is its control `matched`."""
    effect: Effect
    controls: dict[Control, ControlEffect]
    q: float | None
    """Of the largest `excess_p` of its controls, over all features; None without controls."""
    flips_q: float | None
    """Of the largest `flips_p`, in the same way."""
    beyond_controls: bool
    """It changes the margin more than each of its controls does: `q` is at most `LEVEL`."""
    flips_beyond_controls: bool
    """It flips more answers than each of its controls does: `flips_q` is at most `LEVEL`."""


LEVEL = 0.05
"""Share of false ones that is expected, at most, among the features that are said to be beyond their controls."""


class LayerAgreement(Struct, frozen=True, kw_only=True):
    """How far the attributions of a layer agree with exact ablation, over a sample of features."""

    layer: int
    pairs: int
    """Of question and feature, in which the feature has an attribution and was ablated."""
    rank_correlation: float | None
    """Spearman's, of the attribution with what the margin loses; None of fewer than three pairs."""


class AblationSummary(Struct, frozen=True, kw_only=True):
    """Everything of a file of ablations."""

    run: str
    chosen_by: str
    steer: float | None
    tested: str
    """Which questions: `all`, or `validation` where the other half had a part in the choice."""
    groups: int
    """Goal groups among them."""
    features: list[FeatureEffect]
    """Those with the largest mean magnitude first."""
    agreement: list[LayerAgreement] | None = None
    """Of a run with attributions, by layer, where the features were drawn for that."""
    rule: str = ""
    """Of these attributions: `gradient` or `relp`."""
    against_means: bool = False
    """Whether they are against what features are on average: what is taken out is all that a feature says."""
    missing: int = 0
    """Lines that the file does not have yet: it is of the longest questions."""


class Beside(NamedTuple):
    """What was taken out of a run's questions, for whoever shows it with the run; None of what nobody did."""

    ablations: AblationSummary | None = None
    check: AblationSummary | None = None
    """Of features that were drawn to see how far attributions agree."""
