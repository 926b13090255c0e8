"""Decoders from the files that the encoders come from."""

import torch

from layerscope.errors import LayerscopeError
from layerscope.hub.repository import Repository
from layerscope.numerics.matrix_products import read_in
from layerscope.saes.attribution import SaeDecoder
from layerscope.saes.choice import SaeChoice
from layerscope.saes.weights import Decoder, read_decoder


def load_decoder(
    repository: Repository, sae: SaeChoice, d_in: int, dtype: torch.dtype, device: torch.device
) -> SaeDecoder:
    """The decoder half of an SAE.

    Raises:
        LayerscopeError: the file is broken, has no decoder that fits this model, or one of another place than is read.
    """
    decoder = plain_decoder(repository, sae, d_in)
    w_dec = torch.from_numpy(decoder.w_dec).to(device, dtype)
    read_in(w_dec)
    return SaeDecoder(w_dec, torch.from_numpy(decoder.b_dec).to(device))


def plain_decoder(repository: Repository, sae: SaeChoice, d_in: int) -> Decoder:
    """The decoder half of an SAE that gives back what it reads: a sum of its features, and a bias.

    Raises:
        LayerscopeError: the file is broken, or the SAE is no such.
    """
    decoder = read_decoder(repository, sae, d_in)
    if sae.recipe.transcodes or decoder.scaling != "none":
        raise LayerscopeError(
            f"{sae.path} of {repository.name} does not give back what it reads as a plain sum of its features, so a "
            "margin cannot be attributed to them, nor can they be ablated.\n"
            "Run without --attribution, or take SAEs that do."
        )
    return decoder
