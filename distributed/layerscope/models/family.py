"""What is particular to a family of models. Each has a file of its own; nothing else knows an architecture. No torch.

What all families share is in the other files: transformers' modules compute, a pair row passes through every decoder
layer as one row of tokens, and only attention lays the pairs side by side (`pair_attention.py`).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from layerscope.config import Site
from layerscope.errors import UsageError

Shape = tuple[int, ...]
Sizes = Mapping[str, int]
"""Whole numbers by their names in `config.json`."""


@dataclass(frozen=True)
class SitePoint:
    """Where in a decoder layer a site is."""

    module: str
    """Of a decoder layer, as transformers names it; empty for the layer itself."""
    side: Literal["input", "output"]
    width: Callable[[Sizes], int]
    """Of a row there."""
    change: Callable[[Any, Any], Any] | None = None
    """From the module and rows [R, D] to what the SAEs read of them; None where that is the rows themselves."""
    takes: Literal["output", "projection"] | None = None
    """Of what a feature is taken out: of the decoder layer's output, to which what is read here is the last that is
    added, or of what attention's output projection gets; None where it cannot be, as SAEs write elsewhere than they
    read."""


@dataclass(frozen=True)
class Tensors:
    """The tensors of a model, by the names that transformers has for them, and their shapes."""

    outer: Mapping[str, Shape]
    of_layer: Mapping[str, Shape]
    """Of every decoder layer, below `layers`."""
    layers: str = "model.layers."
    optional: frozenset[str] = frozenset()
    """Of the outer ones those that a repository may leave out, because they are another one's copy: they count once."""

    def shape(self, name: str, n_layers: int) -> Shape | None:
        """The shape of a tensor; None if the model has none of this name."""
        number, _, below = name.removeprefix(self.layers).partition(".")
        if name.startswith(self.layers) and re.fullmatch(r"0|[1-9]\d{0,8}", number) and int(number) < n_layers:
            return self.of_layer.get(below)
        return self.outer.get(name)


@dataclass(frozen=True)
class ModelFamily:
    """A family of models, as `families.py` lists them."""

    name: str
    """For people."""
    model_types: tuple[str, ...]
    """`model_type` in `config.json`."""
    defaults: Sizes
    """What `config.json` may leave out."""
    tensors: Callable[[Sizes, bool], Tensors]
    """From sizes, and whether the output projection is the embedding itself, to the tensors."""
    model_class: Callable[[], Any]
    """Imports transformers' class; with `model`, of which `layers` are the decoder layers, and `lm_head`."""
    sites: Mapping[Site, SitePoint]
    attention: str
    """What attention does, for the manifest."""
    renamed: Mapping[str, str]
    """Regular expressions of how tensors' names begin in files, and how transformers has them begin."""
    other_halves: str
    """Regular expression of the names of what is not loaded (a picture's encoder); it matches nothing where all is."""
    text_settings: str = ""
    """Where the settings of the half that reads text lie in `config.json`, if there is another."""
    unlike: Callable[[Mapping[str, Any]], str] = lambda _: ""
    """From settings to what makes a model another than this family's; empty where nothing does."""
    decoder: Callable[[Any], Any] | None = None
    """From a model on a GPU to a faster way through its layers (`language_model.Decoder`); None where there is none."""

    def settings(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The settings of the half that reads text, of all in `config.json`, with what may be left out."""
        inner = config.get(self.text_settings) if self.text_settings else None
        return {**self.defaults, **(inner if isinstance(inner, dict) else config)}

    def original_name(self, name: str) -> str | None:
        """transformers' name of a tensor in a file; None for one that is not loaded."""
        if re.match(self.other_halves, name):
            return None
        for beginning, new in self.renamed.items():
            name = re.sub(f"^{beginning}", new, name)
        return name

    def site(self, site: Site) -> SitePoint:
        """
        Raises:
            UsageError: the family has no such site.
        """
        if site not in self.sites:
            raise UsageError(
                f"--site is {site}, which {self.name} does not have.\nIt has {', '.join(self.sites)}: take one of them."
            )
        return self.sites[site]


def d_model(sizes: Sizes) -> int:
    """The width of the residual stream, and of whatever a layer adds to it."""
    return sizes["hidden_size"]


def d_heads(sizes: Sizes) -> int:
    """The width of all heads of attention together."""
    return sizes["num_attention_heads"] * sizes["head_dim"]
