"""What a model repository holds, read from its `config.json` and its list of files; no weights, no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from layerscope.config import Site
from layerscope.errors import UsageError
from layerscope.hub import repository as hub
from layerscope.hub.repository import Repository
from layerscope.models.families import FAMILIES, family_of
from layerscope.models.family import ModelFamily, Tensors
from layerscope.models.json_files import CONFIG, read_json, require
from layerscope.models.weights import refuse_other_files, refuse_other_formats, refuse_quantised, weight_files

_TOKENIZER = "tokenizer.json"
_SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "bos_token_id",
)


@dataclass(frozen=True)
class ModelSpec:
    """The sizes of a model, and the files that make it."""

    n_layers: int
    d_model: int
    d_ff: int
    """Of a layer's feed-forward network."""
    n_heads: int
    vocabulary: int
    context: int
    """The longest text in tokens."""
    n_parameters: int
    """That are loaded."""
    bos_id: int
    files: tuple[str, ...]
    """What must be on a node before the model can be loaded there."""
    family_name: str
    widths: Mapping[Site, int]
    """Of a row at each site that its family has."""

    @property
    def family(self) -> ModelFamily:
        return FAMILIES[self.family_name]

    def width(self, site: Site) -> int:
        """The width of a row at a site.

        Raises:
            UsageError: the model's family has no such site.
        """
        self.family.site(site)
        return self.widths[site]


def read_spec(repository: Repository) -> ModelSpec:
    """The sizes of the model in a repository.

    Raises:
        UsageError: it is of no family that is known, its weights are not its own, or a file that a model needs is
            missing.
    """
    refuse_other_formats(repository)
    config = read_json(repository, CONFIG, "so it is not a model in Hugging Face format")
    family = family_of(config, repository.name)
    settings = family.settings(config)
    for told in (config, settings):
        refuse_quantised(repository, told)
        refuse_other_files(repository, told)
    require(repository, _TOKENIZER, "so its questions cannot be tokenised")
    try:
        sizes = {name: _count(settings, name) for name in _SIZES}
    except KeyError as error:
        raise UsageError(f"{CONFIG} of {repository.name} has no whole number for {error}.") from error
    tensors = family.tensors(sizes, is_tied(config, settings))
    n_layers = sizes["num_hidden_layers"]
    return ModelSpec(
        n_layers=n_layers,
        d_model=sizes["hidden_size"],
        d_ff=sizes["intermediate_size"],
        n_heads=sizes["num_attention_heads"],
        vocabulary=sizes["vocab_size"],
        context=sizes["max_position_embeddings"],
        n_parameters=_count_parameters(tensors, n_layers),
        bos_id=sizes["bos_token_id"],
        files=(CONFIG, _TOKENIZER, *weight_files(repository, family, tensors, n_layers)),
        family_name=family.name,
        widths={site: point.width(sizes) for site, point in family.sites.items()},
    )


def is_tied(config: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether a model's output projection is its embedding; of a half that reads text the whole model says so."""
    return bool(config.get("tie_word_embeddings", settings.get("tie_word_embeddings", True)))


def tokenizer_path(repository: Repository) -> Path:
    """The local path of the model's tokeniser."""
    return hub.fetch(repository, _TOKENIZER)


def fetch_model(repository: Repository, spec: ModelSpec) -> Path:
    """The local folder that holds the whole model."""
    config, *_ = [hub.fetch(repository, path) for path in spec.files]
    return config.parent


def _count(settings: Mapping[str, Any], key: str) -> int:
    value = settings.get(key)
    if not isinstance(value, int) or value < 0:
        raise KeyError(key)
    return value


def _count_parameters(tensors: Tensors, n_layers: int) -> int:
    outer = sum(prod(shape) for name, shape in tensors.outer.items() if name not in tensors.optional)
    return outer + n_layers * sum(map(prod, tensors.of_layer.values()))
