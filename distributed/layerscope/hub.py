"""Repositories of files, on the Hugging Face hub or in a folder: what one holds, and where its files lie on this node.

Owns every request to the hub and turns its failures into known errors. Knows nothing of models, SAEs or questions.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, TypeVar, cast

import httpx2
import huggingface_hub
from filelock import FileLock
from huggingface_hub import DatasetInfo, HfApi, HfFileSystem, ModelInfo, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from layerscope.errors import LayerscopeError, UsageError
from layerscope.files import replacing, user_path

Kind = Literal["model", "dataset"]
_T = TypeVar("_T")
_BUSY = (429, 500, 502, 503, 504)
_LONGEST_WAIT_SECONDS = 60


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


def open_repository(name: str, revision: str = "main", kind: Kind = "model") -> Repository:
    """Lists the files of a folder, or of a repository's revision on the hub.

    With `HF_HUB_OFFLINE` set, a repository is what its snapshot in the hub's cache holds.

    Raises:
        UsageError: no such folder, repository or revision.
        LayerscopeError: the hub cannot be reached or refuses: no token, no licence.
    """
    folder = user_path(name)
    if folder.is_dir():
        return Repository(str(folder.resolve()), None, _list_folder(folder.resolve()), kind)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        raise UsageError(f"{name!r} is neither a folder here nor the id of a repository on the hub (owner/name).")
    if constants.HF_HUB_OFFLINE:
        return _cached_repository(name, revision, kind)
    with _known_errors(name, revision):
        info = _patiently(lambda: HfApi().repo_info(name, revision=revision, repo_type=kind, files_metadata=True))
        # The listing of a gated repository is public, its files are not.
        _patiently(lambda: HfApi().auth_check(name, repo_type=kind))
    siblings = cast(ModelInfo | DatasetInfo, info).siblings or []
    files = {file.rfilename: FileInfo(file.size or 0, file.lfs.sha256 if file.lfs else None) for file in siblings}
    return Repository(name, cast(str, info.sha), files, kind)


def fetch(repository: Repository, path: str) -> Path:
    """The local path of a file; downloaded once per node into the hub's cache, whoever asks first.

    Raises:
        LayerscopeError: the download fails for good.
    """
    if repository.commit is None:
        return Path(repository.name, path)
    with _known_errors(repository.name, repository.commit):
        local = _patiently(
            lambda: huggingface_hub.hf_hub_download(
                repository.name, path, revision=repository.commit, repo_type=repository.kind
            )
        )
    told = repository.files[path].sha256
    # The hub's client checks a download's size only.
    if Path(local).stat().st_size != repository.files[path].size or (told and _sha256_of(Path(local)) != told):
        raise LayerscopeError(
            f"{path} of {repository.name} is not here what it is on the hub: a broken download or a changed file.\n"
            f"Delete {Path(local).resolve()} and run again."
        )
    return Path(local)


@contextmanager
def open_file(repository: Repository, path: str) -> Iterator[IO[bytes]]:
    """A seekable stream of a file; on the hub only the ranges that are read travel, unless the file is cached here."""
    if repository.commit is None:
        with Path(repository.name, path).open("rb") as stream:
            yield stream
        return
    cached = huggingface_hub.try_to_load_from_cache(repository.name, path, revision=repository.commit)
    if isinstance(cached, str):
        with Path(cached).open("rb") as stream:
            yield stream
        return
    with _known_errors(repository.name, repository.commit):
        url = f"{repository.name}@{repository.commit}/{path}"
        with HfFileSystem(skip_instance_cache=True).open(url, "rb", block_size=1 << 16) as stream:
            yield cast(IO[bytes], stream)


def sha256(repository: Repository, path: str) -> str:
    """The SHA-256 of a file's content: as the hub tells it, else computed once per version of the local file."""
    told = repository.files[path].sha256
    return told or _sha256_of(fetch(repository, path))


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


def cache_folder() -> Path:
    """Where layerscope keeps what it derives from downloads: beside the hub's cache, so they share a disk."""
    return Path(constants.HF_HUB_CACHE).parent / "layerscope"


