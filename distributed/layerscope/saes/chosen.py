"""Some features of an SAE, for whoever takes them out of what a model holds: where they fire, and what they write.

Only their columns of the encoder are kept, so that a model has them beside it; where features compete for a place (a
top-k SAE) the whole of it. Shapes: R rows, D width of what is read, O of what is written,
F d_sae, n features that are chosen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from layerscope.hub.repository import Repository
from layerscope.saes.cache import ENCODER, load_half
from layerscope.saes.choice import SaeChoice
from layerscope.saes.encoder import SaeEncoder, active, size_of
from layerscope.saes.weights import read_decoder


@dataclass(frozen=True)
class ChosenOfLayer:
    """Some features of a layer's SAE."""

    feature_ids: Sequence[int]  # n, ascending
    encoder: SaeEncoder
    """Of these features, or of all."""
    whole: bool
    """It is of all."""
    directions: Tensor  # [n, O] float32; their rows of the decoder
    mean_difference: Tensor  # [O] float32, of length 1; zeros where there is none

    def amounts(self, rows: Tensor) -> Tensor:
        """[R, n] float32: how often these features write their directions where SAEs read rows [R, D].

        That is what they are there, and of SAEs that scale a row first times its size; 0 where they do not fire.
        """
        row, number, activation = active(rows, self.encoder)
        if self.whole:
            wanted = torch.tensor(self.feature_ids, device=rows.device)
            place = torch.searchsorted(wanted, number).clamp(max=len(wanted) - 1)
            mine = wanted[place] == number
            row, number, activation = row[mine], place[mine], activation[mine]
        found = torch.zeros(len(rows), len(self.feature_ids), device=rows.device)
        found[row, number] = activation
        return found if self.encoder.scaling == "none" else found * size_of(rows, self.encoder.scaling)


def load_chosen(
    repository: Repository,
    sae: SaeChoice,
    d_in: int,
    dtype: torch.dtype,
    device: torch.device,
    feature_ids: Sequence[int],
    difference: Mapping[int, float],
) -> ChosenOfLayer:
    """Some features of an SAE, from the node's cache and the SAE's file.

    Args:
        feature_ids: ascending.
        difference: by feature, how much more active it is on average at right solutions than at wrong ones.

    Raises:
        LayerscopeError: the file is broken, or has no decoder.
    """
    by_feature, *vectors = load_half(ENCODER, repository, sae, d_in, dtype)
    w_dec = read_decoder(repository, sae, d_in).w_dec
    ids, most_active = list(feature_ids), sae.recipe.k or None
    whole = most_active is not None
    w_enc, b_enc, threshold = (
        (part if whole else part[..., ids].clone()).to(device) for part in (by_feature.T, *vectors)
    )
    kept = SaeEncoder(w_enc, b_enc, threshold, sae.recipe.scaling, most_active)
    directions = torch.from_numpy(w_dec[ids].copy()).to(device)
    mean = np.zeros(w_dec.shape[1])
    for feature_id, more in difference.items():  # one after the other: the same sum wherever it is taken
        mean += more * w_dec[feature_id].astype(np.float64)
    length = np.sqrt(np.square(mean).sum())
    mean_difference = torch.from_numpy((mean / length if length else mean).astype(np.float32)).to(device)
    return ChosenOfLayer(ids, kept, whole, directions, mean_difference)


def random_direction(layer: int, feature_id: int, width: int) -> Tensor:
    """A direction [D] float32 of length 1, always the same one for a feature."""
    seeded = np.random.Generator(np.random.Philox(key=np.array([layer, feature_id], dtype=np.uint64)))
    numbers = seeded.standard_normal(width)
    return torch.from_numpy((numbers / np.sqrt(np.square(numbers).sum())).astype(np.float32))
