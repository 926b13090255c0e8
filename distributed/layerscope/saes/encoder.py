"""The encoder half of an SAE: encoding, and the top k.

Knows nothing of Ray, JSON or files. Shapes: R rows (solutions), D d_model, F d_sae, N active features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerscope.numerics.matrix_products import linear
from layerscope.numerics.screened_weight import ScreenedWeight
from layerscope.numerics.split_weight import SplitWeight
from layerscope.saes.choice import Scaling

_MAX_PRE_ACTIVATIONS = 1 << 26  # elements of one [rows, F] product: 256 MiB
LARGEST_BITS = np.uint32(0x7FFFFFFF)  # of a float32 without its sign
ID_BITS = 32
_LAYER_NORM_EPSILON = 1e-5  # SAELens's
_FEATURES_OF_A_ROW = 192  # for which there is room where layers are encoded together


@dataclass(frozen=True)
class SaeEncoder:
    """What encoding one layer needs: `pre = (x W_enc) s(x) + b_enc`, which is a feature's activation where it passes.

    It passes above 0 and the feature's threshold, and where a row may have `most_active` features, if it is one of the
    row's strongest. Every architecture is put into this form when its file is read (`weights.py`).
    """

    w_enc: Tensor | SplitWeight | ScreenedWeight
    """[D, F] float32 or bfloat16; float32 on a GPU in parts, on some CPUs screened, if no row is scaled or competes."""
    b_enc: Tensor  # [F] float32
    threshold: Tensor  # [F] float32
    scaling: Scaling = "none"
    most_active: int | None = None

    @property
    def d_sae(self) -> int:
        return len(self.b_enc)


class TopK(NamedTuple):
    """The strongest active features of every row, strongest first, ties by lower id."""

    feature_ids: NDArray[np.int64]  # [N]
    activations: NDArray[np.float32]  # [N]
    starts: NDArray[np.int64]  # [R + 1]; row r has starts[r]:starts[r + 1]
    active_counts: NDArray[np.int64]  # [R]; of all active features, those beyond k too


def encode_top_k(residual: Tensor, sae: SaeEncoder, k: int | None, at_once: int = 0) -> TopK:
    """Encodes rows of the residual stream and keeps the k strongest features of each, or all.

    JumpReLU, as in Gemma Scope (arXiv:2408.05147, eq. 4): `pre = x @ W_enc + b_enc`, and a feature's activation is
    `relu(pre)` where `pre > threshold`, else 0. The product is taken in the SAE's dtype, all that follows in float32.

    Args:
        residual: [R, D], any float dtype, on the SAE's device.
        at_once: how many rows are multiplied at once; by default as many as take 256 MiB.
    """
    return concatenate([_encode(rows, sae, k) for rows in torch.split(residual, at_once or rows_at_once(sae))])


def encode_layers(residuals: Tensor, encoders: Sequence[SaeEncoder], k: int | None) -> list[TopK]:
    """`encode_top_k` of every layer, with one wait for the device for all of them.

    A GPU that several processes share changes hands at every wait, which costs more than an encoder's work there. So
    what fires is put into room for a fixed number of features, and brought here once; a layer that fires more is
    encoded again by itself.

    Args:
        residuals: [L, R, D] of these layers, any float dtype, on the SAEs' device.
    """
    n_rows = residuals.shape[1]
    if not n_rows or any(n_rows > rows_at_once(sae) for sae in encoders):
        return [encode_top_k(rows, sae, k) for rows, sae in zip(residuals, encoders, strict=True)]
    room = n_rows * _FEATURES_OF_A_ROW
    begun = [_begin(rows, sae, room) for rows, sae in zip(residuals, encoders, strict=True)]
    places, activations, counts = (torch.stack(column).cpu().numpy() for column in zip(*begun, strict=True))
    found = []
    for layer, (sae, count) in enumerate(zip(encoders, counts.tolist(), strict=True)):
        if count > room:
            found.append(encode_top_k(residuals[layer], sae, k))
        else:
            row, feature_id = places[layer, :count].T
            found.append(strongest(row, feature_id, activations[layer, :count], n_rows, k))
    return found


def rows_at_once(sae: SaeEncoder) -> int:
    """How many rows are multiplied at once: as many as take 256 MiB."""
    return max(1, _MAX_PRE_ACTIVATIONS // sae.d_sae)


def _begin(rows: Tensor, sae: SaeEncoder, room: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row and feature id [room, 2] int32 and activation [room] of what fires, and how much does; waits for nothing."""
    pre, fires = _pre_activations(rows, sae)
    places = torch.nonzero_static(fires, size=room, fill_value=0)
    return places.int(), pre[places[:, 0], places[:, 1]], fires.sum()


def _encode(rows: Tensor, sae: SaeEncoder, k: int | None) -> TopK:
    row, feature_id, activation = (tensor.cpu().numpy() for tensor in active(rows, sae))
    return strongest(row, feature_id, activation, len(rows), k)


