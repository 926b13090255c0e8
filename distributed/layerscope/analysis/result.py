"""The typed result of an analysis. Nothing is computed here.

Shapes: `Q` scored questions, in the file's order; `L` layers, ascending; `N` features (layer x feature) with enough
pairs for at least one test, ordered by layer and feature id. NaN is "not tested" or "not defined", never zero.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from layerscope.analysis.baselines.result import Comparison
from layerscope.analysis.causes.result import Causes
from layerscope.analysis.columns.arrays import Bools, Floats, Ints
from layerscope.analysis.header import Header
from layerscope.analysis.testing.held_out import HeldOut
from layerscope.analysis.testing.proportion import Proportion
from layerscope.analysis.testing.stratum import Stratum
from layerscope.errors import UsageError
from layerscope.records.line.dictionaries import FIRST


@dataclass(frozen=True)
class Options:
    """What an analysis can be told."""

    level: float = 0.05
    """False discovery rate of a selection, and family-wise error rate of the permutation threshold."""
    min_pairs: int = 10
    """A feature is tested where at least this many pairs can tell: discordant ones for firing, differing ones for
    magnitude."""
    permutations: int = 1000
    """Label flips behind the family-wise threshold; 0 leaves it out."""
    seed: int = 0
    """Of the label flips."""
    reading: str = "final"
    """Which of the readings that the file has."""
    dictionary: str = FIRST
    baseline_dictionary: bool = False
    """Put random features to the same tests, made of the residuals beside the file."""

    def __post_init__(self) -> None:
        if not (0 < self.level < 1 and self.min_pairs >= 1 and self.permutations >= 0):
            raise UsageError(
                f"An analysis needs a level between 0 and 1, at least 1 pair and no less than 0 permutations; "
                f"it has {self.level}, {self.min_pairs} and {self.permutations}."
            )


@dataclass(frozen=True)
class Questions:
    """The scored questions, a column each."""

    example_id: Ints  # [Q]
    margin: Floats  # [Q] log-likelihood(positive) - log-likelihood(negative), nats
    correct: Bools  # [Q] the model prefers the positive solution; a tie goes to sol1
    correct_per_character: Bools  # [Q] the same by log-likelihood per character
    positive_tokens: Ints  # [Q]
    negative_tokens: Ints  # [Q]
    same_final_token: Bools  # [Q]
    full_stop: Bools  # [Q] the final tokens of both solutions end in a full stop
    discovery: Bools  # [Q] in the discovery half, by a hash of the goal; the others are the validation half
    group: Ints  # [Q] which goal group it is in, numbered from 0 in the order in which the groups first appear

    @property
    def group_sizes(self) -> Ints:
        """Questions of every goal group."""
        return np.bincount(self.group)


@dataclass(frozen=True)
class Layers:
    """What holds of a layer whatever the contrast, a column each."""

    layer: Ints  # [L]
    positive_active: Floats  # [L] mean number of active features of the positive solution, unlisted ones included
    negative_active: Floats  # [L]
    cut_share: Floats  # [L] share of its cells that are cut
    jaccard: Floats  # [L] mean of |both fire| / |either fires| above the limit, over pairs in which anything does
    positive_interval: Floats  # [L, 2] of the mean of the positive solution's, 95 %, over goal groups; NaN of one alone
    negative_interval: Floats  # [L, 2]
    active_interval: Floats  # [L, 2] of the mean of both
    jaccard_interval: Floats  # [L, 2]


@dataclass(frozen=True)
class Features:
    """The features that are tested, a column each; a row is the same feature in every column of this module."""

    layer: Ints  # [N]
    feature_id: Ints  # [N]
    listed: Ints  # [N] solutions (of 2 Q) in whose list it is
    density: Floats  # [N] listed / 2 Q: a lower bound where lists are cut
    dense: Bools  # [N] density > 0.1


@dataclass(frozen=True)
class Firing:
    """The sign test (exact McNemar) on discordant pairs, over one set of pairs; of a goal group one vote."""

    first_only: (
        Ints  # [N] b: pairs in which only the first side fires; goal groups with more of these than of the other
    )
    second_only: Ints  # [N] c: pairs in which only the second side fires
    effect: Floats  # [N] log-odds log((b + 1/2) / (c + 1/2)); positive: fires for the first side; NaN of none
    z: Floats  # [N] (b - c) / sqrt(b + c)
    p: Floats  # [N] exact, two-sided; NaN where not tested
    q: Floats  # [N] Benjamini-Hochberg over every feature of all layers with a p

    @property
    def pairs(self) -> Ints:
        """Discordant pairs, b + c."""
        return self.first_only + self.second_only


@dataclass(frozen=True)
class Magnitude:
    """Wilcoxon's signed-rank test on the pairs in which both sides fire, over one set of pairs; of a goal group their
    mean difference."""

    known: Ints  # [N] pairs in which both sides fire, so that both activations are known
    pairs: Ints  # [N] those that differ, which are what is ranked
    mean_difference: Floats  # [N] of activation, first - second, over `known`
    effect: Floats  # [N] d_z: mean difference / its standard deviation (ddof 1), over `known`
    z: Floats  # [N] sum of signed ranks / sqrt(sum of squared ranks)
    p: Floats  # [N] normal approximation, two-sided; NaN where not tested
    q: Floats  # [N] Benjamini-Hochberg over every feature of all layers with a p


@dataclass(frozen=True)
class SetTest:
    """One test of the right solution against all wrong ones of its question, over one set of questions; of a goal group
    the first that tells."""

    questions: Ints  # [N] those that tell
    effect: Floats  # [N] firing: log-odds by Mantel and Haenszel; strength: d_z of right - mean of the wrong ones
    z: Floats  # [N]
    p: Floats  # [N] two-sided; NaN where not tested
    q: Floats  # [N] Benjamini-Hochberg over every feature of all layers with a p


T = TypeVar("T", Firing, Magnitude, SetTest)


@dataclass(frozen=True)
class Tested(Generic[T]):
    """One test in one contrast: over all pairs, and selected on one half of the questions, confirmed on the other."""

    everything: T
    """Over all pairs."""
    discovery: T
    validation: T
    """p and q only where `selected`, and q over those; so that nothing is picked here."""
    selected: Bools  # [N] discovery q <= level
    confirmed: Bools  # [N] selected, validation q <= level, and the sign of discovery
    family_wise_z: float
    """|z| above which a feature is significant at `level` over everything tested; NaN where nothing is."""

    @property
    def selectable(self) -> Bools:
        """[N] Tested on the discovery half."""
        return ~np.isnan(self.discovery.p)

    @property
    def confirmable(self) -> Bools:
        """[N] Selected, and tested on the validation half."""
        return ~np.isnan(self.validation.p)


@dataclass(frozen=True)
class ByLayer:
    """One test in one contrast, layer by layer."""

    tested: Ints  # [L] features tested over all pairs
    significant: Ints  # [L] of these, q <= level over all pairs
    selectable: Ints  # [L] tested on the discovery half
    selected: Ints  # [L] of these, on the discovery half
    confirmable: Ints  # [L] of the selected, tested on the validation half
    confirmed: Ints  # [L] of these, on the validation half
    largest_effect: Floats  # [L] of the significant features the effect that is largest by amount, signed; NaN of none
    largest_z: Floats  # [L] largest |z| of those tested; to be read against `family_wise_z`; NaN of none


@dataclass(frozen=True)
class Contrast:
    """Every number of one contrast. A difference is first - second everywhere."""

    name: str
    """`right vs wrong` (by label) or `chosen vs rejected` (by the model's log-likelihood; a tie goes to sol1)."""
    first: str
    second: str
    first_fires: Ints  # [N] pairs in which the first side fires above the pair's limit
    second_fires: Ints  # [N]
    firing: Tested[Firing]
    magnitude: Tested[Magnitude]
    firing_by_layer: ByLayer
    magnitude_by_layer: ByLayer
    held_out: HeldOut
    strata: tuple[Stratum, ...]


@dataclass(frozen=True)
class AgainstMean:
    """The right solution against the mean of all wrong ones: a contrast by itself, with features of its own.

    `N` is of its features here: those that fire in enough questions.
    """

    features: Features
    right_fires: Floats  # [N] share of the questions whose right solution it fires for, above the question's limit
    wrong_fires: Floats  # [N] of a question the share of its wrong solutions that it fires for; the mean over questions
    firing: Tested[SetTest]
    strength: Tested[SetTest]
    firing_by_layer: ByLayer
    strength_by_layer: ByLayer
    held_out: HeldOut


@dataclass(frozen=True)
class LengthBin:
    """Accuracy among questions of about the same difference in length."""

    low: int
    """Smallest difference in the bin: tokens of the positive solution less tokens of the negative one."""
    high: int
    """Largest."""
    accuracy: Proportion


@dataclass(frozen=True)
class Analysis:
    """Everything."""

    options: Options
    header: Header
    questions: Questions
    layers: Layers
    features: Features
    right_wrong: Contrast
    chosen_rejected: Contrast
    length_bins: tuple[LengthBin, ...]
    comparison: Comparison
    method: tuple[str, ...]
    """Method and limits, a point a line, to be printed with any figure from here."""
    causes: Causes | None = None
    """None where the run has no attributions."""
    against_mean: AgainstMean | None = None
    """None where no question has more than two solutions, or the run has not the features of all."""
