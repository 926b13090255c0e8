"""What an analysis says before any feature: what was run, how far it is, how often the model is right."""

from dataclasses import dataclass
from datetime import datetime

from layerscope.analysis.testing.proportion import ManySolutions, Proportion


@dataclass(frozen=True)
class Sae:
    """The SAE of one layer, as the manifest names it."""

    layer: int
    path: str
    average_l0: int | None
    neuronpedia_id: str | None
    """Such as `gemma-2-2b/20-gemmascope-res-16k`; features are linked only where there is one."""
    canonical: bool
    """Not known to be another than the one whose average L0 is nearest 100; features of another have other numbers."""


@dataclass(frozen=True)
class Header:
    """What was run, and how far it is."""

    file: str
    written: datetime
    """When the file was last written to, UTC."""
    command: str
    model: str
    model_commit: str | None
    """None for a folder."""
    sae_repository: str
    sae_commit: str | None
    site: str
    """Where the SAEs read: `resid_post` and so on."""
    saes: tuple[Sae, ...]  # L
    d_sae: int
    top_k: int | None
    """Features listed per layer and solution at most; None is all of them."""
    readings: tuple[str, ...]
    """Those that the file has."""
    unnoted: str
    """What is not known because there are the records alone; empty where a manifest says what was run."""
    standin: bool
    """Weights of the stand-in: nothing here says anything about Gemma."""
    planned: int
    """Questions of the whole run."""
    empty: str
    """Why none is planned, where none is."""
    questions: int
    """Questions scored so far: Q."""
    errors: int
    """Error lines so far."""
    accuracy: Proportion
    """Share of questions whose right solution has the higher log-likelihood."""
    accuracy_per_character: Proportion
    """The same by log-likelihood per character."""
    median_margin: float
    """Of log-likelihood(positive) - log-likelihood(negative), nats."""
    cut_share: float
    """Share of solution x layer cells with more active features than are listed."""
    many: ManySolutions | None = None
    """None where every question has two solutions."""

    @property
    def chance(self) -> float:
        """Accuracy of whoever guesses."""
        return self.many.chance if self.many else 0.5

    @property
    def finished(self) -> bool:
        return self.questions + self.errors >= self.planned

    @property
    def not_canonical(self) -> tuple[int, ...]:
        """The layers whose SAE is not the canonical one."""
        return tuple(sae.layer for sae in self.saes if not sae.canonical)
