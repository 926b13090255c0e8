"""Which job a file is of: the shards of one share what decides its bytes."""

from typing import Any

from layerscope.records.reading.run import Run

DECIDES = ("settings", "model", "saes", "questions", "plan", "other_dictionaries")
"""Parts of the identity that make a job. The rest says on what it was computed, which only last digits depend on."""


def shard_of(run: Run) -> tuple[int, int]:
    """Which part it is, from 1, and of how many."""
    index, count = (run.manifest.identity.settings.shard or "1/1").split("/")
    return int(index), int(count)


def job_of(run: Run) -> dict[str, Any]:
    """What all shards of a job share; contents whose hashes are among it may have come under another commit or name."""
    identity = run.manifest.identity_as_read()
    job = {name: identity[name] for name in DECIDES}
    for part, hashes in (("model", "files"), ("saes", "layers")):
        if job[part][hashes]:
            job[part] = {name: value for name, value in job[part].items() if name != "commit"}
    # The plan has a hash of every question.
    job["questions"] = {name: value for name, value in job["questions"].items() if name != "revision"}
    if job["questions"].keys() == {"dataset"}:
        job["questions"] = {}
    job["settings"] = {**job["settings"], "shard": f"one of {shard_of(run)[1]}"}
    job["plan"] = {name: value for name, value in job["plan"].items() if name not in ("questions", "batches")}
    return job
