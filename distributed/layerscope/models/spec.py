"""What a Gemma 2 repository holds, read from its `config.json` and its list of files; no weights, no torch."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerscope.errors import UsageError
from layerscope.hub import repository as hub
from layerscope.hub.repository import Repository
from layerscope.strict_json import RepeatedKeyError, parse_object

MAX_JSON_BYTES = 64 << 20
_CONFIG, _TOKENIZER = "config.json", "tokenizer.json"
_WEIGHTS, _WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
_OTHER_WEIGHTS = {
    **dict.fromkeys((".bin", ".pt", ".pth", ".ckpt", ".pkl"), "pickles, which can run code when they are read"),
    **dict.fromkeys((".gguf", ".ggml"), "GGUF, packed for llama.cpp"),
    **dict.fromkeys((".h5", ".msgpack", ".onnx", ".npz"), "those of another framework"),
}
"""By suffix, what a repository without safetensors may hold in their place."""
_PACKED = (".qweight", ".qzeros", ".absmax", ".quant_map", ".SCB", ".weight_scale", ".weight_packed", "_scale_inv")
"""How tensors beside quantised weights are called by bitsandbytes, GPTQ, AWQ, compressed-tensors and fp8."""
_FLOATS = ("F64", "F32", "F16", "BF16")


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
    _refuse_other_formats(repository)
    config = read_json(repository, _CONFIG, "so it is not a model in Hugging Face format")
    kind = config.get("model_type")
    if kind != "gemma2":
        raise UsageError(
            f"{repository.name} is a {kind!r} model; layerscope reads Gemma 2 (model_type gemma2), "
            "whose residual stream the Gemma Scope SAEs were trained on."
        )
    _refuse_quantised(repository, config)
    _require(repository, _TOKENIZER, "so its questions cannot be tokenised")
    weights = _weight_files(repository)
    for path in weights:
        _check_tensors(repository, path)
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
        index = read_json(repository, _WEIGHTS_INDEX, "")
        shard_of = index.get("weight_map")
        if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
            raise UsageError(f"{_WEIGHTS_INDEX} of {repository.name} does not say which file holds which weights.")
        _refuse_packed(repository, shard_of)
        shards = sorted(set(shard_of.values()))
    else:
        shards = [_WEIGHTS]
    missing = [shard for shard in shards if shard not in repository.files]
    if shards and not missing:
        return shards
    if others := sorted(path for path in repository.files if path.endswith(tuple(_OTHER_WEIGHTS))):
        kind = _OTHER_WEIGHTS[Path(others[0]).suffix]
        raise UsageError(
            f"{repository.name} holds its weights as {kind} ({others[0]}); layerscope reads safetensors alone.\n"
            "Take a revision with safetensors, or convert them with transformers (load, then save_pretrained)."
        )
    hint = " in the hub's cache, and HF_HUB_OFFLINE is set" if repository.partial else ""
    raise UsageError(f"{repository.name} lacks the weights {', '.join(missing or [_WEIGHTS])}{hint}.")


def _refuse_other_formats(repository: Repository) -> None:
    """Refuses what is no model of its own, whatever else lies beside it: the libraries would load it in silence."""
    if _ADAPTER in repository.files:
        raise UsageError(
            f"{repository.name} holds an adapter ({_ADAPTER}), which changes the weights of another model.\n"
            "Merge the two first (peft's merge_and_unload, then save_pretrained), and name the folder of the result."
        )
    if _CONFIG not in repository.files and any(path.endswith(".gguf") for path in repository.files):
        raise UsageError(
            f"{repository.name} holds a GGUF file, in which weights are packed for llama.cpp.\n"
            "Take the repository that it was made from, in Hugging Face format with safetensors."
        )


def _refuse_quantised(repository: Repository, config: dict[str, Any]) -> None:
    for key in ("quantization_config", "quantization", "compression_config"):
        told = config.get(key)
        if told:
            method = told.get("quant_method", "") if isinstance(told, dict) else told
            raise _quantised(repository, f"{_CONFIG} has {key}{f': {method}' if method else ''}")


def _refuse_packed(repository: Repository, names: Iterable[str]) -> None:
    for name in names:
        if name.endswith(_PACKED):
            raise _quantised(repository, f"it has {name[:100]}")


def _check_tensors(repository: Repository, path: str) -> None:
    """Refuses weights in a format of no model as it was trained, as far as that is known without a download."""
    if not hub.is_cached(repository, path):
        return
    with hub.fetch(repository, path).open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(size)) if size <= MAX_JSON_BYTES else {}
        except (ValueError, RecursionError):
            header = {}  # a broken file is told by what reads it
    tensors = (
        {name: each for name, each in header.items() if isinstance(each, dict)} if isinstance(header, dict) else {}
    )
    _refuse_packed(repository, tensors)
    for name, tensor in tensors.items():
        if name != "__metadata__" and tensor.get("dtype") not in _FLOATS:
            raise _quantised(repository, f"{name[:100]} is stored as {str(tensor.get('dtype'))[:20]}")


def _quantised(repository: Repository, what: str) -> UsageError:
    return UsageError(
        f"{repository.name} is quantised ({what[:200]}), so its residual stream is not what the SAEs were trained on.\n"
        "Take the model that it was made from, in bfloat16 or float32: for Gemma Scope 2B that is google/gemma-2-2b."
    )


def _require(repository: Repository, path: str, consequence: str) -> None:
    if path not in repository.files:
        raise UsageError(f"{repository.name} has no {path}, {consequence}.")


def read_json(repository: Repository, path: str, consequence: str) -> dict[str, Any]:
    """A JSON object of a repository.

    Args:
        consequence: what it means that there is no such file, for people.

    Raises:
        UsageError: there is none, or it is no JSON object.
    """
    _require(repository, path, consequence)
    file = hub.fetch(repository, path)
    if file.stat().st_size > MAX_JSON_BYTES:
        raise UsageError(f"{path} of {repository.name} has {file.stat().st_size} bytes: not what it should be.")
    try:
        value = parse_object(file.read_bytes())
    except RepeatedKeyError as error:
        raise UsageError(f"{path} of {repository.name}: {error}. Nobody can say which value counts.") from error
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
