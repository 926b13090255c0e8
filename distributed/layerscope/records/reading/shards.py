"""The shards of one job, read as the run that they are parts of.

Their files may be named in any order. Together they are read in the order of the plan, so that what is made of them is
what would be made of the file of a run without shards.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from layerscope.config import FIRST
from layerscope.errors import UsageError
from layerscope.formatting import ranges
from layerscope.records.advice import computed_again, part_number
from layerscope.records.line.record import Record, Unscored
from layerscope.records.manifest.differences import differences
from layerscope.records.manifest.fingerprints import computed_otherwise
from layerscope.records.manifest.jobs import DECIDES, job_of, shard_of
from layerscope.records.manifest.manifest import Manifest, manifest_path
from layerscope.records.reading.folders import files_named, jobs_of
from layerscope.records.reading.parts import is_held
from layerscope.records.reading.run import RecordsFile, Run
from layerscope.records.reading.seen import Seen, check_dictionary
from layerscope.records.reading.unnoted import Unnoted, why_no_records
from layerscope.records.storage.addresses import run_path
from layerscope.records.writing.extent import Extent

Files = Path | Sequence[Path]
"""What names a run: its file, a run of parts or its folder; or the files of the shards of one job."""

_TOGETHER = "Several files are read together where they are the shards of one job. Name those, or one file alone."


class Shards(Run):
    """Several files of one job."""

    def __init__(self, runs: Sequence[Run], named: Path | None = None) -> None:
        """
        Args:
            runs: of one job, in the order of their shards, each once.
            named: the run of parts that they are; None where they are named one by one.
        """
        super().__init__(runs[0].path, _whole(runs))
        self._runs, self._count = tuple(runs), shard_of(runs[0])[1]
        self.named, self.path = named, named or self.path
        self.size = sum(run.size for run in runs)

    @property
    def parts(self) -> tuple[Run, ...]:
        return self._runs

    @property
    def others(self) -> str:
        return super().others if self.named is None else f" ({len(self._runs)} parts)"

    @property
    def notes(self) -> tuple[str, ...]:
        present = {shard_of(run)[0] for run in self._runs}
        missing = [index for index in range(1, self._count + 1) if index not in present]
        lacking = f"Not among these files: shard{'s' if len(missing) > 1 else ''} {ranges(missing)} of {self._count}."
        elsewhere = [differences(_computed_on(self._runs[0]), _computed_on(run)) for run in self._runs[1:]]
        differing = sorted({told for each in elsewhere for told in each})
        differing += computed_otherwise(run.manifest.fingerprints for run in self._runs)
        return (
            *([lacking] if missing else []),
            *([f"The shards were not computed alike: {'; '.join(differing)}."] if differing else []),
        )

    def alive(self) -> bool:
        return (self.named is not None and is_held(self.named)) or any(run.alive() for run in self._runs)

    def records(
        self,
        check: Callable[[Record], None] = lambda _: None,
        to_go_on: bool = False,
        extent: Extent | None = None,
    ) -> Iterator[tuple[bytes, Record | Unscored]]:
        self.bytes_read = before = 0
        for run in self._runs:
            for found in run.records(check, to_go_on, extent):
                self.bytes_read = before + run.bytes_read
                yield found
            before = self.bytes_read

    def lines(self) -> Iterator[bytes]:
        self.bytes_read = before = 0
        for run in self._runs:
            for line in run.lines():
                self.bytes_read = before + run.bytes_read
                yield line
            before = self.bytes_read


def without_batches(manifest: Manifest) -> str:
    """Why nothing is planned for a shard's file, for people; empty where something is."""
    shard = manifest.identity.settings.shard
    if manifest.identity.plan.questions or shard is None:
        return ""
    return f"shard {shard} has none of the job's batches, of which there are fewer"


def user_paths(named: object) -> list[Path]:
    """Of a Python function that takes one path or several: those.

    Raises:
        UsageError: it was given something else.
    """
    if isinstance(named, Iterable) and not isinstance(named, str | bytes | os.PathLike):
        return [run_path(each) for each in named]
    return [run_path(named)]  # type: ignore[arg-type]  # which says what it is


def named_files(files: Files) -> tuple[Path | None, list[Path]]:
    """The run of parts that is meant, if it is one, and all files that are.

    Raises:
        UsageError: a part is missing, or a folder holds several runs, or none.
    """
    named = [files_named(each) for each in ([files] if isinstance(files, Path) else files)]
    run = named[0][0] if len(named) == 1 else None
    return run, [path for _, paths in named for path in paths]


