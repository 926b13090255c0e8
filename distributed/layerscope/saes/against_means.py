"""The margin attributed to features against what they are on average: (a - mean) (g · d), of those that are silent too.

Over a group of tokens that is Σ a (g · d), of what fires, less mean (Σ g · d), of every feature: one product of the
groups' summed gradients with the decoder. At which token a feature has most of it is asked of the listed ones alone.

Shapes: R rows (tokens), D d_model, F d_sae, G groups, N features that are listed, M what fires.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerscope.numerics.matrix_products import linear
from layerscope.saes.encoder import TopK, strongest
from layerscope.saes.spans import Groups

_ELEMENTS_AT_ONCE = 1 << 23  # of a table of groups and features
_FEATURES_AT_ONCE = 4096

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class Fired(NamedTuple):
    """What fires at the tokens of any group, row by row: [M] each."""

    row: Ints
    feature_id: Ints
    activation: Floats
    attribution: Floats
    """a (g · d)"""


class Listed(NamedTuple):
    """What is found against means."""

    found: tuple[Ints, Floats, Floats, Ints, Ints, Ints]
    """As `Attributed` has it, but for the terms."""
    features: NDArray[np.float64]  # [G] of all features
    mean_direction: Tensor  # [D] Σ mean d


def against_means(
    fired: Fired, gradients: Tensor, w_dec: Tensor, mean: Tensor, groups: Groups, k: int | None
) -> Listed:
    """The k features of every group with the largest attributions, or all.

    Args:
        gradients: [R, D]; w_dec: [F, D]; mean: [F] float32.
    """
    summed = _by_group(gradients, groups)  # [G, D]
    direction = sum((mean[at] @ w_dec[at].float() for at in _slices(len(mean))), torch.zeros_like(summed[0]))
    of_fired = np.bincount(groups.numbers[fired.row], fired.attribution.astype(np.float64), minlength=groups.n_groups)
    of_means = (summed * direction).sum(dim=1).cpu().numpy()
    features = (of_fired - of_means).astype(np.float64)
    top = _largest(fired, summed, w_dec, mean, groups, k)
    activations, tokens = _where(fired, top, gradients, w_dec, mean, groups)
    found = top.feature_ids, top.activations, activations, tokens, top.starts, top.active_counts
    return Listed(found, features, direction)


def _by_group(gradients: Tensor, groups: Groups) -> Tensor:
    """[G, D] float32: the sum over each group's tokens, one after the other on a GPU too."""
    mine = groups.numbers >= 0
    summed = np.zeros((groups.n_groups, gradients.shape[1]))
    np.add.at(summed, groups.numbers[mine], gradients.float().cpu().numpy()[mine].astype(np.float64))
    return torch.from_numpy(summed.astype(np.float32)).to(gradients.device)


def _slices(size: int) -> Iterator[slice]:
    for start in range(0, size, _FEATURES_AT_ONCE):
        yield slice(start, start + _FEATURES_AT_ONCE)


def _largest(fired: Fired, summed: Tensor, w_dec: Tensor, mean: Tensor, groups: Groups, k: int | None) -> TopK:
    """Features and attributions; so many groups at once as their table of all features has room for."""
    group, d_sae = groups.numbers[fired.row], len(mean)
    at_once = max(1, _ELEMENTS_AT_ONCE // d_sae)
    rows, ids, values, counts = [], [], [], []
    for first in range(0, len(summed), at_once):
        some = summed[first : first + at_once]
        products = torch.cat([linear(some, w_dec[at].float()) for at in _slices(d_sae)], dim=1)  # [g, F]
        table = -(products * mean).cpu().numpy().astype(np.float64)
        mine = (group >= first) & (group < first + at_once)
        np.add.at(table, (group[mine] - first, fired.feature_id[mine]), fired.attribution[mine].astype(np.float64))
        attributions = table.astype(np.float32)
        kept = _reaching(np.abs(attributions), k) & (attributions != 0)
        row, feature_id = np.nonzero(kept)
        rows.append(row + first)
        ids.append(feature_id)
        values.append(attributions[kept])
        counts.append(np.count_nonzero(attributions, axis=1))
    of_row, feature_ids, attributions = map(np.concatenate, (rows, ids, values))
    found = strongest(of_row, feature_ids, attributions, len(summed), k)
    keys = of_row * d_sae + feature_ids  # ascending; what is listed has lost its sign
    listed = np.repeat(np.arange(len(summed)), np.diff(found.starts)) * d_sae + found.feature_ids
    signed = attributions[np.searchsorted(keys, listed)]
    return found._replace(activations=signed, active_counts=np.concatenate(counts))


def _reaching(sizes: Floats, k: int | None) -> NDArray[np.bool_]:
    """[g, F]: what is as large as the kth of its row, equal ones and what is no number included."""
    if k is None or k >= sizes.shape[1]:
        return np.ones_like(sizes, dtype=bool)
    least = np.partition(sizes, sizes.shape[1] - k, axis=1)[:, -k, None]
    return ~(sizes < least)


def _where(
    fired: Fired, top: TopK, gradients: Tensor, w_dec: Tensor, mean: Tensor, groups: Groups
) -> tuple[Floats, Ints]:
    """Of every listed feature its activation where it has the largest share of its attribution, and at which token."""
    activations, tokens = np.zeros(len(top.feature_ids), np.float32), np.zeros(len(top.feature_ids), np.int64)
    order = np.argsort(groups.numbers[fired.row], kind="stable")
    ends = np.searchsorted(groups.numbers[fired.row][order], np.arange(groups.n_groups + 1))
    for group in range(groups.n_groups):
        listed = slice(top.starts[group], top.starts[group + 1])
        ids = top.feature_ids[listed]
        if not len(ids):
            continue
        rows = np.flatnonzero(groups.numbers == group)
        rows = rows[np.argsort(groups.tokens[rows], kind="stable")]
        active = _activations(fired, order[ends[group] : ends[group + 1]], rows, ids)  # [t, n]
        chosen = torch.from_numpy(ids).to(w_dec.device)
        products = linear(gradients[torch.from_numpy(rows).to(gradients.device)].float(), w_dec[chosen].float())
        shares = (active - mean[chosen].cpu().numpy()) * products.cpu().numpy()
        best = np.argmax(shares * np.sign(top.activations[listed]), axis=0)
        activations[listed] = active[best, np.arange(len(ids))]
        tokens[listed] = groups.tokens[rows[best]]
    return activations, tokens


def _activations(fired: Fired, mine: Ints, rows: Ints, ids: Ints) -> Floats:
    """[t, n]: of some features at some tokens, 0 where they do not fire.

    Args:
        mine: which of what fires does so at these tokens.
    """
    found = np.zeros((len(rows), len(ids)), dtype=np.float32)
    by_row, by_id = np.argsort(rows), np.argsort(ids)
    place = np.searchsorted(ids, fired.feature_id[mine], sorter=by_id)
    there = np.append(ids[by_id], -1)[place] == fired.feature_id[mine]
    mine, place = mine[there], place[there]
    found[by_row[np.searchsorted(rows, fired.row[mine], sorter=by_row)], by_id[place]] = fired.activation[mine]
    return found
