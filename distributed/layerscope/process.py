"""What a process sets right before it imports anything of others': where modules come from, its home, and a voice.

A user's file in the working folder may have a library's name (`typing.py`, `transformers.py`), and importing executes
it. A user of a container may have no home (`docker run -u`), and Ray and the hub's client need one.
"""

# Python has these before it looks into the working folder; what else is needed is imported where that is taken out.
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event
    from types import FrameType
    from typing import Any

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
    """Sets HOME to a folder that can be written where it is none: Ray and the hub's client write below it. Gives what a
    person should know of it; nothing where nothing was done.

    What the hub's client keeps in a home that can only be read is read there all the same.
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


_AGAIN_SECONDS = 1.0


class Stops:
    """The signals that ask this process to stop.

    A terminal sends Ctrl-C to all processes of a group, and who presses it presses it twice: what comes within a second
    of one that was acted on is part of that, and tears nothing apart that is being closed.
    """

    _acted_at = float("-inf")  # of the last that was made, which is watching

    def __init__(self) -> None:
        self.first, Stops._acted_at = 0, float("-inf")
        """The number of the first; 0 where none came."""
        self.raised = False
        """One ended what was being done, whatever that made of it."""
        self._watched, self._holding = set[int](), False

    def watch(self, *numbers: int) -> None:
        """From now on each raises KeyboardInterrupt, unless whoever started this process has it ignored (nohup)."""
        import signal

        for number in numbers:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._act)
                self._watched.add(number)

    def hold(self) -> None:
        """From now on the first is only noted; a second one raises still. After Ray's start, which takes SIGTERM."""
        self._holding = True
        self.watch(*self._watched)

    def obey(self) -> None:
        """Raises what was noted meanwhile; from now on the first raises too."""
        self._holding, self.raised = False, self.raised or self.first != 0
        if self.raised:
            raise KeyboardInterrupt

    def _act(self, number: int, frame: "FrameType | None") -> None:
        import signal
        import time

        # Of a hang-up a closed terminal's shell and the kernel send one each.
        if (self.first and number == signal.SIGHUP) or time.monotonic() - Stops._acted_at < _AGAIN_SECONDS:
            return
        if _begins_compiled_module(frame):
            _strike_soon(number)
            return
        Stops._acted_at = time.monotonic()
        self.raised = self.raised or not self._holding or self.first != 0
        self.first = self.first or number
        if self.raised:
            raise KeyboardInterrupt


def strike_again(lost: "sys.UnraisableHookArgs") -> None:
    """For `sys.unraisablehook`: an interrupt that strikes while an object is cleared away, which Python prints with
    a traceback and forget, is raised a moment later."""
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    Stops._acted_at = float("-inf")
    _strike_soon()


def _strike_soon(number: int = 0) -> None:  # SIGINT, if nothing else is said
    import signal
    from threading import Timer, main_thread

    Timer(0.01, signal.pthread_kill, (main_thread().ident, number or signal.SIGINT)).start()


def _begins_compiled_module(frame: "FrameType | None") -> bool:
    """Whether a library's compiled code is being imported: orjson's dies when what it imports in turn raises."""
    from importlib.machinery import ExtensionFileLoader as Loader

    while frame is not None and frame.f_code not in (Loader.create_module.__code__, Loader.exec_module.__code__):
        frame = frame.f_back
    return frame is not None


_LOOK_SECONDS = 0.05
_TOLD_BYTES, _RATE_SECONDS = 500_000, 10.0
_ON_TERMINAL, _IN_LOG = (0.1, 0.5), (0.1, 1.5)  # seconds of silence before the first line, and before the others
# Scripts keep what these log: there a line comes only when it is late.
_QUIET_COMMANDS = ("status", "verify", "export", "compare", "saes", "--version", "--help", "-h")
_WAITED_FOR = (
    ("layerscope.engine.cluster.own_ray", "Ray to start"),
    ("layerscope.engine.cluster.connecting", "Ray to answer"),
    ("layerscope.engine.cluster.address", "the Rays of this machine to answer"),
    ("layerscope.engine.cluster.cluster", "the nodes of the Ray cluster"),
    ("layerscope.engine", "the actors, which load the model and the SAEs"),
    ("layerscope.hub", "the hub"),
    ("layerscope.neuronpedia", "Neuronpedia's explanations"),
    ("layerscope.questions", "the questions"),
    ("layerscope.models", "the model's files"),
    ("layerscope.saes", "the SAEs' files"),
    ("layerscope.planning", "the plan"),
    ("layerscope.analysis", "the statistics"),
    ("layerscope.report", "the page"),
    ("layerscope.tables", "the tables"),
    ("layerscope.records", "the records"),
)
"""By where this process is, the innermost first, what it waits for."""


