"""Which SAEs a Gemma Scope repository holds, which one a run takes for each layer, and its id on Neuronpedia.

Reads names and headers only; the weights are `params_npz.py`'s and `cache.py`'s.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, cast

from layerscope.errors import UsageError
from layerscope.formatting import ranges
from layerscope.hub.repository import Repository

_PATH = re.compile(r"layer_(\d+)/width_([0-9]+[km]?)/average_l0_(\d+)/params\.npz")
# Releases of the same family that were trained on something else than the residual stream.
_OTHER_SITE = re.compile(r"gemma-scope-.*-(att|mlp|transcoders)$")
# The folder in which the hub's cache keeps a revision of a repository.
_SNAPSHOT = re.compile(r"/models--([A-Za-z0-9][\w.-]*?)--([A-Za-z0-9][\w.-]*)/snapshots/[0-9a-f]{40}/?\Z")

Catalogue = Mapping[int, Mapping[str, Mapping[int, str]]]  # layer -> width -> average L0 -> path in the repository


@dataclass(frozen=True)
class SaeChoice:
    """The SAE of one layer."""

    layer: int
    width: str
    l0: int
    """Average number of active features, as the folder's name says."""
    path: str
    """Of its `params.npz` in the repository."""
    neuronpedia_id: str | None
    """Such as `gemma-2-2b/20-gemmascope-res-16k`; None for an SAE whose features have no page there."""


def catalogue(files: Iterable[str]) -> Catalogue:
    """What a repository holds, from the paths of its files; anything outside Gemma Scope's layout is passed over."""
    found: dict[int, dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for path in files:
        if match := _PATH.fullmatch(path):
            found[int(match[1])][match[2]][int(match[3])] = path
    return found


def choose_saes(
    repository: Repository, n_layers: int, layers: frozenset[int] | None, width: str, l0: str, copy_of: str = ""
) -> tuple[list[SaeChoice], list[int]]:
    """The SAE of each layer that is asked for, and the layers (where all are) that have none of this width.

    Args:
        layers: None for all of the model's.
        width: as the folders name it.
        l0: `canonical`, `min`, `max` or a number.
        copy_of: the repository on the hub that this one is a copy of, where it does not say so itself.

    Raises:
        UsageError: nothing matches; the message lists what there is.
    """
    original = _original(repository, copy_of)
    if _OTHER_SITE.search(original):
        raise UsageError(
            f"{original} holds SAEs of another site than the residual stream, which is what layerscope reads.\n"
            "Take a repository whose name ends in -res."
        )
    held = catalogue(repository.files)
    if not held:
        raise UsageError(
            f"{repository.name} holds no SAEs in Gemma Scope's layout (layer_N/width_W/average_l0_Y/params.npz)."
        )
    widths = sorted({width for layer in held.values() for width in layer}, key=_width_size)
    if width not in widths:
        raise UsageError(f"{repository.name} has no SAEs of width {width}; it has {', '.join(widths)}.")
    if layers and max(layers) >= n_layers:
        raise UsageError(f"--layers asks for layer {max(layers)}; the model has the layers 0 to {n_layers - 1}.")
    available = [layer for layer in sorted(held) if layer < n_layers and width in held[layer]]
    missing = sorted((layers or set(range(n_layers))) - set(available))
    if not available or (missing and (layers or repository.partial)):
        raise UsageError(
            f"{repository.name} has no SAE of width {width} for layer {', '.join(map(str, missing))}; "
            f"{'the cache here (HF_HUB_OFFLINE is set)' if repository.partial else 'it'} has one for "
            f"{ranges(available) or 'no layer of this model'}."
        )
    chosen = sorted(layers or available)
    return [_choose(repository, _release(original), layer, width, l0, held[layer][width]) for layer in chosen], missing


def _original(repository: Repository, copy_of: str) -> str:
    """The name on the hub of what a repository holds, where it has one; else its own.

    Raises:
        UsageError: it is said to be a copy of a repository whose SAEs have no pages.
    """
    if copy_of and copy_of not in _releases() and not _OTHER_SITE.search(copy_of):
        raise UsageError(
            f"--sae-repo-id is {copy_of!r}; Neuronpedia has pages for the SAEs of {', '.join(_releases())}.\n"
            "Leave it out for SAEs that are no copy of one of these: their features have no pages."
        )
    snapshot = None if repository.commit else _SNAPSHOT.search(repository.name)
    own = "/".join(snapshot.groups()) if snapshot else repository.name
    if copy_of and own in _releases() and own != copy_of:
        raise UsageError(f"--sae-repo-id is {copy_of!r}, and --sae-repo is {own}. Leave out --sae-repo-id.")
    return copy_of or own


def _choose(
    repository: Repository, release: Mapping[str, Any], layer: int, width: str, asked: str, by_l0: Mapping[int, str]
) -> SaeChoice:
    known = release["canonical_l0"].get(width, {}).get(str(layer))
    if asked.isdigit():
        l0 = int(asked)
    elif asked == "canonical" and known is not None:
        l0 = known
    elif repository.partial:
        raise UsageError(
            f"HF_HUB_OFFLINE is set, and which SAEs {repository.name} has is not known here, so neither is the "
            f"{asked} one.\nRun `layerscope plan` once with a connection, or name a number with --sae-l0."
        )
    else:
        l0 = {"canonical": canonical_l0(by_l0), "min": min(by_l0), "max": max(by_l0)}[asked]
    if l0 not in by_l0:
        raise UsageError(
            f"{repository.name} has no SAE of layer {layer}, width {width} with an average L0 of {l0}; "
            f"it has {', '.join(map(str, sorted(by_l0)))}."
        )
    # Only the canonical SAE's features have pages; another L0's features are other features under the same numbers.
    template = release["neuronpedia"] if l0 == known else None
    page = template.format(layer=layer, width=width) if template else None
    return SaeChoice(layer, width, l0, by_l0[l0], page)


def canonical_l0(l0s: Iterable[int]) -> int:
    """The average L0 nearest to 100, the smaller of two as near (Gemma Scope's convention, as SAELens tables it)."""
    return min(sorted(l0s), key=lambda l0: abs(l0 - 100))


def _width_size(width: str) -> int:
    return int(width.rstrip("km")) * {"k": 1_000, "m": 1_000_000}.get(width[-1], 1)


def _release(repository: str) -> dict[str, Any]:
    return _releases().get(repository, {"neuronpedia": None, "canonical_l0": {}})


@cache
def _releases() -> dict[str, dict[str, Any]]:
    table = resources.files("layerscope.saes") / "gemma_scope_canonical.json"
    return cast(dict[str, dict[str, Any]], json.loads(table.read_text()))
