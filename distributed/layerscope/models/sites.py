"""The tensors of decoder layers that SAEs read, collected as a pass goes by.

Where SAEs read at several sites, a row is what all of these have of a token, one behind the other.

Shapes: T tokens, L layers, R rows that are wanted, D their width.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.models.family import SitePoint


@contextmanager
def capture_rows(
    decoder_layers: nn.ModuleList, layers: Sequence[int], point: SitePoint, rows: Tensor
) -> Iterator[dict[int, Tensor]]:
    """Collects rows of what chosen decoder layers have at a site, through hooks.

    Args:
        rows: [R] int64 into the tokens; everything else is dropped inside the hook.

    Yields:
        by layer, [R, D], filled by the forward pass that follows.
    """
    captured: dict[int, Tensor] = {}

    def keep(layer: int, module: nn.Module, states: Tensor) -> None:
        chosen = states[0].detach().index_select(0, rows)  # of [1, T, D]
        captured[layer] = chosen if point.change is None else point.change(module, chosen)

    def before(layer: int) -> Any:
        return lambda module, inputs: keep(layer, module, inputs[0])

    def behind(layer: int) -> Any:
        return lambda module, _inputs, output: keep(layer, module, output)

    handles = []
    for layer in layers:
        module = decoder_layers[layer].get_submodule(point.module)
        handles.append(
            module.register_forward_pre_hook(before(layer))
            if point.side == "input"
            else module.register_forward_hook(behind(layer))
        )
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def stacked(captured: Sequence[Mapping[int, Tensor]], layers: Sequence[int]) -> Tensor:
    """[L, R, D] of what was collected, D being the widths of all sites together.

    Args:
        captured: of each site, by layer.
    """
    of_sites = [torch.stack([of_site[layer] for layer in layers]) for of_site in captured]
    return of_sites[0] if len(of_sites) == 1 else torch.cat(of_sites, dim=-1)
