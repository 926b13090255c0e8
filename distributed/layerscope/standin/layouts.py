"""How the files of stand-ins lie: as the hub has SAEs of every suite, and a Gemma 3 that sees pictures."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from layerscope.config import Site

Suite = Literal["gemma-scope", "gemma-scope-2", "saelens"]
SIZES_OF_GEMMA_SCOPE_2 = ("small", "medium", "big")
"""What its SAEs' average L0s are called, in the order in which a stand-in has them."""
_VISION = {
    "vision_tower.vision_model.embeddings.patch_embedding.weight": (16, 3, 14, 14),
    "multi_modal_projector.mm_soft_emb_norm.weight": (16,),
}


class SaeFiles(NamedTuple):
    """What is to be written of one SAE."""

    model_type: str
    site: Site
    layer: int
    width: str
    number: int
    """Which of its layer's it is, from 0."""
    l0: int
    arrays: Mapping[str, Tensor]
    """`W_enc`, `W_dec`, `b_enc`, `b_dec` and `threshold`, float32; perhaps `affine_skip_connection`."""


def save_sae(suite: Suite, sae: SaeFiles, folder: Path) -> None:
    """Writes one into the folder of its suite."""
    _SUITES[suite](sae, folder)


def _save_gemma_scope(sae: SaeFiles, folder: Path) -> None:
    path = folder / f"layer_{sae.layer}" / f"width_{sae.width}" / f"average_l0_{sae.l0}" / "params.npz"
    path.parent.mkdir(parents=True)
    arrays: dict[str, Any] = {name: array.numpy() for name, array in sae.arrays.items()}
    np.savez(path, **arrays)


def _save_gemma_scope_2(sae: SaeFiles, folder: Path) -> None:
    affine = "affine_skip_connection" in sae.arrays
    name = SIZES_OF_GEMMA_SCOPE_2[sae.number] + ("_affine" if affine else "")
    path = folder / sae.site / f"layer_{sae.layer}_width_{sae.width}_l0_{name}"
    path.mkdir(parents=True)
    save_file({name.lower(): array.contiguous() for name, array in sae.arrays.items()}, path / "params.safetensors")
    told = {
        "architecture": "jump_relu",
        "model_name": "gemma-v3-standin",  # as theirs are called
        "hf_hook_point_in": f"model.layers.{sae.layer}.{_HOOKS_OF_GEMMA_3[sae.site]}",
        "width": len(sae.arrays["b_enc"]),
        "l0": sae.l0,
        "type": "transcoder" if sae.site == "transcoder" else "sae",
    }
    if sae.site == "transcoder":
        written = f"model.layers.{sae.layer}.{_HOOKS_OF_GEMMA_3['mlp_out']}"
        told |= {"affine_connection": affine, "hf_hook_point_out": written}
    (path / "config.json").write_text(json.dumps(told, indent=2))


_HOOKS_OF_GEMMA_3: dict[Site, str] = {
    "resid_post": "output",
    "attn_out": "self_attn.o_proj.input",
    "mlp_out": "post_feedforward_layernorm.output",
    "transcoder": "pre_feedforward_layernorm.output",
}


def _save_saelens(sae: SaeFiles, folder: Path) -> None:
    path = folder / f"layer_{sae.layer}" / f"width_{sae.width}_l0_{sae.l0}"
    path.mkdir(parents=True)
    arrays = dict(sae.arrays)
    affine = arrays.pop("affine_skip_connection", None)
    skip = {} if affine is None else {"W_skip": affine.T}
    stored = {name: array.contiguous() for name, array in {**arrays, **skip}.items()}
    save_file(stored, path / "sae_weights.safetensors")
    gemma_3 = sae.model_type != "gemma2"
    hook = {
        "resid_post": "hook_resid_post",
        "attn_out": "attn.hook_z",
        "mlp_out": "hook_mlp_out",
        "transcoder": "ln2.hook_normalized",  # without the norm's gain, as a Gemma 2's read
    }[sae.site]
    name = f"blocks.{sae.layer}.{hook}"
    if gemma_3 and sae.site == "transcoder":
        name = f"model.layers.{sae.layer}.{_HOOKS_OF_GEMMA_3[sae.site]}"
    d_in, d_sae = sae.arrays["W_enc"].shape
    transcodes = {"d_out": d_in} if sae.site == "transcoder" else {}
    told = {
        "d_in": d_in,
        "d_sae": d_sae,
        **transcodes,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if sae.site == "attn_out" else "none",
        "metadata": {
            "sae_lens_version": "6.54.12",
            "model_name": "google/gemma-3-standin" if gemma_3 else "google/gemma-2-standin",
            "hook_name": name,
            **({"hook_name_out": f"blocks.{sae.layer}.hook_mlp_out"} if transcodes else {}),
            "prepend_bos": True,
        },
        "architecture": "jumprelu" + ("_skip" if skip else "") + ("_transcoder" if transcodes else ""),
    }
    (path / "cfg.json").write_text(json.dumps(told, indent=2))


_SUITES: dict[Suite, Callable[[SaeFiles, Path], None]] = {
    "gemma-scope": _save_gemma_scope,
    "gemma-scope-2": _save_gemma_scope_2,
    "saelens": _save_saelens,
}


def add_vision(folder: Path) -> None:
    """Makes of a Gemma 3 in a folder the half that reads text of one that sees pictures: as the hub has 4b and larger.

    Of the other half there are two tensors alone, which nobody may load.
    """
    path, told = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    tensors = {f"language_model.{name}": tensor for name, tensor in load_file(path).items()}
    tensors |= {name: torch.full(shape, torch.nan) for name, shape in _VISION.items()}
    save_file(tensors, path, metadata={"format": "pt"})
    whole = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {name: value for name, value in told.items() if name != "architectures"},
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 16, "image_size": 28, "patch_size": 14},
        "mm_tokens_per_image": 4,
    }
    (folder / "config.json").write_text(json.dumps(whole, indent=2))
