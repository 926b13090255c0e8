"""What each actor of a job is to load, and how it computes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from layerscope.engine.batches.answers import TorchSettings
from layerscope.hub.repository import Repository
from layerscope.planning.job import Job
from layerscope.planning.placement import Placement, Seat
from layerscope.saes.choice import SaeChoice


class EncodersToLoad(NamedTuple):
    """What an encoder takes of a dictionary."""

    name: str
    repository: Repository
    saes: Sequence[SaeChoice]
    columns: slice
    """Which numbers of a row these read: those of their site."""
    written: slice | None = None
    """To which of them their features add up, where that is not what they read and the margin is attributed to them."""


def to_load(job: Job, placement: Placement, seat: Seat) -> tuple[Any, ...]:
    """The arguments of `load` for the actor of a seat."""
    numerics = job.numerics
    dtype = numerics.dtype if seat.block is None else numerics.sae_dtype
    settings = TorchSettings(placement.device, dtype, numerics.threads)
    if seat.block is None:
        return job.model, job.spec, placement.blocks, job.reading, settings, job.ablation
    layers = placement.blocks[seat.block]
    written = job.columns(job.reading.writes) if job.reading.writes else None
    dictionaries = [
        EncodersToLoad(
            each.name,
            each.repository,
            [sae for sae in each.saes if sae.layer in layers],
            job.columns(each.site),
            written if each is job.dictionaries[0] else None,
        )
        for each in job.dictionaries
    ]
    return layers, dictionaries, numerics.dtype, job.reading, settings
