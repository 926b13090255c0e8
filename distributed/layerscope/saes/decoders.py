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
from layerscope.saes.weights import Decoder, read_decoder


def _arrays(repository: Repository, sae: SaeChoice, d_in: int) -> dict[str, NDArray[np.float32]]:
    decoder = read_decoder(repository, sae, d_in)
    return {"W_dec": decoder.w_dec, "b_dec": decoder.b_dec}


DECODER = Half("decoders", ("W_dec", "b_dec"), 1, False, _arrays)


def load_decoder(
    repository: Repository,
    sae: SaeChoice,
    d_in: int,
    dtype: torch.dtype,
    device: torch.device,
    means: Mapping[int, NDArray[np.float32]] | None = None,
) -> SaeDecoder:
    """The decoder half of an SAE that gives back what it reads, as `load_half` gives it.

    Args:
        means: by layer, what every feature is on average, where margins are attributed against that.

    Raises:
        LayerscopeError: the file is broken, has no decoder that fits this model, or one of another place than is read.
    """
    _check_plain(repository, sae)
    w_dec, b_dec = (tensor.to(device) for tensor in load_half(DECODER, repository, sae, d_in, dtype))
    read_in(w_dec)
    return SaeDecoder(w_dec, b_dec, None if means is None else torch.from_numpy(means[sae.layer]).to(device))


def plain_decoder(repository: Repository, sae: SaeChoice, d_in: int) -> Decoder:
    """The decoder half of an SAE that gives back what it reads: a sum of its features, and a bias.

    Raises:
        LayerscopeError: the file is broken, or the SAE is no such.
    """
    _check_plain(repository, sae)
    return read_decoder(repository, sae, d_in)


def _check_plain(repository: Repository, sae: SaeChoice) -> None:
    if sae.recipe.transcodes or sae.recipe.scaling != "none":
        raise LayerscopeError(
            f"{sae.path} of {repository.name} does not give back what it reads as a plain sum of its features, so a "
            "margin cannot be attributed to them, nor can they be ablated.\n"
            "Run without --attribution, or take SAEs that do."
        )
