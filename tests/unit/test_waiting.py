"""On a terminal a command says at once what it waits for, in place, and leaves nothing of that behind."""

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from layerscope.process import downloads, waited_for
from synthetic_run import Spec, write_run


def on_a_terminal(*words: str, term: str = "xterm") -> str:
    """All that a command writes to its terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": term, "COLUMNS": "60"}
    command = [sys.executable, "-m", "layerscope", *words]
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
    assert process.wait() == 0
    return written.decode()


def shown(written: str) -> str:
    """What is left on the screen."""
    lines = written.replace("\r\n", "\n").split("\n")
    return "\n".join(line.rpartition("\r")[2].rpartition("\x1b[K")[2] for line in lines)


def test_a_terminal_is_told_at_once_what_is_waited_for(tmp_path: Path) -> None:
    write_run(tmp_path / "run.jsonl", Spec(questions=3))
    written = on_a_terminal("status", str(tmp_path / "run.jsonl"))
    first = written.split("\x1b[K")[0]
    assert re.fullmatch(r"\rlayerscope waits for [\w ']+, 0 s", first), "before anything is loaded"
    assert max(map(len, re.split(r"[\r\n]", first))) < 60, "a line that wraps could not be taken back"
    assert "waits for" not in shown(written)
    assert "done" in shown(written)


def test_a_terminal_that_cannot_take_a_line_back_gets_none(tmp_path: Path) -> None:
    write_run(tmp_path / "run.jsonl", Spec(questions=3))
    assert "waits for" not in on_a_terminal("status", str(tmp_path / "run.jsonl"), term="dumb")


def test_the_innermost_place_says_what_is_waited_for() -> None:
    def frame_in(*names: str) -> object:
        frame = None
        for name in names:
            frame = SimpleNamespace(f_globals={"__name__": name}, f_back=frame)
        return frame

    ours = ("layerscope.__main__", "layerscope.cli", "layerscope.commands.run")
    assert waited_for(frame_in(*ours, "layerscope.engine.own_ray", "ray.init")) == "Ray to start"
    assert waited_for(frame_in(*ours, "layerscope.planning.prepare", "layerscope.hub.client", "ssl")) == "the hub"
    assert waited_for(frame_in(*ours, "importlib._bootstrap")) == "Python to load what it needs"
    assert waited_for(None) == "Python to load what it needs"


def test_downloads_are_told_with_their_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was in the cache before is none of them, nor room that was only taken."""
    blobs = tmp_path / "models--google--gemma-2-2b" / "blobs"
    blobs.mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", SimpleNamespace(HF_HUB_CACHE=str(tmp_path)))
    (blobs / "old").write_bytes(bytes(5_000_000))
    os.utime(blobs / "old", (1, 1))
    since = time.time() - 2
    assert downloads(since) == ""
    (blobs / "new.incomplete").write_bytes(os.urandom(3_000_000))
    with (blobs / "taken.incomplete").open("wb") as file:
        file.truncate(1 << 30)
    assert re.fullmatch(r"; 3 MB downloaded, 1\.[0-5] MB/s", downloads(since))
