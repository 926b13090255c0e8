"""A local HTTP server that answers as the Hugging Face hub does.

It owns the part of the hub's HTTP interface that the client libraries read from: model and dataset information,
file listings, downloads with byte ranges, access control of gated repositories and the error headers from which
`huggingface_hub` derives its exceptions. Everything lives in memory, every request is recorded, and faults can be
scheduled, so that tests run the real clients through `HF_ENDPOINT` without internet.

Uploads, Xet storage, pagination and the dataset viewer are left out.
"""

import hashlib
import json
import re
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

Kind = Literal["model", "dataset"]

LFS_THRESHOLD = 1024
LFS_SUFFIXES = (".npz", ".parquet", ".safetensors")
COMMIT_DATE = "2025-01-01T00:00:00.000Z"

_API_ROUTE = re.compile(
    r"/api/(?P<kind>model|dataset)s/(?P<repo_id>[^/]+/[^/]+)"
    r"(?:/(?P<action>revision|tree|paths-info|auth-check)(?:/(?P<revision>[^/]+)(?:/(?P<path>.+))?)?)?"
)
_RESOLVE_ROUTE = re.compile(
    r"/(?:(?P<kind>dataset)s/)?(?P<repo_id>[^/]+/[^/]+)/(?P<action>resolve)/(?P<revision>[^/]+)/(?P<path>.+)"
)
_RANGE = re.compile(r"bytes=(?P<first>\d*)-(?P<last>\d*)")


@dataclass
class Repository:
    """A repository at one commit; adding another one of the same name moves its branch to a new commit."""

    kind: Kind
    repo_id: str
    files: Mapping[str, Path | bytes]  # by path in the repository; read once, when added
    gated: bool = False
    branch: str = "main"


@dataclass
class Fault:
    """What goes wrong with the next `times` requests in whose "METHOD /path?query" the regex `match` is found."""

    match: str
    times: int | None = 1  # None: every time
    status: int | None = None  # answer with this error instead
    headers: Mapping[str, str] = field(default_factory=dict)  # added to the answer
    delay: float = 0.0  # seconds before the answer
    # Bytes of the body after which the connection drops, its full length announced; a HEAD gets no answer at all.
    cut_after: int | None = None
    pace: int | None = None  # bytes of the body a second
    replace: bytes | None = None  # served in place of the content of the file, with its own ETag and size
    body: bytes | None = None  # of the answer, whatever it would be; with `status`, of an error


@dataclass
class Request:
    """A received request and, once it is answered, the status and the number of body bytes sent."""

    method: str
    path: str  # with the query
    has_token: bool
    status: int | None = None
    sent: int = 0


@dataclass(frozen=True)
class _File:
    path: str
    content: bytes

    @property
    def is_lfs(self) -> bool:
        return len(self.content) >= LFS_THRESHOLD or self.path.endswith(LFS_SUFFIXES)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """The text that git stores in place of a large file."""
        lines = "version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.sha256}", f"size {len(self.content)}\n"
        return "\n".join(lines).encode()

    @cached_property
    def blob_id(self) -> str:
        blob = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.blob_id


_Files = dict[str, _File]