def active(rows: Tensor, sae: SaeEncoder) -> tuple[Tensor, Tensor, Tensor]:
    """Row and feature id [N] int64 and activation [N] float32 of what fires, row by row.

    Args:
        rows: [R, D], any float dtype, on the SAE's device.
    """
    if isinstance(sae.w_enc, ScreenedWeight):
        row, feature_id, product = sae.w_enc.above(rows)
        pre = product + sae.b_enc[feature_id]
        fires = ~(pre <= sae.threshold[feature_id].clamp(min=0))
        return row[fires], feature_id[fires], pre[fires]
    pre, fires = _pre_activations(rows, sae)
    row, feature_id = torch.nonzero(fires, as_tuple=True)
    return row, feature_id, pre[row, feature_id]


def _pre_activations(residual: Tensor, sae: SaeEncoder) -> tuple[Tensor, Tensor]:
    """[R, F] float32 before the gate, and which of them pass it."""
    assert not isinstance(sae.w_enc, ScreenedWeight)  # of whose products few are known
    if isinstance(sae.w_enc, SplitWeight):
        pre = sae.w_enc.product(residual)
    else:
        pre = linear(residual.to(sae.w_enc.dtype), sae.w_enc.T).float()
    if sae.scaling != "none":
        pre = pre * scale(residual, sae.scaling)
    pre = pre.add_(sae.b_enc) if isinstance(sae.w_enc, SplitWeight) else pre + sae.b_enc
    # Not "pre > threshold", which would drop a NaN in silence.
    passes = ~(pre <= sae.threshold.clamp(min=0))
    return pre, passes if sae.most_active is None else passes & _are_strongest(pre, sae.most_active)


def scale(rows: Tensor, scaling: Scaling) -> Tensor:
    """`s(x)`, what a row is multiplied by before it is encoded; that its mean is taken from it first lies in W_enc.

    Args:
        rows: [R, D], any float dtype.

    Returns:
        [R, 1] float32
    """
    size = size_of(rows, scaling)
    return (size if scaling == "norm" else size + _LAYER_NORM_EPSILON).reciprocal()


def size_of(rows: Tensor, scaling: Scaling) -> Tensor:
    """What is decoded of a scaled row is multiplied by this, to be as large as the row was.

    Args:
        rows: [R, D], any float dtype.

    Returns:
        [R, 1] float32
    """
    wide = rows.float()
    if scaling == "norm":
        size: Tensor = torch.linalg.vector_norm(wide, dim=1, keepdim=True) / wide.shape[1] ** 0.5
    else:
        size = wide.std(dim=1, keepdim=True)
    return size


def _are_strongest(pre: Tensor, most: int) -> Tensor:
    """[R, F] bool: the `most` largest of every row, of equal ones those with the lowest ids, and every NaN."""
    if most >= pre.shape[1]:
        return torch.ones_like(pre, dtype=torch.bool)
    least = pre.topk(most, dim=1).values[:, -1:]
    larger, equal = pre > least, pre == least
    return larger | (equal & (equal.cumsum(1) <= most - larger.sum(1, keepdim=True))) | pre.isnan()


def strongest(
    rows: NDArray[np.integer], ids: NDArray[np.integer], activations: NDArray[np.float32], n_rows: int, k: int | None
) -> TopK:
    """The k strongest of every row.

    A positive float32 is the larger the larger its bits are as a whole number, and a NaN's are the largest. So one
    number made of bits and id sorts a row, 15 times as fast as sorting by both.

    Args:
        rows, ids, activations: [N] of everything that fires, row by row.
    """
    counts = np.bincount(rows, minlength=n_rows)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)  # of each in its row
    weakness = LARGEST_BITS - (activations.view(np.uint32) & LARGEST_BITS)
    keys = np.full((n_rows, counts.max(initial=0)), np.iinfo(np.uint64).max)
    keys[rows, places] = weakness.astype(np.uint64) << ID_BITS | ids.astype(np.uint64)
    keys.sort(axis=1)
    kept = counts if k is None else np.minimum(counts, k)
    chosen = keys[np.arange(keys.shape[1]) < kept[:, None]]
    return TopK(
        (chosen & np.uint64((1 << ID_BITS) - 1)).astype(np.int64),
        (LARGEST_BITS - (chosen >> ID_BITS).astype(np.uint32)).view(np.float32),
        np.concatenate([[0], np.cumsum(kept)]),
        counts,
    )


def concatenate(parts: Sequence[TopK]) -> TopK:
    """The rows of several as one."""
    counts = [np.diff(part.starts) for part in parts]
    return TopK(
        np.concatenate([part.feature_ids for part in parts]),
        np.concatenate([part.activations for part in parts]),
        np.concatenate([[0], np.cumsum(np.concatenate(counts))]),
        np.concatenate([part.active_counts for part in parts]),
    )
