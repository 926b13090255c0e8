"""The margin attributed to features: of each token a (g · d), summed over groups of tokens, and what is left besides.

With x = Σ a d + b_dec + ε, the part g · x of the margin's first-order change splits into features, the decoder's bias
and the SAE's error ε, which is held fixed. Knows nothing of Ray, JSON or files.

Shapes: R rows (tokens), D d_model, F d_sae, G groups, N features that are listed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerscope.numerics.chosen_products import chosen_products
from layerscope.saes.against_means import Fired, against_means
from layerscope.saes.encoder import strongest
from layerscope.saes.spans import Groups


@dataclass(frozen=True)
class SaeDecoder:
    """The other half of an SAE."""

    w_dec: Tensor  # [F, D] float32 or bfloat16
    b_dec: Tensor  # [D] float32
    mean: Tensor | None = None  # [F] float32; what is attributed against; None for nothing


class Attributed(NamedTuple):
    """The features of every group of tokens that move the margin most, by magnitude, ties by lower id."""

    feature_ids: NDArray[np.int64]  # [N]
    attributions: NDArray[np.float32]  # [N]
    activations: NDArray[np.float32]  # [N]; where the feature has the largest share of its attribution
    tokens: NDArray[np.int64]  # [N]; where that is; the earliest of several
    starts: NDArray[np.int64]  # [G + 1]; group g has starts[g]:starts[g + 1]
    active_counts: NDArray[np.int64]  # [G]; of all features with an attribution, those not listed too
    terms: NDArray[np.float32]  # [G, 4]; of features, bias and error, and their sum g · x


class Attributing:
    """Collects a layer's attributions, chunk of rows by chunk, as its encoder goes.

    Args:
        gradients: [R, D] of the margin by the rows that are encoded.
    """

    def __init__(self, residuals: Tensor, gradients: Tensor, decoder: SaeDecoder, groups: Groups) -> None:
        self._residuals, self._gradients, self._decoder, self._groups = residuals, gradients, decoder, groups
        self._in_group = torch.from_numpy(groups.numbers >= 0).to(residuals.device)
        self._found: list[tuple[NDArray[np.generic], ...]] = []

    def add(self, row: Tensor, feature_id: Tensor, activation: Tensor) -> None:
        """Takes what fires in a chunk of rows: [M] each, in the order of rows."""
        mine = self._in_group[row]
        row, feature_id, activation = row[mine], feature_id[mine], activation[mine]
        # Each by itself, so that no order changes a sum.
        attribution = activation * chosen_products(self._decoder.w_dec, self._gradients, feature_id, row)
        self._found.append(tuple(part.cpu().numpy() for part in (row, feature_id, activation, attribution)))

    def result(self, k: int | None) -> Attributed:
        """The k features of every group with the largest attributions, or all."""
        row, feature_id, activation, attribution = (np.concatenate(column) for column in zip(*self._found, strict=True))
        if self._decoder.mean is not None:
            fired = Fired(row, feature_id, activation, attribution)
            against = against_means(fired, self._gradients, self._decoder.w_dec, self._decoder.mean, self._groups, k)
            return Attributed(*against.found, self._terms(against.features, against.mean_direction))
        group, token = self._groups.numbers[row], self._groups.tokens[row]
        # Where a feature is most of its sum comes first in its place of the table.
        key = group * self._decoder.w_dec.shape[0] + feature_id
        keys, inverse = np.unique(key, return_inverse=True)
        sums = _summed(inverse, attribution, len(keys))
        share = attribution * np.sign(sums)[inverse]
        order = np.lexsort((token, -share, inverse))
        first = order[np.searchsorted(inverse[order], np.arange(len(keys)))]
        attributions = sums.astype(np.float32)
        some = np.flatnonzero(attributions)
        found = strongest(group[first][some], feature_id[first][some], attributions[some], len(self), k)
        groups = np.repeat(np.arange(len(self)), np.diff(found.starts))
        listed = np.searchsorted(keys, groups * self._decoder.w_dec.shape[0] + found.feature_ids)
        return Attributed(
            found.feature_ids,
            attributions[listed],
            activation[first][listed],
            token[first][listed],
            found.starts,
            found.active_counts,
            self._terms(_summed(group, attribution, len(self))),
        )

    def __len__(self) -> int:
        return self._groups.n_groups

    def _terms(self, features: NDArray[np.float64], mean: Tensor | None = None) -> NDArray[np.float32]:
        """[G, 4], of what features make in each group.

        Args:
            mean: [D] what the features are on average, which stands beside the bias.
        """
        gradients, silent = self._gradients.float(), self._decoder.b_dec.float()
        silent = silent if mean is None else silent + mean
        by_row = ((gradients * part).sum(dim=1) for part in (self._residuals.float(), silent))
        mine = self._groups.numbers >= 0
        total, bias = (
            np.bincount(self._groups.numbers[mine], of_rows.cpu().numpy()[mine].astype(np.float64), minlength=len(self))
            for of_rows in by_row
        )
        with np.errstate(invalid="ignore"):  # of what is infinite; whoever writes the terms looks
            return np.stack([features, bias, total - bias - features, total], axis=1).astype(np.float32)


def _summed(number: NDArray[np.int64], values: NDArray[np.floating[Any]], n: int) -> NDArray[np.float64]:
    """[n], in double precision and in the order of the values."""
    return np.bincount(number, values.astype(np.float64), minlength=n).astype(np.float64)


class ToAttribute(NamedTuple):
    """What the margin is attributed with, in a block of L layers."""

    gradients: Tensor  # [L, R, D] of the margin by what is encoded, on the encoders' device
    groups: Groups
    decoders: Sequence[SaeDecoder]  # L

    def begin(self, layer: int, residuals: Tensor) -> Attributing:
        """Of the block's layer of this number, and what is encoded of it: [R, D]."""
        return Attributing(residuals, self.gradients[layer], self.decoders[layer], self.groups)
