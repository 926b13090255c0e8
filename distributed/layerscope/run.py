"""What the commands do with a job: run it and sum it up, or only describe it."""

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import orjson

from layerscope import cluster, journal
from layerscope.config import Config
from layerscope.driver import Driver
from layerscope.job import Job, check_space, download_bytes, prepare
from layerscope.placement import Placement
from layerscope.progress import Progress
from layerscope.summary import Totals

_STANDIN_NOTE = "Stand-in weights: random numbers of the right shape. Nothing here says anything about Gemma."


def run_job(config: Config) -> int:
    """Runs a job, or goes on with it, and prints the summary: 0 when the file is complete, 128 + n after signal n."""
    job = prepare(config, cluster.nodes(config.address))
    _tell(job)
    check_space(job)
    with journal.open_journal(job.records_path, job.identity(), job.about(command_line()), config.overwrite) as file:
        totals, error_lines = _recover(job, file)
        retried = error_lines if config.retry_errors else []
        if file.lines == len(job.selection) and not retried:
            print(f"{file.path} is complete already.")
            rate, signal_number = 0.0, None
        else:
            if file.lines:
                print(f"Going on after {file.lines} of {len(job.selection)} questions.", file=sys.stderr)
            with (
                cluster.started(job.placement.gemma_actors * job.placement.gemma.num_cpus),
                _stop_signals() as caught,
                Progress(len(job.selection), totals) as progress,
            ):
                if missing := download_bytes(job):
                    progress.note(
                        f"Up to {missing / 1e9:.1f} GB come from the hub first, to every node that lacks them."
                    )
                if retried:
                    totals = _retry(job, file, retried, progress, caught)
                    progress.totals = totals
                _go_on(job, file, totals, progress, caught)
                rate, signal_number = progress.rate(), next(iter(caught), None)
        complete = file.lines == len(job.selection)
    if not complete and signal_number:
        print(f"Stopped by {signal.Signals(signal_number).name} after {file.lines} of {len(job.selection)} questions.")
        print(f"To go on: {command_line()}")
        return 128 + signal_number
    if job.array_path:
        journal.write_array(job.records_path, job.array_path)
    print(_summary(job, totals, rate))
    return 0


def print_plan(config: Config) -> int:
    """Describes what a run would do."""
    job = prepare(config, cluster.nodes(config.address))
    for warning in job.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    print("\n".join(_describe(job)))
    return 0


def _recover(job: Job, file: journal.Journal) -> tuple[Totals, list[int]]:
    """Reads what the file holds: its totals, and which of its lines are error lines."""
    totals, error_lines = Totals(), list[int]()

    def count(record: dict[str, Any]) -> None:
        if "error" in record:
            error_lines.append(totals.questions)
        totals.add_record(record)

    file.recover(job.plan.order, count)
    return totals, error_lines


def _go_on(job: Job, file: journal.Journal, totals: Totals, progress: Progress, caught: list[int]) -> None:
    """Computes and writes what the file lacks."""
    driver = Driver(job, range(job.plan.batch_of(file.lines), len(job.plan)), progress.note)
    for batch, lines, halved in driver.results(lambda: bool(caught)):
        # A run that was killed within a batch left some of its lines: they are the same, and are passed over.
        missing = lines[file.lines - int(job.plan.starts[batch]) :]
        if halved:
            progress.note(f"Batch {batch} did not fit the memory and was halved; the manifest names it.")
            file.note_halved(batch)
        file.append([b"".join(line.pieces) for line in missing])
        for line in missing:
            if line.frame is None:
                totals.add_error()
            else:
                totals.add_frame(line.frame, line.active_features, line.cells)
        progress.update()


