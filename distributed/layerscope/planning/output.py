"""Where a run writes, and what keeps it from writing there: settled before anything else is."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from layerscope.config import Config
from layerscope.errors import UsageError
from layerscope.files import user_path
from layerscope.planning.settings import output_file
from layerscope.questions.opening import question_files
from layerscope.questions.standard_input import STANDARD_INPUT
from layerscope.records.addresses import run_path
from layerscope.records.stored_run import StoredRun
from layerscope.records.targets import (
    TIMELINE,
    begins_with,
    beside_records,
    check_address,
    check_output,
    check_target,
    records_path,
)

_RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in the environment of what `ray job submit` starts; the name is meant


@dataclass(frozen=True)
class Output:
    """What a run writes."""

    records: Path
    """The file of records, a line each."""
    array: Path | None
    """Where the finished run writes the JSON array, if it is asked for."""
    timeline: str
    """Empty for none."""
    overwrite: bool
    retry_errors: bool


def settle_output(config: Config) -> Output:
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
        return _settle_address(config, records)
    array = user_path(named_file).absolute()
    inputs = [*question_files(config.dataset), *(question_files(config.shots_from) if config.shots else [])]
    if named_file.endswith("/"):
        raise UsageError(f"--output-file: {named_file} is a folder's name. Name a file.")
    check_output(records, array if array != records else None, inputs, config.overwrite)
    if config.timeline:
        written = (records, array, *beside_records(records))
        check_target("--timeline", config.timeline, (*inputs, *written), begins_with(TIMELINE, b"[]"))
    return Output(records, array if array != records else None, config.timeline, config.overwrite, config.retry_errors)


def _settle_address(config: Config, records: StoredRun) -> Output:
    given = {
        "--residuals": config.residuals != "off",
        "--retry-errors": config.retry_errors,
        "--dataset - (which is kept beside the output file)": config.dataset == STANDARD_INPUT,
    }
    check_address(records, given)
    if config.timeline:
        check_target("--timeline", config.timeline, (), begins_with(TIMELINE, b"[]"))
    return Output(records, None, config.timeline, config.overwrite, config.retry_errors)


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
