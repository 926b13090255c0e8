"""Questions from standard input: kept beside the output file, because a run reads them again, and goes on later.

Each content has a file of its own, `NAME.questions-DIGEST.json`, which nothing replaces: a run that reads it, or has
yet to go on with it, keeps it whatever the next command is given.
"""

import hashlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from layerscope.errors import LayerscopeError, UsageError
from layerscope.files import remove_leftovers, replacing
from layerscope.formatting import listed, visible

_COPY = re.compile(r"(?s)(?P<records>.+)\.questions-[0-9a-f]{8}\.json")


def records_of_copy(copy: Path) -> Path | None:
    """The output file beside which a path is such a copy, by its name."""
    match = _COPY.fullmatch(copy.name)
    return copy.with_name(match["records"]) if match else None


def keep_standard_input(records: Path, began_with: str, overwrite: bool) -> Path:
    """Copies standard input beside an output file; where there is nothing, what the run began with is read again.

    Args:
        began_with: name of the questions that the run of this output file reads; empty where there is no run.

    Raises:
        UsageError: there is nothing to read and no copy, or the run began with other questions.
        LayerscopeError: it cannot be written.
    """
    if not records.parent.is_dir():
        raise UsageError(f"--output-file: there is no folder {visible(str(records.parent))}. Make it, or name another.")
    try:
        # Without a name, so that nothing stays of it when this process is killed.
        with tempfile.TemporaryFile(dir=records.parent) as content:
            if not sys.stdin.isatty():
                shutil.copyfileobj(sys.stdin.buffer, content)
            if not content.tell():
                return _kept(records, began_with)
            content.seek(0)
            digest = hashlib.file_digest(content, "sha256").hexdigest()
            copy = records.with_name(f"{records.name}.questions-{digest[:8]}.json")
            if began_with and visible(copy.name) != began_with and not overwrite:
                raise UsageError(
                    f"Standard input has other questions than {began_with}, which the run of {records.name} began with."
                    "\nGive the same, or nothing, to go on; or start anew with --overwrite or another --output-file."
                )
            remove_leftovers(copy)
            if not _holds(copy, digest):
                content.seek(0)
                with replacing(copy) as temporary, temporary.open("wb") as stream:
                    shutil.copyfileobj(content, stream)
                    stream.flush()
                    os.fsync(stream.fileno())
            return copy
    except OSError as error:
        told = f"Standard input cannot be kept beside {records}: {error.strerror or error}."
        raise LayerscopeError(f"{told} Make room.") from error


def _kept(records: Path, began_with: str) -> Path:
    """What the run of an output file began with; without a run, what was piped in before it could begin."""
    there = [path for path in records.parent.iterdir() if records_of_copy(path) == records]
    own = [path for path in there if visible(path.name) == began_with] or ([] if began_with else there)
    if not own:
        raise UsageError(
            "--dataset - reads questions from standard input, and there is nothing"
            + (f", nor is {began_with} there, which the run of {records.name} began with.\n" if began_with else ".\n")
            + "Pipe them in: cat questions.jsonl | layerscope run --dataset - …"
        )
    if len(own) > 1:
        raise UsageError(
            f"Standard input has nothing, and beside {visible(records.name)} are {listed(path.name for path in own)}.\n"
            "Pipe in the questions that you mean."
        )
    return own[0]


def _holds(copy: Path, digest: str) -> bool:
    """Whether a copy is there and is what its name says; one that somebody changed is made anew."""
    if not copy.is_file():
        return False
    with copy.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == digest
