"""Patience with servers, and the hub's failures as known errors that say what to do."""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx2
import huggingface_hub
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from layerscope.errors import LayerscopeError, UsageError, first_line
from layerscope.formatting import visible

_T = TypeVar("_T")
_BUSY = (429, 500, 502, 503, 504)
_PATIENCE_SECONDS = 60.0
_OF_THE_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.ENOTDIR)
_CUT_SHORT = "Consistency check failed"  # how the client's plain OSError for a body of another length begins


def patiently(request: Callable[[], _T], seconds: float = _PATIENCE_SECONDS) -> _T:
    """Repeats a request while the server is busy, the line is bad or what arrives is broken, for about a minute.

    The hub's client repeats some requests itself, others (listings, a body that ends in 500) never.
    """
    deadline = time.monotonic() + seconds
    wait = 1.0
    while True:
        try:
            return request()
        except (OSError, httpx2.HTTPError) as error:
            if not _may_pass(error):
                raise
            wait = max(wait, _told_to_wait(error))
            if time.monotonic() + wait > deadline:
                raise
        time.sleep(wait)
        wait *= 2


def _may_pass(error: Exception) -> bool:
    if isinstance(error, HfHubHTTPError | httpx2.HTTPStatusError):
        return error.response is not None and error.response.status_code in _BUSY
    return isinstance(error, httpx2.TransportError | httpx2.DecodingError) or _CUT_SHORT in str(error)


def _told_to_wait(error: Exception) -> float:
    response = error.response if isinstance(error, HfHubHTTPError | httpx2.HTTPStatusError) else None
    told = response.headers.get("Retry-After", "") if response is not None else ""
    return float(told) if told.isdigit() else 0.0


@contextmanager
def known_errors(name: str, revision: str, kind: str = "model") -> Iterator[None]:
    """Turns what the hub's client raises for a repository into known errors."""
    try:
        yield
    except GatedRepoError as error:  # before RepositoryNotFoundError, which it derives from
        raise LayerscopeError(_gated_message(name, kind)) from error
    except RepositoryNotFoundError as error:
        raise UsageError(
            f"The hub has no repository {name}, or it is private and your token cannot read it.\n"
            "Check the spelling; for a private one log in with `hf auth login` or set HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise UsageError(f"{name} has no revision {revision!r}. {_revisions(name)}") from error
    except HFValidationError as error:
        raise UsageError(f"{name!r} is not the id of a repository: {first_line(error)}") from error
    except RemoteEntryNotFoundError as error:
        raise LayerscopeError(f"{name} at {revision} lacks a file it should hold: {first_line(error)}") from error
    except HfHubHTTPError as error:
        raise LayerscopeError(_refused_message(name, error)) from error
    except (OSError, httpx2.HTTPError) as error:  # LocalEntryNotFoundError among them: neither cached nor reachable
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise LayerscopeError(_disk_message(name, error)) from error
        raise LayerscopeError(_unreachable_message(name, error)) from error


def _disk_message(name: str, error: OSError) -> str:
    return (
        f"The hub's cache {constants.HF_HUB_CACHE} cannot take {name}: {error.strerror}.\n"
        "Set HF_HOME to a folder that you can write to, with room for the files."
    )


def _gated_message(name: str, kind: str) -> str:
    page = f"{constants.ENDPOINT}/{'' if kind == 'model' else f'{kind}s/'}{name}"
    if huggingface_hub.get_token() is None:
        return (
            f"{name} is gated, and there is no hub token on this machine.\n"
            f"Accept its licence on {page}, then `hf auth login` (or set HF_TOKEN)."
        )
    return (
        f"{name} is gated, and the account of your token has not been granted access to it.\n"
        f"Accept its licence on {page}, then run again."
    )


def _refused_message(name: str, error: HfHubHTTPError) -> str:
    status = error.response.status_code if error.response is not None else None
    if status == 401:
        return (
            f"The hub does not accept your token (asked for {name}): it is invalid or expired.\n"
            "Log in again with `hf auth login`, or set HF_TOKEN to a valid token."
        )
    advice = "Run the same command again later; it goes on." if status in _BUSY else "Check the name and your access."
    return f"The hub answered {status or 'without a status'} for {name}: {first_line(error)}\n{advice}"


def _unreachable_message(name: str, error: Exception) -> str:
    if isinstance(error.__cause__, HfHubHTTPError):
        return _refused_message(name, error.__cause__)
    if _CUT_SHORT in str(error):
        return f"A file of {name} arrives cut short, again and again: {first_line(error)}\nRun the same command later."
    return (
        f"The hub cannot be reached for {name}: {first_line(error.__cause__ or error)}\n"
        "Check the connection and run again; with everything in the cache, set HF_HUB_OFFLINE=1."
    )


def _revisions(name: str) -> str:
    try:
        refs = HfApi().list_repo_refs(name)
        names = [str(ref.name) for ref in [*refs.branches, *refs.tags]][:20]
    except (OSError, httpx2.HTTPError, LayerscopeError, ValueError, TypeError, AttributeError, KeyError):
        return "Name a branch, tag or commit of it."  # the hub's client trusts that it talks to a hub
    return visible(f"It has {', '.join(names)[:1000]}.")
