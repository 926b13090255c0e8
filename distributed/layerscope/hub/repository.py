"""Repositories of files, on the Hugging Face hub or in a folder: what one holds, and where its files lie on this node.

Owns every request to the hub. Knows nothing of models, SAEs or questions.
"""

import hashlib
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Literal, TypeVar, cast

import huggingface_hub
import orjson
from filelock import FileLock
from huggingface_hub import DatasetInfo, HfApi, HfFileSystem, ModelInfo, constants

from layerscope.errors import LayerscopeError, UsageError
from layerscope.files import replacing, user_path
from layerscope.hub.errors import known_errors, patiently

Kind = Literal["model", "dataset"]
_T = TypeVar("_T")
_TIMEOUT_SECONDS = 30.0  # of one answer; the hub's client waits for ever
_RANGE_BYTES = 1 << 16


@dataclass(frozen=True)
class FileInfo:
    """A file's size in bytes and, where the hub tells it, the SHA-256 of its content."""

    size: int
    sha256: str | None = None


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
    folder = user_path(name)
    if folder.is_dir():
        return Repository(str(folder.resolve()), None, _list_folder(folder.resolve()), kind)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        raise UsageError(f"{name!r} is neither a folder here nor the id of a repository on the hub (owner/name).")
    listing = _listing_path(name, revision, kind)
    if constants.HF_HUB_OFFLINE:
        return _read_listing(listing, kind) if listing.is_file() else _cached_repository(name, revision, kind)
    huggingface_hub.logging.set_verbosity_error()
    huggingface_hub.get_session().timeout = _TIMEOUT_SECONDS
    with known_errors(name, revision):
        info = patiently(lambda: HfApi().repo_info(name, revision=revision, repo_type=kind, files_metadata=True))
        # The listing of a gated repository is public, its files are not.
        patiently(lambda: HfApi().auth_check(name, repo_type=kind))
    siblings = cast(ModelInfo | DatasetInfo, info).siblings or []
    files = {file.rfilename: FileInfo(file.size or 0, file.lfs.sha256 if file.lfs else None) for file in siblings}
    repository = Repository(name, cast(str, info.sha), files, kind)
    listing.parent.mkdir(parents=True, exist_ok=True)
    with replacing(listing) as temporary:
        temporary.write_bytes(orjson.dumps(asdict(repository)))
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
        return local
    with known_errors(repository.name, repository.commit):
        downloaded = patiently(
            lambda: huggingface_hub.hf_hub_download(
                repository.name, path, revision=repository.commit, repo_type=repository.kind
            )
        )
    local, told = Path(downloaded), repository.files[path]
    # The hub's client checks a download's size only.
    if local.stat().st_size != told.size or (told.sha256 and _sha256_of(local) != told.sha256):
        raise LayerscopeError(
            f"{path} of {repository.name} is not here what it is on the hub: a broken download or a changed file.\n"
            f"Delete {local.resolve()} and run again."
        )
    return local


def read_parts(repository: Repository, path: str, read: Callable[[IO[bytes]], _T]) -> _T:
    """What `read` makes of a file; of one on the hub that is not cached here, only the ranges travel that it reads.

    Raises:
        LayerscopeError: the hub cannot be reached.
    """
    local = Path(repository.name, path) if repository.commit is None else _in_cache(repository, path)
    if local is not None:
        with local.open("rb") as stream:
            return read(stream)

    def read_remote() -> _T:
        # A file system of its own each time: the client keeps listings, and failures among them, in shared ones.
        url = f"{repository.name}@{repository.commit}/{path}"
        with HfFileSystem(skip_instance_cache=True).open(url, "rb", block_size=_RANGE_BYTES) as stream:
            return read(cast(IO[bytes], stream))

    with known_errors(repository.name, repository.commit or ""):
        return patiently(read_remote)


def sha256(repository: Repository, path: str) -> str:
    """The SHA-256 of a file's content: as the hub tells it, else computed once per version of the local file."""
    return repository.files[path].sha256 or _sha256_of(fetch(repository, path))


def is_cached(repository: Repository, path: str) -> bool:
    """Whether a file needs no download on this node."""
    return repository.commit is None or _in_cache(repository, path) is not None


def cache_folder() -> Path:
    """Where layerscope keeps what it derives from downloads: beside the hub's cache, so they share a disk."""
    return Path(constants.HF_HUB_CACHE).parent / "layerscope"


def _in_cache(repository: Repository, path: str) -> Path | None:
    cached = huggingface_hub.try_to_load_from_cache(
        repository.name, path, revision=repository.commit, repo_type=repository.kind
    )
    return Path(cached) if isinstance(cached, str) else None


def _sha256_of(path: Path) -> str:
    """Hashes a file, or recalls the hash from when the file was last this long and this old."""
    status = path.stat()
    key = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}"
    known = cache_folder() / "sha256" / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    known.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{known}.lock"):  # of several actors on a node, one reads the file
        if known.is_file() and len(digest := known.read_text()) == 64:
            return digest
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        with replacing(known) as temporary:
            temporary.write_text(digest)
    return digest


def _list_folder(folder: Path) -> dict[str, FileInfo]:
    files = {}
    for directory, _, names in os.walk(folder, followlinks=False):
        for name in names:
            path = Path(directory, name)
            if path.is_file():
                files[path.relative_to(folder).as_posix()] = FileInfo(path.stat().st_size)
    return files


def _listing_path(name: str, revision: str, kind: Kind) -> Path:
    key = hashlib.sha256(f"{constants.ENDPOINT}\0{kind}\0{name}\0{revision}".encode()).hexdigest()[:32]
    return cache_folder() / "listings" / f"{key}.json"


def _read_listing(path: Path, kind: Kind) -> Repository:
    listing = orjson.loads(path.read_bytes())
    files = {name: FileInfo(**info) for name, info in listing["files"].items()}
    return Repository(listing["name"], listing["commit"], files, kind)


def _cached_repository(name: str, revision: str, kind: Kind) -> Repository:
    root = Path(constants.HF_HUB_CACHE, f"{kind}s--{name.replace('/', '--')}")
    reference = root / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    snapshot = root / "snapshots" / commit
    if not re.fullmatch(r"[0-9a-f]{40}", commit) or not snapshot.is_dir():
        raise LayerscopeError(
            f"HF_HUB_OFFLINE is set and revision {revision} of {name} is not in the hub's cache ({root.parent}).\n"
            "Download it once with a connection, or point HF_HOME at the cache that holds it."
        )
    return Repository(name, commit, _list_folder(snapshot), kind, partial=True)