def _retry(job: Job, file: journal.Journal, error_lines: list[int], progress: Progress, caught: list[int]) -> Totals:
    """Computes the batches of some lines again and replaces these lines; gives the new totals.

    Whole batches, because a question's last digits depend on what it shares a batch with.
    """
    progress.note(f"Retrying {len(error_lines)} questions with an error line.")
    wanted = set(error_lines)

    def replacements() -> Iterator[tuple[int, bytes]]:
        batches = sorted({job.plan.batch_of(line) for line in error_lines})
        for batch, lines, _ in Driver(job, batches, progress.note).results(lambda: bool(caught)):
            for number, line in enumerate(lines, start=int(job.plan.starts[batch])):
                if number in wanted:
                    yield number, b"".join(line.pieces)

    file.rewrite(replacements())
    totals = Totals()
    for line in journal.read_lines(file.path):
        totals.add_record(orjson.loads(line))
    return totals


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects the first signal that asks to stop; a second one stops at once. (Ray's start takes SIGTERM.)"""
    caught: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield caught
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def command_line() -> str:
    """This process's command, to be typed again."""
    program = Path(sys.argv[0])
    words = ["python", str(program)] if program.suffix == ".py" and program.stem != "__main__" else ["layerscope"]
    return shlex.join([*words, *sys.argv[1:]])


def _tell(job: Job) -> None:
    if job.config.standin:
        print(_STANDIN_NOTE, file=sys.stderr)
    for warning in job.warnings:
        print(f"Warning: {warning}", file=sys.stderr)


def _describe(job: Job) -> list[str]:
    plan, placement = job.plan, job.placement
    lines = [_STANDIN_NOTE] if job.config.standin else []
    lines += [
        f"model      {job.model.name} {job.model.commit or '(folder)'}: {job.spec.n_layers} layers, "
        f"d_model {job.spec.d_model}, {job.spec.n_parameters / 1e6:,.1f} M parameters, {job.numerics.dtype}",
        f"SAEs       {job.sae_repository.name} {job.sae_repository.commit or '(folder)'}: "
        f"width {job.config.sae_width} ({job.d_sae} features), {job.numerics.sae_dtype}",
    ]
    lines += [
        f"  layer {sae.layer:>2}  {sae.path.removesuffix('/params.npz')}  L0 {sae.l0}  "
        f"{sae.neuronpedia_id or 'no Neuronpedia id'}"
        for sae in job.saes
    ]
    saved = 1 - plan.shared_tokens / plan.unshared_tokens if plan.unshared_tokens else 0
    lines += [
        f"questions  {len(job.selection)} of {len(job.selection.source)} in {_origin(job)}"
        + (f", {plan.unscorable} of them cannot be scored" if plan.unscorable else ""),
        f"tokens     {plan.shared_tokens:,} with shared prefixes, {plan.unshared_tokens:,} without ({saved:.0%} saved)",
        f"batches    {len(plan)} of up to {job.numerics.batch_tokens} tokens",
        *_describe_placement(placement, job.numerics.threads),
        f"output     {job.records_path}: about {job.estimated_bytes() / 1e6:,.0f} MB",
        f"download   {download_bytes(job) / 1e9:.2f} GB to this machine",
        f"done       {_done(job)}",
    ]
    return lines


def _describe_placement(placement: Placement, threads: int | None) -> list[str]:
    where = f"{placement.device} ({placement.hardware})" + (f", {threads} torch threads each" if threads else "")
    return [
        f"actors     {placement.gemma_actors} Gemma, {len(placement.blocks)} layer block(s) x "
        f"{placement.encoders_per_block} encoder(s) on {where}",
        *(f"           {line}" for line in placement.memory_lines),
    ]


def _done(job: Job) -> str:
    path = job.records_path
    if not path.is_file() or not path.stat().st_size:
        return "nothing: the output file is not there yet"
    told = f"{sum(1 for _ in journal.read_lines(path))} of {len(job.selection)} questions"
    differing = journal.differences(journal.read_manifest(path)["identity"], job.identity())
    return f"{told}, but with other settings: {'; '.join(differing)}" if differing else told


def _origin(job: Job) -> str:
    origin = job.selection.source.origin
    return " ".join([origin["dataset"], *(origin[key] for key in ("split", "revision") if key in origin)])


def _summary(job: Job, totals: Totals, rate: float) -> str:
    files = [str(job.records_path), str(journal.manifest_path(job.records_path))]
    if job.array_path:
        files.append(str(job.array_path))
    lines = [
        f"questions             {totals.questions} ({totals.errors} with an error line)",
        f"accuracy              {totals.accuracy()} by log-likelihood (acc)",
        f"                      {totals.accuracy_per_character()} by log-likelihood per character (acc_norm)",
        f"mean active features  {totals.mean_active_features()} per solution and layer",
        *([f"questions/s           {rate:.2f}"] if rate else []),
        *(f"file                  {file}" for file in files),
    ]
    return "\n".join([*([_STANDIN_NOTE] if job.config.standin else []), *lines])
