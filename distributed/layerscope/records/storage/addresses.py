"""What people name runs by: files of this machine, and addresses in object storage; the one place that tells them."""

import os
import re
from pathlib import Path

from layerscope.errors import UsageError, did_you_mean
from layerscope.files import names_in, user_path
from layerscope.records.storage.object_store import STORES
from layerscope.records.storage.stored_run import MANIFEST, StoredRun

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/")


def is_address(text: str | os.PathLike[str]) -> bool:
    """Whether a person names something that is on no disk of this machine."""
    found = _ADDRESS.match(os.fspath(text)) if isinstance(text, str | os.PathLike) else None
    return found is not None and found[1] in STORES


def run_path(text: str | os.PathLike[str]) -> Path:
    """What a person names a run by: the path of its file, or its address in object storage.

    Raises:
        UsageError: nothing can have that name, or it has credentials in it.
    """
    if isinstance(text, StoredRun):
        return text
    if not is_address(text):
        return user_path(text)
    told = os.fspath(text)
    scheme, _, rest = told.partition(":")
    bucket, _, key = rest.lstrip("/").partition("/")
    if re.search(r"[@:?#]", bucket) or "?" in key:
        raise UsageError(
            f"An address of {STORES[scheme].told} is {scheme}://bucket/folder, without credentials or a query in it.\n"
            f"{STORES[scheme].to_log_in}."
        )
    if not bucket or not key.strip("/"):
        raise UsageError(f"{scheme}://{bucket} names no folder of a bucket. A run is at {scheme}://bucket/folder.")
    return StoredRun(f"{scheme}:/{bucket}/{key}")


def existing_records(text: str | os.PathLike[str]) -> Path:
    """The file of records that a person names, or its address.

    Raises:
        UsageError: there is none.
    """
    path = run_path(text)
    if not path.is_file():
        if isinstance(path, StoredRun):
            raise UsageError(f"There is no run at {path}. Name the folder that holds its {MANIFEST} and its parts.")
        near = did_you_mean(path.name, names_in(path.parent))
        raise UsageError(f"There is no file {path}.{near} Name the .jsonl file of a run.")
    return path


def beside_run(path: Path, suffix: str) -> Path:
    """Where what is made of a run lies, if nobody says so: beside its file; of an address, in the working folder."""
    return (Path(path.name) if isinstance(path, StoredRun) else path).with_suffix(suffix)
