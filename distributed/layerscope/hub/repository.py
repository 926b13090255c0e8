"""Repositories of files, on the Hugging Face hub or in a folder: what one holds, and where its files lie on this node.

Owns every request to the hub. Knows nothing of models, SAEs or questions.
"""

import hashlib
import os
import re
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, TypeVar
from urllib.parse import quote

import huggingface_hub
import orjson
from huggingface_hub import HfApi, constants

from layerscope.errors import LayerscopeError, UsageError, remedy
from layerscope.files import user_path
from layerscope.formatting import visible
from layerscope.hub import client
from layerscope.hub.cache import SHA256, cached, keep, sha256_of, touch
from layerscope.hub.client import COMMIT, RangesIgnoredError, RemoteFile, get_json, nonsense
from layerscope.hub.errors import known_errors, patiently

Kind = Literal["model", "dataset"]
_T = TypeVar("_T")
_SETTLED_NS = (
    3_000_000_000  # a file that was changed so lately may change once more at what a clock calls the same time
)

_LONGEST_PATH = 1024  # bytes; with the cache's folder before it a file system takes 4096

client.set_up()


@dataclass(frozen=True)
class FileInfo:
    """A file's size in bytes and, where the hub tells it, a hash of its content."""

    size: int
    sha256: str | None = None
    git_blob: str | None = None
    """For a small file, which the hub keeps in git: the SHA-1 under which git has it."""


@dataclass(frozen=True)
class Repository:
    """One revision of a repository on the hub, or a folder; small enough to travel to every actor."""

    name: str
    """The id on the hub, or the folder's absolute path."""
    commit: str | None
    """The commit on the hub; None for a folder."""
    files: Mapping[str, FileInfo] = field(repr=False)
    """Every file by its path in the repository."""
    kind: Kind = "model"
    partial: bool = False
    """Offline, and only what the cache happens to hold is known."""


def open_repository(name: str, revision: str = "main", kind: Kind = "model") -> Repository:
    """Lists the files of a folder, or of a repository's revision on the hub.

    With `HF_HUB_OFFLINE` set, the list is the one that this machine got last; without one, what the hub's cache holds.

    Raises:
        UsageError: no such folder, repository or revision.
        LayerscopeError: the hub cannot be reached or refuses: no token, no licence.
    """
    like_an_id = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name)
    if (not like_an_id or os.path.isdir(name)) and (folder := user_path(name)).is_dir():  # noqa: PTH112
        return Repository(str(folder.resolve()), None, _list_folder(folder.resolve()), kind)
    if os.path.isfile(name):  # noqa: PTH113
        raise UsageError(
            f"{name!r} is a file. Name the folder that it lies in, or the id of a repository (owner/name)."
        )
    if not like_an_id:
        raise UsageError(f"{name!r} is neither a folder here nor the id of a repository on the hub (owner/name).")
    listing = _listing_path(name, revision, kind)
    if constants.HF_HUB_OFFLINE:
        listed = os.path.isfile(listing)  # noqa: PTH113 - Path raises where the cache is somebody else's
        return _read_listing(listing, name, kind) if listed else _cached_repository(name, revision, kind)
    path = f"/api/{kind}s/{name}/revision/{quote(revision, safe='')}"
    with known_errors(name, revision, kind):
        answer = patiently(lambda: get_json(path, {"blobs": "true"}))
        repository = check_listing(answer, name, kind)
        # The listing of a gated repository is public, its files are not.
        patiently(lambda: HfApi().auth_check(name, repo_type=kind))
    keep("listings", listing.name, _as_answer(repository))
    return repository


def fetch(repository: Repository, path: str) -> Path:
    """The local path of a file; downloaded once per node into the hub's cache, whoever asks first.

    Raises:
        LayerscopeError: the download fails for good, or the file is not what the hub says it is.
    """
    if repository.commit is None:
        local = Path(repository.name, path)
        if not local.is_file():
            raise LayerscopeError(
                f"There is no {local} on {socket.gethostname()}.\n"
                "A folder must lie on every node, on a shared file system say; a repository on the hub need not."
            )
        return _readable(local)
    with known_errors(repository.name, repository.commit, repository.kind):
        downloaded = patiently(
            lambda: huggingface_hub.hf_hub_download(
                repository.name, path, revision=repository.commit, repo_type=repository.kind
            )
        )
    local = Path(downloaded)
    if not local.is_relative_to(_snapshot(repository)):
        raise nonsense(f"{path} would come to lie outside {_snapshot(repository)}")
    if not _is_as_told(_readable(local), repository.files[path]):
        raise LayerscopeError(
            f"{path} of {repository.name} is not here what it is on the hub: a broken download or a changed file.\n"
            f"Delete {local.resolve()} and run again."
        )
    return local


def _readable(local: Path) -> Path:
    """A file of a folder, or of a cache, that others share.

    Raises:
        LayerscopeError: this user may not read it.
    """
    if not os.access(local, os.R_OK):
        raise LayerscopeError(
            f"{local} cannot be read: Permission denied on {socket.gethostname()}.\n{remedy(PermissionError(), '')}"
        )
    return local


def _is_as_told(local: Path, told: FileInfo) -> bool:
    """Whether a file is what the hub says it is; the hub's client checks a download's size only."""
    if local.stat().st_size != told.size:
        return False
    if told.sha256:
        return sha256_of(local) == told.sha256
    if told.git_blob:
        content = local.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == told.git_blob
    return True


