"""A run of parts: the head, which has writers write them."""

from collections.abc import Sequence

from msgspec import UNSET
from msgspec.structs import replace

from layerscope.commands.saying import Stop, command_line, tell_place, warning
from layerscope.engine.cluster.cluster import Cluster
from layerscope.engine.work import recovered
from layerscope.engine.writers.posts import Part, Posts
from layerscope.engine.writers.writer import Task, opened
from layerscope.engine.writers.writer_actor import start_writer
from layerscope.engine.writers.writers import ToWrite, Writers
from layerscope.formatting import count_of, say
from layerscope.planning.describe import summarise
from layerscope.planning.job import Job
from layerscope.planning.shares import Share, part_of, shares
from layerscope.records.manifest.identity import Identity, PlanSize
from layerscope.records.manifest.manifest import read_manifest
from layerscope.records.progress import Progress
from layerscope.records.reading.parts import as_it_lies, held
from layerscope.records.totals import Effort, Totals


def run_parts(job: Job, cluster: Cluster, stop: Stop) -> None:
    """Has a job written in parts, or goes on with it, and prints the summary: see `run_job`."""
    output = job.output
    placed, identity = shares(job, cluster.nodes), job.identity()

    def task(number: int, share: Share, again: bool) -> Task:
        own = part_of(job, number, share)
        return Task(own, _of_part(own, identity), own.about(command_line()), again)

    with held(output.records, len(output.parts), command_line()) as was_there:
        parts, effort = list[Part](), Effort()
        for number, path in enumerate(output.parts, start=1):
            if was_there and not path.exists():
                warning(f"{path} is not there: its part is computed from the beginning.")
            parts.append(_begun(number, task(number, placed[0], False), was_there, output.overwrite))
        stop.stands = lambda: _standing(job, parts)
        if all(part.complete for part in parts) and not output.retry_errors:
            for part in parts:
                _look_at(part, task(part.number, placed[0], False))
            say(f"{output.records} is complete already.")
        else:
            to_write = ToWrite(output.records, as_it_lies(output.records), parts, task, start_writer)
            effort = _work(job, cluster, to_write, placed, stop)
    say(summarise(job, Totals.of_all(part.totals for part in parts), effort))
    for part in parts:
        if part.elsewhere:
            say(f"on another disk         {output.parts[part.number - 1]}, of {part.elsewhere}")


def _standing(job: Job, parts: Sequence[Part]) -> str:
    """Where it stands, for people."""
    done, left = sum(part.totals.questions for part in parts), sum(part.left for part in parts)
    again = f", {count_of(left, 'line')} with an error not computed again" if left else ""
    return f"after {done} of {count_of(job.n_questions, 'question')}{again}"


def _of_part(own: Job, whole: Identity) -> Identity:
    """The identity of a part, for which nothing is hashed again."""
    settings = replace(whole.settings, shard="{}/{}".format(*own.shard))
    plan = PlanSize(questions=own.n_questions, batches=len(own.plan), sha256=own.plan.digest)
    return replace(whole, settings=settings, plan=plan)


def _begun(number: int, task: Task, was_there: bool, overwrite: bool) -> Part:
    """A part that is there now, new or to be gone on with, and what its manifest notes.

    Args:
        was_there: the run was begun before, and its writers may be about to die with their head.

    Raises:
        UsageError: it was made with other settings, or not by a run.
        LayerscopeError: another run is on it, or it cannot be written.
    """
    path, planned = task.job.output.records, task.job.n_questions
    with opened(task, was_there, overwrite=overwrite):
        progress = read_manifest(path).progress
    if progress is UNSET:
        return Part(number, planned, Totals())
    return Part(number, planned, Totals.noted(progress) or Totals(questions=progress.lines))


def _look_at(part: Part, task: Task) -> None:
    """Looks whether the lines of a finished part are those that were written.

    Raises:
        LayerscopeError: they are not.
    """
    with opened(task, patient=True) as file:
        part.totals, _ = recovered(file, warning, retry_errors=False)


def _work(job: Job, cluster: Cluster, to_write: ToWrite, placed: list[Share], stop: Stop) -> Effort:
    """Starts Ray and has the writers compute what the parts lack: what it took."""
    totals = Totals.of_all(part.totals for part in to_write.parts)
    cpus = sum(share.placement.gemma_actors * share.placement.gemma.num_cpus for share in placed)
    with (
        Progress(job.n_questions, totals) as progress,
        cluster.engine(cpus, progress.note) as engine,
    ):
        stop.hold()
        if totals.questions:  # as far as manifests note; what lies behind, the writers read
            progress.note(f"Going on after at least {totals.questions} of {count_of(job.n_questions, 'question')}.")
        at_once = f", {len(placed)} at a time" if len(placed) < len(to_write.parts) else ""
        progress.note(f"{count_of(len(to_write.parts), 'writer')}{at_once}:")
        tell_place(job, progress, [share.placement for share in placed])
        posts = Posts(job, placed, engine, progress.note)
        writers = Writers(to_write, posts, engine, progress, lambda: bool(stop.first))
        writers.run()
        effort = progress.effort(writers.lost)
    stop.obey()
    return effort