def open_run(files: Files) -> Run:
    """The run of one file, of parts, or of the shards of one job, named in any order.

    Raises:
        UsageError: there is no such file, it has no manifest, or the files are not shards of one job, each once.
    """
    named, paths = named_files(files)
    runs = [Run.open(path) for path in paths]
    if len(runs) == 1:
        return runs[0]
    if not runs:
        raise UsageError("No file is named. Name the .jsonl file of a run, or those of the shards of one job.")
    by_shard: dict[tuple[int, int], Run] = {}
    for run in runs:
        if differing := differences(job_of(runs[0]), job_of(run)):
            again = computed_again(run.path) if named else ""
            raise UsageError(
                f"{runs[0].path} and {run.path} are not of one job: {'; '.join(differing)}.\n"
                + (f"Put back what was there; or if the second is of another run, {again}" if again else _TOGETHER)
            )
        if twin := by_shard.get(shard_of(run)):
            which, told = "the whole run", "They are of one job, with the same model, questions and settings: name one."
            if shard_of(run)[1] > 1:
                which, told = "shard {} of {}".format(*shard_of(run)), "Name each shard once."
            strange = twin if part_number(twin.path) not in (None, shard_of(twin)[0]) else run
            again = computed_again(strange.path) if named else ""
            raise UsageError(
                f"{twin.path} and {run.path} are both {which}, which would count twice.\n"
                + (f"{strange.path.name} is another part's: {again}" if again else told)
            )
        by_shard[shard_of(run)] = run
    return Shards([by_shard[shard] for shard in sorted(by_shard)], named)


def read_run(files: Files, dictionary: str = FIRST) -> Run:
    """What `open_run` opens, and a single file without a manifest too, for what its records say.

    Args:
        dictionary: as which of its dictionaries sees it.

    Raises:
        UsageError: there is no such file, one of several has no manifest, they are not shards of one job, each once, or
            the run has no such dictionary.
    """
    _, paths = named_files(files)
    alone = len(paths) == 1 and paths[0].is_file() and not manifest_path(paths[0]).exists()
    return as_seen_by(Unnoted.open(paths[0]) if alone else open_run(files), dictionary)


def as_seen_by(run: Run, dictionary: str) -> Run:
    """A run with the lists and SAEs of one of its dictionaries in place of the first one's.

    Raises:
        UsageError: it has no such dictionary.
    """
    check_dictionary(run, dictionary)
    if dictionary == FIRST:
        return run
    if isinstance(run, Shards):
        return Shards([Seen(part, dictionary) for part in run.parts], run.named)
    return Seen(run, dictionary)


def open_records(files: Files, dictionary: str = FIRST) -> RecordsFile:
    """The records of one file, with a manifest or without, or of the shards of one job, which only manifests tell.

    Args:
        dictionary: as which of its dictionaries sees them.

    Raises:
        UsageError: there is no such file, or an array in it, several are not shards of one job, each once, or there is
            no such dictionary.
    """
    if dictionary != FIRST:
        return read_run(files, dictionary)
    _, paths = named_files(files)
    if len(paths) != 1:
        return open_run(files)
    file = RecordsFile.open(paths[0])
    if isinstance(file, Run):
        return file
    if why := why_no_records(file.path):  # else an array is taken for a torn line, of none
        raise UsageError(why)
    return file if file.first is None else Unnoted(file.path, file.first)


def two_runs(files: Sequence[Path]) -> tuple[Files, Files]:
    """The files of two runs apart: two files, or the shards of two jobs, named in any order.

    Raises:
        UsageError: there is no such file, or they are not of two jobs.
    """
    if len(files) == 2:
        return files[0], files[1]
    jobs = jobs_of(files)
    if len(jobs) != 2:
        named = ", ".join(str(paths[0]) for paths in jobs)
        raise UsageError(
            f"Two runs are compared; these files are of {len(jobs)} ({named or 'none is named'}).\n"
            "Name two files, or the shards of two jobs; a shard has the settings of its job."
        )
    return jobs[0], jobs[1]


def whose_lists(runs: Sequence[Run], dictionary: str) -> list[str]:
    """The dictionary of each run; one that has a single one needs no name for it beside a run of several."""
    several = any(run.manifest.dictionaries for run in runs)
    return [FIRST if several and not run.manifest.dictionaries else dictionary for run in runs]


def _computed_on(run: Run) -> dict[str, Any]:
    return {name: value for name, value in run.manifest.identity_as_read().items() if name not in DECIDES}


def _whole(runs: Sequence[Run]) -> Manifest:
    """The manifest of the run that the shards are parts of; its lines are each shard's own to hold against theirs."""
    first, count = runs[0].manifest, shard_of(runs[0])[1]
    present = [shard_of(run)[0] for run in runs]
    settings = replace(first.identity.settings, shard=None if len(present) == count else f"{ranges(present)}/{count}")
    plan = replace(
        first.identity.plan,
        questions=settings.num_samples,
        batches=sum(run.manifest.identity.plan.batches for run in runs),
    )
    return replace(first, identity=replace(first.identity, settings=settings, plan=plan))
