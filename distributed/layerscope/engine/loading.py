"""What each actor of a job is to load, and how it computes."""

from typing import Any

from layerscope.engine.answers import TorchSettings
from layerscope.planning.job import Job
from layerscope.planning.placement import Placement, Seat


def to_load(job: Job, placement: Placement, seat: Seat) -> tuple[Any, ...]:
    """The arguments of `load` for the actor of a seat."""
    numerics = job.numerics
    dtype = numerics.dtype if seat.block is None else numerics.sae_dtype
    settings = TorchSettings(placement.device, dtype, numerics.threads)
    if seat.block is None:
        return job.model, job.spec, placement.blocks, job.reading, settings
    saes = [sae for sae in job.saes if sae.layer in placement.blocks[seat.block]]
    return job.sae_repository, saes, job.d_read, numerics.dtype, job.reading, settings
