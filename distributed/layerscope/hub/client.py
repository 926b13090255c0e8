"""Requests to the hub: answers are checked before anything is believed, and no header leads out of the cache."""

import io
import re
from typing import Any

import httpx2
import huggingface_hub
import orjson
from huggingface_hub import constants, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils._headers import build_hf_headers

from layerscope.errors import LayerscopeError
from layerscope.hub.cache import SHA256
from layerscope.hub.environment import through_proxies
from layerscope.hub.errors import patiently

_TIMEOUT_SECONDS = 30.0  # of one answer; the hub's client waits for ever
_MAX_JSON_BYTES = 64 << 20
_BLOCK_BYTES = 8 << 10
_COMMIT_HEADER = "X-Repo-Commit"
_ETAG_HEADERS = ("X-Linked-Etag", "ETag")  # the first that says something names the file in the cache
COMMIT = re.compile(r"[0-9a-f]{40}")


def set_up() -> None:
    """Has this process's requests to the hub time out and be checked, also those that the hub's own client makes."""

    def client() -> httpx2.Client:
        made = through_proxies(huggingface_hub.utils._http.default_client_factory)
        made.event_hooks["response"] = [_check_answer]
        made.timeout = _TIMEOUT_SECONDS
        return made

    huggingface_hub.set_client_factory(client)
    huggingface_hub.logging.set_verbosity_error()


def nonsense(what: str) -> LayerscopeError:
    """The error for an answer that no hub gives."""
    return LayerscopeError(
        f"{constants.ENDPOINT} does not answer as a hub does: {what}.\n"
        "Something answers in its place (a log-in page of the network, a proxy, a broken mirror), or HF_ENDPOINT is "
        "wrong.\nNothing of it was taken. Check the connection and HF_ENDPOINT, and run again."
    )


def _check_answer(response: httpx2.Response) -> None:
    """Looks at every answer before the hub's client does, which makes paths of some headers.

    Raises:
        LayerscopeError: the headers are none of a hub's.
        HfHubHTTPError: an error whose body the client cannot read.
    """
    commit = response.headers.get(_COMMIT_HEADER)
    if commit is not None and not COMMIT.fullmatch(commit):
        raise nonsense(f"the commit in a header is {commit[:80]!r}")
    if response.request.method == "HEAD" and not response.is_error:
        told = next(filter(None, map(response.headers.get, _ETAG_HEADERS)), "")
        etag = told.removeprefix("W/").strip('"')
        if etag and not (COMMIT.fullmatch(etag) or SHA256.fullmatch(etag)):
            raise nonsense(f"the hash of a file (ETag) is {etag[:80]!r}")
    if response.is_error:
        response.read()
        try:
            hf_raise_for_status(response)
        except HfHubHTTPError:
            return  # the client will find the same
        except (AttributeError, TypeError, ValueError) as error:  # JSON, but not as the client takes for granted
            raise HfHubHTTPError(f"{response.status_code} for {response.url}", response=response) from error


def get_json(path: str, query: dict[str, str] | None = None) -> Any:
    """What the hub answers at a path, as JSON.

    Raises:
        LayerscopeError: it is not JSON.
        HfHubHTTPError, httpx2.HTTPError: as the hub's client raises them.
    """
    body = bytearray()
    with get_session().stream(
        "GET", f"{constants.ENDPOINT}{path}", params=query, headers=build_hf_headers()
    ) as response:
        hf_raise_for_status(response)
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > _MAX_JSON_BYTES:
                raise nonsense(f"{path} has more than {_MAX_JSON_BYTES >> 20} MiB")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise nonsense(f"{path} is no JSON but {bytes(body[:40])!r}") from error


class RangesIgnoredError(Exception):
    """A server sends whole files only."""


class RemoteFile(io.RawIOBase):
    """A file on the hub as a stream that can seek, of which only what is read travels. To be buffered.

    Raises, when read:
        RangesIgnoredError: the server does not answer ranges.
        HfHubHTTPError, httpx2.HTTPError: as the hub's client raises them.
    """

    def __init__(self, name: str, path: str, commit: str, kind: str, size: int) -> None:
        self._url = hf_hub_url(name, path, repo_type=kind, revision=commit)
        self._size = size
        self._position = 0

    def buffered(self) -> io.BufferedReader:
        return io.BufferedReader(self, _BLOCK_BYTES)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError(22, "before the start of the file")  # as a file on disk has it
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        data = patiently(lambda: self._range(wanted))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _range(self, count: int) -> bytes:
        headers = {"Range": f"bytes={self._position}-{self._position + count - 1}", "Accept-Encoding": "identity"}
        with get_session().stream("GET", self._url, headers=build_hf_headers() | headers) as response:
            hf_raise_for_status(response)
            if response.status_code != 206:
                raise RangesIgnoredError
            told = response.headers.get("Content-Range", "")
            if told.split("-")[0] != f"bytes {self._position}":
                raise nonsense(f"the range of a file is {told[:80]!r}, not from byte {self._position}")
            data = b""
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) >= count:
                    break
        if not data:
            raise httpx2.DecodingError("the range of a file came empty")
        return data[:count]
