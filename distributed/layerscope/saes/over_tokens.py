"""Features over all tokens of a solution: each by its strongest token, and what it is at the others.

Shapes as in `encoder.py`, with S solutions and M numbers of tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerscope.saes.encoder import (
    ID_BITS,
    LARGEST_BITS,
    SaeEncoder,
    TopK,
    active,
    concatenate,
    rows_at_once,
    strongest,
)
from layerscope.saes.spans import Spans

_LAST_TOKEN = (1 << ID_BITS) - 1


class Watcher(Protocol):
    """Who wants to know all that fires."""

    def add(self, row: Tensor, feature_id: Tensor, activation: Tensor) -> None:
        """Of a chunk of rows, row by row: [N] each."""


class OverTokens(NamedTuple):
    """The strongest features of every solution, each by its strongest token; strongest first, ties by lower id."""

    feature_ids: NDArray[np.int64]  # [N]
    activations: NDArray[np.float32]  # [N]
    starts: NDArray[np.int64]  # [S + 1]; solution s has starts[s]:starts[s + 1]
    active_counts: NDArray[np.int64]  # [S]; of all features that are active at any token, those beyond k too
    tokens: NDArray[np.int64]  # [N]; where a feature is strongest, from 0 within the solution; the earliest of several
    token_counts: NDArray[np.int64]  # [N]; at how many tokens it is active
    by_token: NDArray[np.float32]  # [M]; what it is at every token of the solution, 0 where it does not fire
    by_token_starts: NDArray[np.int64]  # [N + 1]; of feature i by_token_starts[i]:by_token_starts[i + 1], none for most


def encode_spans(
    residual: Tensor,
    sae: SaeEncoder,
    k: int | None,
    spans: Spans,
    at_once: int = 0,
    by_token: int = 0,
    also: Watcher | None = None,
) -> tuple[TopK, OverTokens]:
    """`encode_top_k` of single rows, and of every solution the strongest of each feature over all of its tokens.

    Of the product only what fires is kept, and of that, chunk by chunk, each solution's strongest of a feature.

    Args:
        residual: [R, D], any float dtype, on the SAE's device.
        by_token: of how many of a solution's strongest features all tokens' activations are given.
        also: is given all that fires, chunk by chunk.
    """
    device = residual.device
    solutions, tokens = (torch.from_numpy(part).to(device) for part in (spans.solutions, spans.tokens))
    is_single = torch.zeros(len(residual), dtype=torch.bool, device=device)
    is_single[torch.from_numpy(spans.single).to(device)] = True
    singles, strongest_tokens = list[TopK](), list[tuple[Tensor, Tensor, Tensor]]()
    fired = list[tuple[Tensor, Tensor, Tensor]]()
    start = 0
    for rows in torch.split(residual, at_once or rows_at_once(sae)):
        row, feature_id, activation = active(rows, sae)
        if also is not None:
            also.add(row + start, feature_id, activation)
        singles.append(_of_single_rows(is_single[start : start + len(rows)], row, feature_id, activation, k))
        strongest_tokens.append(_strongest_tokens(solutions, tokens, row + start, feature_id, activation, sae.d_sae))
        if by_token:
            fired.append((row + start, feature_id, activation))
        start += len(rows)
    merged = strongest_tokens[0]
    if len(strongest_tokens) > 1:
        merged = _merged(*map(torch.cat, zip(*strongest_tokens, strict=True)))
    found = _strongest_over_tokens(*merged, sae.d_sae, spans.n_solutions, k)
    return concatenate(singles), _with_tokens(found, fired, spans, sae.d_sae, by_token) if by_token else found


def _of_single_rows(is_single: Tensor, row: Tensor, feature_id: Tensor, activation: Tensor, k: int | None) -> TopK:
    """The strongest features of those rows of a chunk that make a list of their own.

    Args:
        is_single: [R] bool; row, feature_id, activation: [N].
    """
    mine = is_single[row]
    number = (is_single.cumsum(0) - 1)[row[mine]]
    n_rows = int(is_single.sum())
    return strongest(number.cpu().numpy(), feature_id[mine].cpu().numpy(), activation[mine].cpu().numpy(), n_rows, k)


def _strongest_tokens(
    solutions: Tensor, tokens: Tensor, row: Tensor, feature_id: Tensor, activation: Tensor, d_sae: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of what fires at the tokens of solutions, each feature's strongest of each: what `_merged` gives.

    Args:
        solutions, tokens: [K, R] as `Spans` has them; row, feature_id, activation: [N].
    """
    # The bits of a float32 without its sign are the larger the larger it is, and a NaN's are the largest.
    bits = activation.view(torch.int32).long() & int(LARGEST_BITS)
    keys, values = [], []
    for solution, token in zip(solutions, tokens, strict=True):
        solution, token = solution[row], token[row]
        mine = solution >= 0
        keys.append(solution[mine] * d_sae + feature_id[mine])
        values.append(bits[mine] << ID_BITS | (_LAST_TOKEN - token[mine]))
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
    activations = (values >> ID_BITS).astype(np.uint32).view(np.float32)
    found = strongest(keys // d_sae, keys % d_sae, activations, n_solutions, k)
    solution = np.repeat(np.arange(n_solutions), np.diff(found.starts))
    places = np.searchsorted(keys, solution * d_sae + found.feature_ids)
    nothing = np.zeros(0, np.float32), np.zeros(len(places) + 1, np.int64)
    return OverTokens(*found, _LAST_TOKEN - (values[places] & _LAST_TOKEN), counts[places], *nothing)


def _with_tokens(
    found: OverTokens, fired: Sequence[tuple[Tensor, Tensor, Tensor]], spans: Spans, d_sae: int, n_features: int
) -> OverTokens:
    """What was found, with all tokens' activations of each solution's strongest features.

    Args:
        fired: row, feature id and activation of all that fires, chunk by chunk.
    """
    listed = np.diff(found.starts)
    solution = np.repeat(np.arange(spans.n_solutions), listed)
    chosen = np.arange(len(solution)) - np.repeat(found.starts[:-1], listed) < n_features
    lengths = np.bincount(spans.solutions[spans.solutions >= 0], minlength=spans.n_solutions)
    starts = np.concatenate([[0], np.cumsum(np.where(chosen, lengths[solution], 0))])
    values = np.zeros(starts[-1], dtype=np.float32)
    keys = (solution * d_sae + found.feature_ids)[chosen]
    order = np.argsort(keys)
    first = starts[:-1][chosen][order]
    row, feature_id, activation = (torch.cat(column).cpu().numpy() for column in zip(*fired, strict=True))
    for solutions, tokens in zip(spans.solutions, spans.tokens, strict=True):
        key = solutions[row] * d_sae + feature_id  # below 0 where the row is no token of a solution, so never found
        place = np.searchsorted(keys, key, sorter=order)
        mine = np.flatnonzero(np.append(keys[order], -d_sae - 1)[place] == key)
        values[first[place[mine]] + tokens[row[mine]]] = activation[mine]
    return found._replace(by_token=values, by_token_starts=starts)