def is_cached(repository: Repository, path: str) -> bool:
    """Whether a file needs no download on this node."""
    if repository.commit is None:
        return True
    return isinstance(huggingface_hub.try_to_load_from_cache(repository.name, path, revision=repository.commit), str)


def _list_folder(folder: Path) -> dict[str, FileInfo]:
    files = {}
    for directory, _, names in os.walk(folder, followlinks=False):
        for name in names:
            path = Path(directory, name)
            if path.is_file():
                files[path.relative_to(folder).as_posix()] = FileInfo(path.stat().st_size)
    return files


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
    return Repository(name, commit, _list_folder(snapshot), kind)


@contextmanager
def _known_errors(name: str, revision: str) -> Iterator[None]:
    """Turns what the hub's client raises into errors that say what to do."""
    try:
        yield
    except GatedRepoError as error:  # before RepositoryNotFoundError, which it derives from
        raise LayerscopeError(_gated_message(name)) from error
    except RepositoryNotFoundError as error:
        raise UsageError(
            f"The hub has no repository {name}, or it is private and your token cannot read it.\n"
            "Check the spelling; for a private one log in with `hf auth login` or set HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise UsageError(f"{name} has no revision {revision!r}. {_revisions(name)}") from error
    except HFValidationError as error:
        raise UsageError(f"{name!r} is not the id of a repository: {_first_line(error)}") from error
    except RemoteEntryNotFoundError as error:
        raise LayerscopeError(f"{name} at {revision} lacks a file it should hold: {_first_line(error)}") from error
    except HfHubHTTPError as error:
        raise LayerscopeError(_refused_message(name, error)) from error
    except (OSError, httpx2.HTTPError) as error:  # LocalEntryNotFoundError among them: neither cached nor reachable
        if isinstance(error.__cause__, HfHubHTTPError):
            raise LayerscopeError(_refused_message(name, error.__cause__)) from error
        raise LayerscopeError(
            f"The hub cannot be reached for {name}: {_first_line(error.__cause__ or error)}\n"
            "Check the connection and run again; with everything in the cache, set HF_HUB_OFFLINE=1."
        ) from error


def _patiently(request: Callable[[], _T]) -> _T:
    """Repeats a request while the hub is busy or the line is bad, for about a minute at most.

    The hub's client repeats some requests itself, others (listings, a body that ends in 500) never.
    """
    for wait in (1, 2, 4, 8, None):
        try:
            return request()
        except HfHubHTTPError as error:
            if wait is None or error.response is None or error.response.status_code not in _BUSY:
                raise
            told = error.response.headers.get("Retry-After", "")
            time.sleep(min(int(told), _LONGEST_WAIT_SECONDS) if told.isdigit() else wait)
        except httpx2.TransportError:
            if wait is None:
                raise
            time.sleep(wait)
    raise AssertionError("unreachable")


def _refused_message(name: str, error: HfHubHTTPError) -> str:
    status = error.response.status_code if error.response is not None else "no status"
    if status == 401:
        return (
            f"The hub does not accept your token (asked for {name}): it is invalid or expired.\n"
            "Log in again with `hf auth login`, or set HF_TOKEN to a valid token."
        )
    return f"The hub answered {status} for {name}: {_first_line(error)}\nRun the same command again later; it goes on."


def _gated_message(name: str) -> str:
    page = f"{constants.ENDPOINT}/{name}"
    if huggingface_hub.get_token() is None:
        return (
            f"{name} is gated, and there is no hub token on this machine.\n"
            f"Accept its licence on {page}, then `hf auth login` (or set HF_TOKEN)."
        )
    return (
        f"{name} is gated, and the account of your token has not been granted access to it.\n"
        f"Accept its licence on {page}, then run again."
    )


def _revisions(name: str) -> str:
    try:
        refs = HfApi().list_repo_refs(name)
    except (HfHubHTTPError, OSError):
        return "Name a branch, tag or commit of it."
    return "It has " + ", ".join([ref.name for ref in [*refs.branches, *refs.tags]][:20]) + "."


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
