"""What the commands do with a job: run it and sum it up, or only describe it."""

import sys

from layerscope.commands.random_saes import alone_with_random_saes, are_made, make_random_saes, with_random_saes
from layerscope.commands.run_parts import run_parts
from layerscope.commands.saying import Stop, command_line, stoppable, tell_place, warn, warning
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
    """Runs a job, or goes on with it, and prints the summary: 0 when the file is complete.

    Raises:
        Stopped: a signal ended it, where it says.
    """
    with stoppable() as stop:
        _run(config, stop)
    return 0


def _run(config: Config, stop: Stop) -> None:
    cluster = Cluster(config, add_nodes=True)
    job = prepare(config, cluster.nodes)
    warn(job)
    check_space(job)
    if not config.baseline_dictionary:
        _compute(job, cluster, stop)
        return
    with alone_with_random_saes(job) as are_there:
        if not are_there:
            make_random_saes(config, job, lambda pilot: _pilot(pilot, cluster, stop))
        _compute(prepare(with_random_saes(config, job.output.records), cluster.nodes), cluster, stop)


def _compute(job: Job, cluster: Cluster, stop: Stop) -> None:
    if job.output.parts:
        run_parts(job, cluster, stop)
        return
    totals, effort = _go_on(job, cluster, stop)
    if job.output.array:
        write_array(job.output.records, job.output.array, Run.open(job.output.records).lines())
    say(summarise(job, totals, effort))


def _pilot(config: Config, cluster: Cluster, stop: Stop) -> None:
    """A run before the run."""
    job = prepare(config, cluster.nodes)
    check_space(job)
    _go_on(job, cluster, stop, " of the pilot")


def _go_on(job: Job, cluster: Cluster, stop: Stop, of: str = "") -> tuple[Totals, Effort]:
    """Writes what the output file lacks, and gives what there is then.

    Args:
        of: whose questions they are.
    """
    with open_output(job.output.records, job.identity(), job.about(command_line()), job.output.overwrite) as file:
        stop.stands = lambda: f"after {file.lines} of {count_of(job.n_questions, 'question')}{of}"
        totals, retried = recovered(file, warning, job.output.retry_errors)
        if file.lines < job.n_questions or retried:
            return _work(job, cluster, file, totals, retried, stop)
        say(_nothing_to_do(job))
        return totals, Effort()


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
    say(surroundings(job, cluster.nodes, cluster.told, cluster.hindrance()))
    return 0


def _work(
    job: Job, cluster: Cluster, file: journal.Journal, totals: Totals, retried: list[int], stop: Stop
) -> tuple[Totals, Effort]:
    """Starts Ray and computes what the file lacks: the new totals, and what it took."""
    if file.lines:
        say(f"Going on after {file.lines} of {count_of(job.n_questions, 'question')}.", sys.stderr)
    with (
        Progress(job.n_questions, totals) as progress,
        Timeline(job.output.timeline) as timeline,
        cluster.engine(job.placement.gemma_actors * job.placement.gemma.num_cpus, progress.note) as engine,
    ):
        stop.hold()
        tell_place(job, progress)
        left = compute(job, engine, file, progress, timeline, retried, lambda: bool(stop.first))
        if left:
            stop.left = f", {left} of {len(retried)} with an error line not computed again"
        result = progress.totals, progress.effort()
    stop.obey()
    return result
