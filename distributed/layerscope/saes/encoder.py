"""The encoder half of a Gemma Scope SAE: encoding, and the top k.

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
from layerscope.numerics.split_weight import SplitWeight
from layerscope.saes.spans import Spans

_MAX_PRE_ACTIVATIONS = 1 << 26  # elements of one [rows, F] product: 256 MiB
_LARGEST_BITS = np.uint32(0x7FFFFFFF)  # of a float32 without its sign
_ID_BITS = 32
_LAST_TOKEN = (1 << _ID_BITS) - 1
_FEATURES_OF_A_ROW = 192  # for which there is room where layers are encoded together


@dataclass(frozen=True)
class SaeEncoder:
    """What encoding one layer needs."""

    w_enc: Tensor | SplitWeight  # [D, F] float32 or bfloat16, on a GPU float32 in parts
    b_enc: Tensor  # [F] float32
    threshold: Tensor  # [F] float32

    @property
    def d_sae(self) -> int:
        return len(self.b_enc)


class OverTokens(NamedTuple):
    """The strongest features of every solution, each by its strongest token; strongest first, ties by lower id."""

    feature_ids: NDArray[np.int64]  # [N]
    activations: NDArray[np.float32]  # [N]
    starts: NDArray[np.int64]  # [S + 1]; solution s has starts[s]:starts[s + 1]
    active_counts: NDArray[np.int64]  # [S]; of all features that are active at any token, those beyond k too
    tokens: NDArray[np.int64]  # [N]; where a feature is strongest, from 0 within the solution; the earliest of several
    token_counts: NDArray[np.int64]  # [N]; at how many tokens it is active


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


def encode_spans(
    residual: Tensor, sae: SaeEncoder, k: int | None, spans: Spans, at_once: int = 0
) -> tuple[TopK, OverTokens]:
    """`encode_top_k` of single rows, and of every solution the strongest of each feature over all of its tokens.

    Of the product only what fires is kept, and of that, chunk by chunk, each solution's strongest of a feature.

    Args:
        residual: [R, D], any float dtype, on the SAE's device.
    """
    device = residual.device
    solutions, tokens = (torch.from_numpy(part).to(device) for part in (spans.solutions, spans.tokens))
    is_single = torch.zeros(len(residual), dtype=torch.bool, device=device)
    is_single[torch.from_numpy(spans.single).to(device)] = True
    singles, strongest = list[TopK](), list[tuple[Tensor, Tensor, Tensor]]()
    start = 0
    for rows in torch.split(residual, at_once or rows_at_once(sae)):
        row, feature_id, activation = _active(rows, sae)
        singles.append(_of_single_rows(is_single[start : start + len(rows)], row, feature_id, activation, k))
        strongest.append(_strongest_tokens(solutions, tokens, row + start, feature_id, activation, sae.d_sae))
        start += len(rows)
    found = strongest[0] if len(strongest) == 1 else _merged(*map(torch.cat, zip(*strongest, strict=True)))
    return concatenate(singles), _strongest_over_tokens(*found, sae.d_sae, spans.n_solutions, k)


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
            found.append(_strongest(row, feature_id, activations[layer, :count], n_rows, k))
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
    row, feature_id, activation = (tensor.cpu().numpy() for tensor in _active(rows, sae))
    return _strongest(row, feature_id, activation, len(rows), k)


def _active(rows: Tensor, sae: SaeEncoder) -> tuple[Tensor, Tensor, Tensor]:
    """Row and feature id [N] int64 and activation [N] float32 of what fires, row by row."""
    pre, fires = _pre_activations(rows, sae)
    row, feature_id = torch.nonzero(fires, as_tuple=True)
    return row, feature_id, pre[row, feature_id]


def _of_single_rows(is_single: Tensor, row: Tensor, feature_id: Tensor, activation: Tensor, k: int | None) -> TopK:
    """The strongest features of those rows of a chunk that make a list of their own.

    Args:
        is_single: [R] bool; row, feature_id, activation: [N].
    """
    mine = is_single[row]
    number = (is_single.cumsum(0) - 1)[row[mine]]
    n_rows = int(is_single.sum())
    return _strongest(number.cpu().numpy(), feature_id[mine].cpu().numpy(), activation[mine].cpu().numpy(), n_rows, k)


def _strongest_tokens(
    solutions: Tensor, tokens: Tensor, row: Tensor, feature_id: Tensor, activation: Tensor, d_sae: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of what fires at the tokens of solutions, each feature's strongest of each: what `_merged` gives.

    Args:
        solutions, tokens: [K, R] as `Spans` has them; row, feature_id, activation: [N].
    """
    # The bits of a float32 without its sign are the larger the larger it is, and a NaN's are the largest.
    bits = activation.view(torch.int32).long() & int(_LARGEST_BITS)
    keys, values = [], []
    for solution, token in zip(solutions, tokens, strict=True):
        solution, token = solution[row], token[row]
        mine = solution >= 0
        keys.append(solution[mine] * d_sae + feature_id[mine])
        values.append(bits[mine] << _ID_BITS | (_LAST_TOKEN - token[mine]))
    key = torch.cat(keys)
    return _merged(key, torch.cat(values), torch.ones_like(key))


