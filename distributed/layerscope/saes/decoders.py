"""Decoders from the files that the encoders come from, ready on the node as they are."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from layerscope.errors import LayerscopeError
from layerscope.hub.repository import Repository
from layerscope.numerics.matrix_products import read_in
from layerscope.saes.attribution import SaeDecoder
from layerscope.saes.cache import Half, load_half
from layerscope.saes.choice import SaeChoice
from layerscope.saes.weights import read_decoder, read_skip


def _arrays(repository: Repository, sae: SaeChoice, d_in: int) -> dict[str, NDArray[np.float32]]:
    decoder = read_decoder(repository, sae, d_in)
    return {"W_dec": decoder.w_dec, "b_dec": decoder.b_dec}


DECODER = Half("decoders", ("W_dec", "b_dec"), 1, False, _arrays)


def load_decoder(
    repository: Repository,
    sae: SaeChoice,
    widths: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    means: Mapping[int, NDArray[np.float32]] | None = None,
) -> SaeDecoder:
    """The decoder half of an SAE, as `load_half` gives it.

    Args:
        widths: of what it reads, and of what its features add up to.
        means: by layer, what every feature is on average, where margins are attributed against that.

    Raises:
        LayerscopeError: the file is broken, or has no decoder that fits this model.
    """
    d_in, d_out = widths
    w_dec, b_dec = load_half(DECODER, repository, sae, d_in, dtype, d_out)
    if w_dec.shape[1] != d_out:
        raise LayerscopeError(
            f"{sae.path} of {repository.name} decodes to vectors of {w_dec.shape[1]} numbers; the model has {d_out} "
            "there.\nTake SAEs that were trained on this model: --model and --sae-repo must belong together."
        )
    skip = read_skip(repository, sae, d_in, d_out) if sae.recipe.transcodes else None
    read_in(w_dec)
    mean, connection = (
        None if array is None else torch.from_numpy(array).to(device)
        for array in (None if means is None else means[sae.layer], skip)
    )
    return SaeDecoder(w_dec.to(device), b_dec.to(device), mean, connection, sae.recipe.scaling)
