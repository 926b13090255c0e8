"""A language model from its files into memory, each weight once and in the number format asked for."""

from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig
from transformers.utils import logging as transformers_logging

from layerscope.errors import LayerscopeError, first_line
from layerscope.models.families import family_of
from layerscope.models.family import ModelFamily
from layerscope.models.language_model import LanguageModel
from layerscope.models.lean_modules import make_lean
from layerscope.models.pair_attention import ATTENTION
from layerscope.numerics.matrix_products import converted, pack, read_in
from layerscope.numerics.transfers import Cuda, Transfers

_FORMATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def load_language_model(folder: Path, dtype: torch.dtype, device: torch.device) -> LanguageModel:
    """Loads a model from a folder in Hugging Face format, from safetensors only, without remote code.

    Of a model with another half than the one that reads text, that half alone.

    Raises:
        LayerscopeError: the weights are broken, incomplete, or of no family that is known.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        whole = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        family = family_of(whole.to_dict(), f"The model in {folder}")
        config = whole.get_text_config()
        config.tie_word_embeddings = whole.tie_word_embeddings
        # A CPU's weights are mapped from the file if they are to stay as it has them, and converted one by one below:
        # transformers converts them with the whole file in memory.
        first_dtype = (_stored_format(folder) or dtype) if device.type == "cpu" else dtype
        model, info = family.model_class().from_pretrained(
            folder,
            config=config,
            key_mapping=dict(family.renamed),
            dtype=first_dtype,
            attn_implementation=ATTENTION,
            use_safetensors=True,
            local_files_only=True,
            device_map={"": device},  # straight there, tensor by tensor
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise LayerscopeError(f"The model in {folder} cannot be loaded: {first_line(error)}") from error
    # transformers fills what a file lacks with random numbers, and says so only in a warning.
    for problem in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        found = sorted(str(key) for key in info.get(problem, ()))
        if keys := [key for key in found if problem != "unexpected_keys" or family.original_name(key) is not None]:
            raise LayerscopeError(
                f"The weights in {folder} are not whole: {problem.replace('_', ' ')} {', '.join(keys[:3])}"
                f"{' and more' if len(keys) > 3 else ''}. Get the files again."
            )
    pack(model.model.layers, dtype)
    if first_dtype != dtype:
        _convert(model, dtype)
    if device.type == "cpu":
        make_lean(model)
    read_in(*model.parameters())
    return _on_device(model.eval().requires_grad_(False), family)


def _on_device(model: Any, family: ModelFamily) -> LanguageModel:
    if model.device.type != "cuda":
        return LanguageModel(model)
    decoder = family.decoder(model) if family.decoder else None
    return LanguageModel(model, decoder, Transfers(Cuda(model.device)))


def _stored_format(folder: Path) -> torch.dtype | None:
    """The number format of all weights in a folder's files; None if they differ or have another."""
    found = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(str(file), framework="pt") as tensors:
            found |= {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    return _FORMATS.get(found.pop()) if len(found) == 1 else None


def _convert(model: Any, dtype: torch.dtype) -> None:
    """Takes all parameters into a number format, one after the other, and makes the buffers as that format has them.

    A buffer is not in the file: transformers computes it, rounded to the format that it loads in.
    """
    for parameter in model.parameters():
        parameter.data = converted(parameter.data, dtype)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with init_empty_weights(include_buffers=False):
            anew = type(model)(model.config)
    finally:
        torch.set_default_dtype(default)
    for name, buffer in anew.named_buffers():
        parent, _, own_name = name.rpartition(".")
        setattr(model.get_submodule(parent), own_name, buffer)
