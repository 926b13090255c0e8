"""What a Gemma actor needs to know to ablate: no torch, and nothing of where it comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from layerscope.config import Site
from layerscope.hub.repository import Repository
from layerscope.records.manifest.identity import ChosenFeature, Control
from layerscope.saes.choice import SaeChoice


@dataclass(frozen=True)
class ToAblate:
    """Which features, and what beside each."""

    repository: Repository
    """Of the SAEs."""
    saes: tuple[SaeChoice, ...]
    """Of the layers that have any of the features."""
    sae_dtype: str
    portions: Sequence[Sequence[ChosenFeature]]
    """Of the features; the calls of a batch of questions are for one after the other."""
    kinds: tuple[Control | None, ...]
    """Of the lines of a question and feature; None is the feature itself."""
    factor: float
    """How often a feature's part is added: -1 takes it out."""
    differences: Mapping[int, Mapping[int, float]]
    """By layer and feature, how much more active it is on average at right solutions than at wrong ones."""
    batch_tokens: int
    """Of a batch that is run again, as of one that is run."""
    site: Site = "resid_post"
    """That the SAEs read."""
    writes: Site = "resid_post"
    """That loses what is taken out: the same, but of transcoders."""

    @property
    def layers(self) -> list[int]:
        return [sae.layer for sae in self.saes]

    @property
    def lines_of_question(self) -> int:
        """Of all features and kinds."""
        return sum(map(len, self.portions)) * len(self.kinds)

    def feature_ids(self, layer: int) -> list[int]:
        """Those of a layer that fire or are compared with, ascending."""
        chosen = [feature for portion in self.portions for feature in portion if feature.layer == layer]
        matched = {feature.matched for feature in chosen if feature.matched is not None}
        return sorted({feature.feature_id for feature in chosen} | matched)