def speak_while_waiting() -> "Callable[[], None]":
    """From now on standard error says what is waited for, while nothing else is said and no work is seen to go on.

    On a terminal that is a line which the next words take the place of; in a log, and on a terminal that cannot take a
    line back, a line every two seconds. What is given ends it: a thread that runs on while Python takes itself apart
    may take the process down.
    """
    import threading

    ended = threading.Event()
    speaker = threading.Thread(target=_speak, args=(threading.get_ident(), ended), daemon=True)
    if sys.stderr is not None:
        speaker.start()

    def hush() -> None:
        ended.set()
        if speaker.is_alive():
            speaker.join(1)

    return hush


def _speak(watched: int, ended: "Event") -> None:
    """Says what the thread `watched` waits for, which does the work."""
    import shutil
    import time
    from contextlib import suppress

    try:
        in_place = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        number = sys.stderr.fileno()
    except (OSError, ValueError):
        return
    first, every = _ON_TERMINAL if in_place else _IN_LOG
    if not in_place and sys.argv[1:2] and sys.argv[1] in _QUIET_COMMANDS:
        first = every
    begun = told = time.monotonic()
    since, worked, seen = time.time(), False, [(begun, 0)]
    while not ended.wait(_LOOK_SECONDS):
        now, streams = time.monotonic(), (sys.stdout, sys.stderr)
        raws: list[Any] = [getattr(getattr(stream, "buffer", None), "raw", None) for stream in streams]
        outlets = [raw for raw in raws if hasattr(raw, "written_at")]
        if any(outlet.ended for outlet in outlets):
            return
        if at_work():
            worked, told = True, now
            continue
        quiet = now - max([told, *(outlet.written_at for outlet in outlets)])
        if quiet < (first if told == begun else every):
            continue
        what = waited_for(sys._current_frames().get(watched), worked)
        seen.append((now, downloaded(since)))
        text = f"layerscope waits for {what}, {now - begun:.0f} s{told_of_downloads(seen)}"
        with suppress(OSError, ValueError):  # a terminal that is gone, a stream that is closed
            if in_place:
                for outlet in outlets:
                    type(outlet).unfinished = True  # so that what is printed next begins by wiping this
                text = f"\r{text[: max(shutil.get_terminal_size().columns - 1, 0)]}\x1b[K"
            os.write(number, text.encode() if in_place else f"{text}\n".encode())
        told = now


def waited_for(frame: "FrameType | None", worked: bool = False) -> str:
    """What a thread waits for, by the innermost of our modules that it is in; `worked`: after actors were at work."""
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.startswith("importlib") or frame.f_code.co_name == "<module>":
            break
        if worked and name.startswith("layerscope.engine"):
            return "Ray and its actors to end"
        for beginning, what in _WAITED_FOR:
            if name.startswith(beginning):
                return what
        frame = frame.f_back
    return "Python to load what it needs"


def downloaded(since: float) -> int:
    """How many bytes came from the hub into its cache on this machine since a time."""
    from contextlib import suppress
    from glob import iglob

    constants = sys.modules.get("huggingface_hub.constants")
    if constants is None:
        return 0
    found = 0
    for path in iglob(os.path.join(constants.HF_HUB_CACHE, "*--*", "blobs", "*")):  # noqa: PTH118, PTH207
        with suppress(OSError):  # renamed meanwhile
            if (file := os.stat(path)).st_mtime >= since:  # noqa: PTH116
                found += min(file.st_size, 512 * file.st_blocks)  # room may be taken before the bytes come
    return found


def told_of_downloads(seen: list[tuple[float, int]]) -> str:
    """What came, and how fast of late; empty for less than a file of settings. `seen` says when, in seconds, how many
    bytes had come, the latest last; what is older than it needs goes."""
    (now, found) = seen[-1]
    while len(seen) > 2 and seen[1][0] <= now - _RATE_SECONDS:
        del seen[0]
    (then, before) = seen[0]
    if found < _TOLD_BYTES:
        return ""
    rate = f", {(found - before) / (now - then) / 1e6:,.1f} MB/s" if found > before else ""
    return f"; {found / 1e6:,.0f} MB downloaded{rate}"


def at_work() -> bool:
    """Work is seen to go on: a bar moves, or a run counts its questions."""
    if getattr(getattr(sys.modules.get("layerscope.records.progress"), "Progress", None), "at_work", False):
        return True
    bars = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    try:
        return any(bar.n != bar.initial for bar in list(getattr(bars, "_instances", ())))
    except (RuntimeError, AttributeError):  # one more while they are gone through, or half made; they come again soon
        return False
