"""What a Gemma Scope repository holds (Gemma 2): names alone, which are canonical, and their ids on Neuronpedia."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any, cast

from layerscope.config import Site
from layerscope.hub.repository import Repository
from layerscope.saes.choice import Recipe, SaeChoice, Shelf

LAYOUT = "layer_N/width_W/average_l0_Y/params.npz"
_PATH = re.compile(r"layer_(\d+)/width_([0-9]+[km]?)/average_l0_(\d+)/params\.npz")
_NAME = re.compile(r"google/gemma-scope-(?P<model>.+)-(?P<ending>res|att|mlp|transcoders)")
_SITE_IN_NAME = re.compile(r"gemma-scope-.*-(res|att|mlp|transcoders)$")
ENDINGS: dict[Site, str] = {"resid_post": "res", "attn_out": "att", "mlp_out": "mlp", "transcoder": "transcoders"}
"""How the name of a release ends, by the site that it was trained at."""

Catalogue = Mapping[int, Mapping[str, Mapping[int, str]]]  # layer -> width -> average L0 -> path in the repository


def catalogue(files: Iterable[str]) -> Catalogue:
    """What a repository holds, from the paths of its files; anything outside Gemma Scope's layout is passed over."""
    found: dict[int, dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for path in files:
        if match := _PATH.fullmatch(path):
            found[int(match[1])][match[2]][int(match[3])] = path
    return found


def shelf(repository: Repository, original: str) -> Shelf | None:
    """The SAEs of a repository in Gemma Scope's layout; None where it has none.

    Args:
        original: the repository on the hub that this one is, or is a copy of.
    """
    held = catalogue(repository.files)
    if not held:
        return None
    site, release = _site(original), releases().get(original, {})
    said = _SITE_IN_NAME.search(original) is not None
    recipe = Recipe(transcodes=site == "transcoder")
    saes, canonical = list[SaeChoice](), dict[tuple[Site, int, str], str]()
    for layer, widths in sorted(held.items()):
        for width, by_l0 in widths.items():
            known = release.get("canonical_l0", {}).get(width, {}).get(str(layer))
            if known is not None:
                canonical[site, layer, width] = str(known)
            elif not repository.partial:
                canonical[site, layer, width] = str(canonical_l0(by_l0))
            for l0, path in sorted(by_l0.items()):
                page = _page(release, layer, width, l0)
                model = release.get("model", "")
                saes.append(SaeChoice(layer, width, l0, path, page, site, str(l0), recipe, None, l0, model, said))
    return Shelf(repository, "Gemma Scope", tuple(saes), canonical, "the average L0 nearest to 100", site_said=said)


def canonical_l0(l0s: Iterable[int]) -> int:
    """The average L0 nearest to 100, the smaller of two as near (Gemma Scope's convention, as SAELens tables it)."""
    return min(sorted(l0s), key=lambda l0: abs(l0 - 100))


def _site(original: str) -> Site:
    """Where the SAEs of a repository read, by its name; in the residual stream, where that says nothing."""
    match = _SITE_IN_NAME.search(original)
    return next(site for site, ending in ENDINGS.items() if ending == (match[1] if match else "res"))


def _page(release: Mapping[str, Any], layer: int, width: str, l0: int) -> str | None:
    """The id on Neuronpedia: another L0's features are other features under the same numbers."""
    if not release:
        return None
    page: str = release["neuronpedia"].format(layer=layer, width=width)
    if release["canonical_l0"].get(width, {}).get(str(layer)) == l0:
        return page
    has_page = l0 in release["other_l0s_with_pages"].get(width, {}).get(str(layer), ())
    return f"{page}__l0-{l0}" if has_page else None


@cache
def releases() -> dict[str, dict[str, Any]]:
    """By repository: the model, the site, the canonical L0s and the template of the ids."""
    table = resources.files("layerscope.saes") / "gemma_scope_canonical.json"
    return cast(dict[str, dict[str, Any]], json.loads(table.read_text()))
