"""What a Gemma 2 repository holds, read from its `config.json` and its list of files; no weights, no torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerscope.errors import UsageError
from layerscope.hub import repository as hub
from layerscope.hub.repository import Repository

MAX_JSON_BYTES = 64 << 20
_CONFIG, _TOKENIZER = "config.json", "tokenizer.json"
_WEIGHTS, _WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class GemmaSpec:
    """The sizes of a Gemma 2 model, and the files that make it."""

    n_layers: int
    d_model: int
    d_ff: int
    """Of a layer's feed-forward network."""
    n_heads: int
    vocabulary: int
    context: int
    """The longest text in tokens."""
    n_parameters: int
    bos_id: int
    files: tuple[str, ...]
    """What must be on a node before the model can be loaded there."""


def read_spec(repository: Repository) -> GemmaSpec:
    """The sizes of the model in a repository.

    Raises:
        UsageError: it is not a Gemma 2, or a file that a model needs is missing.
    """
    config = _read_json(repository, _CONFIG, "so it is not a model in Hugging Face format")
    kind = config.get("model_type")
    if kind != "gemma2":
        raise UsageError(
            f"{repository.name} is a {kind!r} model; layerscope reads Gemma 2 (model_type gemma2), "
            "whose residual stream the Gemma Scope SAEs were trained on."
        )
    _require(repository, _TOKENIZER, "so its questions cannot be tokenised")
    weights = _weight_files(repository)
    try:
        d_model, n_layers = _count(config, "hidden_size"), _count(config, "num_hidden_layers")
        return GemmaSpec(
            n_layers=n_layers,
            d_model=d_model,
            d_ff=_count(config, "intermediate_size"),
            n_heads=_count(config, "num_attention_heads"),
            vocabulary=_count(config, "vocab_size"),
            context=_count(config, "max_position_embeddings"),
            n_parameters=_count_parameters(config, d_model, n_layers),
            bos_id=_count(config, "bos_token_id"),
            files=(_CONFIG, _TOKENIZER, *weights, *([_WEIGHTS_INDEX] if _WEIGHTS_INDEX in repository.files else [])),
        )
    except KeyError as error:
        raise UsageError(f"{_CONFIG} of {repository.name} has no whole number for {error}.") from error


def tokenizer_path(repository: Repository) -> Path:
    """The local path of the model's tokeniser."""
    return hub.fetch(repository, _TOKENIZER)


def fetch_model(repository: Repository, spec: GemmaSpec) -> Path:
    """The local folder that holds the whole model."""
    config, *_ = [hub.fetch(repository, path) for path in spec.files]
    return config.parent


def _weight_files(repository: Repository) -> list[str]:
    if _WEIGHTS_INDEX in repository.files:
        index = _read_json(repository, _WEIGHTS_INDEX, "")
        shard_of = index.get("weight_map")
        if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
            raise UsageError(f"{_WEIGHTS_INDEX} of {repository.name} does not say which file holds which weights.")
        shards = sorted(set(shard_of.values()))
    else:
        shards = [_WEIGHTS]
    missing = [shard for shard in shards if shard not in repository.files]
    if shards and not missing:
        return shards
    if any(path.endswith((".bin", ".pt", ".pth")) for path in repository.files):
        raise UsageError(
            f"{repository.name} holds its weights as pickles (.bin), which can run code when they are read.\n"
            "Take a revision with safetensors, or convert them."
        )
    hint = " in the hub's cache, and HF_HUB_OFFLINE is set" if repository.partial else ""
    raise UsageError(f"{repository.name} lacks the weights {', '.join(missing or [_WEIGHTS])}{hint}.")


def _require(repository: Repository, path: str, consequence: str) -> None:
    if path not in repository.files:
        raise UsageError(f"{repository.name} has no {path}, {consequence}.")


def _read_json(repository: Repository, path: str, consequence: str) -> dict[str, Any]:
    _require(repository, path, consequence)
    file = hub.fetch(repository, path)
    if file.stat().st_size > MAX_JSON_BYTES:
        raise UsageError(f"{path} of {repository.name} has {file.stat().st_size} bytes: not what it should be.")
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} of {repository.name} is not JSON: {str(error)[:200]}.") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path} of {repository.name} is not a JSON object.")
    return value


def _count(config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 0:
        raise KeyError(key)
    return value


def _count_parameters(config: dict[str, Any], d_model: int, n_layers: int) -> int:
    heads = _count(config, "num_attention_heads") + _count(config, "num_key_value_heads")
    attention = 2 * d_model * _count(config, "head_dim") * heads
    feed_forward = 3 * d_model * _count(config, "intermediate_size")
    return _count(config, "vocab_size") * d_model + n_layers * (attention + feed_forward + 4 * d_model) + d_model
