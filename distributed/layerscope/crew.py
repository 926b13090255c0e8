"""The crew of a run: its places, the actors that fill them, and which of them to give a call to.

It starts and dismisses actors; the driver decides when, because it alone knows what a death means for the run.
"""

from dataclasses import dataclass
from typing import Any

import ray

from layerscope.actors import WORKER_ENVIRONMENT, EncoderActor, GemmaActor, TorchSettings
from layerscope.job import Job
from layerscope.placement import Share

Reference = ray.ObjectRef[Any]


@dataclass
class Member:
    """A place in the crew, and the actor that fills it now."""

    block: int | None
    """The layer block of an encoder; None for a Gemma actor."""
    handle: Any = None
    ready: bool = False
    """It has loaded its weights."""
    calls: int = 0
    """Given to it and not answered."""
    deaths: int = 0
    """In a row, without an answered call between them."""


class Crew:
    """The Gemma actors and encoders of a job."""

    def __init__(self, job: Job, gemma_class: Any = GemmaActor, encoder_class: Any = EncoderActor) -> None:
        """Args:
        gemma_class, encoder_class: actor classes with the methods of the real ones; a simulation brings its own.
        """
        self._job, self._gemma_class, self._encoder_class = job, gemma_class, encoder_class
        self.gemma = [Member(block=None) for _ in range(job.placement.gemma_actors)]
        self.encoders = [
            Member(block) for block in range(len(job.placement.blocks)) for _ in range(job.placement.encoders_per_block)
        ]

    def start(self, member: Member) -> Reference:
        """Fills a place with a new actor: a reference that resolves once it has loaded.

        The actor that was there, if any, is gone or is sent away.
        """
        self.dismiss(member)
        member.ready, member.calls = False, 0
        member.handle, loaded = self._start_gemma() if member.block is None else self._start_encoder(member.block)
        return loaded

    def dismiss(self, member: Member) -> None:
        """Ends an actor's process, if there is one: only then is a GPU's memory free again."""
        if member.handle is not None:
            ray.kill(member.handle)

    def encoder(self, block: int) -> Member | None:
        """The encoder of a block that has the least to do; None while none is ready."""
        ready = [member for member in self.encoders if member.block == block and member.ready]
        return min(ready, key=lambda member: member.calls, default=None)

    def describe(self) -> str:
        """Who is ready, and what Ray has left."""
        gemma, encoders = (sum(member.ready for member in group) for group in (self.gemma, self.encoders))
        return (
            f"{gemma} of {len(self.gemma)} Gemma actors and {encoders} of {len(self.encoders)} encoders are ready. "
            f"The cluster has {_resources(ray.cluster_resources())}, free {_resources(ray.available_resources())}."
        )

    def _start_gemma(self) -> tuple[Any, Reference]:
        job = self._job
        actor = _with_share(self._gemma_class, job.placement.gemma).remote()
        settings = TorchSettings(job.placement.device, job.numerics.dtype, job.numerics.threads)
        return actor, actor.load.remote(job.model, job.spec, job.placement.blocks, settings)

    def _start_encoder(self, block: int) -> tuple[Any, Reference]:
        job = self._job
        actor = _with_share(self._encoder_class, job.placement.encoder).remote()
        saes = [sae for sae in job.saes if sae.layer in job.placement.blocks[block]]
        settings = TorchSettings(job.placement.device, job.numerics.sae_dtype, job.numerics.threads)
        return actor, actor.load.remote(job.sae_repository, saes, job.spec.d_model, settings)


def _with_share(actor: Any, share: Share) -> Any:
    return actor.options(
        num_cpus=share.num_cpus,
        num_gpus=share.num_gpus,
        max_restarts=0,  # the driver starts another: one place decides
        runtime_env={"env_vars": WORKER_ENVIRONMENT},
    )


def _resources(resources: dict[str, float]) -> str:
    return ", ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
