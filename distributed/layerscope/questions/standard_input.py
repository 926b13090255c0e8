"""Questions from standard input: kept beside the output file, because a run reads them again, and goes on later."""

import os
import shutil
import sys
from pathlib import Path

from layerscope.errors import LayerscopeError, UsageError
from layerscope.files import replacing
from layerscope.formatting import visible

STANDARD_INPUT = "-"


def copy_path(records: Path) -> Path:
    """Where the questions of an output file's run are kept."""
    return records.with_name(records.name + ".questions.json")


def keep_standard_input(records: Path, overwrite: bool) -> Path:
    """Copies standard input beside an output file, in one atomic step; where there is nothing, the copy stays.

    Raises:
        UsageError: there is nothing to read and no copy, or the copy has other questions and is not to be replaced.
        LayerscopeError: it cannot be written.
    """
    copy = copy_path(records)
    if not records.parent.is_dir():
        raise UsageError(f"--output-file: there is no folder {visible(str(records.parent))}. Make it, or name another.")
    try:
        with replacing(copy) as temporary:
            with temporary.open("wb") as stream:
                if not sys.stdin.isatty():
                    shutil.copyfileobj(sys.stdin.buffer, stream)
                stream.flush()
                os.fsync(stream.fileno())
            if not temporary.stat().st_size:
                raise _Nothing
            if copy.exists() and not overwrite and not _same(copy, temporary):
                raise UsageError(
                    f"Standard input has other questions than {copy}, which a run began with.\n"
                    "Give the same, or nothing, to go on; or start anew with --overwrite or another --output-file."
                )
    except _Nothing:
        if not copy.exists():
            raise UsageError(
                "--dataset - reads questions from standard input, and there is nothing.\n"
                "Pipe them in: cat questions.jsonl | layerscope run --dataset - …"
            ) from None
    except OSError as error:
        raise LayerscopeError(f"{copy} cannot be written: {error.strerror or error}. Make room.") from error
    return copy


class _Nothing(Exception):
    pass


def _same(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while piece := first.read(1 << 20):
            if piece != second.read(1 << 20):
                return False
    return True
