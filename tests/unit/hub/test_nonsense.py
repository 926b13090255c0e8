"""Servers that are no hub, or an evil one: nothing of them is believed, kept, or written outside the cache."""

import hashlib
import json
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from hub_server import Fault, HubServer, Repository, point_to
from layerscope.errors import LayerscopeError, UsageError, without_credentials
from layerscope.hub import client
from layerscope.hub import repository as hub
from layerscope.hub.errors import known_errors, patiently

NAME = "org/saes"
SMALL, LARGE = "config.json", "layer_0/params.npz"
FILES: dict[str, Path | bytes] = {SMALL: b'{"a": 1}', LARGE: bytes(range(256)) * 400}
LOGIN = b"<!doctype html><title>Welcome to the hotel</title>"
SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with one repository, and an empty cache."""
    with HubServer() as server:
        server.add(Repository("model", NAME, FILES))
        point_to(server.endpoint, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited out."""
    for module in (hub, client):
        monkeypatch.setattr(module, "patiently", lambda request: patiently(request, 0))
    monkeypatch.setattr(time, "sleep", lambda _: None)


def refused(ask: Callable[[], object], kind: type[LayerscopeError] = LayerscopeError) -> str:
    with pytest.raises(kind) as refusal:
        ask()
    message = str(refusal.value)
    assert len(message.splitlines()) <= 3
    return message


def listing(**changes: object) -> bytes:
    """What the hub answers, with some keys changed, or without those that are None."""
    answer = {"id": NAME, "sha": SHA, "siblings": [sibling()]} | changes
    return json.dumps({key: value for key, value in answer.items() if value is not None}).encode()


def sibling(**changes: object) -> dict[str, object]:
    return {"rfilename": LARGE, "size": 5, "blobId": SHA, "lfs": {"sha256": "0" * 64, "size": 5}} | changes


@pytest.mark.parametrize(
    "body",
    [
        LOGIN,
        b"",
        b"\xff\xfe\0",
        b"[]",
        b"[1]",
        b"null",
        b'"text"',
        b"12",
        b"{}",
        listing(sha=None),
        listing(sha="main"),
        listing(sha="../" * 13 + "x"),
        listing(sha=SHA.upper()),
        listing(sha=7),
        listing(sha=SHA + "\n"),
        listing(siblings=None),
        listing(siblings=5),
        listing(siblings=["config.json"]),
        listing(siblings=[{}]),
        *(
            listing(siblings=[sibling(rfilename=path)])
            for path in (
                "../x",
                "a/../../x",
                "/etc/passwd",
                "a\0b",
                "",
                "a//b",
                "./x",
                ".",
                "a\\..\\b",
                "é" * 200,
                "a/" * 600 + "b",
                7,
            )
        ),
        listing(siblings=[sibling(rfilename="a/" * 600 + "b")]),
        *(listing(siblings=[sibling(size=size)]) for size in ("5", -1, 1.5, True, [1], {})),
        *(listing(siblings=[sibling(lfs=lfs)]) for lfs in ({}, {"sha256": "../x"}, {"sha256": 7}, "x", [1])),
        listing(siblings=[sibling(lfs=None, blobId="../../x")]),
        listing(siblings=[sibling(), sibling()]),
    ],
)
def test_a_listing_is_whole_or_nothing_of_it_is_taken(body: bytes, server: HubServer, tmp_path: Path) -> None:
    """A log-in page, a broken mirror or an attacker ends in a traceback, or decides where files are."""
    server.faults = [Fault("/revision/", times=None, body=body)]
    message = refused(lambda: hub.open_repository(NAME))
    assert "does not answer as a hub does" in message
    assert "HF_ENDPOINT" in message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "what is nonsense is not kept"


@pytest.mark.parametrize(
    "body", [LOGIN, b"[]", b"[1, 2]", b"null", b"7", b'{"error": {}}', b'{"errors": [1]}', b"\xff"]
)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
@pytest.mark.usefixtures("impatient")
def test_an_error_with_any_body_is_a_known_error(status: int, body: bytes, server: HubServer) -> None:
    """The hub's client takes for granted that an error is a JSON object."""
    repository = hub.open_repository(NAME)
    server.faults = [Fault("/revision/|/resolve/", times=None, status=status, body=body)]
    for ask in (lambda: hub.open_repository(NAME), lambda: hub.fetch(repository, SMALL)):
        assert str(status) in (message := refused(ask)) or "no repository" in message or "token" in message


