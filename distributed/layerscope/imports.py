"""What a process, and what it starts, may import: what is installed, and nothing from the working folder.

A user's file there may have a library's name (`transformers.py`), and importing executes it.
"""

import os
import sys
from pathlib import Path

SOURCES = Path(__file__).parents[1]
"""The folder that layerscope itself was imported from, which stays."""


def leave_working_folder() -> None:
    """Takes the working folder out of where this process looks for modules, and out of `PYTHONPATH`, which others read.

    It is there after `python -m`, for a script that lies in it, and for an empty entry of `PYTHONPATH`, as
    `PYTHONPATH=$PYTHONPATH:/more` makes one.
    """
    sys.path[:] = [entry for entry in sys.path if not _is_working_folder(entry)]
    if told := os.environ.get("PYTHONPATH"):
        kept = [str(Path(entry).absolute()) for entry in told.split(os.pathsep) if not _is_working_folder(entry)]
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)


def _is_working_folder(entry: str) -> bool:
    try:
        return Path(entry or ".").samefile(".") and not SOURCES.samefile(".")
    except OSError:  # an entry that is not there, or a working folder that is not
        return False
