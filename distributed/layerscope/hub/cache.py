"""What layerscope keeps of what it derived: by content, beside the hub's cache, bounded by itself, never needed.

A cache that cannot be written (another's, read-only, full, without a home) serves what it holds; what it lacks is made
each time. Each kind has a folder; of the files that are too many, those go that nobody used for longest.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal

from filelock import BaseFileLock, FileLock
from huggingface_hub import constants

from layerscope.files import replacing
from layerscope.formatting import size_text

Kind = Literal["encoders", "decoders", "sha256", "listings", "neuronpedia", "plans"]
MOST_BYTES: dict[Kind, int] = {
    "encoders": 20 << 30,
    "decoders": 20 << 30,
    "sha256": 16 << 20,
    "listings": 64 << 20,
    "neuronpedia": 1 << 30,
    "plans": 1 << 30,
}
"""What each kind may take; a file counts as one block at least."""
_OF_AN_SAE = re.compile(r"[0-9a-f]{64}-(float32|bfloat16)(-[0-9a-f]{16})?\.safetensors")
_NAMES: dict[Kind, re.Pattern[str]] = {
    "encoders": _OF_AN_SAE,
    "decoders": _OF_AN_SAE,
    "sha256": re.compile(r"[0-9a-f]{64}"),
    "listings": re.compile(r"[0-9a-f]{64}\.json"),
    "neuronpedia": re.compile(r"[^/]+/[^/]+/(explanations|densities)\.parquet"),
    "plans": re.compile(r"[0-9a-f]{64}\.npz"),
}
"""How the files of a kind are called; others are of older versions, or were left behind."""
_BLOCK_BYTES = 4096
_IN_USE_SECONDS = 24 * 3600.0  # what was used so lately stays, however much it is: a run may need all of it
_LOCKS = "locks"
_SETTLED_NS = 3_000_000_000  # what was changed so lately may change again at what a clock calls the same time
SHA256 = re.compile(r"[0-9a-f]{64}")


def cache_folder() -> Path:
    """Where layerscope keeps what it derives from downloads: beside the hub's cache, so they share a disk."""
    return Path(constants.HF_HUB_CACHE).parent / "layerscope"


def cached(kind: Kind, name: str) -> Path:
    """Where a file of the cache lies, or would."""
    return cache_folder() / kind / name


def touch(file: Path) -> None:
    """Notes that a file is used."""
    with suppress(OSError):
        os.utime(file)


@contextmanager
def alone_with(file: Path) -> Iterator[bool]:
    """Of all processes that want to make a file of the cache, one at a time; gives whether the cache can be written.

    The locks are few and shared by many files of a kind, so that they do not grow in number; none is to be taken within
    another of its kind.
    """
    lock = _locked(file)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()


def _locked(file: Path) -> BaseFileLock | None:
    kind, share = file.relative_to(cache_folder()).parts[0], hashlib.sha256(os.fsencode(file.name)).hexdigest()[:2]
    lock = FileLock(cache_folder() / _LOCKS / f"{kind}-{share}.lock")
    with suppress(OSError):
        for folder in (Path(lock.lock_file).parent, file.parent):
            folder.mkdir(parents=True, exist_ok=True)
        if os.access(file.parent, os.W_OK | os.X_OK):
            lock.acquire()
            return lock
    return None


def keep(kind: Kind, name: str, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Puts a small file into the cache, if the cache can be written.

    Args:
        content: what is in it, or what writes that.
    """
    file = cached(kind, name)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary, temporary.open("wb") as stream:
            if isinstance(content, bytes):
                stream.write(content)
            else:
                content(stream)
        make_room(kind)


def sha256_of(path: Path) -> str:
    """Hashes a file, or recalls the hash of when it was last as it is now.

    By the time of its last change of whatever kind, which no tool can set, unlike that of its content.
    """
    status = path.stat()
    about = (path.resolve(), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    key = "\0".join(map(str, about)).encode("utf-8", "surrogateescape")
    known = cached("sha256", hashlib.sha256(key).hexdigest())
    if (digest := _recalled(known)) is not None:
        return digest
    with alone_with(known):  # of several actors on a node, one reads the file
        if (digest := _recalled(known)) is not None:
            return digest
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if time.time_ns() - max(status.st_ctime_ns, status.st_mtime_ns) > _SETTLED_NS:
            keep("sha256", known.name, digest.encode())
    return digest


def _recalled(known: Path) -> str | None:
    try:
        digest = known.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return None
    touch(known)
    return digest if SHA256.fullmatch(digest) else None


def make_room(kind: Kind) -> None:
    """Removes what no version of this layerscope finds again, and of too much what nobody used for longest.

    Nothing goes that was used lately.
    """
    folder, files, taken = cache_folder() / kind, list[tuple[bool, float, int, Path]](), 0
    for file in folder.rglob("*"):
        with suppress(OSError):  # gone meanwhile
            if file.is_file():
                status = file.stat()
                findable = _NAMES[kind].fullmatch(file.relative_to(folder).as_posix()) is not None
                files.append((findable, status.st_mtime, max(status.st_size, _BLOCK_BYTES), file))
                taken += files[-1][2]
    for findable, used, size, file in sorted(files):
        if time.time() - used > _IN_USE_SECONDS and (taken > MOST_BYTES[kind] or not findable):
            with suppress(OSError):
                file.unlink()
                taken -= size
                if file.parent != folder:
                    file.parent.rmdir()  # if it is empty now


def told() -> str:
    """What the cache holds, for people."""
    held = []
    for kind, most in MOST_BYTES.items():
        folder = cache_folder() / kind
        size = 0
        with suppress(OSError):  # somebody else's, or changing
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if size:
            held.append(f"{kind} {size_text(size)} (at most {size_text(most)} once unused for a day)")
    return f"{cache_folder()}: {', '.join(held) or 'empty'}"