def _merged(key: Tensor, value: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each key once, ascending, with the largest of its values and the sum of its counts: [M] int64 each.

    A key is a feature of a solution; a value is made of an activation's bits and, below them, how early its token is.
    """
    unique, inverse = torch.unique(key, return_inverse=True)
    largest = torch.zeros_like(unique).scatter_reduce_(0, inverse, value, "amax")
    return unique, largest, torch.zeros_like(unique).scatter_add_(0, inverse, count)


def _strongest_over_tokens(
    key: Tensor, value: Tensor, count: Tensor, d_sae: int, n_solutions: int, k: int | None
) -> OverTokens:
    """The k strongest features of every solution, from what `_merged` gives."""
    keys, values, counts = (tensor.cpu().numpy() for tensor in (key, value, count))
    activations = (values >> _ID_BITS).astype(np.uint32).view(np.float32)
    found = _strongest(keys // d_sae, keys % d_sae, activations, n_solutions, k)
    solution = np.repeat(np.arange(n_solutions), np.diff(found.starts))
    places = np.searchsorted(keys, solution * d_sae + found.feature_ids)
    return OverTokens(*found, _LAST_TOKEN - (values[places] & _LAST_TOKEN), counts[places])


def _pre_activations(residual: Tensor, sae: SaeEncoder) -> tuple[Tensor, Tensor]:
    """[R, F] float32 before the JumpReLU, and which of them pass it."""
    if isinstance(sae.w_enc, SplitWeight):
        pre = sae.w_enc.product(residual).add_(sae.b_enc)
    else:
        pre = linear(residual.to(sae.w_enc.dtype), sae.w_enc.T).float() + sae.b_enc
    # Not "pre > threshold", which would drop a NaN in silence.
    return pre, ~(pre <= sae.threshold.clamp(min=0))


def _strongest(
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
    weakness = _LARGEST_BITS - (activations.view(np.uint32) & _LARGEST_BITS)
    keys = np.full((n_rows, counts.max(initial=0)), np.iinfo(np.uint64).max)
    keys[rows, places] = weakness.astype(np.uint64) << _ID_BITS | ids.astype(np.uint64)
    keys.sort(axis=1)
    kept = counts if k is None else np.minimum(counts, k)
    strongest = keys[np.arange(keys.shape[1]) < kept[:, None]]
    return TopK(
        (strongest & np.uint64((1 << _ID_BITS) - 1)).astype(np.int64),
        (_LARGEST_BITS - (strongest >> _ID_BITS).astype(np.uint32)).view(np.float32),
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
