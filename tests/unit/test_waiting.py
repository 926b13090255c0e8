"""A command says at once what it waits for: on a terminal in place, leaving nothing behind; in a log by lines."""

import io
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import cast
from weakref import WeakSet

import pytest
from tqdm import tqdm

from layerscope.process import at_work, downloaded, told_of_downloads, waited_for
from layerscope.records.progress import Progress
from layerscope.records.totals import Totals
from synthetic_run import Spec, write_run


def on_a_terminal(
    *words: str, term: str = "xterm", program: Sequence[str] = ("-m", "layerscope"), ends: int = 0
) -> str:
    """All that a command writes to its terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": term, "COLUMNS": "60"}
    command = [sys.executable, *program, *words]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # as Linux tells that nobody is at the other end any more
            break
        if not piece:
            break
        written += piece
    os.close(ours)
    assert process.wait() == ends
    return written.decode()


def shown(written: str) -> str:
    """What is left on the screen."""
    lines = []
    for line in written.replace("\r\n", "\n").split("\n"):
        on_screen, at = "", 0
        for piece in re.split(r"(\r|\x1b\[K)", line):
            if piece == "\r":
                at = 0
            elif piece == "\x1b[K":  # all behind the cursor
                on_screen = on_screen[:at]
            else:
                on_screen, at = on_screen[:at] + piece + on_screen[at + len(piece) :], at + len(piece)
        lines.append(on_screen)
    return "\n".join(lines)


def test_a_terminal_is_told_at_once_what_is_waited_for(tmp_path: Path) -> None:
    write_run(tmp_path / "run.jsonl", Spec(questions=3))
    written = on_a_terminal("status", str(tmp_path / "run.jsonl"))
    first = written.split("\x1b[K")[0]
    assert re.fullmatch(r"\rlayerscope waits for [\w ']+, 0 s", first), "before anything is loaded"
    assert max(map(len, re.split(r"[\r\n]", first))) < 60, "a line that wraps could not be taken back"
    assert "waits for" not in shown(written)
    assert "done" in shown(written)


STRUCK_AS_IT_WAITS = """
import os, signal, sys, time, layerscope.__main__ as begin

def home():
    time.sleep(0.5)  # so long that the terminal is told what is waited for
    os.kill(os.getpid(), signal.SIGINT)

begin.provide_home = home
begin.main(sys.argv[1:])
"""


def test_ctrl_c_while_python_loads_takes_the_place_of_the_line_that_waits() -> None:
    written = on_a_terminal("run", "--standin", program=("-c", STRUCK_AS_IT_WAITS), ends=130)
    assert "waits for" in written
    told = ["Stopped by SIGINT before anything began; nothing was changed.", "To go on: layerscope run --standin", ""]
    assert shown(written).split("\n") == told


WAITS_BEFORE_IT_SPEAKS = STRUCK_AS_IT_WAITS.replace("0.5", "0.2").replace("os.kill(os.getpid(), signal.SIGINT)", "")


def test_what_is_said_right_after_the_first_line_takes_its_place() -> None:
    """The first line is written long before the command is loaded, and the second would come half a second later."""
    written = on_a_terminal("nothing", program=("-c", WAITS_BEFORE_IT_SPEAKS), ends=2)
    assert shown(written).startswith("layerscope: 'nothing' is no command."), written


def frame_in(*names: str, function: str = "wait") -> FrameType:
    """The innermost of functions that call one another, by their modules."""
    frame = None
    for name in names:
        code = SimpleNamespace(co_name=function)
        frame = SimpleNamespace(f_globals={"__name__": name}, f_back=frame, f_code=code)
    return cast(FrameType, frame)


def test_the_innermost_place_says_what_is_waited_for() -> None:
    ours = ("layerscope.__main__", "layerscope.cli", "layerscope.commands.run")
    own_ray = (*ours, "layerscope.engine.cluster.own_ray")
    assert waited_for(frame_in(*own_ray, "psutil")) == "Ray to start"
    assert waited_for(frame_in(*own_ray, "layerscope.engine.cluster.connecting", "ray.init")) == "Ray to answer"
    assert waited_for(frame_in(*ours, "layerscope.planning.prepare", "layerscope.hub.client", "ssl")) == "the hub"
    assert waited_for(frame_in(*ours, "importlib._bootstrap")) == "Python to load what it needs"
    assert waited_for(None) == "Python to load what it needs"
    beginning = frame_in(*ours, "layerscope.engine.actors", function="<module>")
    assert waited_for(beginning) == "Python to load what it needs", "a module that is being made waits for no actors"


def test_downloads_are_told_with_their_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was in the cache before is none of them, nor room that was only taken; the rate is that of late."""
    blobs = tmp_path / "models--google--gemma-2-2b" / "blobs"
    blobs.mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", SimpleNamespace(HF_HUB_CACHE=str(tmp_path)))
    (blobs / "old").write_bytes(bytes(5_000_000))
    os.utime(blobs / "old", (1, 1))
    since = time.time() - 2
    assert downloaded(since) == 0
    (blobs / "new.incomplete").write_bytes(os.urandom(3_000_000))
    with (blobs / "taken.incomplete").open("wb") as file:
        file.truncate(1 << 30)
    assert downloaded(since) == pytest.approx(3_000_000, abs=10_000)
    assert told_of_downloads([(0.0, 0), (2.0, 40_000)]) == ""
    assert told_of_downloads([(0.0, 0), (2.0, 3_000_000)]) == "; 3 MB downloaded, 1.5 MB/s"
    late = [(0.0, 0), (100.0, 0), (105.0, 10_000_000), (115.0, 60_000_000)]
    assert told_of_downloads(late) == "; 60 MB downloaded, 5.0 MB/s"
    assert told_of_downloads([(0.0, 7_000_000), (9.0, 7_000_000)]) == "; 7 MB downloaded", "they came, and are there"


