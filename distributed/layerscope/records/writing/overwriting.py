"""What `--overwrite` does with the records that are there: they stand aside until the new file has its first record."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from layerscope.files import replacing
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.manifest.order import order_path
from layerscope.records.reading.residuals import residuals_path
from layerscope.records.reading.stretches import NotAFrameError, read_stretches
from layerscope.records.writing.locking import open_locked
from layerscope.records.writing.marks import marks_path


def aside_path(path: Path) -> Path:
    """Where the records that were there are kept; their manifest and residuals lie beside them as beside any file."""
    return path.with_name(path.name + ".overwritten")


def put_aside(path: Path, descriptor: int) -> int:
    """Moves what there is of a run aside: a descriptor of the new, empty file, locked, for that of the old one.

    May be cut off anywhere and called again: the last file that had a record, and its manifest, are what stands aside.
    """
    aside = aside_path(path)
    manifest_aside, residuals_aside = manifest_path(aside), residuals_path(aside)
    if aside.exists() and not aside.samefile(path):
        if not has_records(path):
            os.ftruncate(descriptor, 0)
            return descriptor
        forget_aside(path)
    with replacing(path, locked=False) as new:  # never a moment in which somebody else could make the file
        fresh = open_locked(new)
        try:
            if not aside.exists():
                if manifest_path(path).exists():
                    manifest_path(path).replace(manifest_aside)  # first: without it nobody goes on with the records
                for beside in (order_path, marks_path):
                    with suppress(FileNotFoundError):
                        beside(path).replace(beside(aside))
                if residuals_path(path).is_dir():
                    shutil.rmtree(residuals_aside, ignore_errors=True)
                    residuals_path(path).replace(residuals_aside)
                os.link(path, aside)
        except BaseException:
            os.close(fresh)
            raise
    os.close(descriptor)
    return fresh


def forget_aside(path: Path) -> None:
    """Removes what stands aside."""
    aside = aside_path(path)
    for each in (aside, manifest_path(aside), order_path(aside), marks_path(aside)):
        each.unlink(missing_ok=True)
    shutil.rmtree(residuals_path(aside), ignore_errors=True)


def has_records(path: Path) -> bool:
    """Whether a file has a whole line."""
    try:
        return next(read_stretches(path), None) is not None
    except NotAFrameError:  # something that a person may want back
        return True
