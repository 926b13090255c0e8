"""Features as JSON: what an encoder found, made into bytes beside it once, by row and layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import numpy as np
import orjson

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Found(Protocol):
    """What an encoder found: the features to be listed of every row, strongest first."""

    @property
    def feature_ids(self) -> NDArray[np.int64]: ...  # [N]
    @property
    def activations(self) -> NDArray[np.float32]: ...  # [N]
    @property
    def starts(self) -> NDArray[np.int64]: ...  # [R + 1]; row r has starts[r]:starts[r + 1]
    @property
    def active_counts(self) -> NDArray[np.int64]: ...  # [R]; of all active features, those not listed too


class FoundOverTokens(Found, Protocol):
    """What an encoder found over several tokens: each row is a solution, each feature where it is strongest."""

    @property
    def tokens(self) -> NDArray[np.int64]: ...  # [N]; where a feature is strongest, from 0 within the solution
    @property
    def token_counts(self) -> NDArray[np.int64]: ...  # [N]; at how many tokens it is active
    @property
    def by_token(self) -> NDArray[np.float32]: ...  # [M]; what it is at every token, where that is kept
    @property
    def by_token_starts(
        self,
    ) -> NDArray[np.int64]: ...  # [N + 1]; feature i has starts[i]:starts[i + 1]


@dataclass(frozen=True)
class LayerBlock:
    """The features of a block of layers for every row of a batch, as JSON: what an encoder hands to the driver."""

    json: NDArray[np.uint8]
    """Of every row its layers' features, then its layers' counts, end to end. An array, so that it travels uncopied."""
    offsets: NDArray[np.int64]  # [2 R + 1] where each of these begins
    active_counts: NDArray[np.int64]  # [L, R]
    failed_layers: NDArray[np.int64]  # [R]; the first layer with a non-finite activation, -1 for none
    halved: bool = False
    """The rows did not fit the memory at once, so the numbers may differ in the last digit."""
    residuals: NDArray[np.floating[Any]] | None = None
    """[L, S, D] of the rows of one token each, where they are kept; lists over several tokens are behind these."""
    clamped: bool = False
    """Some of these were beyond their number format, whose largest number stands in their place."""

    @property
    def nbytes(self) -> int:
        """About what it takes."""
        return self.json.nbytes + (0 if self.residuals is None else self.residuals.nbytes)


def serialise_block(
    layers: Sequence[int], top_k: Sequence[Found], over_tokens: Sequence[FoundOverTokens] = ()
) -> LayerBlock:
    """The features of a block's layers as JSON, row by row: `"8":[{"feature_id":…},…],"9":[…]` and `"8":71,"9":68`.

    Args:
        top_k: of each layer, for the same R rows.
        over_tokens: of each layer, for further rows, behind those.
    """
    blocks = [_serialise(layers, found) for found in (top_k, over_tokens) if found]
    return blocks[0] if len(blocks) == 1 else one_behind_the_other(*blocks)


def _serialise(layers: Sequence[int], top_k: Sequence[Found | FoundOverTokens]) -> LayerBlock:
    n_rows = len(top_k[0].active_counts)
    by_layer = [_features_json(layer, found) for layer, found in zip(layers, top_k, strict=True)]
    failed = np.full(n_rows, -1)
    for layer, found in reversed(list(zip(layers, top_k, strict=True))):
        failed[_rows_with(~np.isfinite(found.activations), found.starts)] = layer
    parts = []
    for row in range(n_rows):
        parts.append(b",".join(features[row] for features in by_layer))
        counts = (b'"%d":%d' % (layer, found.active_counts[row]) for layer, found in zip(layers, top_k, strict=True))
        parts.append(b",".join(counts))
    return laid_out(parts, [found.active_counts for found in top_k], failed)


def laid_out(
    parts: Sequence[bytes], active_counts: Sequence[NDArray[np.int64]], failed: NDArray[np.int64]
) -> LayerBlock:
    """A block of these parts, two of every row.

    Args:
        active_counts: [R] of each layer; failed: [R].
    """
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    return LayerBlock(np.frombuffer(b"".join(parts), dtype=np.uint8), offsets, np.stack(active_counts), failed)


def one_behind_the_other(first: LayerBlock, second: LayerBlock) -> LayerBlock:
    """The rows of two."""
    return LayerBlock(
        np.concatenate([first.json, second.json]),
        np.concatenate([first.offsets, first.offsets[-1] + second.offsets[1:]]),
        np.concatenate([first.active_counts, second.active_counts], axis=1),
        np.concatenate([first.failed_layers, second.failed_layers]),
    )


def _features_json(layer: int, found: Found | FoundOverTokens) -> list[bytes]:
    """`"layer":[…]` of every row."""
    # Joining is twice as fast as formatting feature by feature, and what stands before an activation is made once.
    pieces = [b',"layer":%d},' % layer] * (3 * len(found.feature_ids))
    if pieces:
        pieces[0::3] = _until_activation(int(found.feature_ids.max()).bit_length())[found.feature_ids].tolist()
        pieces[1::3] = decimals(found.activations)
        if _is_over_tokens(found):
            pieces[2::3] = _until_next(layer, found)
    opening = b'"%d":[' % layer
    rows = (b"".join(pieces[3 * start : 3 * stop]) for start, stop in pairwise(found.starts.tolist()))
    return [opening + row[:-1] + b"]" for row in rows]


@cache
def _until_activation(bits: int) -> NDArray[np.object_]:
    """A feature as JSON up to its activation, for every id of so many bits."""
    return np.array([b'{"feature_id":%d,"activation":' % number for number in range(1 << bits)], dtype=object)


def _is_over_tokens(found: Found | FoundOverTokens) -> TypeGuard[FoundOverTokens]:
    return hasattr(found, "token_counts")  # to ask for all that the protocol has takes as long as a row


def _until_next(layer: int, found: FoundOverTokens) -> list[bytes]:
    """A feature as JSON behind its activation: where it is strongest, at how many tokens it is active, what at each."""
    pairs = zip(found.tokens.tolist(), found.token_counts.tolist(), strict=True)
    ends = [b',"layer":%d,"token":%d,"token_count":%d},' % (layer, *pair) for pair in pairs]
    if len(found.by_token):
        values = decimals(found.by_token)
        for number, (start, stop) in enumerate(pairwise(found.by_token_starts.tolist())):
            if stop > start:
                ends[number] = ends[number][:-2] + b',"token_activations":[' + b",".join(values[start:stop]) + b"]},"
    return ends


def decimals(numbers: NDArray[np.float32]) -> list[bytes]:
    """Every number's text, the shortest decimal that gives it back, which no formatting of Python's is for float32."""
    array = orjson.dumps(np.ascontiguousarray(numbers), option=orjson.OPT_SERIALIZE_NUMPY)
    return array[1:-1].split(b",")


def _rows_with(marked: NDArray[np.bool_], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows in which at least one feature is marked."""
    return np.unique(np.searchsorted(starts, np.flatnonzero(marked), side="right") - 1)
