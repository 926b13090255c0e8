"""The SAEs of a run: where they lie, which are taken, and whether they were trained on its model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from layerscope.config import FIRST, Config, DictionaryAsked, Site, parse_dictionaries, parse_layers
from layerscope.errors import LayerscopeError, UsageError
from layerscope.formatting import ranges
from layerscope.hub.repository import Repository, open_repository
from layerscope.models.spec import ModelSpec
from layerscope.records.line.dictionaries import RANDOM
from layerscope.saes.choice import CANONICAL, SaeChoice
from layerscope.saes.choosing import choose_saes
from layerscope.saes.suites import original_name, suite_of
from layerscope.saes.weights import read_d_sae
from layerscope.saes.writing import written_site
from layerscope.standin import standin_folder


@dataclass(frozen=True)
class Dictionary:
    """An SAE for every layer of a run, all of one site and width."""

    name: str
    repository: Repository
    saes: tuple[SaeChoice, ...]
    d_sae: int
    l0: str = CANONICAL
    """As it was asked for."""
    missing: tuple[int, ...] = ()
    """Layers of the model that have none such, where all were asked for."""
    of_another_model: tuple[str, ...] = ()
    """What says that they were trained on another model."""
    to_make: bool = False
    """They are yet to be made, as large as those that stand here."""

    @property
    def site(self) -> Site:
        return self.saes[0].site

    @property
    def writes(self) -> Site:
        """The site to which the features of each add up; reads configurations.

        Raises:
            UsageError: one's says another place than is known, or they write at several.
        """
        first, *others = (written_site(self.repository, sae) for sae in self.saes)
        if another := next((site for site in others if site != first), None):
            raise UsageError(
                f"The SAEs of {self.repository.name} write at {first} of some layers and at {another} of others.\n"
                "A margin cannot be attributed to them, nor can they be ablated: take --layers that are alike."
            )
        return first

    @property
    def layers(self) -> list[int]:
        return [sae.layer for sae in self.saes]

    @property
    def warnings(self) -> list[str]:
        told = list(self.of_another_model)
        if not self.saes[0].site_said and self.repository.name != str(standin_folder() / "saes"):
            told.append(
                f"Nothing says where in a layer the SAEs of {self.repository.name} read; {self.site} is assumed. "
                "If they are of attention, of an MLP or transcoders, all features come out wrong: say so with --site."
            )
        if self.missing:
            what = f"width {self.saes[0].width}" + (f", L0 {self.l0}" if self.l0 != CANONICAL else "")
            told.append(f"{self.repository.name} has no SAE of {what} for the layers {ranges(self.missing)}: left out.")
        return told


def take_dictionaries(config: Config, model: Repository, spec: ModelSpec) -> tuple[Dictionary, ...]:
    """The SAEs of `--sae-repo`, then those of every `--dictionary`, for the same layers.

    Raises:
        LayerscopeError: what is asked for is not there, cannot be read, does not fit the model, or is taken twice.
    """
    asked = DictionaryAsked(
        FIRST,
        config.sae_repo,
        config.site,
        config.sae_width,
        config.sae_l0,
        config.sae_revision,
        config.sae_repo_id,
    )
    first = _take(asked, _repository(config, asked, model, spec), model, spec, parse_layers(config.layers))
    taken = [first]
    for asked in parse_dictionaries(config.dictionary):
        try:
            repository = _repository(config, asked, model, spec, first)
            other = _take(asked, repository, model, spec, frozenset(first.layers))
            _check_new(other, taken)
        except LayerscopeError as error:
            advice = (
                "" if "\n" in str(error) else "\nAll dictionaries of a run have its --layers: name those, or others."
            )
            raise type(error)(f"--dictionary {asked.name}: {error}{advice}") from error
        taken.append(other)
    if config.baseline_dictionary:
        taken.append(_random_like(first, [each.name for each in taken]))
    return tuple(taken)


def acts_at(dictionary: Dictionary, spec: ModelSpec) -> Site:
    """The site at which a dictionary's features act on what a model does: that to which they add up.

    Raises:
        UsageError: it is none at which this can be told.
    """
    site, family = dictionary.writes, spec.family
    takes = family.site(site).takes
    if takes is None or (takes != "output" and site != dictionary.site):
        raise UsageError(
            f"The SAEs of {dictionary.repository.name} write at {site}, where a feature's part of what {family.name} "
            "computes cannot be told.\n"
            "A margin cannot be attributed to them, nor can they be ablated: run without --attribution, or take others."
        )
    return site


def _random_like(first: Dictionary, names: Sequence[str]) -> Dictionary:
    """What stands for random SAEs that are yet to be made.

    Raises:
        UsageError: none can be made, or others are called so.
    """
    if first.site != "resid_post":
        raise UsageError(
            f"--baseline-dictionary is of the residual stream after a layer, and these SAEs read {first.site}.\n"
            "Leave it out, or take SAEs of --site resid_post."
        )
    if RANDOM in names:
        raise UsageError(f"--baseline-dictionary makes SAEs called {RANDOM}, as --dictionary does.\nGive one of them.")
    return Dictionary(RANDOM, first.repository, first.saes, first.d_sae, to_make=True)


def _take(
    asked: DictionaryAsked, repository: Repository, model: Repository, spec: ModelSpec, layers: frozenset[int] | None
) -> Dictionary:
    saes, missing = choose_saes(repository, spec.n_layers, layers, asked.width, asked.l0, asked.id, asked.site)
    d_sae = read_d_sae(repository, saes[0], spec.width(saes[0].site))
    another = tuple(_of_another_model(model, saes))
    return Dictionary(asked.name, repository, tuple(saes), d_sae, asked.l0, tuple(missing), another)


def _check_new(other: Dictionary, taken: Sequence[Dictionary]) -> None:
    """
    Raises:
        UsageError: these very SAEs are taken already.
    """
    for each in taken:
        same = (other.repository.name, other.repository.commit) == (each.repository.name, each.repository.commit)
        if same and [sae.path for sae in other.saes] == [sae.path for sae in each.saes]:
            whose = "those of --sae-repo" if each.name == FIRST else f"those of --dictionary {each.name}"
            raise UsageError(
                f"its SAEs are {whose}: {each.saes[0].path} and so on, of {each.repository.name}.\n"
                "They would be recorded twice: name other ones, by site=, width= or l0=, or leave it out."
            )


def _repository(
    config: Config, asked: DictionaryAsked, model: Repository, spec: ModelSpec, first: Dictionary | None = None
) -> Repository:
    """Where SAEs lie; by default where those of the site do that belong to the model."""
    if asked.repo != "auto" and not (config.standin and first is None):
        return open_repository(asked.repo, asked.revision)
    if config.standin:
        return open_repository(str(standin_folder() / "saes"))
    if first is not None and (config.sae_repo != "auto" or asked.site in ("auto", first.site)):
        return first.repository
    site = cast(Site, "resid_post" if asked.site == "auto" else asked.site)
    suite = suite_of(model, spec.d_model, spec.n_layers, site)
    try:
        return open_repository(suite, asked.revision)
    except UsageError as error:
        told, _, advice = str(error).partition("\n")
        raise UsageError(
            f"{told} It was picked as the suite of {model.name}, because --sae-repo names none.\n{advice}".rstrip()
        ) from error


def _of_another_model(model: Repository, saes: Sequence[SaeChoice]) -> Iterator[str]:
    """What says that the SAEs were trained on another model; one in a folder has any name."""
    own = original_name(model)
    if model.commit is None and own == model.name:
        return
    for trained_on in sorted({sae.model for sae in saes if sae.model}):
        if trained_on.split("/")[-1].lower() != own.split("/")[-1].lower():
            yield f"The SAEs were trained on {trained_on}, and the model is {own}: features may mean something else."
