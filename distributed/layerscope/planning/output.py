"""Where a run writes, and what keeps it from writing there: settled before anything else is."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from layerscope.config import STANDARD_INPUT, Config
from layerscope.errors import UsageError, remedy
from layerscope.files import user_path
from layerscope.planning.node import Node
from layerscope.planning.settings import output_file
from layerscope.questions.opening import question_files
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.reading.parts import names_parts, part_paths, read_parts
from layerscope.records.storage.addresses import run_path
from layerscope.records.storage.stored_run import StoredRun
from layerscope.records.writing.targets import (
    TIMELINE,
    begins_with,
    beside_records,
    check_address,
    check_output,
    check_target,
    records_path,
)

_RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in the environment of what `ray job submit` starts; the name is meant
GPUS_PER_WRITER = 4  # three of Gemma's make 5,100 questions a second and leave one for encoders


@dataclass(frozen=True)
class Output:
    """What a run writes."""

    records: Path
    """The file of records, a line each; of a run of parts what they are called together, and no file."""
    array: Path | None
    """Where the finished run writes the JSON array, if it is asked for."""
    timeline: str
    """Empty for none."""
    overwrite: bool
    retry_errors: bool
    parts: tuple[Path, ...] = ()
    """The files of the parts, a writer each; none where the driver is the one writer."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All that hold records."""
        return self.parts or (self.records,)


def settle_output(config: Config, nodes: Sequence[Node]) -> Output:
    """Where the run writes.

    Raises:
        UsageError: it could not, or must not.
    """
    named_file = output_file(config)
    for name, named in (("output-file", named_file), ("timeline", config.timeline)):
        if in_ray_job() and named and not run_path(named).is_absolute():
            raise UsageError(
                f"--{name}: {named} would lie in this Ray job's own folder, which Ray deletes after it.\n"
                f"Name it by an absolute path that outlives the job, such as /shared/{Path(named).name}."
            )
    records = records_path(named_file)
    if isinstance(records, StoredRun):
        return _settle_address(config, records, nodes)
    array = user_path(named_file).absolute()
    inputs = [*question_files(config.dataset), *(question_files(config.shots_from) if config.shots else [])]
    if named_file.endswith("/"):
        records = array = _in_folder(config, user_path(named_file).absolute())
    count = _writers(config, records, nodes)
    if count > 1 and array != records:
        raise UsageError(
            f"--output-file: {named_file} would hold all records as one array, and --writers {count} write parts.\n"
            "Name a .jsonl file; layerscope export makes an array of the finished run."
        )
    parts = tuple(part_paths(records, count)) if count > 1 else ()
    for each in parts or [records]:
        check_output(each, array if array != records else None, inputs, config.overwrite)
    if config.timeline:
        written = [records, array, *(beside for each in parts or [records] for beside in (each, *beside_records(each)))]
        _check_timelines(config, count, (*inputs, *written))
    no_array = None if array == records else array
    return Output(records, no_array, config.timeline, config.overwrite, config.retry_errors, parts)


def _in_folder(config: Config, folder: Path) -> Path:
    """What the parts in a folder are called together; the folder is made.

    Raises:
        UsageError: it cannot be, or one writer would write there.
    """
    if config.writers == 1:
        raise UsageError(
            f"--output-file: {folder}/ is a folder's name. Name a file, or say with --writers how many write there."
        )
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        told = f"--output-file: the folder {folder} cannot be made: {error.strerror}."
        raise UsageError(f"{told}\n{remedy(error, 'Name another.')}") from error
    return folder / f"{output_file(replace(config, output_file='auto'))}.zst"


def _writers(config: Config, records: Path, nodes: Sequence[Node]) -> int:
    """How many parts there are: as many as were begun, or as are asked for.

    Raises:
        UsageError: these are not the same, or what is there is no run of parts.
    """
    gpus = sum(len(node.gpus) for node in nodes) if config.device != "cpu" else 0
    asked = max(1, math.ceil(gpus / GPUS_PER_WRITER)) if config.writers == "auto" else config.writers
    if names_parts(records):
        there = len(read_parts(records).parts)
        if config.writers not in ("auto", there):
            raise UsageError(
                f"{records} is a run of {there} parts, and --writers is {asked}.\n"
                f"Go on with --writers {there} (on any number of nodes), or name another --output-file."
            )
        return there
    beside = manifest_path(records)
    stored = isinstance(records, StoredRun)
    one_file = records.is_file() if stored else records.exists() or (beside.exists() and beside.stat().st_size > 0)
    if asked > 1 and one_file and config.writers != "auto":
        raise UsageError(
            f"--writers: {records} is there already, as one writer makes it, and parts would be beside it.\n"
            "Go on without --writers, or name another --output-file."
        )
    return 1 if one_file else asked


def _settle_address(config: Config, records: StoredRun, nodes: Sequence[Node]) -> Output:
    given = {
        "--residuals": config.residuals != "off",
        "--retry-errors": config.retry_errors,
        "--baseline-dictionary": config.baseline_dictionary,
        "--dataset - (which is kept beside the output file)": config.dataset == STANDARD_INPUT,
    }
    check_address(records, given)
    count = _writers(config, records, nodes)
    if config.timeline:
        _check_timelines(config, count, ())
    parts = tuple(part_paths(records, count)) if count > 1 else ()
    return Output(records, None, config.timeline, config.overwrite, config.retry_errors, parts)


def _check_timelines(config: Config, count: int, not_these: Sequence[Path]) -> None:
    path = user_path(config.timeline)
    for each in part_paths(path, count) if count > 1 else [path]:
        check_target("--timeline", each, not_these, begins_with(TIMELINE, b"[]"))


def in_ray_job() -> bool:
    """Whether `ray job submit` started this process: in a folder that Ray made for it, and deletes."""
    return _RAY_JOB in os.environ


def ray_job_environment() -> set[str]:
    """What `ray job submit` brought to the nodes, by the names that a runtime environment has for its parts."""
    try:
        brought = json.loads(os.environ.get(_RAY_JOB, "{}"))["runtime_env"]
        return {name for name, value in brought.items() if value and not name.startswith("_")}
    except (ValueError, KeyError, TypeError, AttributeError):  # another Ray's form; the command is only printed
        return set()
