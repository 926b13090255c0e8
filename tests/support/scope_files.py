"""Small SAEs, from a number, in the very files in which the repositories of Gemma Scope and Gemma Scope 2 have them."""

import io
import json
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

D_IN, D_SAE, D_OUT = 24, 256, 20
"""Of a row, of its features, and of what a transcoder of Gemma Scope 2 writes."""
_HOOKS = {
    "resid_post": "output",
    "attn_out": "self_attn.o_proj.input",
    "mlp_out": "post_feedforward_layernorm.output",
    "transcoder": "pre_feedforward_layernorm.output",
}


def rows() -> NDArray[np.float32]:
    """[R, D_IN] that are encoded: more than a hundred features fire on the first, few on the other."""
    drawn = np.random.default_rng(1).standard_normal((2, D_IN))
    return (drawn * np.array([[4], [0.5]])).astype(np.float32)


def files(repository: str, folder: str, number: int) -> dict[str, bytes]:
    """The files of the SAE in a folder, by their paths."""
    if re.match(r"google/gemma-scope-2-", repository):
        return _gemma_scope_2(repository, folder, number)
    return {f"{folder}/params.npz": _npz(_arrays(number, D_IN), number)}


def _arrays(number: int, d_out: int, skip: bool = False) -> dict[str, NDArray[np.float32]]:
    dice = np.random.default_rng([5, number])
    shapes = {"W_enc": (D_IN, D_SAE), "W_dec": (D_SAE, d_out), "b_enc": (D_SAE,), "b_dec": (d_out,)}
    if skip:
        shapes["affine_skip_connection"] = (D_IN, d_out)
    drawn = {name: dice.standard_normal(shape) for name, shape in shapes.items()}
    # Some below zero: a feature passes above zero and its threshold.
    return {**drawn, "threshold": dice.uniform(-1, 6, D_SAE)}  # type: ignore[dict-item]


def _npz(arrays: dict[str, Any], number: int) -> bytes:
    """As the archives are: plain or compressed, in capitals or not, as one array lies in memory or as another does."""
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    write = np.savez
    match number % 5:
        case 1:
            write = np.savez_compressed
        case 2:
            arrays = {name.lower(): array for name, array in arrays.items()}
        case 3:
            arrays["scaling_factor"] = np.ones(D_SAE, np.float32)
        case 4:
            arrays["W_enc"] = np.asfortranarray(arrays["W_enc"])
    stream = io.BytesIO()
    write(stream, **arrays)
    return stream.getvalue()


def _gemma_scope_2(repository: str, folder: str, number: int) -> dict[str, bytes]:
    """With a configuration or, as some folders are, without."""
    site, layer = folder.split("/")[0].removesuffix("_all"), re.search(r"layer_(\d+)", folder)
    assert layer is not None
    transcodes, affine = site == "transcoder", folder.endswith("_affine")
    arrays = _arrays(number, D_OUT if transcodes else D_IN, affine)
    stored = {name.lower(): array.astype(np.float32) for name, array in arrays.items()}
    found = {f"{folder}/params.safetensors": save(stored)}
    if number % 3 or affine:  # which only a configuration says to whom it reads
        told = {
            "architecture": "jump_relu",
            "model_name": repository.removeprefix("google/").replace("gemma-scope-2", "gemma-v3"),
            "hf_hook_point_in": f"model.layers.{layer[1]}.{_HOOKS[site]}",
            "width": D_SAE,
            "type": "transcoder" if transcodes else "sae",
        }
        if transcodes:
            out = f"model.layers.{layer[1]}.post_feedforward_layernorm.output"
            told |= {"affine_connection": affine, "hf_hook_point_out": out}
        found[f"{folder}/config.json"] = json.dumps(told, indent=2).encode()
    return found
