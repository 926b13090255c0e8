"""Ray's workers on the tests' clusters are forks of a process that has torch and transformers already.

A worker is otherwise two interpreters, one after the other, that import for six CPU-seconds before an actor begins, and
no test of a cluster that runs share is about that. A run with a Ray of its own starts its workers as ever.

Ray's setting `setup_worker_path` names this file. The raylet runs it in place of its own; it hands its arguments, its
environment and its streams to the process that forks, and stays until the worker ends. The worker tells the raylet its
process id itself.
"""

import atexit
import gc
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = "TESTS_FORK_WORKERS_IN"
"""Names in a raylet's environment where the process that forks listens."""
_MESSAGE_BYTES = 1 << 20  # at most: a command line and an environment


class Forking(NamedTuple):
    """A process that forks, and a folder in which it says for whom: RAYLET/WORKER, process ids."""

    process_id: int
    folder: Path


@cache
def forking() -> Forking:
    """The one of this process, which is started with the environment of the first call."""
    folder = Path(tempfile.mkdtemp(prefix="forks-"))
    server = subprocess.Popen([sys.executable, __file__, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"listening\n"
    atexit.register(server.communicate)  # it ends with its input, also where this process is killed
    return Forking(server.pid, folder)


def _ask() -> None:
    """A worker, for the raylet that started this process."""
    wanted = {"arguments": sys.argv[1:], "environment": dict(os.environ), "raylet": os.getppid()}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(f"{os.environ[FOLDER]}/socket")
        socket.send_fds(server, [json.dumps(wanted).encode()], [0, 1, 2])
        server.recv(1)  # nothing, once the worker has ended


def _fork(folder: Path) -> None:
    """Forks a worker for everyone who asks, until whoever started this process has ended."""
    from layerscope.models.lean_import import import_transformers

    import_transformers()
    import transformers.models.gemma2.modeling_gemma2  # noqa: F401 - and no ray, which reads the environment at once

    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(f"{folder}/socket")
        server.listen(64)
        print("listening", flush=True)
        while sys.stdin not in select.select([server, sys.stdin], [], [])[0]:
            client, _ = server.accept()
            message, streams, _, _ = socket.recv_fds(client, _MESSAGE_BYTES, 3)
            wanted = json.loads(message)
            worker = os.fork()
            if worker == 0:
                server.close()
                _become_worker(wanted, streams)
            (folder / str(wanted["raylet"])).mkdir(exist_ok=True)
            (folder / str(wanted["raylet"]) / str(worker)).touch()
            client.close()  # the worker's stays open as long as it lives
            for stream in streams:
                os.close(stream)
    shutil.rmtree(folder)


def _become_worker(wanted: dict[str, Any], streams: list[int]) -> None:
    """This process is the worker from here on: as Ray's own `setup_worker` and the interpreter's start have it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(wanted["environment"])
    try:
        from ray._private.runtime_env.context import RuntimeEnvContext
        from ray._private.workers.setup_worker import parser

        known, sys.argv = parser.parse_known_args(wanted["arguments"])
        os.environ.update(RuntimeEnvContext.deserialize(known.serialized_runtime_env_context or "{}").env_vars)
        sys.path[:1] = [
            str(Path(sys.argv[0]).parent),
            *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)),
        ]
        if "LAYERSCOPE_FAULT" in os.environ:
            runpy.run_path(str(Path(__file__).parent / "faults" / "sitecustomize.py"))
        runpy.run_path(sys.argv[0], run_name="__main__")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # a worker that ends well does so itself


if __name__ == "__main__":
    if FOLDER in os.environ:
        _ask()
    else:
        _fork(Path(sys.argv[1]))