def evil(server: HubServer, tmp_path: Path, **headers: str) -> LayerscopeError | Path:
    """What comes of a file whose headers say this; nothing may be written outside the hub's cache."""
    repository = hub.open_repository(NAME)
    before = set(tmp_path.rglob("*"))
    server.faults = [Fault("HEAD .*/resolve/", times=None, headers=headers)]
    try:
        found: LayerscopeError | Path = hub.fetch(repository, LARGE)
    except LayerscopeError as error:
        found = error
    outside = [path for path in set(tmp_path.rglob("*")) - before if tmp_path / "home" not in [path, *path.parents]]
    assert outside == []
    return found


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Linked-Etag": '"../../../../evil"'},
        {"X-Linked-Etag": "", "ETag": '"../../../../evil"'},
        {"X-Linked-Etag": '"/tmp/evil"'},
        {"X-Linked-Etag": '"5f3-61c2"'},
        {"X-Repo-Commit": "../../../../evil"},
        {"X-Repo-Commit": "/tmp/evil"},
        {"X-Repo-Commit": "main"},
    ],
)
def test_no_header_leads_out_of_the_cache(headers: dict[str, str], server: HubServer, tmp_path: Path) -> None:
    """A mirror chooses where a download is written, or which file of this machine is taken for it."""
    found = evil(server, tmp_path, **headers)
    assert isinstance(found, LayerscopeError)
    assert "does not answer as a hub does" in str(found)


def test_another_commit_than_the_one_that_was_asked_for_is_refused(server: HubServer, tmp_path: Path) -> None:
    found = evil(server, tmp_path, **{"X-Repo-Commit": "f" * 40})
    assert isinstance(found, LayerscopeError)
    assert "outside" in str(found)


def test_a_file_that_lay_where_an_etag_points_is_not_taken_for_it(server: HubServer, tmp_path: Path) -> None:
    planted = tmp_path / "evil"
    planted.write_bytes(bytes(len(bytes(FILES[LARGE]))))  # type: ignore[arg-type]
    assert isinstance(evil(server, tmp_path, **{"X-Linked-Etag": '"../../../../evil"'}), LayerscopeError)
    assert planted.exists()


@pytest.mark.usefixtures("server")
def test_a_small_file_of_another_content_is_refused() -> None:
    """The hub tells no SHA-256 of small files, so a changed config.json of the same size would give other numbers."""
    repository = hub.open_repository(NAME)
    assert hub.fetch(repository, SMALL).read_bytes() == FILES[SMALL]
    for local in Path(constants.HF_HUB_CACHE).rglob("blobs/*"):
        local.write_bytes(b'{"a": 2}')
    message = refused(lambda: hub.fetch(repository, SMALL))
    assert SMALL in message
    assert "Delete" in message


def test_parts_are_read_by_ranges_and_a_server_without_them_serves_too(server: HubServer) -> None:
    whole = bytes(FILES[LARGE])  # type: ignore[arg-type]
    repository = hub.open_repository(NAME)

    def ends(stream: Any) -> bytes:
        first = stream.read(10)
        stream.seek(-10, os.SEEK_END)
        return bytes(first + stream.read(20))

    server.requests.clear()
    assert hub.read_parts(repository, LARGE, ends) == whole[:10] + whole[-10:]
    assert sum(request.sent for request in server.requests) < len(whole) // 2
    server.faults = [Fault("GET .*/resolve/", times=1, headers={"Content-Range": "bytes 7-9/10"})]
    assert "range" in refused(lambda: hub.read_parts(repository, LARGE, ends))


