"""What is known of an SAE before its weights are read: where it reads, which file it is, how its features are computed.

Knows no repository's layout (`gemma_scope.py`, `gemma_scope_2.py`, `saelens.py`) and no numbers (`weights.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from layerscope.config import Site
from layerscope.errors import UsageError
from layerscope.hub import repository as hub
from layerscope.hub.repository import Repository
from layerscope.strict_json import parse_object

Architecture = Literal["jumprelu", "relu", "topk", "gated"]
Scaling = Literal["none", "norm", "deviation"]
"""What a row is divided by before it is encoded: nothing; its norm over √D; its standard deviation, around its mean."""
CANONICAL = "canonical"


@dataclass(frozen=True)
class Recipe:
    """How the arrays of an SAE's file become features; by default as Gemma Scope's do."""

    architecture: Architecture = "jumprelu"
    k: int = 0
    """Of `topk`: how many features may be active."""
    scaling: Scaling = "none"
    subtracts_b_dec: bool = False
    """The decoder's bias is subtracted from a row before it is encoded."""
    by_decoder_norm: bool = False
    """Of `topk`: features are compared and recorded times the norm of what they decode to."""
    transcodes: bool = False
    """It decodes to another place than it reads, so what belongs to its output may have another width."""

    @property
    def folding(self) -> str:
        """What is made of the file's arrays; empty where the encoder is what the file holds."""
        parts = {
            self.architecture: self.architecture != "jumprelu",
            "b_dec": self.subtracts_b_dec,
            "centred": self.scaling == "deviation",
            "decoder norm": self.by_decoder_norm,
        }
        return ", ".join(part for part, is_so in parts.items() if is_so)


GEMMA_SCOPE = Recipe()


@dataclass(frozen=True)
class SaeChoice:
    """The SAE of one layer."""

    layer: int
    width: str
    """As people call it: 16k, 65k, 1m."""
    l0: int | None
    """Average number of active features, as the folder's name says; None where it says no number."""
    path: str
    """Of its weights in the repository."""
    neuronpedia_id: str | None
    """Such as `gemma-2-2b/20-gemmascope-res-16k`; None for an SAE whose features have no page there."""
    site: Site = "resid_post"
    l0_name: str = ""
    """What tells it from others of its layer and width, as --sae-l0 takes it: 71, medium, medium_affine."""
    recipe: Recipe = GEMMA_SCOPE
    config: str | None = None
    """Path of the file that says the recipe, where one does."""
    expected_l0: int = 100
    """About how many features will be active; for sizes alone."""
    model: str = ""
    """The model that it was trained on, as its repository calls it; empty where it does not say."""
    site_said: bool = True
    """Whether anything says which site it reads; if not, it is taken to be the one that most do."""

    @property
    def files(self) -> tuple[str, ...]:
        """Whatever decides its features."""
        return (self.path, self.config) if self.config else (self.path,)


@dataclass(frozen=True)
class Shelf:
    """The SAEs that a repository holds."""

    repository: Repository
    suite: str
    """Of what kind they are, for people."""
    saes: tuple[SaeChoice, ...]
    """Each site, layer, width and L0 once."""
    canonical: Mapping[tuple[Site, int, str], str] = field(default_factory=dict)
    """By site, layer and width, the L0's name of the one to take; perhaps of one that the repository lost."""
    rule: str = ""
    """How the canonical one is chosen, for people."""
    passed_over: tuple[str, ...] = ()
    """What else the repository holds and why it cannot be read, a line each."""
    site_said: bool = True
    """Whether anything says at which site they read; if not, `--site` does, and all are of one."""

    def read_at(self, site: Site) -> "Shelf":
        """The same, read at a site, where nothing but whoever asks says which that is."""
        if self.site_said:
            return self
        transcodes = site == "transcoder"
        recipes = (replace(sae.recipe, transcodes=transcodes) for sae in self.saes)
        saes = (
            replace(sae, site=site, site_said=True, recipe=recipe)
            for sae, recipe in zip(self.saes, recipes, strict=True)
        )
        canonical = {(site, layer, width): name for (_, layer, width), name in self.canonical.items()}
        return replace(self, saes=tuple(saes), canonical=canonical)


def read_config(repository: Repository, path: str) -> Mapping[str, Any]:
    """What the configuration beside an SAE's weights says; nothing where it is no JSON object.

    Raises:
        UsageError: it is not JSON.
    """
    try:
        told = parse_object(hub.fetch(repository, path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} of {repository.name} is not JSON: {str(error)[:200]}.\nGet the file again."
        ) from error
    return told if isinstance(told, dict) else {}
