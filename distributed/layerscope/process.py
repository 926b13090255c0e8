"""What a process sets right before it imports anything of others': where modules come from, and its home.

A user's file in the working folder may have a library's name (`transformers.py`), and importing executes it. A user of
a container may have no home (`docker run -u`, without an entry in /etc/passwd), and Ray and the hub's client need one.
"""

import os
import stat
import sys
import tempfile
from pathlib import Path

_HUB = Path(".cache") / "huggingface"
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


def provide_home() -> str:
    """Sets HOME to a folder that can be written where it is none: Ray and the hub's client write below it.

    What the hub's client keeps in a home that can only be read is read there all the same.

    Returns:
        What a person should know of it; empty where nothing was done.
    """
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path raises where there is none
    # Not by Path, which raises where somebody else's home may not even be looked into.
    if home.is_absolute() and os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK):  # noqa: PTH112
        return ""
    if home.is_absolute() and os.path.isdir(home / _HUB):  # noqa: PTH112
        os.environ.setdefault("HF_HOME", str(home / _HUB))
    own = _folder_in(Path(tempfile.gettempdir()))
    os.environ["HOME"] = str(own)
    was = f"{home} cannot be written" if home.is_absolute() else "this user has none"
    return f"HOME: {was}; {own} is used. Set HF_HOME to a folder that lasts, so that nothing is downloaded twice."


def _folder_in(temporary: Path) -> Path:
    """The same folder at every start, if it is nobody else's: a name that can be guessed may have been taken."""
    own = temporary / f"layerscope-home-{os.getuid()}"
    try:
        own.mkdir(mode=0o700, exist_ok=True)
        found = own.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
            return own
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="layerscope-home-", dir=temporary))