@pytest.mark.usefixtures("server")
def test_what_the_cache_holds_of_a_listing_is_checked_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever damaged the file, offline work ends in words."""
    online = hub.open_repository(NAME)
    (kept,) = (tmp_path / "home" / "layerscope" / "listings").iterdir()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.open_repository(NAME) == online
    whole = kept.read_bytes()
    for content in (b"", b"[]", whole[:-9], whole.replace(LARGE.encode(), b"../../../etc/pass")):
        kept.write_bytes(content)
        assert str(kept) in refused(lambda: hub.open_repository(NAME))


def test_a_file_whose_path_looks_like_an_id_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub was asked for `saes/params.npz`, for half a minute."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saes").mkdir()
    (tmp_path / "saes/params.npz").write_bytes(b"")
    assert "'saes/params.npz' is a file. Name the folder" in refused(lambda: hub.open_repository("saes/params.npz"))


SECRET = "s3cr3t%21"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (f"http://alice:{SECRET}@mirror:8080/x/y", "http://mirror:8080/x/y"),
        (f"https://{SECRET}@mirror", "https://mirror"),
        (f"ray://a:{SECRET}@b@head:10001", "ray://head:10001"),
        (f"https://cdn/x?X-Amz-Signature={SECRET}&a=b 'c'", "https://cdn/x 'c'"),
        (f"http://alice:{SECRET}/#?'@mirror/x", "http://mirror/x"),
        (f"there is no folder s3:/KEY:{SECRET}@bucket/x", "there is no folder s3:/bucket/x"),
        (f"answers at alice:{SECRET}@head:6379 (RAY_ADDRESS)", "answers at head:6379 (RAY_ADDRESS)"),
        (f"https_proxy=alice:{SECRET}@proxy:3128", "https_proxy=proxy:3128"),
        ("https://x:8080/y@z, 10:30@home 3:4", "https://x:8080/y@z, home 3:4"),
        ("mail me@example.org: https://x/y@z", "mail me@example.org: https://x/y@z"),
        (f"http://127.0.0.1:8888/tree#token={SECRET}&x", "http://127.0.0.1:8888/tree"),
        (f"//alice:{SECRET}@mirror/x, '//bob@mirror/y'", "//mirror/x, '//mirror/y'"),
        (f"{{'Authorization': 'Bearer {SECRET}', 'a': 1}}", "{'Authorization': 'Bearer ...', 'a': 1}"),
        (
            f"authorization: Basic {SECRET}; proxy-authorization={SECRET}",
            "authorization: Basic ... proxy-authorization=...",
        ),
        (f"a bearer {SECRET}: HF_TOKEN=hf_{'x' * 30}.", "a bearer ... HF_TOKEN=...."),
        (
            "a // b@c, x.jsonl#3, https://x/y#part, the bearer of it",
            "a // b@c, x.jsonl#3, https://x/y#part, the bearer of it",
        ),
    ],
)
def test_an_address_is_shown_without_what_opens_it(address: str, shown: str) -> None:
    assert without_credentials(f"at {address}") == f"at {shown}"
    assert str(UsageError(f"at {address}")) == f"at {shown}"


@pytest.mark.usefixtures("impatient")
def test_no_message_about_a_hub_holds_its_password(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """People share messages and manifests."""
    repository = hub.open_repository(NAME)
    point_to(server.endpoint.replace("://", f"://alice:{SECRET}@"), monkeypatch)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    server.add(Repository("model", "org/gated", FILES, gated=True))
    # The token of the address takes the place of one in the header, and this hub knows no such token.
    server.tokens, messages = {}, []
    no_commit = Fault("HEAD .*/resolve/", times=None, status=302, headers={"Location": "/login"})
    for faults, ask in (
        ([], lambda: hub.open_repository("org/gated")),
        ([], lambda: hub.open_repository("org/none")),
        ([Fault("/", times=None, body=LOGIN)], lambda: hub.open_repository(NAME)),
        ([Fault("/", times=None, status=500)], lambda: hub.open_repository(NAME)),
        ([Fault("/", times=None, cut_after=3)], lambda: hub.open_repository(NAME)),
        ([no_commit], lambda: hub.fetch(repository, LARGE)),
        (
            [Fault("/", times=None, status=503)],
            lambda: hub.read_parts(repository, LARGE, lambda stream: stream.read(1)),
        ),
        ([], lambda: hub.open_repository(f"http://alice:{SECRET}@mirror/org/name")),
    ):
        server.faults = list(faults)
        messages.append(refused(ask))
    server.close()
    messages.append(refused(lambda: hub.open_repository(NAME)))
    assert not [message for message in messages if SECRET in message or "alice" in message]
    for path in tmp_path.rglob("*"):
        assert SECRET not in str(path)
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


def test_a_cache_that_cannot_be_written_is_no_bad_connection() -> None:
    """Whoever has no home is told to check the connection."""
    with pytest.raises(LayerscopeError, match="Permission denied") as refusal, known_errors(NAME, "main"):
        raise PermissionError(13, "Permission denied", "/.cache")
    assert "HF_HOME" in str(refusal.value)


def test_folders_made_of_links_are_found_as_plain_ones(tmp_path: Path) -> None:
    """Layers that lie on several disks, brought together by links, are not found, or a link upwards never ends."""
    disk, folder = tmp_path / "disk", tmp_path / "saes"
    (disk / "width_1k").mkdir(parents=True)
    (disk / "width_1k" / "params.npz").write_bytes(struct.pack("<q", 1))
    folder.mkdir()
    (folder / "layer_0").symlink_to(disk)
    (folder / "layer_1").symlink_to(folder / "layer_0")
    (folder / "file").symlink_to(disk / "width_1k" / "params.npz")
    (disk / "above").symlink_to(folder)
    (folder / "broken").symlink_to(folder / "nothing")
    (folder / "itself").symlink_to(folder / "itself")
    found = hub.open_repository(str(folder)).files
    assert {"layer_0/width_1k/params.npz", "layer_1/width_1k/params.npz", "file"} == set(found)
    assert hub.sha256(hub.open_repository(str(folder)), "file") == hashlib.sha256(struct.pack("<q", 1)).hexdigest()
