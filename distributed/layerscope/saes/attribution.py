"""The margin attributed to features: of each token a (g · d), summed over groups of tokens, and what is left besides.

With x = Σ a d + b_dec + ε, the part g · x of the margin's first-order change splits into features, the decoder's bias
and the SAE's error ε, which is held fixed. A transcoder's features add up to what stands elsewhere than what it reads,
and g is the gradient by that. What a dictionary passes on beside its features is a part of its own: a transcoder's
affine connection, and the mean that is taken from a row before it is encoded. Knows nothing of Ray, JSON or files.

Shapes: R rows (tokens), D width of what is read, O of what is written (D, but for transcoders), F d_sae, G groups, N
features that are listed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerscope.numerics.chosen_products import chosen_products
from layerscope.numerics.matrix_products import product
from layerscope.saes.against_means import Fired, against_means
from layerscope.saes.choice import Scaling
from layerscope.saes.encoder import size_of, strongest
from layerscope.saes.spans import Groups


@dataclass(frozen=True)
class SaeDecoder:
    """The other half of an SAE."""

    w_dec: Tensor  # [F, O] float32 or bfloat16
    b_dec: Tensor  # [O] float32
    mean: Tensor | None = None  # [F] float32; what is attributed against; None for nothing
    skip: Tensor | None = None  # [D, O] float32; an affine connection; None for none
    scaling: Scaling = "none"
    """What a row was divided by before it was encoded, and what is decoded is multiplied by."""

    def beside(self, rows: Tensor) -> Tensor | None:
        """What it passes on of rows [R, D] beside its features: [R, O] or [R, 1] float32; None where it never does."""
        passed = None if self.skip is None else product(rows.float(), self.skip)
        if self.scaling != "deviation":
            return passed
        mean = rows.float().mean(dim=1, keepdim=True)
        return mean if passed is None else passed + mean


class Attributed(NamedTuple):
    """The features of every group of tokens that move the margin most, by magnitude, ties by lower id."""

    feature_ids: NDArray[np.int64]  # [N]
    attributions: NDArray[np.float32]  # [N]
    activations: NDArray[np.float32]  # [N]; where the feature has the largest share of its attribution
    tokens: NDArray[np.int64]  # [N]; where that is; the earliest of several
    starts: NDArray[np.int64]  # [G + 1]; group g has starts[g]:starts[g + 1]
    active_counts: NDArray[np.int64]  # [G]; of all features with an attribution, those not listed too
    terms: NDArray[np.float32]
    """[G, 4]; of features, bias and error, and their sum g · x; [G, 5] with what is passed on beside the features."""


class Attributing:
    """Collects a layer's attributions, chunk of rows by chunk, as its encoder goes.

    Args:
        residuals: [R, D] that are encoded.
        written: [R, O] to which the features add up: these, but for a transcoder's.
        gradients: [R, O] of the margin by that.
    """

    def __init__(
        self, residuals: Tensor, written: Tensor, gradients: Tensor, decoder: SaeDecoder, groups: Groups
    ) -> None:
        self._residuals, self._written, self._by_written = residuals, written, gradients
        self._decoder, self._groups, self._gradients = decoder, groups, gradients
        if decoder.scaling != "none":  # by what is decoded, before it is as large again as the row was
            self._gradients = gradients.float() * size_of(residuals, decoder.scaling)
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
        """[G, 4 or 5], of what features make in each group.

        Args:
            mean: [O] what the features are on average, which stands beside the bias.
        """
        silent = self._decoder.b_dec.float()
        total = self._by_group(self._by_written, self._written)
        bias = self._by_group(self._gradients, silent if mean is None else silent + mean)
        beside = self._decoder.beside(self._residuals)
        with np.errstate(invalid="ignore"):  # of what is infinite; whoever writes the terms looks
            if beside is None:
                terms = [features, bias, total - bias - features, total]
            else:
                skip = self._by_group(self._by_written, beside)
                terms = [features, bias, total - bias - features - skip, total, skip]
            return np.stack(terms, axis=1).astype(np.float32)

    def _by_group(self, gradients: Tensor, part: Tensor) -> NDArray[np.float64]:
        """[G]: gradients [R, O] times a part of what is written, [R, O] or alike at all rows."""
        of_rows = (gradients.float() * part.float()).sum(dim=1).cpu().numpy().astype(np.float64)
        mine = self._groups.numbers >= 0
        return np.bincount(self._groups.numbers[mine], of_rows[mine], minlength=len(self)).astype(np.float64)


def _summed(number: NDArray[np.int64], values: NDArray[np.floating[Any]], n: int) -> NDArray[np.float64]:
    """[n], in double precision and in the order of the values."""
    return np.bincount(number, values.astype(np.float64), minlength=n).astype(np.float64)


class ToAttribute(NamedTuple):
    """What the margin is attributed with, in a block of L layers."""

    gradients: Tensor  # [L, R, O] of the margin by what features add up to, on the encoders' device
    groups: Groups
    decoders: Sequence[SaeDecoder]  # L
    written: Tensor | None = None  # [L, R, O] what they add up to; None where that is what is encoded

    def begin(self, layer: int, residuals: Tensor) -> Attributing:
        """Of the block's layer of this number, and what is encoded of it: [R, D]."""
        written = residuals if self.written is None else self.written[layer]
        return Attributing(residuals, written, self.gradients[layer], self.decoders[layer], self.groups)