LOG_LINE = re.compile(rb"layerscope waits for [^\r\n\x1b]+, \d+ s\n")


def test_a_log_gets_lines_and_nothing_that_steers_a_terminal(tmp_path: Path) -> None:
    """As of a job of a cluster. What scripts read gets a line only when it is late."""
    write_run(tmp_path / "run.jsonl", Spec(questions=3))
    for words, early in ((["report", "run.jsonl"], True), (["status", "run.jsonl"], False)):
        command = [sys.executable, "-m", "layerscope", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
        lines = done.stderr.splitlines(keepends=True)
        assert all(LOG_LINE.fullmatch(line) for line in lines), lines
        assert not re.search(rb"[\r\x1b]|%\|", done.stdout + done.stderr), "a bar, or a sequence"
        if early:
            assert lines[0] == b"layerscope waits for Python to load what it needs, 0 s\n"


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("NO_COLOR", "1")])
def test_a_terminal_without_colours_gets_none(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dumb one gets no bar and no line that is taken back either, but lines as a log does."""
    write_run(tmp_path / "run.jsonl", Spec(questions=3))
    monkeypatch.setenv(name, value)
    written = on_a_terminal("report", str(tmp_path / "run.jsonl"), term=value if name == "TERM" else "xterm")
    assert not re.search(r"\x1b\[[\d;]*m", written)
    assert "report" in shown(written)
    if name == "TERM":
        plain = written.replace("\r\n", "\n")
        assert not re.search(r"[\r\x1b]|%\s*\|", plain)
        assert plain.startswith("layerscope waits for Python to load what it needs, 0 s\n")


def test_the_line_comes_back_when_a_bar_is_done_and_says_that_actors_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tqdm, "_instances", WeakSet())  # without those that other tests left
    assert waited_for(frame_in("layerscope.engine.cluster.own_ray"), worked=True) == "Ray and its actors to end"
    bar = tqdm(total=10, file=io.StringIO())
    assert not at_work()
    bar.update(1)
    assert at_work()
    bar.close()
    assert not at_work()
    half_made = tqdm.__new__(tqdm)
    try:
        assert not at_work(), "another thread is making one"
    finally:
        tqdm._instances.discard(half_made)
    with Progress(3, Totals(), io.StringIO()) as progress:
        assert not at_work()
        progress.update()
        assert at_work()
    assert not at_work()