def read_parts(repository: Repository, path: str, read: Callable[[IO[bytes]], _T]) -> _T:
    """What `read` makes of a file; of one on the hub that is not cached here, only the ranges travel that it reads.

    Raises:
        LayerscopeError: the hub cannot be reached.
    """
    if repository.commit is not None and _in_cache(repository, path) is None:
        remote = RemoteFile(repository.name, path, repository.commit, repository.kind, repository.files[path].size)
        try:
            with known_errors(repository.name, repository.commit, repository.kind), remote.buffered() as stream:
                return read(stream)
        except RangesIgnoredError:
            pass  # the whole file will be needed anyway
    with fetch(repository, path).open("rb") as stream:
        return read(stream)


def sha256(repository: Repository, path: str) -> str:
    """The SHA-256 of a file's content: as the hub tells it, else computed once per version of the local file."""
    return repository.files[path].sha256 or sha256_of(fetch(repository, path))


def is_cached(repository: Repository, path: str) -> bool:
    """Whether a file needs no download on this node."""
    return repository.commit is None or _in_cache(repository, path) is not None


def _in_cache(repository: Repository, path: str) -> Path | None:
    cached = huggingface_hub.try_to_load_from_cache(
        repository.name, path, revision=repository.commit, repo_type=repository.kind
    )
    return Path(cached) if isinstance(cached, str) else None


def _snapshot(repository: Repository) -> Path:
    return _repository_folder(repository.name, repository.kind) / "snapshots" / str(repository.commit)


def _repository_folder(name: str, kind: Kind) -> Path:
    return Path(constants.HF_HUB_CACHE, f"{kind}s--{name.replace('/', '--')}")


def _list_folder(folder: Path) -> dict[str, FileInfo]:
    """Every file below a folder, through links to files and folders too, but for those that lead back to above."""
    files: dict[str, FileInfo] = {}

    def walk(directory: Path, above: frozenset[tuple[int, int]]) -> None:
        status = directory.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        for path in sorted(directory.iterdir()):
            if path.is_dir():
                walk(path, above | {here})
            elif path.is_file():
                files[path.relative_to(folder).as_posix()] = FileInfo(path.stat().st_size)

    try:
        walk(folder, frozenset())
    except OSError as error:
        raise UsageError(f"{error.filename or folder} cannot be read: {error.strerror}.") from error
    return files


def _listing_path(name: str, revision: str, kind: Kind) -> Path:
    about = f"{constants.ENDPOINT}\0{kind}\0{name}\0{revision}"
    return cached("listings", f"{hashlib.sha256(about.encode('utf-8', 'surrogateescape')).hexdigest()}.json")


def check_listing(answer: Any, name: str, kind: Kind) -> Repository:
    """The repository that a hub's answer describes, if all of the answer is as a hub gives it.

    Raises:
        LayerscopeError: what is not.
    """
    try:
        commit, siblings = answer["sha"], answer["siblings"]
        if not COMMIT.fullmatch(commit):
            raise ValueError(f"commit {commit[:80]!r}")
        files: dict[str, FileInfo] = {}
        for sibling in siblings:
            path = _checked_path(sibling["rfilename"])
            if path in files:
                raise ValueError(f"{path} stands there twice")
            files[path] = _file_info(sibling)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"without {error}" if isinstance(error, KeyError) else f"of a wrong form ({error})"
        raise nonsense(f"its list of the files of {name} is {visible(what)[:200]}") from error
    return Repository(name, commit, files, kind)


def _checked_path(path: str) -> str:
    """A path in a repository that is one, and leads nowhere else."""
    parts = path.split("/")
    if not path or "\0" in path or "\\" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"path {path[:80]!r}")
    if max(len(part.encode()) for part in parts) > 255 or len(path.encode()) > _LONGEST_PATH:
        raise ValueError(f"path {path[:80]!r}")
    return path


def _file_info(sibling: Mapping[str, Any]) -> FileInfo:
    size, large, blob = sibling["size"], sibling.get("lfs"), sibling.get("blobId")
    if type(size) is not int or size < 0:
        raise ValueError(f"size {str(size)[:80]!r}")
    digest = large["sha256"] if large is not None else None
    if digest is not None and not SHA256.fullmatch(digest):
        raise ValueError(f"SHA-256 {digest[:80]!r}")
    if blob is not None and not COMMIT.fullmatch(blob):
        raise ValueError(f"blob {blob[:80]!r}")
    return FileInfo(size, digest, None if digest else blob)


def _as_answer(repository: Repository) -> bytes:
    """A listing as the hub answers it, so that it is checked in the same way when it is read again."""
    siblings = [
        {"rfilename": path, "size": file.size, "blobId": file.git_blob}
        | ({"lfs": {"sha256": file.sha256}} if file.sha256 else {})
        for path, file in repository.files.items()
    ]
    return orjson.dumps({"sha": repository.commit, "siblings": siblings})


def _read_listing(path: Path, name: str, kind: Kind) -> Repository:
    touch(path)
    try:
        return check_listing(orjson.loads(path.read_bytes()), name, kind)
    except (OSError, ValueError, LayerscopeError) as error:
        raise LayerscopeError(
            f"{path} does not hold what {name} has: it was damaged.\nDelete it, and run once with a connection."
        ) from error


def _cached_repository(name: str, revision: str, kind: Kind) -> Repository:
    root = _repository_folder(name, kind)
    reference = root / "refs" / revision
    commit = revision
    with suppress(OSError):
        commit = reference.read_text().strip()
    snapshot = root / "snapshots" / commit
    if not COMMIT.fullmatch(commit) or not os.path.isdir(snapshot):  # noqa: PTH112
        raise LayerscopeError(
            f"HF_HUB_OFFLINE is set and revision {revision} of {name} is not in the hub's cache ({root.parent}).\n"
            "Download it once with a connection, or point HF_HOME at the cache that holds it."
        )
    return Repository(name, commit, _list_folder(snapshot), kind, partial=True)
