"""What the commands do with a job: run it and sum it up, or only describe it."""

import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from layerscope.config import Config
from layerscope.engine.budget import Budget
from layerscope.engine.cluster import Cluster
from layerscope.engine.crew import Crew
from layerscope.engine.driver import Driver
from layerscope.engine.lines import BatchLines
from layerscope.engine.timeline import Timeline
from layerscope.engine.work import Work, recovered
from layerscope.formatting import count_of, say, shell_word, size_text
from layerscope.planning.describe import describe, summarise
from layerscope.planning.job import Job, check_space, download_bytes
from layerscope.planning.output import in_ray_job, ray_job_environment
from layerscope.planning.prepare import prepare
from layerscope.planning.surroundings import surroundings
from layerscope.records import journal
from layerscope.records.array import write_array
from layerscope.records.fingerprints import Fingerprints
from layerscope.records.object_journal import open_output
from layerscope.records.progress import Progress
from layerscope.records.run import Run
from layerscope.records.totals import Totals


def run_job(config: Config) -> int:
    """Runs a job, or goes on with it, and prints the summary: 0 when the file is complete, 128 + n after signal n."""
    cluster = Cluster(config, add_nodes=True)
    job = prepare(config, cluster.nodes)
    warn(job)
    check_space(job)
    with open_output(job.output.records, job.identity(), job.about(command_line()), job.output.overwrite) as file:
        totals, retried = recovered(file, warning, job.output.retry_errors)
        if file.lines < job.n_questions or retried:
            try:
                totals, rate, stopped_by, left = _work(job, cluster, file, totals, retried)
            except KeyboardInterrupt:  # while Ray starts, or a second one while it ends
                rate, stopped_by, left = 0.0, signal.SIGINT, ""
        else:
            say(_nothing_to_do(job))
            rate, stopped_by, left = 0.0, None, ""
    if stopped_by:
        say(f"Stopped by {stopped_by.name} after {file.lines} of {count_of(job.n_questions, 'question')}{left}.")
        say(f"To go on: {command_line()}")
        return 128 + stopped_by
    if job.output.array:
        write_array(job.output.records, job.output.array, Run.open(job.output.records).lines())
    say(summarise(job, totals, rate))
    return 0


def _nothing_to_do(job: Job) -> str:
    if job.n_questions:
        return f"{job.output.records} is complete already."
    part, count = job.shard
    return f"Shard {part}/{count} has none of the job's batches, of which there are fewer: its file stays empty."


def print_plan(config: Config) -> int:
    """Describes what a run would do."""
    cluster = Cluster(config, add_nodes=False)
    job = prepare(config, cluster.nodes)
    warn(job)
    say(describe(job))
    say(surroundings(job, cluster.nodes, cluster.told))
    return 0


def warn(job: Job) -> None:
    for each in job.warnings:
        warning(each)


def warning(text: str) -> None:
    say(f"Warning: {text}", sys.stderr)


def _work(
    job: Job, cluster: Cluster, file: journal.Journal, totals: Totals, retried: list[int]
) -> tuple[Totals, float, signal.Signals | None, str]:
    """Starts Ray and computes what the file lacks: the new totals, questions per second, what stopped it, what is left.

    What stopped it is None where nothing is left to do.
    """
    if file.lines:
        say(f"Going on after {file.lines} of {count_of(job.n_questions, 'question')}.", sys.stderr)
    fingerprints = Fingerprints(file.fingerprints)
    with (
        Progress(job.n_questions, totals) as progress,
        Timeline(job.output.timeline) as timeline,
        cluster.engine(job.placement.gemma_actors * job.placement.gemma.num_cpus, progress.note) as engine,
        stop_signals() as caught,
    ):
        tell_place(job, progress)

        def results(batches: Sequence[int]) -> Generator[BatchLines]:
            crew = Crew(job, engine, progress.note, fingerprints)
            budget = Budget(job, engine.object_store_bytes())
            driver = Driver(job, batches, crew, budget, progress.note, timeline, progress.begin)
            yield from driver.results(lambda: bool(caught) or file.is_taken_away())

        work = Work(job.plan, file, progress, fingerprints, results)
        left = ""
        if retried and (remaining := work.retry(retried)):
            left = f", {remaining} of {len(retried)} with an error line not computed again"
        # Without a batch to compute no actor is started, nor for one whom a signal would send away at once.
        if not caught and file.lines < job.n_questions:
            work.go_on()
        stopped_by = caught[0] if caught and (left or file.lines < job.n_questions) else None
        return progress.totals, progress.rate(), stopped_by, left


def tell_place(job: Job, progress: Progress) -> None:
    """Says who works where, and what is downloaded first."""
    for line in job.placement.lines:
        progress.note(line)
    if missing := download_bytes(job):
        progress.note(f"Up to {size_text(missing)} come from the hub first, to every node that lacks them.")


@contextmanager
def stop_signals() -> Iterator[list[signal.Signals]]:
    """Collects the first signal that asks to stop; a second one stops at once, but for a hang-up, which may come twice.

    To be entered after Ray's start, which takes SIGTERM. What is ignored (a hang-up, under nohup) stays so.
    """
    caught: list[signal.Signals] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        if not caught:
            caught.append(signal.Signals(number))
        elif number != signal.SIGHUP:  # of which a closed terminal's shell and the kernel send one each
            raise KeyboardInterrupt

    numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield caught
    finally:
        for number, handler in zip(numbers, before, strict=True):
            if number not in caught:
                signal.signal(number, handler)
            elif number == signal.SIGHUP:  # the second would end the process while Ray is shut down, or Python itself
                signal.signal(number, signal.SIG_IGN)


def command_line() -> str:
    """This process's command, to be typed again to go on: without `--overwrite`, which would start anew."""
    program = Path(sys.argv[0])
    words = ["python", str(program)] if program.suffix == ".py" and program.stem != "__main__" else ["layerscope"]
    return " ".join(
        map(shell_word, [*_submission(), *words, *(word for word in sys.argv[1:] if word != "--overwrite")])
    )


def _submission() -> list[str]:
    """How this process was submitted, if it was: a job without its environment would not find layerscope."""
    if not in_ray_job():
        return []
    brought = ray_job_environment()
    if not brought:
        environment = []
    elif brought == {"working_dir"}:
        environment = ["--working-dir", "THE_SAME_FOLDER"]
    else:
        environment = ["--runtime-env", "THE_SAME.yaml"]  # Ray knows what it holds, not the file
    return ["ray", "job", "submit", *environment, "--"]
