"""The activations of a block of layers to features as JSON, as plain functions that know nothing of Ray."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from layerscope.errors import LayerscopeError
from layerscope.numerics.out_of_memory import give_back, is_out_of_memory
from layerscope.questions.reading import FINAL, Reading
from layerscope.records.line.attributions import serialise_attributions
from layerscope.records.line.feature_lists import LayerBlock, one_behind_the_other, serialise_block
from layerscope.saes.attribution import Attributed, Attributing, ToAttribute
from layerscope.saes.encoder import (
    SaeEncoder,
    TopK,
    encode_layers,
    encode_top_k,
    rows_at_once,
)
from layerscope.saes.over_tokens import OverTokens, encode_spans
from layerscope.saes.spans import Spans


class Encoders(NamedTuple):
    """The SAEs of a dictionary at the layers of a block."""

    name: str
    columns: slice
    """Which numbers of a row they read: those of their site."""
    of_layers: Sequence[SaeEncoder]

    @property
    def width(self) -> int:
        """How many these are."""
        return int(self.columns.stop - self.columns.start)


def encode_dictionaries(
    residuals: Tensor,
    layers: Sequence[int],
    dictionaries: Sequence[Encoders],
    k: int | None,
    spans: Spans | None = None,
    reading: Reading = FINAL,
    attribute: ToAttribute | None = None,
) -> LayerBlock:
    """`encode_block` by every dictionary, the first one's lists and attributions before those of the others.

    Args:
        residuals: [L, R, D], D being the widths of all sites together. What is kept of them is the first dictionary's.
    """
    first, *others = dictionaries
    here = residuals[..., first.columns]
    whole = encode_block(here, layers, first.of_layers, k, spans, reading, attribute)
    lists_alone = replace(reading, residuals=None)
    for each in others:
        there = residuals[..., each.columns].contiguous()
        block = encode_block(there, layers, each.of_layers, k, spans, lists_alone)
        joined, halved = one_behind_the_other(whole, block), whole.halved or block.halved
        whole = replace(joined, halved=halved, residuals=whole.residuals, clamped=whole.clamped)
    return whole


def encode_block(
    residuals: Tensor,
    layers: Sequence[int],
    encoders: Sequence[SaeEncoder],
    k: int | None,
    spans: Spans | None = None,
    reading: Reading = FINAL,
    attribute: ToAttribute | None = None,
) -> LayerBlock:
    """Encodes a block of layers and serialises the strongest features of every row, and of every solution.

    Args:
        residuals: [L, R, D] of these layers, on the encoders' device.
        spans: which rows make a list of their own, and which solutions' they are; without them each makes one.
        reading: the residuals of the rows that make a list of their own go with it, if it says so.
        attribute: with what the margin is attributed, in lists behind the others; with `spans` alone.

    Raises:
        LayerscopeError: a single row does not fit the memory.
    """
    block = _encode_block(residuals, layers, encoders, k, spans, reading.token_activations, attribute)
    if reading.residuals is None:
        return block
    singles = residuals if spans is None else residuals[:, torch.from_numpy(spans.single).to(residuals.device)]
    numbers = singles.to(getattr(torch, reading.residuals))
    infinite = numbers.isinf()
    if clamped := bool(infinite.any()) and bool((infinite & singles.isfinite()).any()):
        numbers.clamp_(-torch.finfo(numbers.dtype).max, torch.finfo(numbers.dtype).max)
    return replace(block, residuals=numbers.cpu().numpy(), clamped=clamped)


def _encode_block(
    residuals: Tensor,
    layers: Sequence[int],
    encoders: Sequence[SaeEncoder],
    k: int | None,
    spans: Spans | None,
    by_token: int,
    attribute: ToAttribute | None,
) -> LayerBlock:
    if residuals.device.type == "cuda" and spans is None:
        try:
            return serialise_block(layers, encode_layers(residuals, encoders, k))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        give_back()  # outside the handler, which keeps the failed try's tensors alive
    found, over_tokens, attributed, halved = list[TopK](), list[OverTokens](), list[Attributed](), False
    for number, (rows, sae) in enumerate(zip(residuals, encoders, strict=True)):
        of_layer = None if attribute is None else partial(attribute.begin, number, rows)
        of_rows, of_solutions, of_groups, was_halved = _encode(rows, sae, k, spans, by_token, of_layer)
        found.append(of_rows)
        over_tokens += of_solutions
        attributed += of_groups
        halved |= was_halved
    block = serialise_block(layers, found, over_tokens)
    if attributed:
        block = one_behind_the_other(block, serialise_attributions(layers, attributed))
    return replace(block, halved=halved)


def _encode(
    rows: Tensor,
    sae: SaeEncoder,
    k: int | None,
    spans: Spans | None,
    by_token: int,
    attributing: Callable[[], Attributing] | None,
) -> tuple[TopK, list[OverTokens], list[Attributed], bool]:
    """Encodes a layer, in as small parts as the memory needs: also whether it did not fit at once."""
    at_once, halved = min(max(1, len(rows)), rows_at_once(sae)), False
    while True:
        try:
            if spans is None:
                return encode_top_k(rows, sae, k, at_once), [], [], halved
            of_groups = attributing() if attributing else None
            of_rows, of_solutions = encode_spans(rows, sae, k, spans, at_once, by_token, of_groups)
            over_tokens = [of_solutions] if spans.n_solutions else []
            return of_rows, over_tokens, [of_groups.result(k)] if of_groups else [], halved
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if at_once == 1:
                raise LayerscopeError(
                    f"One row does not fit the memory beside an SAE of {sae.d_sae} features.\n"
                    "Use a GPU with more memory, --sae-dtype bfloat16 or more --layer-blocks, and run again to go on."
                ) from error
        give_back()  # outside the handler
        at_once, halved = at_once // 2, True


def warm_up_encoders(dictionaries: Sequence[Encoders]) -> None:
    """Has a GPU load its libraries and compile its kernels, which takes seconds, before the first batch."""
    for each in dictionaries:
        device = each.of_layers[0].threshold.device
        rows = torch.ones(len(each.of_layers), 2, each.width, dtype=torch.bfloat16, device=device)
        encode_layers(rows, each.of_layers, 1)
