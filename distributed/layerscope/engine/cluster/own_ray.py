"""A Ray of a run's own on this machine: in a folder of its own, which goes with it, and why one cannot start."""

import fcntl
import logging
import os
import resource
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray
from ray._common.utils import get_default_system_temp_dir
from ray._private import ray_constants, worker

from layerscope.engine.cluster.connecting import connect
from layerscope.engine.cluster.deaths import Deaths
from layerscope.engine.interface import EngineLost
from layerscope.errors import LayerscopeError, first_line
from layerscope.planning.machine import probe

_PREFIX = "layerscope-"
_LOCK = "lock"
# A GPU's batches of short questions are 0.2 GiB each, and several must be under way at once; memory that is not written
# to is not taken.
_OBJECT_STORE_BYTES, _MOST_OBJECT_STORE_BYTES = 2 << 30, 8 << 30
_LEAST_STORE_BYTES = 80 << 20  # Ray's own least is a little below
_LEAST_ADDRESS_SPACE = 4 << 30  # of each process: the object store is mapped whole, and torch's libraries
_LEAST_DISK_BYTES = 64 << 20
_LEAST_MEMORY = 1 << 30  # with 0.7 GiB the stand-in's actors died of it one after the other, for minutes
_TOO_SLOW = "Timed out waiting for file"
"""What Ray's log says when an agent, a Python of its own, has not said its port in time, which no setting changes."""
# For an actor's Python to begin. On a busy machine, or with Python's files on a slow disk, Ray's own 60 s are over
# before it has imported Ray; it is killed, and another started, for ever.
_BEGIN_SECONDS = 240
_LEAST_PROCESSES = 150  # threads count; a Ray with two actors has some 300


@contextmanager
def own_ray(cpus: int) -> Iterator[Deaths]:
    """A Ray of this process, which is told that it has so many CPUs; gone at the end with all that it wrote.

    Raises:
        LayerscopeError: it cannot start.
        EngineLost: within seconds, wherever this process is: it has died.
    """
    base = Path(get_default_system_temp_dir())
    store = _store_bytes(base)

    def no_start(name: str) -> LayerscopeError:
        return _cannot_start(base, _reason(folder) or f"its {name} died at once")

    with _folder(base) as folder, Deaths(no_start, lambda: _remove(folder)) as deaths:
        _start(cpus, store, folder, deaths)
        deaths.told = _lost
        try:
            yield deaths
        finally:
            if not deaths.lost:
                deaths.close()
                ray.shutdown()
        if deaths.lost:  # and whoever was told of it went on
            raise deaths.error()


def _lost(name: str) -> EngineLost:
    return EngineLost(
        f"Ray's own {name} on this machine has died: somebody ended it, or the memory was too small.\n"
        "What is in the file is whole; run again to go on."
    )


def _start(cpus: int, store: int, folder: Path, deaths: Deaths) -> None:
    # Ray listens on every interface of a Linux machine. What it does on a Mac is right for a run of one machine:
    # the loopback alone. Its own processes read the variable; this one has read it already.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    ray_log = logging.getLogger("ray")
    told, ray_log.disabled = ray_log.disabled, True  # it prints tracebacks of what is raised too
    services = logging.getLogger("ray._private.services")
    services.disabled = True  # on a busy machine, in four lines, that the dashboard which nobody asked for is not there
    worker.print_to_stdstream = _unprinted  # a raylet's death, with twenty lines of its log, among what a run says
    try:
        connect(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            # Ray would start a Python for every CPU, and none of them for our actors: these have an environment.
            _system_config={"prestart_worker_first_driver": False, "worker_register_timeout_seconds": _BEGIN_SECONDS},
            object_store_memory=store,
            _temp_dir=str(folder),
        )
    except Exception as error:  # Ray raises whatever it met: all of it means that there is no Ray
        if deaths.lost:
            raise deaths.error() from error
        deaths.close()
        with suppress(Exception):
            ray.shutdown()
        raise _cannot_start(folder.parent, _reason(folder) or first_line(error)) from error
    finally:
        ray_log.disabled = told
        services.disabled = False


def _unprinted(*_: object, **_named: object) -> None:
    pass


def _cannot_start(base: Path, reason: str) -> LayerscopeError:
    if _TOO_SLOW in reason:
        return LayerscopeError(
            "Ray cannot start on this machine: a process of its own took longer to begin than Ray waits (30 s).\n"
            "The machine has too much else to do, or reads Python's files from a slow disk. Run again to go on."
        )
    return LayerscopeError(
        f"Ray cannot start on this machine: {reason.rstrip('.')}.\n"
        f"It needs about 1 GiB of memory, some hundred processes and threads, ~/.ray, and room in {base} "
        "(RAY_TMPDIR names another place)."
    )


