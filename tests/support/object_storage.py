"""An object store on this machine: moto's server, which speaks S3 as the real one does, and faults in front of it.

One server for all tests of a process, started by the first that wants it; every test has a bucket of its own.
"""

import logging
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import Any

import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from layerscope.records.storage import object_store

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_buckets = count()


@dataclass
class Fault:
    """What goes wrong with the next `times` requests in whose "METHOD /bucket/key?query" the regex `match` is found."""

    match: str
    what: str
    """An answer, `503 SlowDown`; `reset` of the connection, before anything is done; `lost`, after it; `slow`."""
    times: int = 1


@dataclass
class Storage:
    """The server as a test has it."""

    url: str
    bucket: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    watch: Callable[[str], None] | None = None
    """Called before every request that changes something."""

    @property
    def run(self) -> str:
        return f"s3://{self.bucket}/run"

    def objects(self) -> dict[str, bytes]:
        """What is in the bucket, by name; without locks."""
        faults, self.faults = self.faults, []
        found = {each["name"]: object_store.read(f"s3://{each['name']}") for each in object_store.listed(self.run)}
        self.faults = faults
        return {name.rpartition("/")[2]: data for name, data in found.items() if "/lock-" not in name}


class _Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        pass

    def handle(self) -> None:
        """A connection that a fault closed cannot be read from for a next request."""
        with suppress(OSError):
            super().handle()


class _Faulty:
    """Moto's application with faults before it."""

    def __init__(self, app: App, storage: Storage) -> None:
        self._app, self._storage = app, storage

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        line = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']}"
        self._storage.requests.append(line)
        if self._storage.watch is not None and environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            self._storage.watch(line)
        fault = next((each for each in self._storage.faults if each.times and re.search(each.match, line)), None)
        if fault is None:
            return self._app(environ, start_response)
        fault.times -= 1
        if fault.what == "slow":
            return self._slowly(environ, start_response)
        if fault.what in ("reset", "lost"):
            if fault.what == "lost":
                list(self._app(environ, lambda *_: lambda _: None))
            _reset(environ["werkzeug.socket"])
            raise ConnectionResetError
        status, code = fault.what.split()
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response(f"{status} {code}", [("Content-Type", "application/xml")])
        return [f"<Error><Code>{code}</Code><Message>{code} of the test</Message></Error>".encode()]

    def _slowly(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        time.sleep(0.2)
        for piece in self._app(environ, start_response):
            for start in range(0, len(piece), max(1, len(piece) // 4)):
                time.sleep(0.05)
                yield piece[start : start + max(1, len(piece) // 4)]


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())


@cache
def _server() -> Storage:
    logging.getLogger("moto").setLevel(logging.ERROR)
    storage = Storage("")
    app = _Faulty(DomainDispatcherApplication(create_backend_app), storage)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    storage.url = f"http://127.0.0.1:{server.server_port}"
    return storage


@contextmanager
def a_bucket() -> Iterator[Storage]:
    """A bucket of its own, which this process and those that it starts find by the usual chain."""
    found = _server()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": found.url,
            "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
            "AWS_SECRET_ACCESS_KEY": "secretsecretsecret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        patch.setattr(object_store, "_FIRST_PAUSE", 0.01)
        object_store._file_system.cache_clear()
        found.bucket = f"bucket-{next(_buckets)}"
        found.faults.clear()
        object_store.ask(f"s3://{found.bucket}", "made", lambda files: files.mkdir(found.bucket))
        found.requests.clear()
        yield found
        found.faults.clear()
        found.watch = None
        object_store._file_system.cache_clear()


@pytest.fixture
def storage() -> Iterator[Storage]:
    with a_bucket() as found:
        yield found
