"""The settings of `layerscope ablate`; all that decides how the model computes comes from the run's own manifest."""

from dataclasses import dataclass
from typing import Literal

from layerscope.config.options import Common, OfPlaces, OfWork
from layerscope.config.settings import AutoCount
from layerscope.config.values import parse_layers
from layerscope.errors import UsageError

_MOST = 1e6  # of --steer


@dataclass(frozen=True)
class AblationOptions:
    """What is ablated, and where the lines go."""

    output_file: Common[str]
    """Where the lines go: one a question, feature and control."""
    features: Common[str] = ""
    """The features: a CSV file or JSON lines, with the columns layer and feature_id."""
    top: Common[int] = 0
    """So many features instead, over all layers: the first by --by, on the half of the questions that discovers."""
    by: Common[Literal["auto", "attribution", "contrast"]] = "auto"
    """By what --top takes them: attribution is the mean size over the solutions' tokens, contrast how surely right
    solutions and wrong ones differ. auto is attribution, where the run has any."""
    check: Common[int] = 0
    """So many of every layer's features with an attribution instead, drawn at random and without controls: says how far
    attributions agree with exact ablation."""
    layers: Common[str] = "all"
    """Of these layers alone: all, or numbers and ranges such as 0-25 or 8,20."""
    steer: Common[float] = 0.0
    """Add so many times what an ablation takes out, in its place; 0 for the ablation."""
    plan: Common[bool] = False
    """Only say which features, and how much work they are."""
    overwrite: Common[bool] = False
    """Start anew where the output file holds ablations already."""
    model: OfPlaces[str] = ""
    """Where the model is now, if it is no longer where the run had it; and so on. The files must be the same."""
    sae_repo: OfPlaces[str] = ""
    """The same of the SAEs."""
    dataset: OfPlaces[str] = ""
    """The same of the questions."""
    device: OfWork[Literal["auto", "cuda", "cpu"]] = "auto"
    """What the actors compute on. auto is cuda where a node has a GPU."""
    gemma_actors: OfWork[AutoCount] = "auto"
    """How many copies of the model work side by side, at most. auto is one per GPU, or one per node without GPUs."""
    address: Common[str] = "auto"
    """Ray cluster: local starts one on this machine, auto joins a running one if there is one, or its address."""
    patience: OfWork[int] = 120
    """Seconds to go on without a single actor ready or starting, where the cluster adds no nodes by itself."""

    def __post_init__(self) -> None:
        asked = [name for name in ("features", "top", "check") if getattr(self, name)]
        if len(asked) != 1 or min(self.top, self.check) < 0:
            raise UsageError(
                "Say which features: --features FILE, --top N or --check N, one of them.\n"
                "FILE is a CSV file or JSON lines with the columns layer and feature_id."
            )
        if self.by != "auto" and not self.top:
            raise UsageError("--by says how --top takes features. Give --top N with it, or leave it out.")
        if (self.steer and self.check) or not abs(self.steer) <= _MOST:
            raise UsageError(
                f"--steer is {self.steer}: how many times what is taken out is added instead, {_MOST:g} at most.\n"
                "--check is of ablations alone."
            )
        parse_layers(self.layers)