def hindrance() -> str:
    """Why no Ray could start here, as far as this process's limits and the disk say; empty where nothing does."""
    files, space, processes = (
        resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_AS, resource.RLIMIT_NPROC)
    )
    memory, base = probe().memory, Path(get_default_system_temp_dir())
    if 0 <= files < _LEAST_STORE_BYTES:
        return f"a file may have {files >> 10} KiB only (ulimit -f)"
    if 0 <= space < _LEAST_ADDRESS_SPACE:
        return f"a process may have {space >> 20} MiB of address space only (ulimit -v)"
    if os.getuid() and 0 <= processes < _LEAST_PROCESSES:
        return f"you may have {processes} processes and threads only (ulimit -u)"
    if memory < _LEAST_MEMORY:
        return f"this process and those that it starts may have {memory >> 20} MiB of memory only"
    try:
        there = next(each for each in (base, *base.absolute().parents) if each.exists())
        free = shutil.disk_usage(there).free
    except OSError as error:
        return str(error)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return f"{there} is no folder that can be written"
    return f"{base} has {free >> 20} MiB free" if free < _LEAST_DISK_BYTES else _taken_port()


def _store_bytes(base: Path) -> int:
    """What the object store may have, as far as this process's limits allow a Ray at all.

    Raises:
        LayerscopeError: they do not.
    """
    if reason := hindrance():
        raise _cannot_start(base, reason)
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_start(base, str(error)) from error
    files, memory = resource.getrlimit(resource.RLIMIT_FSIZE)[0], probe().memory
    store = min(max(_OBJECT_STORE_BYTES, memory // 16), _MOST_OBJECT_STORE_BYTES, memory // 4)
    return min(store, files) if files >= 0 else store


def _taken_port() -> str:
    """What is wrong with the one port that the environment may name; Ray would wait for most of a minute."""
    name = ray_constants.GCS_PORT_ENVIRONMENT_VARIABLE
    told = os.environ.get(name, "")
    if not told:
        return ""
    try:
        with socket.socket() as probing:
            probing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port of a Ray that just ended is free
            probing.bind(("", int(told)))
    except (OSError, OverflowError, ValueError) as error:
        return f"{name} is {told}: {getattr(error, 'strerror', None) or error}"
    return ""


@contextmanager
def _folder(base: Path) -> Iterator[Path]:
    """A folder for Ray's session: locked while this process lives, removed at its end, but for a bug's traces.

    What dead runs of this user left there goes first.
    """
    try:
        for left in base.glob(f"{_PREFIX}*"):
            _remove_if_dead(left)
        new = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=base))
        lock = os.open(new / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = new.rename(base / new.name.removeprefix("."))
    except OSError as error:
        raise _cannot_start(base, str(error)) from error
    try:
        yield folder
    except (LayerscopeError, KeyboardInterrupt):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _remove_if_dead(folder: Path) -> None:
    """Removes a folder of a run that was killed, and ends what lives on of its Ray."""
    try:
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        left = list(folder.glob("*"))
        if left and all(each.name.startswith("session_") for each in left):  # a dying Ray logged once more
            _remove(folder)
        return
    except OSError:
        return  # no folder of ours, or gone
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(folder)
    except OSError:
        pass  # its run is alive
    finally:
        os.close(lock)


def _remove(folder: Path) -> None:
    """Ends what lives of the Ray of a folder, and removes it."""
    for process in _named_on_command_lines(folder):
        with suppress(OSError):
            os.kill(process, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def _named_on_command_lines(folder: Path) -> list[int]:
    """This user's processes that were started with a path below a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if process.stat().st_uid == os.getuid() and f"{folder}/".encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


def _reason(folder: Path) -> str:
    """What Ray's processes themselves say, if one of them says why it ended."""
    for name in ("gcs_server", "raylet"):
        for log in sorted(folder.glob(f"session_2*/logs/{name}.*")):
            for line in log.read_text(errors="replace").splitlines():
                if any(
                    word in line
                    for word in ("Check failed", "Failed to bind", "cannot create", "No space left", _TOO_SLOW)
                ):
                    return f"{name}: {line[line.find('Check failed') :] if 'Check failed' in line else line}"[:300]
    return ""