@dataclass
class _History:
    """The commits of one repository and the branches that point to them."""

    kind: Kind
    repo_id: str
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, _Files] = field(default_factory=dict)

    def resolve(self, revision: str) -> str:
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise _Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    def file(self, sha: str, path: str) -> _File:
        if path not in self.commits[sha]:
            raise _Refusal(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": sha})
        return self.commits[sha][path]


@dataclass
class _Answer:
    status: int
    body: bytes
    headers: dict[str, str]


class _Refusal(Exception):
    """An error answer of the hub; `code` is what the clients derive the class of their exception from."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message} | headers
        if code is not None:
            self.headers["X-Error-Code"] = code

    def answer(self) -> _Answer:
        return _json({"error": str(self)}, self.status, self.headers)


class HubServer:
    """The hub, listening on a free port of the loopback interface while its context is open."""

    def __init__(self) -> None:
        self.tokens: dict[str, str] = {}  # valid token -> user name
        self.licensed: set[str] = set()  # tokens whose user has accepted the licence of the gated repositories
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.closing = threading.Event()
        self._histories: dict[tuple[str, str], _History] = {}
        self._lock = threading.Lock()
        self._listener = _Listener(self)
        self._thread = threading.Thread(
            target=self._listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Refuse connections from now on; the requests that a fault delays are answered at once."""
        self.closing.set()
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()

    def add(self, repository: Repository) -> str:
        """Commit the files to the branch of the repository; the commit's sha is derived from the contents."""
        files = {
            path: _File(path, content if isinstance(content, bytes) else content.read_bytes())
            for path, content in sorted(repository.files.items())
        }
        blobs = [(path, file.blob_id) for path, file in files.items()]
        sha = hashlib.sha1(json.dumps([repository.kind, repository.repo_id, blobs]).encode()).hexdigest()
        key = repository.kind, repository.repo_id
        history = self._histories.setdefault(key, _History(*key))
        history.gated = repository.gated
        history.branches[repository.branch] = sha
        history.commits[sha] = files
        return sha

    def receive(self, method: str, path: str, has_token: bool) -> tuple[Request, Fault]:
        """Record a request and take the first fault that is scheduled for it."""
        request = Request(method, path, has_token)
        with self._lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times != 0 and re.search(fault.match, f"{method} {path}"):
                    if fault.times is not None:
                        fault.times -= 1
                    return request, fault
        return request, Fault(match="")

    def answer(self, target: str, token: str | None, form: bytes, byte_range: str, replace: bytes | None) -> _Answer:
        """The answer to a request, checked in the hub's order: token, repository, licence, revision, path."""
        if token is not None and token not in self.tokens:
            raise _Refusal(401, "Invalid credentials in Authorization header")
        url = urlsplit(target)
        if url.path == "/api/whoami-v2":
            return self._whoami(token)
        if branches := re.fullmatch(r"/api/models/(.+)/refs", url.path):
            return self._branches(self._history("model", branches[1], token))
        route = _API_ROUTE.fullmatch(url.path) or _RESOLVE_ROUTE.fullmatch(url.path)
        if route is None:
            raise _Refusal(404, "Sorry, we can't find the page you are looking for.")
        history = self._history(route["kind"] or "model", route["repo_id"], token)
        # The information and the listings of a gated repository are public, its files are not.
        if route["action"] in ("auth-check", "resolve"):
            self._check_licence(history, token)
        if route["action"] == "auth-check":
            return _json({})
        sha = history.resolve(unquote(route["revision"] or "main"))
        path = unquote(route["path"] or "")
        if route["action"] == "resolve":
            file = history.file(sha, path)
            return _download(_File(path, replace) if replace is not None else file, sha, byte_range)
        return _json(_metadata(history, sha, route["action"], path, parse_qs(url.query) | parse_qs(form.decode())))

    @staticmethod
    def _branches(history: "_History") -> _Answer:
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in history.branches.items()
        ]
        return _json({"branches": branches, "converts": [], "tags": []})

    def _whoami(self, token: str | None) -> _Answer:
        if token is None:
            raise _Refusal(401, "Invalid username or password.")
        access = {"type": "access_token", "accessToken": {"displayName": "test", "role": "read"}}
        return _json({"type": "user", "name": self.tokens[token], "orgs": [], "auth": access})

    def _history(self, kind: str, repo_id: str, token: str | None) -> _History:
        history = self._histories.get((kind, repo_id))
        if history is not None:
            return history
        # Without a token the hub does not tell a missing repository from a private one.
        if token is None:
            raise _Refusal(401, "Invalid username or password.", "RepoNotFound")
        raise _Refusal(404, "Repository not found", "RepoNotFound")

    def _check_licence(self, history: _History, token: str | None) -> None:
        if not history.gated or token in self.licensed:
            return
        restricted = f"Access to {history.kind} {history.repo_id} is restricted"
        if token is None:
            advice = "You must have access to it and be authenticated to access it. Please log in."
            raise _Refusal(401, f"{restricted}. {advice}", "GatedRepo")
        page = f"{self.endpoint}/{'datasets/' if history.kind == 'dataset' else ''}{history.repo_id}"
        advice = f"and you are not in the authorized list. Visit {page} to ask for access."
        raise _Refusal(403, f"{restricted} {advice}", "GatedRepo")


