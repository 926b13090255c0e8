"""What a process sets right before it imports anything of others': where modules come from, and its home.

A user's file in the working folder may have a library's name (`typing.py`, `transformers.py`), and importing executes
it. A user of a container may have no home (`docker run -u`, without an entry in /etc/passwd), and Ray and the hub's
client need one.
"""

# Python has these before it looks into the working folder; what else is needed is imported where that is taken out.
import os
import sys

_SOURCES = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
"""The folder that layerscope itself was imported from, which stays."""


def leave_working_folder() -> None:
    """Takes the working folder out of where this process looks for modules, and out of `PYTHONPATH`, which others read.

    It is there after `python -m`, for a script that lies in it, and for an empty entry of `PYTHONPATH`, as
    `PYTHONPATH=$PYTHONPATH:/more` makes one.
    """
    sys.path[:] = [entry for entry in sys.path if not _is_working_folder(entry)]
    if told := os.environ.get("PYTHONPATH"):
        kept = [os.path.abspath(entry) for entry in told.split(os.pathsep) if not _is_working_folder(entry)]  # noqa: PTH100
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)


def _is_working_folder(entry: str) -> bool:
    try:
        return os.path.samefile(entry or ".", ".") and not os.path.samefile(_SOURCES, ".")  # noqa: PTH121
    except OSError:  # an entry that is not there, or a working folder that is not
        return False


def provide_home() -> str:
    """Sets HOME to a folder that can be written where it is none: Ray and the hub's client write below it.

    What the hub's client keeps in a home that can only be read is read there all the same.

    Returns:
        What a person should know of it; empty where nothing was done.
    """
    import tempfile
    from pathlib import Path

    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path raises where there is none
    # Not by Path, which raises where somebody else's home may not even be looked into.
    if home.is_absolute() and os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK):  # noqa: PTH112
        return ""
    if home.is_absolute() and os.path.isdir(home / ".cache/huggingface"):  # noqa: PTH112
        os.environ.setdefault("HF_HOME", str(home / ".cache/huggingface"))
    own = _folder_in(tempfile.gettempdir())
    os.environ["HOME"] = own
    was = f"{home} cannot be written" if home.is_absolute() else "this user has none"
    return f"HOME: {was}; {own} is used. Set HF_HOME to a folder that lasts, so that nothing is downloaded twice."


def _folder_in(temporary: str) -> str:
    """The same folder at every start, if it is nobody else's: a name that can be guessed may have been taken."""
    import stat
    import tempfile

    own = os.path.join(temporary, f"layerscope-home-{os.getuid()}")  # noqa: PTH118
    try:
        os.makedirs(own, mode=0o700, exist_ok=True)  # noqa: PTH103
        found = os.lstat(own)
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
            return own
    except OSError:
        pass
    return tempfile.mkdtemp(prefix="layerscope-home-", dir=temporary)
