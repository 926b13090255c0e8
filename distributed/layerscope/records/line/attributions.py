"""What a record has of attributions: how far each feature moves the margin, over which tokens, and what else does.

Only in files of runs that were asked for them. A solution's own tokens stand in its details, and those that the
solutions begin with, and the prompt, at the end of the line. All are signed: what is positive speaks for the right
solution.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

import numpy as np
from msgspec import Meta, Struct

from layerscope.records.line.feature_lists import LayerBlock, decimals, laid_out
from layerscope.records.line.readings import LARGEST_FLOAT32, Float32, Id

if TYPE_CHECKING:
    from numpy.typing import NDArray

TERMS = ("features", "bias", "error", "total", "skip")
"""The last of dictionaries alone that pass anything on beside their features."""
GROUPS = ("positive", "negative", "common", "prompt")
"""Of tokens, as `Record.attributions` names them."""
OF_THE_LINE = ("common", "prompt")
"""Groups of tokens whose attributions stand at the end of a line, each under two keys that begin so."""


class AttributedFeature(Struct, frozen=True, gc=False):
    """A feature that moves the margin."""

    feature_id: Id
    attribution: Float32
    """Summed over the tokens of its group."""
    activation: Annotated[float, Meta(ge=0, le=LARGEST_FLOAT32)]
    """At `token`; 0 where the feature is silent there, which it can be against its mean alone."""
    token: Id
    """Where the largest share of the attribution is: from 0 within the solution, and in the prompt from BOS, which is 0
    and never among them."""
    layer: int


class AttributionTerms(Struct, frozen=True, gc=False):
    """What a layer's part of the margin's first-order change is made of; they cancel heavily."""

    features: Float32
    """All attributions, those that are not listed too."""
    bias: Float32
    """Of the decoder."""
    error: Float32
    """Of the SAE: what it does not reconstruct."""
    total: Float32
    """Gradient times what the features are a part of: the residual stream, or what SAEs write of another site."""
    skip: Float32 = 0.0
    """What a dictionary passes on beside its features, such as a transcoder's affine connection. Most have none."""


class Attributions(NamedTuple):
    """Of one group of tokens, by layer."""

    lists: dict[int, list[AttributedFeature]]
    terms: dict[int, AttributionTerms]


class Found(Protocol):
    """What an encoder found: of every group of tokens the features to be listed."""

    @property
    def feature_ids(self) -> NDArray[np.int64]: ...  # [N]
    @property
    def attributions(self) -> NDArray[np.float32]: ...  # [N]
    @property
    def activations(self) -> NDArray[np.float32]: ...  # [N]
    @property
    def tokens(self) -> NDArray[np.int64]: ...  # [N]
    @property
    def starts(self) -> NDArray[np.int64]: ...  # [G + 1]; group g has starts[g]:starts[g + 1]
    @property
    def active_counts(self) -> NDArray[np.int64]: ...  # [G]
    @property
    def terms(self) -> NDArray[np.float32]: ...  # [G, 4], or [G, 5] with `skip`


class AttributionRows(NamedTuple):
    """Of a question: which of a block's rows hold what attributions."""

    own: dict[int, int]
    """By solution."""
    common: int
    prompt: int


def names_of_the_line() -> list[str]:
    """The keys at the end of a line, in their order."""
    return [name for group in OF_THE_LINE for name in (list_name(group), terms_name(group))]


def list_name(group: str = "") -> str:
    """The key of a group's features; of a solution's own tokens without its name."""
    return f"{group}_attributions_by_layer".removeprefix("_")


def terms_name(group: str = "") -> str:
    """The key of what a group's attributions are a part of."""
    return f"{group}_attribution_terms_by_layer".removeprefix("_")


def serialise_attributions(layers: Sequence[int], found: Sequence[Found]) -> LayerBlock:
    """The groups of a block's layers as JSON: of each `"8":[{…},…],"9":[…]`, then `"8":{"features":…},"9":{…}`."""
    n_groups = len(found[0].active_counts)
    lists = [_lists(layer, of) for layer, of in zip(layers, found, strict=True)]
    terms = [_terms(layer, of.terms) for layer, of in zip(layers, found, strict=True)]
    parts = [b",".join(of_layer[group] for of_layer in half) for group in range(n_groups) for half in (lists, terms)]
    failed = np.full(n_groups, -1)
    for layer, of in reversed(list(zip(layers, found, strict=True))):
        failed[~np.isfinite(of.terms).all(axis=1)] = layer
    return laid_out(parts, [of.active_counts for of in found], failed)


def _lists(layer: int, found: Found) -> list[bytes]:
    numbers = zip(
        found.feature_ids.tolist(),
        decimals(found.attributions),
        decimals(found.activations),
        found.tokens.tolist(),
        strict=False,
    )
    form = b'{"feature_id":%%d,"attribution":%%b,"activation":%%b,"token":%%d,"layer":%d}' % layer
    features = [form % of for of in numbers]
    return [b'"%d":[%b]' % (layer, b",".join(features[start:end])) for start, end in pairwise(found.starts.tolist())]


def _terms(layer: int, terms: NDArray[np.float32]) -> list[bytes]:
    n_terms = terms.shape[1]
    form = b'"%d":{%b}' % (layer, b",".join(b'"%b":%%b' % name.encode() for name in TERMS[:n_terms]))
    numbers: Any = decimals(terms.reshape(-1))
    return [form % tuple(numbers[start : start + n_terms]) for start in range(0, len(numbers), n_terms)]
