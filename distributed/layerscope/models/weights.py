"""The files that hold a model's weights, and whether they are what they should be, by names and headers; no torch."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

from layerscope.errors import UsageError
from layerscope.hub import repository as hub
from layerscope.hub.repository import Repository
from layerscope.models.family import ModelFamily, Shape, Tensors
from layerscope.models.json_files import CONFIG, MAX_JSON_BYTES, read_json
from layerscope.strict_json import RepeatedKeyError, parse_object

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
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


def weight_files(repository: Repository, family: ModelFamily, tensors: Tensors, n_layers: int) -> list[str]:
    """The files with a model's weights, checked as far as is known without a download.

    Raises:
        UsageError: they are in a format that is not read, quantised, incomplete, or another model's.
    """
    # Where there are both, transformers loads the one file, whatever the index of the others says.
    names = _indexed(repository) if _INDEX in repository.files and _WEIGHTS not in repository.files else None
    shards = _there(repository, [_WEIGHTS] if names is None else sorted(set(names.values())))
    stored: dict[str, Any] = {}
    for shard in shards:
        if names is None or hub.is_cached(repository, shard):
            _add(stored, repository, shard)
    _refuse_packed(repository, [*(names or ()), *stored])
    for name, tensor in stored.items():
        if tensor.get("dtype") not in _FLOATS:
            raise _quantised(repository, f"{name[:100]} is stored as {str(tensor.get('dtype'))[:20]}")
    if told := names or stored:  # a broken header is told by what reads it
        shapes = {name: _shape(stored.get(name)) for name in told}
        if trouble := _differences(shapes, family, tensors, n_layers):
            raise UsageError(
                f"The weights of {repository.name} are not those of the {family.name} in its {CONFIG}: {trouble}.\n"
                "Get its files again, or name the repository that they are from."
            )
    return [*shards, *([] if names is None else [_INDEX])]


def _add(stored: dict[str, Any], repository: Repository, shard: str) -> None:
    """Adds what a file says of its tensors.

    Raises:
        UsageError: one is there twice, or in another file too.
    """
    try:
        found = hub.read_parts(repository, shard, _header)
    except RepeatedKeyError as error:
        raise UsageError(f"{shard} of {repository.name}: {error}. Nobody can say which one counts.") from error
    if again := sorted(stored.keys() & found.keys()):
        raise UsageError(
            f"{shard} of {repository.name} holds {again[0][:100]}, and so does another of its files.\n"
            "Nobody can say which one counts. Get its files again."
        )
    stored |= found


def _differences(found: Mapping[str, Shape | None], family: ModelFamily, tensors: Tensors, n_layers: int) -> str:
    """What is missing, unexpected or of another shape among tensors by the files' names; empty where nothing is."""
    known: set[str] = set()
    unexpected, mismatched = list[str](), list[str]()
    for name, shape in found.items():
        original = family.original_name(name)
        if original is None:
            continue
        expected = tensors.shape(original, n_layers)
        if expected is None:
            unexpected.append(name)
        elif shape is not None and shape != expected:
            mismatched.append(f"{name} {list(shape)} for {list(expected)}")
        known.add(original)
    missing = (name for name in _needed(tensors, n_layers) if name not in known)
    kinds = {"missing keys": list(islice(missing, 4)), "unexpected keys": unexpected, "other shapes": mismatched}
    return "; ".join(f"{kind} {_some(names)}" for kind, names in kinds.items() if names)


def _needed(tensors: Tensors, n_layers: int) -> Iterator[str]:
    yield from (name for name in tensors.outer if name not in tensors.optional)
    for layer in range(n_layers):
        yield from (f"{tensors.layers}{layer}.{name}" for name in tensors.of_layer)


def _some(names: list[str]) -> str:
    return ", ".join(name[:100] for name in names[:3]) + (" and more" if len(names) > 3 else "")


def _shape(told: Any) -> Shape | None:
    """A tensor's shape by a file's header; None where the header is not here."""
    shape = told.get("shape") if told else None
    return tuple(shape) if isinstance(shape, list) else None


def _indexed(repository: Repository) -> dict[str, str]:
    """The file of every tensor, as the index of a model in several files has it."""
    shard_of = read_json(repository, _INDEX, "").get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
        raise UsageError(f"{_INDEX} of {repository.name} does not say which file holds which weights.")
    _refuse_packed(repository, shard_of)
    return shard_of


def _there(repository: Repository, shards: list[str]) -> list[str]:
    """
    Raises:
        UsageError: not all of the files are there.
    """
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


def refuse_other_formats(repository: Repository) -> None:
    """Refuses what is no model of its own, whatever else lies beside it: the libraries would load it in silence.

    Raises:
        UsageError: it is an adapter or GGUF.
    """
    if _ADAPTER in repository.files:
        raise UsageError(
            f"{repository.name} holds an adapter ({_ADAPTER}), which changes the weights of another model.\n"
            "Merge the two first (peft's merge_and_unload, then save_pretrained), and name the folder of the result."
        )
    if CONFIG not in repository.files and any(path.endswith(".gguf") for path in repository.files):
        raise UsageError(
            f"{repository.name} holds a GGUF file, in which weights are packed for llama.cpp.\n"
            "Take the repository that it was made from, in Hugging Face format with safetensors."
        )


def refuse_other_files(repository: Repository, config: Mapping[str, Any]) -> None:
    """Refuses a model whose settings name a file of weights: transformers would load that in place of the usual ones.

    Raises:
        UsageError: they do.
    """
    if named := config.get("transformers_weights"):
        raise UsageError(
            f"{CONFIG} of {repository.name} names its weights itself (transformers_weights: {str(named)[:100]}).\n"
            f"Call that file {_WEIGHTS}, and take the line out of {CONFIG}."
        )


def refuse_quantised(repository: Repository, config: Mapping[str, Any]) -> None:
    """Refuses a model whose settings say that its weights are packed.

    Raises:
        UsageError: they do.
    """
    for key in ("quantization_config", "quantization", "compression_config"):
        told = config.get(key)
        if told:
            method = told.get("quant_method", "") if isinstance(told, dict) else told
            raise _quantised(repository, f"{CONFIG} has {key}{f': {method}' if method else ''}")


def _refuse_packed(repository: Repository, names: Iterable[str]) -> None:
    for name in names:
        if name.endswith(_PACKED):
            raise _quantised(repository, f"it has {name[:100]}")


def _header(stream: IO[bytes]) -> dict[str, dict[str, Any]]:
    """What a safetensors file says of each of its tensors; nothing where the file is broken.

    Raises:
        RepeatedKeyError: one is there twice.
    """
    size = int.from_bytes(stream.read(8), "little")
    try:
        header = parse_object(stream.read(size)) if size <= MAX_JSON_BYTES else {}
    except RepeatedKeyError:
        raise
    except (ValueError, RecursionError):
        header = {}
    told = header.items() if isinstance(header, dict) else ()
    return {name: each for name, each in told if isinstance(each, dict) and name != "__metadata__"}


def _quantised(repository: Repository, what: str) -> UsageError:
    return UsageError(
        f"{repository.name} is quantised ({what[:200]}), so its residual stream is not what the SAEs were trained on.\n"
        "Take the model that it was made from, in bfloat16 or float32: for the default that is google/gemma-2-2b."
    )
