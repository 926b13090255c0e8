"""`--baseline-dictionary`: random features that fire as often as the SAEs', made of a pilot before the run.

Beside the output file, in `NAME.random/`: the pilot, which is a run as any other, and `saes/`, which the run then takes
as `--dictionary random=NAME.random/saes`.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from layerscope.config import Config
from layerscope.errors import UsageError, remedy
from layerscope.formatting import count_of, say
from layerscope.planning.job import Job
from layerscope.records.line.dictionaries import RANDOM
from layerscope.records.manifest.manifest import manifest_path, read_manifest
from layerscope.records.writing.locking import open_locked

PILOT_QUESTIONS = 300


def random_saes(records: Path) -> Path:
    """The folder of random SAEs beside an output file."""
    return records.with_name(f"{records.name}.random") / "saes"


def with_random_saes(config: Config, records: Path) -> Config:
    """The settings with those SAEs in place of the wish for them."""
    taken = f"{RANDOM}={random_saes(records)},site=resid_post"
    return replace(config, baseline_dictionary=False, dictionary=(*config.dictionary, taken))


def are_made(job: Job) -> bool:
    """Whether a run has begun with them, and so goes on with them.

    Raises:
        UsageError: it has begun without.
    """
    there = [file for file in job.output.files if manifest_path(file).exists()]
    if not there or job.output.overwrite:
        return False
    if RANDOM not in read_manifest(there[0]).dictionaries:
        raise UsageError(
            f"{job.output.records} was begun without --baseline-dictionary.\n"
            "Go on without it, name another --output-file, or start anew with --overwrite."
        )
    return random_saes(job.output.records).is_dir()


@contextmanager
def alone_with_random_saes(job: Job) -> Iterator[bool]:
    """Nobody else makes or takes a run's random SAEs meanwhile, of two runs the second is refused: whether it has them.

    Raises:
        UsageError: their folder cannot be made, or the run has begun without them.
        TakenError: another run is at it.
    """
    are_made(job)  # or there would be a folder of what the run never has
    folder = random_saes(job.output.records).parent
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be made: {error.strerror}.\n{remedy(error, 'Name another --output-file.')}"
        ) from error
    held = open_locked(folder / "lock")
    try:
        yield are_made(job)
    finally:
        os.close(held)


def make_random_saes(config: Config, job: Job, run_pilot: Callable[[Config], None]) -> None:
    """Runs the pilot, or goes on with it, and writes the random SAEs.

    Args:
        job: of the run.
        run_pilot: runs it as any other.
    """
    saes = random_saes(job.output.records)
    questions = min(PILOT_QUESTIONS, len(job.selection))
    shutil.rmtree(saes, ignore_errors=True)
    pilot = replace(
        config,
        baseline_dictionary=False,
        dictionary=(),
        num_samples=questions,
        top_k="all",
        residuals="float32",
        readings="final",
        tokens=False,
        token_activations=0,
        all_solutions=False,
        metadata="none",
        attribution="off",
        attribution_baseline="zero",
        writers=1,
        timeline="",
        retry_errors=False,
        output_file=str(saes.with_name("pilot.jsonl")),
    )
    say(f"A pilot of {count_of(questions, 'question')} says how often features fire: {pilot.output_file}", sys.stderr)
    run_pilot(pilot)
    half_written = saes.with_name("saes.unfinished")
    shutil.rmtree(half_written, ignore_errors=True)
    say(f"Random features that fire as often: {saes}", sys.stderr)
    # Imported here: what reads tables takes 40 MiB and a tenth of a second, without which other runs do.
    from layerscope.tables.random_dictionary import write_random_dictionary

    write_random_dictionary(pilot.output_file, half_written, config.seed)
    half_written.rename(saes)
