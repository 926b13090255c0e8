"""The order of a run's lines: in its manifest, or beside it where there are many.

A manifest is written anew every few seconds, so it cannot list a million questions. `NAME.order.npy` holds them then,
an integer a line; it is written once, before the file has a line, and the manifest has its digest.
"""

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import xxhash
from numpy.typing import NDArray

from layerscope.errors import LayerscopeError, UsageError, remedy
from layerscope.files import open_plain
from layerscope.records.storage.stored_run import StoredObject, StoredRun, replace_content

MOST_LISTED: Final = 1 << 16
"""Lines of a run whose manifest lists them, and the mark of each."""
_MAGIC: Final = b"\x93NUMPY"


def order_path(path: Path) -> Path:
    """Where the order of an output file with many lines lies."""
    return path.part("order.npy") if isinstance(path, StoredRun) else path.with_name(path.name + ".order.npy")


def is_order(path: Path) -> bool:
    """Whether a run can have written this file."""
    with path.open("rb") as stream:
        return _MAGIC.startswith(stream.read(len(_MAGIC)))


def listed(example_ids: NDArray[np.signedinteger[Any]]) -> str:
    """The order as a manifest lists it; empty where there are too many."""
    return " ".join(map(str, example_ids.tolist())) if len(example_ids) <= MOST_LISTED else ""


def digest_of_many(example_ids: NDArray[np.signedinteger[Any]]) -> str:
    """The digest of an order that no manifest lists; empty where one does."""
    return _digest(example_ids) if len(example_ids) > MOST_LISTED else ""


def _digest(example_ids: NDArray[Any]) -> str:
    """XXH3 (128 bits) of the `example_id` of every line, as int64, little end first; holds a part of them at a time."""
    found = xxhash.xxh3_128()
    for start in range(0, len(example_ids), 1 << 16):
        found.update(example_ids[start : start + (1 << 16)].astype("<i8", copy=False).tobytes())
    return found.hexdigest()


def write_order(path: Path, example_ids: Sequence[int]) -> None:
    """Writes the order beside an output file.

    Raises:
        LayerscopeError: it cannot be written.
    """
    ids = np.asarray(example_ids)
    try:
        with BytesIO() as content:
            np.save(content, ids, allow_pickle=False)
            replace_content(order_path(path), content.getbuffer())
    except OSError as error:
        raise LayerscopeError(
            f"{order_path(path)} cannot be written: {error.strerror or error}. Make room and run again."
        ) from error


def read_order(path: Path, lines: int, xxh3: str, restore: str) -> Sequence[int]:
    """The order that lies beside an output file; mapped, not read.

    Args:
        restore: what a person can do where it is not the one that was written.

    Raises:
        UsageError: it is not there, or is another one.
    """
    beside = order_path(path)
    told = f"{beside} is not the order of the lines that {path.name}'s manifest knows"
    try:
        if isinstance(beside, StoredObject):
            ids = np.load(BytesIO(beside.read_bytes()), allow_pickle=False)
        else:
            os.close(open_plain(beside))  # a pipe there would be waited for
            ids = np.load(beside, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UsageError(f"{beside} is missing: it holds the order of the lines of {path.name}.\n{restore}") from None
    except OSError as error:
        raise UsageError(f"{beside} cannot be read: {error.strerror}.\n{remedy(error, restore)}") from error
    except ValueError as error:
        raise UsageError(f"{told}: {str(error)[:200]}.\n{restore}") from error
    if ids.shape != (lines,) or ids.dtype.kind != "i" or _digest(ids) != xxh3:
        raise UsageError(f"{told}.\n{restore}")
    return cast(Sequence[int], ids)
