"""Halves of SAEs ready on the node: made once from an SAE's file, kept by that file's content, checked at every load.

Knows nothing of encoding. Shapes: D d_model, F d_sae.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
import xxhash
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from layerscope.errors import LayerscopeError
from layerscope.files import replacing
from layerscope.hub import repository as hub
from layerscope.hub.cache import Kind, alone_with, cached, make_room, touch
from layerscope.hub.repository import Repository
from layerscope.numerics.matrix_products import read_in
from layerscope.numerics.screened_weight import ScreenedWeight
from layerscope.numerics.split_weight import SplitWeight
from layerscope.saes.choice import SaeChoice
from layerscope.saes.encoder import SaeEncoder
from layerscope.saes.weights import ENCODER_ARRAYS, read_encoder

_DIGEST = "xxh3_128"  # of the tensors' bytes, in the file's own header


class Half(NamedTuple):
    """One half of an SAE: what it is made of, and how it is read from the SAE's own file."""

    kind: Kind
    """The folder of the cache."""
    arrays: tuple[str, ...]
    """The first is the matrix, in the run's number format; the others are float32."""
    axis: int
    """Of the matrix as it is kept, along which it is as wide as what is encoded, or decoded to."""
    turned: bool
    """The matrix is kept the other way round: a row for every feature."""
    read: Callable[[Repository, SaeChoice, int], Mapping[str, NDArray[np.float32]]]


ENCODER = Half("encoders", ENCODER_ARRAYS, 1, True, read_encoder)


def load_encoder(
    repository: Repository, sae: SaeChoice, d_in: int, dtype: torch.dtype, device: torch.device
) -> SaeEncoder:
    """The encoder half of an SAE, as `load_half` gives it.

    Args:
        d_in: width of the rows that will be encoded.

    Raises:
        LayerscopeError: the file is broken, or not an SAE of this model.
    """
    by_feature, b_enc, threshold = (tensor.to(device) for tensor in load_half(ENCODER, repository, sae, d_in, dtype))
    read_in(by_feature)
    w_enc: Tensor | SplitWeight | ScreenedWeight | None = None
    most_active = sae.recipe.k or None
    if device.type == "cuda":
        w_enc = by_feature.T.contiguous()
        w_enc = (SplitWeight.of(w_enc) if dtype == torch.float32 else None) or w_enc
    elif dtype == torch.float32 and sae.recipe.scaling == "none" and most_active is None:
        w_enc = ScreenedWeight.of(by_feature, threshold.clamp(min=0), b_enc)
    return SaeEncoder(by_feature.T if w_enc is None else w_enc, b_enc, threshold, sae.recipe.scaling, most_active)


def load_half(
    half: Half, repository: Repository, sae: SaeChoice, d_in: int, dtype: torch.dtype, width: int | None = None
) -> list[Tensor]:
    """The arrays of one half of an SAE, from this node's cache; made from the SAE's file by whoever comes first.

    The matrix is as it is kept: of encoders turned.

    On a CPU the weights are the mapped file, which all processes of a node share; where the cache cannot be written,
    this process's own.

    Args:
        width: of the rows of the matrix, where that is not `d_in`.

    Raises:
        LayerscopeError: the file is broken, or not an SAE of this model.
    """
    file = cached(half.kind, _file_name(half, repository, sae, dtype))
    width = d_in if width is None else width
    tensors = _read(half, file, width)
    if tensors is None:
        with alone_with(file) as writable:
            tensors = _read(half, file, width)
            if tensors is None:
                tensors = _make(half, repository, sae, d_in, dtype, file if writable else None)
    touch(file)
    return [tensors[name] for name in half.arrays]


def _file_name(half: Half, repository: Repository, sae: SaeChoice, dtype: torch.dtype) -> str:
    """By the content of the SAE's file, the dtype, and what was made of the file where that is more than reading it."""
    changed = sae.recipe.folding
    made = f"-{xxhash.xxh3_64_hexdigest(changed.encode())}" if changed else ""
    made += "-by-feature" if half.turned else ""
    return f"{hub.sha256(repository, sae.path)}-{str(dtype).removeprefix('torch.')}{made}.safetensors"


def _make(
    half: Half, repository: Repository, sae: SaeChoice, d_in: int, dtype: torch.dtype, file: Path | None
) -> dict[str, Tensor]:
    """A half from the SAE's own file, by way of a file of the cache if there is one and room for it."""
    before = hub.sha256(repository, sae.path)
    arrays = half.read(repository, sae, d_in)
    if hub.sha256(repository, sae.path) != before:
        raise LayerscopeError(f"{sae.path} of {repository.name} was changed while it was read. Run again.")
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    matrix = tensors[half.arrays[0]].to(dtype)
    tensors[half.arrays[0]] = matrix.T.contiguous() if half.turned else matrix
    if file is None:
        return tensors
    with suppress(OSError, SafetensorError):  # a full disk: then without
        with replacing(file) as temporary:
            safetensors.torch.save_file(tensors, temporary, {_DIGEST: _digest(tensors)})
        make_room(half.kind)
    return _read(half, file, tensors[half.arrays[0]].shape[half.axis]) or tensors


def _read(half: Half, file: Path, width: int) -> dict[str, Tensor] | None:
    """The tensors of a file of the cache, mapped; None where there is none, or it is not as it was written."""
    if not file.is_file():
        return None
    try:
        with safe_open(str(file), framework="pt") as stored:
            if set(stored.keys()) != set(half.arrays):
                return None
            if stored.get_slice(half.arrays[0]).get_shape()[half.axis] != width:
                return None
            tensors = {name: stored.get_tensor(name) for name in half.arrays}
            told = (stored.metadata() or {}).get(_DIGEST)
    except (OSError, SafetensorError, UnicodeError):
        return None
    return tensors if told == _digest(tensors) else None


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