class _Listener(ThreadingHTTPServer):
    request_queue_size = 64  # parallel downloads connect all at once

    def __init__(self, hub: HubServer) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report errors of this server only: clients may hang up, most of all those that a delay made give up."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave together

    def do_GET(self) -> None:
        hub = self.server.hub
        _, _, token = self.headers.get("Authorization", "").partition(" ")
        form = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request, fault = hub.receive(self.command, self.path, has_token=bool(token))
        hub.closing.wait(fault.delay)
        try:
            if fault.status is not None:
                raise _Refusal(fault.status, HTTPStatus(fault.status).phrase)
            answer = hub.answer(self.path, token or None, form, self.headers.get("Range", ""), fault.replace)
        except _Refusal as refusal:
            answer = refusal.answer()
        if fault.body is not None:
            answer = _Answer(answer.status, fault.body, answer.headers)
        self._send(answer, request, fault)

    do_HEAD = do_POST = do_GET

    def _send(self, answer: _Answer, request: Request, fault: Fault) -> None:
        if self.command == "HEAD" and fault.cut_after is not None:
            self.close_connection = True
            return
        body = b"" if self.command == "HEAD" else answer.body[: fault.cut_after]
        request.status, request.sent = answer.status, len(body)
        self.send_response(answer.status)
        for name, value in (answer.headers | dict(fault.headers)).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        # One request per connection: a cut body ends with its connection, and nothing outlives the server.
        self.send_header("Connection", "close")
        self.end_headers()
        step = max(fault.pace // 4, 1) if fault.pace else max(len(body), 1)
        for begin in range(0, len(body), step):
            self.wfile.write(body[begin : begin + step])
            if fault.pace:
                self.wfile.flush()
                self.server.hub.closing.wait(0.25)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the output of the tests clean; `HubServer.requests` is the log."""


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> _Answer:
    return _Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"} | dict(headers or {}))


def _download(file: _File, sha: str, byte_range: str) -> _Answer:
    size = len(file.content)
    etag = f'"{file.etag}"'
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", "X-Repo-Commit": sha, "ETag": etag}
    if file.is_lfs:
        headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(size)}
    asked = _RANGE.fullmatch(byte_range)
    if asked is None:
        return _Answer(200, file.content, headers)
    if asked["first"]:
        start, stop = int(asked["first"]), min(int(asked["last"] or size) + 1, size)
    else:
        start, stop = max(size - int(asked["last"] or 0), 0), size
    if start >= stop:
        raise _Refusal(416, "Range Not Satisfiable", **{"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return _Answer(206, file.content[start:stop], headers)


def _metadata(history: _History, sha: str, action: str | None, path: str, options: dict[str, list[str]]) -> object:
    blobs, expand, recursive = (options.get(name) == ["true"] for name in ("blobs", "expand", "recursive"))
    files = history.commits[sha]
    match action:
        case "tree":
            return _tree(files, path, recursive=recursive, expand=expand)
        case "paths-info":
            listing = _listing(files, expand=expand)
            return [listing[path] for path in options.get("paths", []) if path in listing]
        case _:
            siblings = [_sibling(file, blobs=blobs) for file in files.values()]
            return _information(history, sha) | {"siblings": siblings}


def _information(history: _History, sha: str) -> dict[str, object]:
    return {
        "id": history.repo_id,
        "author": history.repo_id.partition("/")[0],
        "sha": sha,
        "createdAt": COMMIT_DATE,
        "lastModified": COMMIT_DATE,
        "private": False,
        "gated": "auto" if history.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
    }


def _sibling(file: _File, *, blobs: bool) -> dict[str, object]:
    """A file in the information on its repository, `blobs` adding its size and hashes to its name."""
    sibling: dict[str, object] = {"rfilename": file.path}
    if blobs:
        sibling |= {"size": len(file.content), "blobId": file.blob_id}
    if blobs and file.is_lfs:
        sibling["lfs"] = {"sha256": file.sha256, "size": len(file.content), "pointerSize": len(file.pointer)}
    return sibling


def _listing(files: _Files, *, expand: bool) -> dict[str, dict[str, object]]:
    """The entries of a tree by path: its files and the folders that they are in."""
    entries: dict[str, dict[str, object]] = {}
    for path, file in files.items():
        for folder in map(str, PurePosixPath(path).parents[:-1]):
            oid = hashlib.sha1(folder.encode()).hexdigest()
            entries[folder] = {"type": "directory", "path": folder, "oid": oid, "size": 0}
        entries[path] = {"type": "file", "path": path, "oid": file.blob_id, "size": len(file.content)}
        if file.is_lfs:
            entries[path]["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": len(file.pointer)}
    if expand:
        for entry in entries.values():
            entry["lastCommit"] = {"id": "0" * 40, "title": "Add files", "date": COMMIT_DATE}
    return dict(sorted(entries.items()))


def _tree(files: _Files, folder: str, *, recursive: bool, expand: bool) -> list[dict[str, object]]:
    listing = _listing(files, expand=expand)
    if folder in files:
        return [listing[folder]]
    if folder and folder not in listing:
        raise _Refusal(404, f"{folder} does not exist", "EntryNotFound")
    root = PurePosixPath(folder)
    parents = {path: PurePosixPath(path).parents for path in listing}
    return [listing[path] for path in listing if root in (parents[path] if recursive else parents[path][:1])]


def point_to(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Does to the client in this process what `HF_ENDPOINT` does before it is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
