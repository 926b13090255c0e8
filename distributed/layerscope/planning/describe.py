"""What the commands print: a job before it is run, and what it came to."""

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from layerscope.config import FIRST
from layerscope.formatting import count_of, size_text
from layerscope.hub import cache
from layerscope.planning.job import Job, download_bytes
from layerscope.planning.needs import BYTES_PER_VALUE
from layerscope.planning.placement import Placement, gib
from layerscope.planning.saes import Dictionary
from layerscope.records.advice import RUNNING
from layerscope.records.goals import count_goals, told_goals
from layerscope.records.manifest.differences import settings_that_differ
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.manifest.order import order_path
from layerscope.records.reading.residuals import residual_readings, residuals_path
from layerscope.records.reading.run import Run
from layerscope.records.totals import Effort, Totals
from layerscope.records.writing.marks import marks_path

STANDIN_NOTE = "Stand-in weights: small, trained on generated text. Nothing here says anything about Gemma."


def describe(job: Job, of_writers: Sequence[Placement] = ()) -> str:
    """What a run of the job would do.

    Args:
        of_writers: the placements of those who write at once, where there are several.
    """
    plan = job.plan
    lines = [STANDIN_NOTE] if job.standin else []
    lines += [
        f"model      {job.model.name} {job.model.commit or '(folder)'}: {count_of(job.spec.n_layers, 'layer')}, "
        f"d_model {job.spec.d_model}, {job.spec.n_parameters / 1e6:,.1f} M parameters, {job.numerics.dtype}",
    ]
    for dictionary in job.dictionaries:
        lines += _describe_saes(job, dictionary)
    saved = 1 - plan.shared_tokens / plan.unshared_tokens if plan.unshared_tokens else 0
    lines += [
        f"questions  {len(job.selection)} of {len(job.selection.source)} in {_origin(job)}"
        + (
            f", of which shard {job.shard[0]}/{job.shard[1]} takes {job.n_questions}"
            if job.n_questions < len(job.selection)
            else ""
        )
        + (f", {plan.unscorable} of them cannot be scored" if plan.unscorable else ""),
        *([f"  {job.selection.source.told}"] if job.selection.source.told else []),
        *_describe_shots(job),
        f"tokens     {plan.shared_tokens:,} with shared prefixes, {plan.unshared_tokens:,} without ({saved:.0%} saved)",
        f"readings   {', '.join(job.reading.names)}{', with the tokens' if job.reading.tokens else ''}",
        *([f"causes     the margin attributed to features ({_causes(job)})"] if job.reading.attribution else []),
        f"batches    {len(plan)} of up to {count_of(job.numerics.batch_tokens, 'token')}",
        *_describe_writers(job, len(of_writers)),
        *(
            line
            for placement in of_writers or [job.placement]
            for line in _describe_placement(placement, job.numerics.threads)
        ),
        f"memory     {job.needs.card} a copy of the model in bfloat16, with its work {gib(job.needs.on_a_card)}",
        f"output     {job.output.records}: about {size_text(job.file_bytes())}",
        *_describe_residuals(job),
        f"download   {size_text(download_bytes(job))} to this machine",
        f"cache      {cache.told()}",
        f"done       {_done(job)}",
    ]
    return "\n".join(lines)


def _describe_saes(job: Job, dictionary: Dictionary) -> list[str]:
    repository, saes = dictionary.repository, dictionary.saes
    if dictionary.to_make:
        return [f"and        {dictionary.name}: as many random features, which a pilot is run for first"]
    encoders = len(saes) * job.spec.width(dictionary.site) * dictionary.d_sae * BYTES_PER_VALUE[job.numerics.sae_dtype]
    name, site = ("SAEs", "") if dictionary.name == FIRST else ("and", f"{dictionary.name}: {dictionary.site} of ")
    return [
        f"{name:<10} {site}{repository.name} {repository.commit or '(folder)'}: "
        f"width {saes[0].width} ({count_of(dictionary.d_sae, 'feature')}), {job.numerics.sae_dtype}, "
        f"encoders {size_text(encoders)}",
        *(
            f"  layer {sae.layer:>2}  {sae.path.rpartition('/')[0] or sae.path}  "
            f"L0 {sae.l0_name if sae.l0 is None else sae.l0}  {sae.neuronpedia_id or 'no Neuronpedia id'}"
            for sae in saes
        ),
    ]


def _describe_shots(job: Job) -> list[str]:
    shots = job.reading.prompt.shots
    if shots is None:
        return []
    rows = ", ".join(str(each.example_id) for each in shots.usual)
    return [f"examples   {count_of(shots.count, 'question')} with the right solution before each: {shots.told}, {rows}"]


