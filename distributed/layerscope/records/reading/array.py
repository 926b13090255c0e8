"""The records of a file as one JSON array."""

import os
from collections.abc import Iterable
from pathlib import Path

from layerscope.errors import LayerscopeError
from layerscope.files import replacing


def write_array(path: Path, array_path: Path, lines: Iterable[bytes]) -> None:
    """Writes the lines of a file as one JSON array, in one atomic step.

    Raises:
        LayerscopeError: it cannot be written.
    """
    try:
        with replacing(array_path) as temporary, temporary.open("wb") as stream:
            separator = b"[\n"
            for line in lines:
                stream.write(separator + line[:-1])
                separator = b",\n"
            stream.write(b"[]\n" if separator == b"[\n" else b"\n]\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise LayerscopeError(
            f"{array_path} cannot be written: {error.strerror or error}. All records are in {path.name}.\n"
            "Make room and run the same command again; it only writes the array."
        ) from error
