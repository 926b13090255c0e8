"""Which files a person means who names a file, a run of parts or a folder; and what of a folder is one run."""

from collections.abc import Sequence
from pathlib import Path

import orjson

from layerscope.errors import UsageError
from layerscope.formatting import listed
from layerscope.records.ablations import ablations_of
from layerscope.records.manifest.jobs import job_of
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.reading.parts import files_of_parts, names_parts, read_parts
from layerscope.records.reading.run import RecordsFile, Run
from layerscope.records.storage.addresses import run_path
from layerscope.records.storage.stored_run import StoredRun

_MANIFEST = manifest_path(Path("x")).name.removeprefix("x")
_RECORDS = (".jsonl", ".jsonl.zst", ".jsonl.gz")


def runs_in(folder: Path) -> list[list[Path]]:
    """The files of each run that lies in a folder, by name; not in folders of it.

    What counts as one run is decided here, and nowhere else: a run of parts, by its own name; the shards of one job
    together; every other file with a manifest; and a file of records without one. Files of ablations are none, nor is
    what no record begins.

    Raises:
        UsageError: there is none.
    """
    names = {each.name.removesuffix(_MANIFEST) for each in folder.iterdir()}
    paths = [folder / name for name in sorted(names)]
    of_parts = [path for path in paths if names_parts(path)]
    taken = {path.with_name(name) for path in of_parts for name in read_parts(path).parts}
    found = [[path] for path in of_parts]
    shards = list[Path]()
    for path in paths:
        if path.is_file() and path not in taken and path.name.endswith(_RECORDS):
            kind = _kind(path)
            if kind == "shard":
                shards.append(path)
            elif kind == "run":
                found.append([path])
    found += jobs_of(shards)
    if not found:
        raise UsageError(f"{folder} has no output file of a run.\nName the .jsonl file itself, or another folder.")
    return sorted(found)


def files_named(named: Path) -> tuple[Path | None, list[Path]]:
    """The run of parts that a person means, if it is one, and the files: its parts, a folder's, or the one named.

    A run of parts is named by its own name, by its manifest, or by its folder where it is alone there, as any run is.

    Raises:
        UsageError: a part is missing, or a folder holds several runs, or none.
    """
    named = run_path(named)
    if isinstance(named, StoredRun):
        return (named, files_of_parts(named)) if names_parts(named) else (None, [*named.runs()])
    if named.is_dir():
        runs = runs_in(named)
        if len(runs) > 1:
            names = sorted(files[0].name + f" and {len(files) - 1} more" * (len(files) > 1) for files in runs)
            of_shards = any(len(files) > 1 for files in runs)
            raise UsageError(
                f"{named} has several runs: {listed(names)}.\nName one of them{', of shards all files' * of_shards}."
            )
        (files,) = runs
        return files_named(files[0]) if len(files) == 1 else (None, files)
    run = named.with_name(named.name.removesuffix(_MANIFEST))
    return (run, files_of_parts(run)) if names_parts(run) else (None, [named])


def jobs_of(files: Sequence[Path]) -> list[list[Path]]:
    """What is named of each job together, in any order; a file without a manifest is by itself.

    Raises:
        UsageError: there is no such file, or a folder that holds several runs, or none.
    """
    jobs: dict[bytes, list[Path]] = {}
    for named in files:
        _, paths = files_named(named)
        alone = paths[0].is_file() and not manifest_path(paths[0]).exists()
        jobs.setdefault(bytes(paths[0]) if alone else orjson.dumps(job_of(Run.open(paths[0]))), []).append(named)
    return list(jobs.values())


def _kind(path: Path) -> str:
    """`run`, `shard` of one, or nothing of these; a run whose manifest is spoilt is one."""
    if not manifest_path(path).exists():
        return "run" if RecordsFile(path, None).first is not None else ""
    try:
        if ablations_of(path) is not None:
            return ""
        return "run" if Run.open(path).manifest.identity.settings.shard is None else "shard"
    except UsageError:
        return "run"