def _describe_residuals(job: Job) -> list[str]:
    if job.reading.residuals is None:
        return []
    readings = ", ".join(residual_readings(job.reading.names))
    return [
        f"residuals  {residuals_path(job.output.records)}: {size_text(job.residual_bytes())}, "
        f"{job.reading.residuals} of {readings} after {count_of(len(job.layers), 'layer')}"
        + (", of the right solution and the strongest wrong one" if job.reading.more else "")
    ]


def _describe_writers(job: Job, at_once: int) -> list[str]:
    parts = job.output.parts
    if not parts:
        return []
    turns = f", {at_once} at a time" if at_once < len(parts) else ""
    return [f"writers    {len(parts)}{turns}, each with its part: {parts[0].name} to {parts[-1].name}"]


def _describe_placement(placement: Placement, threads: int | None) -> list[str]:
    where = f"{placement.device} ({placement.hardware})" + (
        f", {count_of(threads, 'torch thread')} each" if threads else ""
    )
    return [
        f"actors     {placement.gemma_actors} Gemma, {count_of(len(placement.blocks), 'layer block')} x "
        f"{count_of(placement.encoders_per_block, 'encoder')} on {where}",
        *(f"  {line}" for line in placement.lines),
        *([f"  pinned to GPUs of type {placement.accelerator}"] if placement.accelerator else []),
    ]


def _done(job: Job) -> str:
    there = [file for file in job.output.files if file.is_file()]
    if not sum(file.stat().st_size for file in there):
        return "nothing: the output file is not there yet"
    lines = sum(1 for file in there for _ in Run.open(file, RUNNING).lines())
    told = f"{lines} of {count_of(job.n_questions, 'question')}"
    differing = made_otherwise(job)
    return f"{told}, but with other settings: {'; '.join(differing)}" if differing else told


def made_otherwise(job: Job) -> list[str]:
    """The settings that were others when what is there was begun."""
    for file in job.output.files:
        if file.is_file() and file.stat().st_size:
            manifest, identity = Run.open(file, RUNNING).manifest, job.identity()
            if job.output.parts:  # the part's own, however the file came to be there
                own = manifest.identity
                settings = replace(identity.settings, shard=own.settings.shard)
                plan = replace(identity.plan, questions=own.plan.questions, batches=own.plan.batches)
                identity = replace(identity, settings=settings, plan=plan)
            return settings_that_differ(manifest, identity)
    return []


def _origin(job: Job) -> str:
    origin = job.selection.source.origin
    return " ".join([origin["dataset"], *(origin[key] for key in ("split", "config", "revision") if key in origin)])


def summarise(job: Job, totals: Totals, effort: Effort) -> str:
    """What a finished run came to.

    Args:
        effort: what it took.
    """
    wasted = [count_of(effort.begun_again, "question")] if effort.begun_again else []
    wasted += [f"what {count_of(effort.writers_lost, 'lost writer')} had under way"] if effort.writers_lost else []
    parts, records = job.output.parts, job.output.records
    beside = [each(records) for each in (manifest_path, order_path, marks_path)]
    files = [f"{parts[0]} and {len(parts) - 1} more" if parts else str(records)]
    files += [str(each) for each in beside if each.exists()]
    if job.reading.residuals:
        files.append(str(residuals_path(job.output.files[0])) + f" and {len(parts) - 1} more" * bool(parts))
    if job.output.array:
        files.append(str(job.output.array))
    in_order_of_file = job.selection.read(np.sort(job.plan.order))
    grouped = told_goals(count_goals((question.goal for question in in_order_of_file), job.n_questions))
    lines = [
        f"questions             {totals.questions} ({totals.errors} with an error line)",
        *([f"goals                 {grouped}"] if grouped else []),
        f"accuracy              {totals.accuracy()} by log-likelihood (acc)",
        f"                      {totals.accuracy_per_character()} by log-likelihood per character (acc_norm)",
        f"readings              {', '.join(job.reading.names)}",
        f"mean active features  {totals.mean_active_features()} per solution and layer ({job.reading.names[0]})",
        *([f"questions/s           {effort.rate:.2f}"] if effort.rate else []),
        *([f"computed again        {' and '.join(wasted)}: an actor, a writer or a node was lost"] if wasted else []),
        *(f"file                  {file}" for file in files),
    ]
    return "\n".join([*([STANDIN_NOTE] if job.standin else []), *lines])


def _causes(job: Job) -> str:
    return f"{job.reading.attribution} at {job.reading.acts_at}{', against means' if job.reading.means else ''}"
