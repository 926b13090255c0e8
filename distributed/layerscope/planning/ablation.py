"""From a run's job to one that ablates its questions: no encoders, each batch once for every portion of features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from msgspec import UNSET
from msgspec.structs import replace as changed

from layerscope.planning.job import Job
from layerscope.planning.needs import BYTES_PER_VALUE
from layerscope.planning.node import Node
from layerscope.planning.placing import place
from layerscope.planning.saes import acts_at
from layerscope.planning.to_ablate import ToAblate
from layerscope.questions.plan import Integers, Plan
from layerscope.questions.reading import Reading
from layerscope.records.ablations import AblationPlan
from layerscope.records.manifest.identity import AblationSettings, Identity
from layerscope.records.manifest.manifest import AblationAbout, About
from layerscope.saes.weights import read_decoder

FEATURES_AT_ONCE = 8
"""Of a portion: few enough that a person sees lines come, and that what a dead actor had begun is soon done again."""


@dataclass(frozen=True)
class PortionedPlan(Plan):
    """The batches of a run, each as often as there are portions of features, one after the other."""

    portions: int = 1

    def __len__(self) -> int:
        return super().__len__() * self.portions

    def batch(self, index: int) -> Integers:
        return super().batch(index // self.portions)


def decoder_norms(job: Job, layer: int) -> Sequence[float]:
    """How long each feature's row of a layer's decoder is.

    Raises:
        LayerscopeError: the file is broken, or has no decoder.
    """
    (sae,) = (sae for sae in job.saes if sae.layer == layer)
    w_dec = read_decoder(job.sae_repository, sae, job.spec.width(sae.site)).w_dec
    norms: list[float] = np.sqrt(np.einsum("fd,fd->f", w_dec, w_dec, dtype=np.float64)).tolist()
    return norms


def ablation_plan(job: Job, settings: AblationSettings) -> AblationPlan:
    """Which line is of what."""
    order, starts = job.plan.order.tolist(), job.plan.starts.tolist()
    return AblationPlan(order, starts, settings.features, settings.controls, settings.features_at_once)


def plan_of_lines(plan: AblationPlan) -> Plan:
    """The lines of the file in place of questions, each portion of a batch in place of a batch."""
    return Plan(np.arange(plan.lines), np.array(plan.part_starts()), 0, 0, 0, "")


def to_identity(job: Job, settings: AblationSettings) -> Identity:
    """Whatever decides the bytes of the file of ablations."""
    return changed(job.identity(), ablation=settings, packing=UNSET)


def to_about(job: Job, command: str, about: AblationAbout) -> About:
    """What its manifest says besides."""
    return changed(job.about(command), ablation=about)


def ablating(
    job: Job, nodes: Sequence[Node], settings: AblationSettings, differences: Mapping[int, Mapping[int, float]]
) -> Job:
    """The job that ablates.

    Raises:
        LayerscopeError: the model and what is kept of a batch do not fit the memory there is.
        UsageError: where the features write they cannot be taken out.
    """
    plan, site = ablation_plan(job, settings), job.reading.sites[0]
    layers = {feature.layer for feature in settings.features}
    to_ablate = ToAblate(
        repository=job.sae_repository,
        saes=tuple(sae for sae in job.saes if sae.layer in layers),
        sae_dtype=job.numerics.sae_dtype,
        portions=plan.portions,
        kinds=plan.kinds,
        factor=-1.0 if settings.steer is None else settings.steer,
        differences={layer: differences[layer] for layer in layers if layer in differences},
        batch_tokens=job.numerics.batch_tokens,
        site=site,
        writes=acts_at(job.dictionaries[0], job.spec),
    )
    beside = 0 if site == "resid_post" else job.spec.width(site)
    size = BYTES_PER_VALUE[job.numerics.dtype]
    keys_and_values = 2 * job.spec.width("attn_out") * (job.spec.n_layers - 1 - min(layers))  # at most
    kept = (len(layers) * (job.spec.d_model + beside) + keys_and_values) * job.numerics.batch_tokens * size
    work = job.needs.gemma_work - job.needs.kept + kept
    needs = replace(job.needs, sae_by_layer={}, kept=kept, gemma_work=work, encode_cost=0.0)
    crew = replace(job.crew, encoder_gpus=0, layer_blocks=None, encoders_per_block=None)
    return replace(
        job,
        ablation=to_ablate,
        reading=Reading(prompt=job.reading.prompt, more=job.reading.more),
        plan=PortionedPlan(**vars(job.plan), portions=len(plan.portions)),
        needs=needs,
        crew=crew,
        placement=place(crew, nodes, needs),
    )
