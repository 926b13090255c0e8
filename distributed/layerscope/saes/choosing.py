"""Which SAE a run takes for each layer, of those that a repository holds."""

from collections.abc import Mapping, Sequence
from typing import cast

from layerscope.config import Site
from layerscope.errors import UsageError
from layerscope.hub.repository import Repository
from layerscope.saes.choice import CANONICAL, SaeChoice, Shelf
from layerscope.saes.gemma_scope_2 import check_configs
from layerscope.saes.suites import open_shelf

_USUAL_WIDTH = "16k"
_NEAREST = "nearest:"
_MOST_TOLD = 12


def choose_saes(
    repository: Repository,
    n_layers: int,
    layers: frozenset[int] | None,
    width: str,
    l0: str,
    copy_of: str = "",
    site: Site | str = "auto",
) -> tuple[list[SaeChoice], list[int]]:
    """The SAE of each layer that is asked for, and the layers (where all are) that have none such.

    Args:
        layers: None for all of the model's.
        width: as the folders name it; `auto` is 16k, or the only one.
        l0: `canonical`, `min`, `max`, `nearest:N`, a number or a name.
        copy_of: the repository on the hub that this one is a copy of, where it does not say so itself.
        site: `auto` is the residual stream, or the only one.

    Raises:
        UsageError: nothing matches; the message lists what there is.
    """
    shelf = open_shelf(repository, copy_of)
    if site != "auto":
        shelf = shelf.read_at(cast(Site, site))
    here = _at(shelf, site)
    width = _settle_width(shelf, here, width)
    if layers and max(layers) >= n_layers:
        raise UsageError(f"--layers asks for layer {max(layers)}; the model has the layers 0 to {n_layers - 1}.")
    held = _by_layer(here, width, n_layers)
    missing = sorted((layers or set(range(n_layers))) - set(held))
    if not held or (missing and (layers or repository.partial)):
        raise _no_layer(shelf, width, missing, held)
    wanted = {layer: _named(shelf, held[layer], l0) for layer in sorted(layers or held)}
    chosen = [sae for layer, name in wanted.items() if name is not None for sae in held[layer] if sae.l0_name == name]
    lacking = [layer for layer in wanted if layer not in {sae.layer for sae in chosen}]
    lost = [layer for layer in lacking if wanted[layer] is not None]  # whose canonical one is known, and not here
    if not chosen or (lacking and (layers or lost or l0.isdigit())):
        layer = (lost or lacking)[0]
        raise _no_l0(shelf, held[layer], width, l0, wanted[layer])
    check_configs(repository, chosen)
    return chosen, sorted({*missing, *lacking})


def _at(shelf: Shelf, site: Site | str) -> list[SaeChoice]:
    """The SAEs of a site."""
    sites = sorted({sae.site for sae in shelf.saes})
    if site == "auto":
        site = "resid_post" if "resid_post" in sites else sites[0]
        if site != "resid_post" and len(sites) > 1:
            raise UsageError(
                f"{shelf.repository.name} has SAEs of {', '.join(sites)}.\nName one of these sites with --site."
            )
    if site not in sites:
        raise UsageError(
            f"{shelf.repository.name} has no SAEs of --site {site}; it has SAEs of {', '.join(sites)}.\n"
            "Take one of these, or another --sae-repo."
        )
    return [sae for sae in shelf.saes if sae.site == site]


def _settle_width(shelf: Shelf, here: Sequence[SaeChoice], width: str) -> str:
    widths = sorted({sae.width for sae in here}, key=width_size)
    if width == "auto":
        width = _USUAL_WIDTH if _USUAL_WIDTH in widths or len(widths) > 1 else widths[0]
    if width not in widths:
        width = {_in_thousands(each): each for each in widths}.get(width, width)
    if width not in widths:
        raise UsageError(f"{shelf.repository.name} has no SAEs of width {width}; it has {', '.join(widths)}.")
    return width


def _in_thousands(width: str) -> str:
    """As Gemma Scope calls it: 65k for the 64k of others, which both are 65,536."""
    return f"{int(width[:-1]) * 1024 // 1000}k" if width.endswith("k") else width


def _by_layer(here: Sequence[SaeChoice], width: str, n_layers: int) -> dict[int, list[SaeChoice]]:
    """The SAEs of a width, by layer."""
    held: dict[int, list[SaeChoice]] = {}
    for sae in here:
        if sae.width == width and sae.layer < n_layers:
            held.setdefault(sae.layer, []).append(sae)
    return dict(sorted(held.items()))


def _named(shelf: Shelf, saes: Sequence[SaeChoice], asked: str) -> str | None:
    """The name of the L0 that is asked for, of a layer's SAEs of one width; None where they have none such."""
    numbered = {sae.l0: sae.l0_name for sae in reversed(saes) if sae.l0 is not None}
    first = saes[0]
    known = shelf.canonical.get((first.site, first.layer, first.width))
    if asked == CANONICAL and known is not None:
        return known
    if asked.isdigit():
        return numbered.get(int(asked))
    if asked in (CANONICAL, "min", "max") or asked.startswith(_NEAREST):
        if shelf.repository.partial:
            raise UsageError(
                f"HF_HUB_OFFLINE is set, and which SAEs {shelf.repository.name} has is not known here, so neither is "
                f"the {asked} one.\nRun `layerscope plan` once with a connection, or name a number with --sae-l0."
            )
        if asked == CANONICAL or not numbered:
            return None
        target = int(asked.removeprefix(_NEAREST)) if asked.startswith(_NEAREST) else 0 if asked == "min" else 1 << 60
        return numbered[min(sorted(numbered), key=lambda l0: abs(l0 - target))]
    return next((sae.l0_name for sae in saes if asked in (sae.l0_name, sae.l0_name.split("/")[-1])), None)


def _no_layer(shelf: Shelf, width: str, missing: Sequence[int], held: Mapping[int, Sequence[SaeChoice]]) -> UsageError:
    partial, passed = shelf.repository.partial, shelf.passed_over
    there = ", ".join(map(str, sorted(held)))
    return UsageError(
        f"{shelf.repository.name} has no SAE of width {width} for layer {', '.join(map(str, missing))}; "
        f"{'the cache here (HF_HUB_OFFLINE is set)' if partial else 'it'} has one for "
        f"{there or 'no layer of this model'}." + (f"\nPassed over: {passed[0]}" if passed else "")
    )


def _no_l0(shelf: Shelf, saes: Sequence[SaeChoice], width: str, asked: str, named: str | None) -> UsageError:
    """
    Args:
        saes: of the width at a layer that lacks what was asked for.
        named: what that is there, if it is known.
    """
    names = ", ".join(sae.l0_name for sae in saes[:_MOST_TOLD]) + (", …" if len(saes) > _MOST_TOLD else "")
    where = f"layer {saes[0].layer}, width {width}"
    if asked == CANONICAL and named is None:
        return UsageError(
            f"None of the SAEs of {where} in {shelf.repository.name} is canonical.\nName one with --sae-l0: {names}."
        )
    if asked.startswith((_NEAREST, "min", "max")):
        return UsageError(
            f"The SAEs of {where} in {shelf.repository.name} have names and no numbers for L0s: none is the {asked} "
            f"one.\nName one with --sae-l0: {names}."
        )
    return UsageError(
        f"{shelf.repository.name} has no SAE of {where} with an average L0 of {named or asked}; it has {names}."
    )


def width_size(width: str) -> int:
    """How many features a width is about, to sort by."""
    return int(width.rstrip("km")) * {"k": 1_000, "m": 1_000_000}.get(width[-1], 1)
