"""What a Gemma Scope 2 repository holds (Gemma 3): names alone, which are canonical, and their ids on Neuronpedia.

`SITE/` has four layers at many widths, `SITE_all/` every layer at two. Cross-layer transcoders and crosscoders, which
read several layers at once, are passed over.
"""

import json
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import cast, get_args

from layerscope.config import Site, parse_layers
from layerscope.errors import UsageError
from layerscope.hub.repository import Repository
from layerscope.saes.choice import Recipe, SaeChoice, Shelf, read_config

LAYOUT = "SITE[_all]/layer_N_width_W_l0_{small,medium,big}/params.safetensors"
NAME = re.compile(r"google/gemma-scope-2-(?P<size>270m|1b|4b|12b|27b)-(?P<tuning>pt|it)")
_PATH = re.compile(
    rf"(?P<folder>(?P<site>{'|'.join(get_args(Site))})(?P<all>_all)?)/layer_(?P<layer>\d+)_width_(?P<width>[0-9]+[km]?)"
    r"_l0_(?P<l0>(?P<size>small|medium|big)(_affine)?(_seed_\d+)?)/params\.safetensors"
)
_CANONICAL = "medium"
_EXPECTED_L0 = {"small": 20, "medium": 60, "big": 150}
_HOOKS: dict[Site, str] = {
    "resid_post": "layers.{}.output",
    "attn_out": "layers.{}.self_attn.o_proj.input",
    "mlp_out": "layers.{}.post_feedforward_layernorm.output",
    "transcoder": "layers.{}.pre_feedforward_layernorm.output",
}
"""How configurations call the sites."""
_ON_NEURONPEDIA = {"resid_post": "res", "attn_out": "att", "mlp_out": "mlp", "transcoder": "transcoder"}


def shelf(repository: Repository, original: str) -> Shelf | None:
    """The SAEs of a repository in Gemma Scope 2's layout; None where it has none.

    Where `SITE` and `SITE_all` both hold a layer's width and L0, the one with pages counts, or that of `SITE` where
    neither has any.

    Args:
        original: the repository on the hub that this one is, or is a copy of.
    """
    found, canonical = dict[tuple[int, Site, str, str], SaeChoice](), dict[tuple[Site, int, str], str]()
    matches = [match for path in repository.files if (match := _PATH.fullmatch(path))]
    for match in sorted(matches, key=lambda match: (match["all"] is not None, match[0])):
        site, layer, width, l0 = cast(Site, match["site"]), int(match["layer"]), match["width"], match["l0"]
        sae, before = _choice(repository, original, match), found.get((layer, site, width, l0))
        if before is None or (sae.neuronpedia_id and not before.neuronpedia_id):
            found[layer, site, width, l0] = sae
        if not match["all"] and l0 == _CANONICAL:
            canonical[site, layer, width] = l0
    if not found:
        return None
    told = f"{_CANONICAL} of the layers that have it, which are those with pages"
    ordered = tuple(found[key] for key in sorted(found, key=lambda key: (key[0], key[1], key[2], key[3])))
    return Shelf(repository, "Gemma Scope 2", ordered, canonical, told)


def model_of(original: str) -> str:
    """The model on the hub that a release was trained on; empty for what is none."""
    match = NAME.fullmatch(original)
    if match is None:
        return ""
    pretrained = "" if match["size"] == "270m" else "-pt"
    return f"google/gemma-3-{match['size']}{pretrained if match['tuning'] == 'pt' else '-it'}"


def check_configs(repository: Repository, saes: Sequence[SaeChoice]) -> None:
    """Refuses SAEs whose `config.json` says that they are not what their folder's name says.

    Raises:
        UsageError: which, and what it says.
    """
    for sae in saes:
        if sae.config is None or not sae.config.endswith("config.json"):
            continue
        said = read_config(repository, sae.config)
        for key, expected in (("architecture", "jump_relu"), ("hf_hook_point_in", _HOOKS[sae.site].format(sae.layer))):
            found = str(said.get(key, expected))
            if not found.endswith(expected):
                raise UsageError(
                    f"{sae.config} of {repository.name} has {key} {found[:100]!r}, where {expected} is expected.\n"
                    "layerscope reads Gemma Scope 2's JumpReLU SAEs, each at the site that its folder names."
                )


def _choice(repository: Repository, original: str, match: re.Match[str]) -> SaeChoice:
    site, layer, l0 = cast(Site, match["site"]), int(match["layer"]), match["l0"]
    config = match[0].replace("params.safetensors", "config.json")
    return SaeChoice(
        layer=layer,
        width=match["width"],
        l0=None,
        path=match[0],
        neuronpedia_id=_page(original, match["folder"], site, layer, match["width"], l0),
        site=site,
        l0_name=l0,
        recipe=Recipe(transcodes=site == "transcoder"),
        config=config if config in repository.files else None,
        expected_l0=_EXPECTED_L0[match["size"]],
        model=model_of(original),
    )


def _page(original: str, folder: str, site: Site, layer: int, width: str, l0: str) -> str | None:
    layers = _pages().get(original, {}).get(folder, {}).get(l0, {}).get(width)
    if layers is None or layer not in (parse_layers(layers) or ()):
        return None
    model = model_of(original).removeprefix("google/").removesuffix("-pt")
    return f"{model}/{layer}-gemmascope-2-{_ON_NEURONPEDIA[site]}-{width}"


@cache
def _pages() -> dict[str, dict[str, dict[str, dict[str, str]]]]:
    """Which SAEs have pages: by repository, folder, L0 and width, their layers."""
    table = resources.files("layerscope.saes") / "gemma_scope_2_pages.json"
    return cast(dict[str, dict[str, dict[str, dict[str, str]]]], json.loads(table.read_text()))
