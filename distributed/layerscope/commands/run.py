"""What the commands do with a job: run it and sum it up, or only describe it."""

import signal
import sys

from layerscope.commands.random_saes import are_made, make_random_saes, with_random_saes
from layerscope.commands.run_parts import run_parts
from layerscope.commands.saying import command_line, stop_signals, tell_place, warn, warning
from layerscope.config import Config
from layerscope.engine.cluster.cluster import Cluster
from layerscope.engine.timeline import Timeline
from layerscope.engine.work import recovered
from layerscope.engine.writers.writer import compute
from layerscope.formatting import count_of, say
from layerscope.planning.describe import describe, summarise
from layerscope.planning.job import Job, check_space
from layerscope.planning.prepare import prepare
from layerscope.planning.shares import shares
from layerscope.planning.surroundings import surroundings
from layerscope.records.progress import Progress
from layerscope.records.reading.array import write_array
from layerscope.records.reading.run import Run
from layerscope.records.storage.object_journal import open_output
from layerscope.records.totals import Effort, Totals
from layerscope.records.writing import journal


def run_job(config: Config) -> int:
    """Runs a job, or goes on with it, and prints the summary: 0 when the file is complete, 128 + n after signal n."""
    cluster = Cluster(config, add_nodes=True)
    job = prepare(config, cluster.nodes)
    warn(job)
    check_space(job)
    if config.baseline_dictionary:
        if not are_made(job) and (stopped := make_random_saes(config, job, lambda pilot: _pilot(pilot, cluster))):
            return stopped
        job = prepare(with_random_saes(config, job.output.records), cluster.nodes)
    if job.output.parts:
        return run_parts(job, cluster)
    code, totals, effort = _go_on(job, cluster)
    if code:
        return code
    if job.output.array:
        write_array(job.output.records, job.output.array, Run.open(job.output.records).lines())
    say(summarise(job, totals, effort))
    return 0


def _pilot(config: Config, cluster: Cluster) -> int:
    """A run before the run: 0, or 128 + n after signal n."""
    job = prepare(config, cluster.nodes)
    check_space(job)
    return _go_on(job, cluster)[0]


def _go_on(job: Job, cluster: Cluster) -> tuple[int, Totals, Effort]:
    """Writes what the output file lacks: the exit code, and what there is then."""
    with open_output(job.output.records, job.identity(), job.about(command_line()), job.output.overwrite) as file:
        totals, retried = recovered(file, warning, job.output.retry_errors)
        if file.lines < job.n_questions or retried:
            try:
                totals, effort, stopped_by, left = _work(job, cluster, file, totals, retried)
            except KeyboardInterrupt:  # while Ray starts, or a second one while it ends
                effort, stopped_by, left = Effort(), signal.SIGINT, ""
        else:
            say(_nothing_to_do(job))
            effort, stopped_by, left = Effort(), None, ""
    if stopped_by:
        say(f"Stopped by {stopped_by.name} after {file.lines} of {count_of(job.n_questions, 'question')}{left}.")
        say(f"To go on: {command_line()}")
        return 128 + stopped_by, totals, effort
    return 0, totals, effort


def _nothing_to_do(job: Job) -> str:
    if job.n_questions:
        return f"{job.output.records} is complete already."
    part, count = job.shard
    return f"Shard {part}/{count} has none of the job's batches, of which there are fewer: its file stays empty."


def print_plan(config: Config) -> int:
    """Describes what a run would do."""
    cluster = Cluster(config, add_nodes=False)
    job = prepare(config, cluster.nodes)
    if config.baseline_dictionary and are_made(job):
        job = prepare(with_random_saes(config, job.output.records), cluster.nodes)
    warn(job)
    say(
        describe(
            job, [share.placement for share in shares(job, cluster.nodes)] if job.output.parts else [job.placement]
        )
    )
    say(surroundings(job, cluster.nodes, cluster.told))
    return 0


def _work(
    job: Job, cluster: Cluster, file: journal.Journal, totals: Totals, retried: list[int]
) -> tuple[Totals, Effort, signal.Signals | None, str]:
    """Starts Ray and computes what the file lacks: the new totals, what it took, what stopped it, what is left.

    What stopped it is None where nothing is left to do.
    """
    if file.lines:
        say(f"Going on after {file.lines} of {count_of(job.n_questions, 'question')}.", sys.stderr)
    with (
        Progress(job.n_questions, totals) as progress,
        Timeline(job.output.timeline) as timeline,
        cluster.engine(job.placement.gemma_actors * job.placement.gemma.num_cpus, progress.note) as engine,
        stop_signals() as caught,
    ):
        tell_place(job, progress)
        remaining = compute(job, engine, file, progress, timeline, retried, lambda: bool(caught))
        left = f", {remaining} of {len(retried)} with an error line not computed again" if remaining else ""
        stopped_by = caught[0] if caught and (left or file.lines < job.n_questions) else None
        return progress.totals, progress.effort(), stopped_by, left
