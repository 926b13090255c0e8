"""What ablations come to: how far each feature moves the margin, beside what its controls do.

Changes are of the margin, afterwards less before: what speaks for the right answer makes it fall when it is taken out.
"""

from typing import NamedTuple

from msgspec import Struct

from layerscope.records.identity import Control


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
    p: float | None
    """Of McNemar's exact test of one against the other; None where no answer flips."""


class ControlEffect(Struct, frozen=True, kw_only=True):
    """What is done beside a feature, for comparison."""

    effect: Effect
    excess: float | None
    """Mean magnitude of the feature's change less the control's, question by question."""
    excess_interval: Interval | None


class FeatureEffect(Struct, frozen=True, kw_only=True):
    """A feature and its controls."""

    layer: int
    feature_id: int
    matched: int | None
    """The feature that is its control `matched`."""
    effect: Effect
    q: float | None
    """Of `effect.p`, over all features."""
    controls: dict[Control, ControlEffect]
    beyond_controls: bool
    """It changes the margin more than each of its controls does: every `excess_interval` is above 0."""


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
    """Of a run with attributions, by layer."""
