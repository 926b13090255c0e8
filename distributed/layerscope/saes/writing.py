"""Where in a layer the features of an SAE write: where it reads, but for a transcoder's."""

from layerscope.config import Site
from layerscope.errors import UsageError
from layerscope.hub.repository import Repository
from layerscope.saes.choice import SaeChoice, read_config
from layerscope.saes.saelens import place_of_hook

_OF_TRANSCODERS: Site = "mlp_out"
"""As Gemma Scope trained them all, whose configurations need not say it."""
_KEYS = ("hf_hook_point_out", "hf_hook_name_out", "hook_name_out", "hook_point_out")


def written_site(repository: Repository, sae: SaeChoice) -> Site:
    """The site to which an SAE's features are added up.

    Raises:
        UsageError: its configuration names another place than is known, or is not JSON.
    """
    if not sae.recipe.transcodes:
        return sae.site
    if sae.config is None:
        return _OF_TRANSCODERS
    told = read_config(repository, sae.config)
    metadata = told.get("metadata")
    about = {**told, **(metadata if isinstance(metadata, dict) else {})}
    names = [name for key in _KEYS if isinstance(name := about.get(key), str)]
    if not names:
        return _OF_TRANSCODERS
    place = place_of_hook(names[0], sae.model)
    if place is not None and place[0] == sae.layer:
        return place[1]
    raise UsageError(
        f"{sae.config} of {repository.name} says that its features write at {names[0][:100]!r}, which is no site of "
        f"layer {sae.layer} that layerscope knows.\n"
        "A margin cannot be attributed to them, nor can they be ablated: run without --attribution, or take others."
    )
