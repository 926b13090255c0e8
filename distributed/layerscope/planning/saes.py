"""The SAEs of a run: where they lie, which are taken, and whether they were trained on its model."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from layerscope.config import Config, parse_layers
from layerscope.formatting import ranges
from layerscope.hub.repository import Repository, open_repository
from layerscope.models.spec import ModelSpec
from layerscope.saes.choice import CANONICAL, SaeChoice
from layerscope.saes.choosing import choose_saes
from layerscope.saes.suites import original_name, suite_of
from layerscope.saes.weights import read_d_sae
from layerscope.standin import standin_folder


class Taken(NamedTuple):
    """The SAEs that a run takes."""

    repository: Repository
    saes: tuple[SaeChoice, ...]
    d_sae: int
    missing: list[int]
    """Layers of the model that have none such, where all were asked for."""
    of_another_model: tuple[str, ...]
    """What says that they were trained on another model."""
    l0: str
    """As it was asked for."""

    @property
    def warnings(self) -> list[str]:
        told = list(self.of_another_model)
        if self.missing:
            what = f"width {self.saes[0].width}" + (f", L0 {self.l0}" if self.l0 != CANONICAL else "")
            told.append(f"{self.repository.name} has no SAE of {what} for the layers {ranges(self.missing)}: left out.")
        return told


def take_saes(config: Config, model: Repository, spec: ModelSpec) -> Taken:
    """
    Raises:
        LayerscopeError: what is asked for is not there, cannot be read, or does not fit the model.
    """
    repository = _repository(config, model, spec)
    saes, missing = choose_saes(
        repository,
        spec.n_layers,
        parse_layers(config.layers),
        config.sae_width,
        config.sae_l0,
        config.sae_repo_id,
        config.site,
    )
    d_sae = read_d_sae(repository, saes[0], spec.width(saes[0].site))
    return Taken(repository, tuple(saes), d_sae, missing, tuple(_of_another_model(model, saes)), config.sae_l0)


def _repository(config: Config, model: Repository, spec: ModelSpec) -> Repository:
    """Where the SAEs lie; by default those that belong to the model."""
    if config.standin:
        return open_repository(str(standin_folder() / "saes"))
    name = config.sae_repo
    if name == "auto":
        name = suite_of(model, spec.d_model, spec.n_layers, "resid_post" if config.site == "auto" else config.site)
    return open_repository(name, config.sae_revision)


def _of_another_model(model: Repository, saes: Sequence[SaeChoice]) -> Iterator[str]:
    """What says that the SAEs were trained on another model; one in a folder has any name."""
    own = original_name(model)
    if model.commit is None and own == model.name:
        return
    for trained_on in sorted({sae.model for sae in saes if sae.model}):
        if trained_on.split("/")[-1].lower() != own.split("/")[-1].lower():
            yield f"The SAEs were trained on {trained_on}, and the model is {own}: features may mean something else."
