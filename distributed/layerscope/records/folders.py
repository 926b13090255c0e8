"""Which runs a folder holds."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from layerscope.errors import UsageError
from layerscope.records.ablations import ablations_of
from layerscope.records.manifest import manifest_path
from layerscope.records.parts import names_parts, read_parts
from layerscope.records.run import RecordsFile, Run
from layerscope.records.shards import jobs_of

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


def named_runs(files: Iterable[Path]) -> Iterator[Path]:
    """What is named, of every folder the files of the one run in it.

    Raises:
        UsageError: a folder holds several runs, or none.
    """
    for named in files:
        if not named.is_dir():
            yield named
            continue
        runs = runs_in(named)
        if len(runs) > 1:
            raise UsageError(
                f"{named} has {len(runs)} runs.\nName it alone for a page that lists them, or files of it."
            )
        yield from runs[0]


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
