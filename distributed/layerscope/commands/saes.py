"""What SAEs there are for a model, in a repository or in a folder; names and sizes alone, no weights."""

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import orjson
from huggingface_hub import constants

from layerscope.config import Site
from layerscope.errors import LayerscopeError, UsageError
from layerscope.formatting import count_of, ranges, size_text
from layerscope.hub import repository as hub
from layerscope.hub.repository import Repository, open_repository
from layerscope.models.spec import read_spec
from layerscope.saes.choice import SaeChoice, Shelf
from layerscope.saes.choosing import width_size
from layerscope.saes.suites import is_known_model, open_shelf, suite_of

_CONFIG = "config.json"


class Held(NamedTuple):
    """An SAE of a shelf."""

    shelf: Shelf
    sae: SaeChoice

    @property
    def is_canonical(self) -> bool:
        sae = self.sae
        return self.shelf.canonical.get((sae.site, sae.layer, sae.width)) == sae.l0_name

    @property
    def size(self) -> int:
        return self.shelf.repository.files[self.sae.path].size


def shelves(where: str) -> list[Shelf]:
    """The SAEs of a repository or a folder, or those that belong to a model.

    Raises:
        LayerscopeError: none is known, or the hub cannot be reached.
    """
    if is_known_model(where):
        return _of_model(Repository(where, "", {}), 0, 0)
    repository = open_repository(where)
    if _CONFIG in repository.files:
        spec = read_spec(repository)
        return _of_model(repository, spec.d_model, spec.n_layers)
    return [open_shelf(repository)]


def _of_model(model: Repository, d_model: int, n_layers: int) -> list[Shelf]:
    names: list[str] = []
    for site in get_args(Site):
        try:
            names.append(suite_of(model, d_model, n_layers, site))
        except UsageError:  # of this site there are none
            if site == "resid_post":
                raise
    found = [_known_here(name) for name in dict.fromkeys(names)]
    if not any(shelf.saes for shelf in found):
        open_repository(names[0])  # which says that none is
    return found


def _known_here(name: str) -> Shelf:
    """Its SAEs; offline those that this machine knows of, which may be none."""
    try:
        repository = open_repository(name)
    except LayerscopeError:
        if not constants.HF_HUB_OFFLINE:
            raise
        return Shelf(Repository(name, "", {}, partial=True), "", ())
    return open_shelf(repository)


def as_text(found: Sequence[Shelf]) -> str:
    """For people."""
    lines = []
    for shelf in found:
        if not shelf.saes:
            lines.append(f"{shelf.repository.name}: not in the cache here (HF_HUB_OFFLINE is set)")
            continue
        held = [Held(shelf, sae) for sae in shelf.saes]
        here = sum(hub.is_cached(shelf.repository, each.sae.path) for each in held)
        known = "in the cache here (HF_HUB_OFFLINE is set)" if shelf.repository.partial else "held"
        lines += [
            f"{shelf.repository.name} {shelf.repository.commit or '(folder)'}: {shelf.suite}, "
            f"{count_of(len(held), 'SAE')} {known}, {here} of them on this machine",
            f"  canonical takes {shelf.rule}",
            *(
                []
                if shelf.site_said
                else ["  where they read no name says: --site does, and without it resid_post is meant"]
            ),
            *(line for key in _keys(held) for line in _lines(*key, held)),
            *(f"  passed over: {told}" for told in shelf.passed_over),
        ]
    return "\n".join(lines)


def _keys(held: Sequence[Held]) -> list[tuple[Site, str]]:
    return sorted({(each.sae.site, each.sae.width) for each in held}, key=lambda key: (key[0], width_size(key[1])))


def _lines(site: Site, width: str, held: Sequence[Held]) -> list[str]:
    """What there is of a site and width: layers, L0s by name, the canonical ones and those with pages."""
    of_width = [each for each in held if (each.sae.site, each.sae.width) == (site, width)]
    by_name: dict[str, list[int]] = {}
    for each in of_width:
        by_name.setdefault("number" if each.sae.l0_name.isdigit() else each.sae.l0_name, []).append(each.sae.layer)
    if set(by_name) == {"number"}:
        numbers = sorted(each.sae.l0 or 0 for each in of_width)
        told = f"{numbers[0]} to {numbers[-1]}"
    else:
        named = sorted(by_name.items(), key=lambda item: (min(item[1]), item[0]))
        told = ", ".join(f"{name} ({_layers(set(layers))})" for name, layers in named)
    lines = [f"  {site}, width {width}: {_layers({each.sae.layer for each in of_width})}, L0 {told}"]
    taken = sorted((each for each in of_width if each.is_canonical), key=lambda each: each.sae.layer)
    pages = [each for each in of_width if each.sae.neuronpedia_id]
    if taken:
        every = len(taken) == len(of_width) and len(by_name) > 1  # whose names stand above
        names = "each of them" if every else ", ".join(f"{each.sae.layer}: {each.sae.l0_name}" for each in taken)
        lines.append(f"    canonical {names} ({size_text(sum(each.size for each in taken))})")
    else:
        lines.append("    canonical: none; name one with --sae-l0")
    if pages:
        lines.append(f"    Neuronpedia has pages for {len(pages)}, such as {pages[0].sae.neuronpedia_id}")
    return lines


def _layers(layers: set[int]) -> str:
    return f"{'layer' if len(layers) == 1 else 'layers'} {ranges(layers)}"


def as_json(found: Sequence[Shelf]) -> str:
    """For programs."""
    return orjson.dumps([_shelf(shelf) for shelf in found], option=orjson.OPT_INDENT_2).decode()


def _shelf(shelf: Shelf) -> dict[str, Any]:
    repository = shelf.repository
    return {
        "repository": repository.name,
        "commit": repository.commit,
        "suite": shelf.suite,
        "canonical_is": shelf.rule,
        "only_the_cache_is_known": repository.partial,
        "passed_over": shelf.passed_over,
        "saes": [
            {
                "site": sae.site,
                "layer": sae.layer,
                "width": sae.width,
                "l0": sae.l0,
                "l0_name": sae.l0_name,
                "canonical": held.is_canonical,
                "architecture": sae.recipe.architecture,
                "neuronpedia": sae.neuronpedia_id,
                "path": sae.path,
                "bytes": held.size,
                "on_this_machine": hub.is_cached(repository, sae.path),
                "model": sae.model or None,
            }
            for sae in shelf.saes
            for held in [Held(shelf, sae)]
        ],
    }
