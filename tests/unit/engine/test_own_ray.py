"""A run's own Ray takes what it wrote with it, sweeps what dead runs left, and says in seconds why it cannot start."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from layerscope.config import Config
from layerscope.engine.cluster.cluster import Cluster
from layerscope.engine.cluster.own_ray import _folder, own_ray
from layerscope.errors import LayerscopeError

SNIPPET = """
from layerscope.engine.cluster.own_ray import own_ray
from layerscope.errors import LayerscopeError
try:
    with own_ray(1):
        pass
except LayerscopeError as error:
    print(error)
"""


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary folder, by a short path: Ray's sockets lie below it, and their names have a limit."""
    folder = Path(tempfile.mkdtemp(prefix="ls", dir="/tmp"))
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def refusal() -> str:
    begun = time.monotonic()
    with pytest.raises(LayerscopeError, match="Ray cannot start on this machine") as refused, own_ray(1):
        pass
    assert time.monotonic() - begun < 2
    message = str(refused.value)
    assert len(message.splitlines()) == 2
    assert "RAY_TMPDIR" in message
    return message


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        (resource.RLIMIT_FSIZE, 1500 << 10, "1500 KiB only (ulimit -f)"),
        (resource.RLIMIT_AS, 1 << 30, "1024 MiB of address space only (ulimit -v)"),
        (resource.RLIMIT_NPROC, 60, "60 processes and threads only (ulimit -u)"),
    ],
    ids=["-f", "-v", "-u"],
)
def test_limits_under_which_no_ray_can_start(
    kind: int, value: int, told: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a minute of Ray's own waiting, then its tracebacks."""
    monkeypatch.setattr(os, "getuid", lambda: 4711)  # root may have any number of processes
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, before[1]))
    try:
        message = refusal()
    finally:
        resource.setrlimit(kind, before)
    assert told in message
    assert not list(base.iterdir())


def test_a_memory_in_which_its_processes_die_is_named(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes of actors that are killed one after the other, and a plan that says that nothing would stop a run."""
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "700")
    assert "may have 700 MiB of memory only" in refusal()
    told = Cluster(Config(address="local"), add_nodes=False).hindrance()
    assert told.startswith("Ray cannot start on this machine: this process and those that it starts may have 700 MiB")
    assert not list(base.iterdir())


def test_nothing_hinders_a_ray_that_can_start_and_nothing_is_made_to_see_that(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(base / "deeper"))
    assert Cluster(Config(address="local"), add_nodes=False).hindrance() == ""
    assert not (base / "deeper").exists()


def spoilt_by_a_file(base: Path) -> Path:
    (base / "t").write_text("")
    return base / "t"


def spoilt_by_the_path_above(base: Path) -> Path:
    (base / "t").write_text("")
    return base / "t" / "deeper"


def too_deep_for_sockets(base: Path) -> Path:
    (deep := base / ("d" * 90)).mkdir()
    return deep


@pytest.mark.parametrize("spoil", [spoilt_by_a_file, spoilt_by_the_path_above, too_deep_for_sockets])
def test_a_temporary_folder_that_cannot_be_used_is_named(
    spoil: Callable[[Path], Path], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(folder := spoil(base)))
    assert str(folder) in refusal()
    assert not folder.is_dir() or not list(folder.iterdir())


def test_a_small_temporary_folder_is_named(base: Path) -> None:
    """Ray starts, fills it, and its parts end one by one with messages in files that could not be written."""
    script = 'mount -t tmpfs -o size=1m tmpfs "$1" || exit 99; shift; exec "$@"'
    words = ["unshare", "-rm", "sh", "-c", script, "sh", str(base), sys.executable, "-c", SNIPPET]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode in (1, 99):
        pytest.skip(f"this machine lets nobody mount a file system: {done.stderr.strip()[:200]}")
    assert f"{base} has 1 MiB free" in done.stdout or f"{base} has 0 MiB free" in done.stdout, done


@pytest.mark.parametrize("port", ["taken", "many", "70000"])
def test_a_port_that_cannot_be_had_is_named(port: str, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of a minute of Ray's own waiting."""
    with socket.create_server(("", 0)) as server:
        told = str(server.getsockname()[1]) if port == "taken" else port
        monkeypatch.setenv("RAY_GCS_SERVER_PORT", told)
        assert f"RAY_GCS_SERVER_PORT is {told}: " in refusal()
    assert not list(base.iterdir())


def dashboard_agents(driver: int) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.Error):
            if any(word.endswith("/dashboard/agent.py") for word in process.cmdline()):
                found.append(process)
    return found


@pytest.mark.slow
def test_a_machine_on_which_rays_own_processes_begin_too_late_is_named(base: Path) -> None:
    """Ray gives up after half a minute, and ends with a check that failed."""
    words = [sys.executable, "-c", SNIPPET]
    run = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (agents := dashboard_agents(run.pid)):
        assert run.poll() is None
    agents[0].suspend()
    told, _ = run.communicate(timeout=300)
    assert "took longer to begin than Ray waits (30 s)." in told
    assert len(told.splitlines()) == 2, told
    assert not list(base.iterdir())


SLOW_TO_BEGIN = """
import sys, time
if any(word.endswith("default_worker.py") for word in sys.orig_argv):
    time.sleep(70)
"""
ASK = """
import ray
from layerscope.engine.cluster.own_ray import own_ray
if __name__ == "__main__":
    with own_ray(1):
        told = ray.get(ray.remote(lambda: 4711).remote(), timeout=200)
    print(told)
"""


@pytest.mark.nightly
def test_a_process_that_takes_more_than_a_minute_to_begin_is_waited_for(base: Path, tmp_path: Path) -> None:
    """Ray would kill it after 60 seconds and start another, which takes as long."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_TO_BEGIN)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "RAY_TMPDIR": str(base)}
    words = [sys.executable, "-c", ASK]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=400)
    assert done.stdout == "4711\n", done.stderr


HOLD = """
import subprocess, sys, time
from pathlib import Path
from layerscope.engine.cluster.own_ray import _folder
with _folder(Path(sys.argv[1])) as folder:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", f"{folder}/session/agent"])
    print(folder, child.pid, flush=True)
    time.sleep(600)
"""


def hold(base: Path) -> tuple[subprocess.Popen[str], Path, psutil.Process]:
    """A run that holds its folder, and one of its Ray's processes."""
    run = subprocess.Popen([sys.executable, "-c", HOLD, str(base)], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    folder, child = run.stdout.readline().split()
    return run, Path(folder), psutil.Process(int(child))


def test_what_killed_runs_left_is_swept_and_what_lives_stays(base: Path) -> None:
    """Gigabytes stay in the temporary folder for ever; or the Ray of a run that works is taken from it."""
    (base / "layerscope-of-the-user").mkdir()
    (base / "layerscope-logged_late" / "session_2026-01-01_00-00-00_000000_1" / "logs").mkdir(parents=True)
    (dead_run, dead, orphan), (live_run, live, agent) = hold(base), hold(base)
    try:
        dead_run.send_signal(signal.SIGKILL)
        dead_run.wait()
        with _folder(base) as own:
            assert {path.name for path in base.iterdir()} == {"layerscope-of-the-user", live.name, own.name}
            psutil.wait_procs([orphan], timeout=10)
            assert not orphan.is_running()
            assert agent.is_running()
        assert not own.exists()
        assert not dead.exists()
    finally:
        for process in (orphan, agent):  # first, because they hold the pipe that is read to its end
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for run in (dead_run, live_run):
            run.kill()
            run.communicate()
