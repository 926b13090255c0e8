"""A run whose own Ray has died ends in seconds with what to do, whatever call it waits in, and leaves nothing."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layerscope.engine.cluster import deaths
from layerscope.engine.cluster.deaths import Deaths
from layerscope.engine.interface import EngineLost
from layerscope.errors import LayerscopeError

Start = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts children that do nothing, under any name."""
    monkeypatch.setattr(deaths, "_end_at_once", lambda: None)  # which is for the end of this process
    monkeypatch.setattr(deaths, "_SECONDS", 0.5)
    started = []

    def starting(name: str) -> "subprocess.Popen[bytes]":
        if not (tmp_path / name).exists():
            shutil.copy(shutil.which("sleep") or "", tmp_path / name)
        started.append(subprocess.Popen([tmp_path / name, "600"]))
        return started[-1]

    yield starting
    for child in started:
        child.kill()
        child.wait()


def told(name: str) -> LayerscopeError:
    return EngineLost(f"{name} died")


@pytest.mark.parametrize("name", deaths.CORE)
def test_a_death_is_raised_where_the_run_is_and_what_is_left_is_removed(name: str, start: Start) -> None:
    """Of the Ray that is begun inside, whatever others this process has."""
    for of_another_ray in deaths.CORE:
        start(of_another_ray)
    removed, begun = [], time.monotonic()
    seen = Deaths(told, lambda: removed.append(name))

    def wait_for_ever() -> None:
        with seen:
            child, other = start(name), start("sh")
            other.kill()
            time.sleep(1)
            assert not seen.lost, "that was none of Ray's"
            child.kill()
            time.sleep(60)

    with pytest.raises(EngineLost, match=f"{name} died"):
        wait_for_ever()
    assert time.monotonic() - begun < 5
    assert seen.lost
    assert removed == [name]
    seen._thread.join()  # which would end this process, wherever it hangs
    assert removed == [name, name]


def test_what_is_ended_on_purpose_is_no_death(start: Start) -> None:
    removed: list[str] = []
    with Deaths(told, lambda: removed.append("all")) as seen:
        child = start("raylet")
        seen.close()
        child.kill()
        time.sleep(0.3)
    assert not seen.lost
    assert not removed


STUCK = """
import ctypes, signal, subprocess, sys, time
from layerscope.engine.cluster import deaths
from layerscope.engine.interface import EngineLost
deaths._SECONDS = 0.5
with deaths.Deaths(lambda name: EngineLost(f"{name} died"), lambda: print("removed")):
    child = subprocess.Popen([sys.argv[1], "600"])
    signal.pthread_sigmask(signal.SIG_BLOCK, [deaths._SIGNAL])  # of this thread: the call below is not disturbed
    child.kill()
    ctypes.CDLL(None).sleep(60)
"""


def test_a_call_that_never_comes_back_is_left_with_the_process(tmp_path: Path) -> None:
    """Ray's calls to a control store that is gone take a minute, and then Ray ends the process in words of its own."""
    shutil.copy(shutil.which("sleep") or "", tmp_path / "gcs_server")
    command = [sys.executable, "-c", STUCK, tmp_path / "gcs_server"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "removed\n", "layerscope: gcs_server died\n")


REAL = """
import os, signal, sys, time
from pathlib import Path
import psutil, ray
from layerscope.engine.cluster.own_ray import own_ray
from layerscope.errors import LayerscopeError
def kill(name):
    for child in psutil.Process().children():
        if child.name() == name:
            child.kill()
    return time.monotonic()
try:
    with own_ray(1):
        begun = kill(sys.argv[1])
        while True:
            ray.nodes()
except LayerscopeError as error:
    print(f"{error}")
    print(time.monotonic() - begun < 8, list(Path(os.environ["RAY_TMPDIR"]).iterdir()))
    sys.exit(error.exit_code)
"""


def test_a_real_ray_that_dies_is_told_in_two_lines() -> None:
    """Its raylet is waited for for ever by Ray, and its own cleaning up aborts."""
    folder = tempfile.mkdtemp(prefix="ls", dir="/tmp")  # Ray's sockets lie below it, and their names have a limit
    try:
        command = [sys.executable, "-c", REAL, "raylet"]
        environment = {**os.environ, "RAY_TMPDIR": folder}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 1
    assert not done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Ray's own raylet on this machine has died: ")
    assert lines[1:] == ["What is in the file is whole; run again to go on.", "True []"]
