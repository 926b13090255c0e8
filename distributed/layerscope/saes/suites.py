"""Which suite a repository is of, and which belongs to a model; a new one is a file beside this, and a line here."""

import re
from collections.abc import Callable

from layerscope.config import Site
from layerscope.errors import UsageError
from layerscope.formatting import listed
from layerscope.hub.repository import Repository
from layerscope.saes import gemma_scope, gemma_scope_2, saelens
from layerscope.saes.choice import Shelf

_SUITES: tuple[tuple[str, Callable[[Repository, str], Shelf | None]], ...] = (
    (gemma_scope.LAYOUT, gemma_scope.shelf),
    (gemma_scope_2.LAYOUT, gemma_scope_2.shelf),
    (saelens.LAYOUT, saelens.shelf),
)
# The folder in which the hub's cache keeps a revision of a repository.
_SNAPSHOT = re.compile(r"/models--([A-Za-z0-9][\w.-]*?)--([A-Za-z0-9][\w.-]*)/snapshots/[0-9a-f]{40}/?\Z")
_PICKLES = (".pt", ".pth", ".pkl", ".bin", ".ckpt")
_MODEL = re.compile(r"google/gemma-(2-(2b|9b|27b)|3-(270m|1b|4b|12b|27b))(-pt|-it)?")
_SIZES = {
    (2304, 26): "2-2b",
    (3584, 42): "2-9b",
    (4608, 46): "2-27b",
    (640, 18): "3-270m",
    (1152, 26): "3-1b",
    (2560, 34): "3-4b",
    (3840, 48): "3-12b",
    (5376, 62): "3-27b",
}
"""Of the models with suites of their own, by d_model and number of layers: what stands in their names."""


def open_shelf(repository: Repository, copy_of: str = "") -> Shelf:
    """The SAEs that a repository holds.

    Args:
        copy_of: the repository on the hub that this one is a copy of, where it does not say so itself.

    Raises:
        UsageError: none that can be read; or it is said to be a copy of what it is not, or of what has no pages.
    """
    original = _original(repository, copy_of)
    for _, shelf in _SUITES:
        if found := shelf(repository, original):
            return found
    raise _no_saes(repository)


def is_known_model(name: str) -> bool:
    """Whether a name is that of a model on the hub with suites of its own."""
    return _MODEL.fullmatch(name) is not None


def original_name(repository: Repository) -> str:
    """The name on the hub of what a repository holds, where it says so itself; else its own."""
    snapshot = None if repository.commit else _SNAPSHOT.search(repository.name)
    return "/".join(snapshot.groups()) if snapshot else repository.name


def suite_of(model: Repository, d_model: int, n_layers: int, site: Site) -> str:
    """The repository of the SAEs that were trained on a model: by its name on the hub, else by its sizes.

    Raises:
        UsageError: none is known.
    """
    name = original_name(model)
    named = _MODEL.fullmatch(name)
    generation, _, size = (named[1] if named else _SIZES.get((d_model, n_layers), "")).partition("-")
    tuned = re.search(r"-it\b", name.split("/")[-1]) is not None
    if generation == "3":
        return f"google/gemma-scope-2-{size}-{'it' if tuned else 'pt'}"
    for tuning in ("it", "pt") if tuned else ("pt",):
        release = f"google/gemma-scope-{size}-{tuning}-{gemma_scope.ENDINGS[site]}"
        if release in gemma_scope.releases():
            return release
    raise UsageError(
        f"No suite of SAEs at {site} is known for {model.name} (d_model {d_model}, {n_layers} layers).\n"
        "Name one with --sae-repo."
    )


def _original(repository: Repository, copy_of: str) -> str:
    releases = gemma_scope.releases()
    if copy_of and copy_of not in releases and not gemma_scope_2.NAME.fullmatch(copy_of):
        raise UsageError(
            f"--sae-repo-id is {copy_of!r}; Neuronpedia has pages for the SAEs of {', '.join(releases)} and of "
            "google/gemma-scope-2-….\n"
            "Leave it out for SAEs that are no copy of one of these: their features have no pages."
        )
    own = original_name(repository)
    known = own in releases or gemma_scope_2.NAME.fullmatch(own)
    if copy_of and known and own != copy_of:
        raise UsageError(f"--sae-repo-id is {copy_of!r}, and --sae-repo is {own}. Leave out --sae-repo-id.")
    return copy_of or own


def _no_saes(repository: Repository) -> UsageError:
    pickled = sorted(path for path in repository.files if path.endswith(_PICKLES))
    if pickled:
        return UsageError(
            f"{repository.name} holds no SAEs that layerscope reads; {pickled[0]} is a pickle, which can run code when "
            "it is read.\nSave them as safetensors: SAELens does."
        )
    held = sorted(repository.files, key=lambda path: (path.count("/"), path))
    return UsageError(
        f"{repository.name} holds no SAEs: it has {listed(held, 3) or 'no files'}.\nRead are "
        f"{gemma_scope.LAYOUT} (Gemma Scope), {gemma_scope_2.LAYOUT} (Gemma Scope 2), {saelens.LAYOUT} (SAELens)."
    )
