"""Asking an object store, through fsspec: what passes is tried again, what does not is said in words.

Credentials come from where the store's own tools have them (environment, profiles, a machine's role) and are never
read here. Each store's library is an extra of the package.
"""

import errno
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, Final, NamedTuple, TypeVar

from layerscope.errors import LayerscopeError, UsageError, first_line

T = TypeVar("T")


class Store(NamedTuple):
    """A kind of object store."""

    extra: str
    """Of the package, with which its library comes."""
    told: str
    to_log_in: str
    permissions: str
    options: dict[str, Any]
    """Of fsspec's file system."""


_S3: Final = Store(
    "s3",
    "S3",
    "Log in as for the `aws` command (aws configure, aws sso login, a role), or set AWS_PROFILE",
    "s3:ListBucket, GetObject, PutObject and DeleteObject",
    {
        "config_kwargs": {
            "connect_timeout": 10,
            "read_timeout": 60,
            "retries": {"mode": "standard", "total_max_attempts": 1},
        }
    },
)
_GS: Final = Store(
    "gs",
    "Google Cloud Storage",
    "Log in with gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS",
    "storage.objects.list, get, create and delete",
    {},
)
STORES: Final = {
    "s3": _S3,
    "gs": _GS,
    "memory": Store("s3", "this process's memory", "", "", {}),  # fsspec's own, of tests
}
"""By the scheme of their addresses; each knows an object that is made only where there is none."""

READ_SECONDS, WRITE_SECONDS = 30.0, 300.0
"""How long a store that does not answer, or not well, is asked again."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 20.0
_PASSING_CODES = frozenset(("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "OperationAborted"))
_PASSING_NUMBERS = (errno.EBUSY, errno.EREMOTEIO, errno.EPIPE)
_PASSING_ANSWERS = frozenset((408, 409, 429, 500, 502, 503, 504))
_EXPIRED_CODES = frozenset(("ExpiredToken", "TokenRefreshRequired", "RequestExpired", "ExpiredTokenException"))
_STRANGERS = frozenset(("botocore", "aiobotocore", "aiohttp", "s3fs", "gcsfs", "google", "requests", "urllib3"))
"""Whose errors are answers, or the lack of one."""
_NO_CREDENTIALS = frozenset(
    ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "DefaultCredentialsError")
)
_EXPIRED = frozenset(("UnauthorizedSSOTokenError", "SSOTokenLoadError", "TokenRetrievalError", "RefreshError"))
_SET_UP_WRONG = frozenset(("ProfileNotFound", "ConfigParseError", "ConfigNotFound", "InvalidConfigError"))


def ask(address: str, doing: str, request: Callable[[Any], T], seconds: float | None = None) -> T:
    """What a request to the store gives; one that fails in a way that passes is made again.

    Args:
        address: of a run or an object, whose scheme names the store.
        doing: what could not be done, for people: `read`, `written`.
        request: gets fsspec's file system.
        seconds: for how long it is made again; `READ_SECONDS` if None.

    Raises:
        FileNotFoundError, FileExistsError: there is no such object; or there is one.
        UsageError: the store's library is not installed, or there is no such bucket.
        LayerscopeError: the store does not answer, or refuses.
    """
    scheme = address.partition(":")[0]
    begun, pause, renewed = time.monotonic(), _FIRST_PAUSE, False
    while True:
        try:
            return request(_file_system(scheme))
        except FileExistsError:
            raise
        except Exception as error:
            if not _is_of_a_store(error):
                raise
            code = _code(error)
            if isinstance(error, FileNotFoundError) and code != "NoSuchBucket":
                raise
            if _is_expired(error) and not renewed:  # another program may have renewed them where they were read from
                _file_system.cache_clear()
                renewed = True
            elif not _passes(error) or time.monotonic() - begun > (READ_SECONDS if seconds is None else seconds):
                raise _told(address, doing, error) from error
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def put_new(address: str, data: bytes, seconds: float | None = None) -> bool:
    """Makes an object where there is none; whether it was made, by this request or by one whose answer was lost.

    Raises:
        LayerscopeError: as `ask`.
    """

    def request(files: Any) -> None:
        files.pipe_file(key_of(address), data, mode="create")

    try:
        ask(address, "written", request, seconds)
    except FileExistsError:
        return bool(read(address) == data)
    return True


def put(address: str, data: bytes, seconds: float | None = None) -> None:
    """Makes an object, or takes the place of one."""
    ask(address, "written", lambda files: files.pipe_file(key_of(address), data), seconds)


def read(address: str, start: int | None = None, end: int | None = None) -> bytes:
    """The bytes of an object; raises FileNotFoundError where there is none."""
    found: bytes = ask(address, "read", lambda files: files.cat_file(key_of(address), start=start, end=end))
    return found


def remove(address: str) -> None:
    """Removes an object, if it is there."""
    with suppress(FileNotFoundError):
        ask(address, "written", lambda files: files.rm_file(key_of(address)))


def listed(address: str) -> list[dict[str, Any]]:
    """What fsspec says of every object below an address, or of the one that is there; empty where nothing is."""

    def request(files: Any) -> list[dict[str, Any]]:
        files.invalidate_cache()
        return [{**each, "name": each["name"].lstrip("/")} for each in files.ls(key_of(address), detail=True)]

    try:
        return ask(address, "read", request)
    except FileNotFoundError:
        return []


def exists(address: str) -> bool:
    """Whether there is an object."""
    try:
        return bool(ask(address, "read", lambda files: files.info(key_of(address)))["type"] == "file")
    except FileNotFoundError:
        return False


def key_of(address: str) -> str:
    """How fsspec names what is at an address."""
    return address.partition("://")[2]


@cache
def _file_system(scheme: str) -> Any:
    store = STORES[scheme]
    try:
        import fsspec

        files = fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False, **store.options)
    except ImportError as error:
        raise UsageError(
            f"{scheme}:// is {store.told}, whose library is not installed here ({first_line(error)}).\n"
            f"pip install 'layerscope[{store.extra}]'"
        ) from error
    files.retries = 1  # of S3's: whoever asks tries again, and for how long is said in one place
    return files


def _is_of_a_store(error: BaseException) -> bool:
    return isinstance(error, OSError | TimeoutError) or type(error).__module__.partition(".")[0] in _STRANGERS


def _code(error: BaseException) -> str:
    """What the store calls the fault, or the number of its answer; empty where there was none."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code") or _answer(error))
    return str(getattr(error, "code", "") or "")


def _answer(error: BaseException) -> int:
    """The number of the store's answer; 0 where there was none."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    found = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    code = str(found or getattr(error, "code", "") or "")
    return int(code) if code.isdigit() else 0


def _is_expired(error: BaseException) -> bool:
    return _code(error) in _EXPIRED_CODES or type(error).__name__ in _EXPIRED


def _passes(error: BaseException) -> bool:
    if type(error).__name__ in _NO_CREDENTIALS | _EXPIRED | _SET_UP_WRONG:
        return False
    if code := _code(error):
        return code in _PASSING_CODES or _answer(error) in _PASSING_ANSWERS
    if type(error).__module__ == "builtins":
        return isinstance(error, ConnectionError | TimeoutError) or getattr(error, "errno", 0) in _PASSING_NUMBERS
    return True  # of a client: no connection, none in time, an answer that was cut off


def _told(address: str, doing: str, error: BaseException) -> LayerscopeError:
    store, bucket = STORES[address.partition(":")[0]], key_of(address).partition("/")[0]
    code, name = _code(error), type(error).__name__
    answer = str(getattr(error, "strerror", None) or first_line(error))[:150]
    if code in ("NoSuchBucket", "InvalidBucketName"):
        return UsageError(f"{address}: there is no bucket {bucket}.\nMake it, or name another address.")
    if _is_expired(error):
        return LayerscopeError(
            f"{address} cannot be {doing}: the credentials have expired.\nRenew them and run the same command again."
        )
    if name in _NO_CREDENTIALS:
        return UsageError(f"{address} cannot be {doing}: no credentials for {store.told} are here.\n{store.to_log_in}.")
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "401"):
        return UsageError(
            f"{address} cannot be {doing}: {store.told} does not know these credentials ({code}).\n{store.to_log_in}."
        )
    if isinstance(error, PermissionError) or code in ("AccessDenied", "403"):
        return UsageError(
            f"{address} cannot be {doing}: these credentials may not ({code or 'forbidden'}).\n"
            f"Ask for {store.permissions} on bucket {bucket}, or take other credentials."
        )
    if _passes(error):
        return LayerscopeError(
            f"{address} cannot be {doing}: {store.told} did not answer as it should, however often it was asked "
            f"({answer}).\nRun the same command again once it does."
        )
    return LayerscopeError(f"{address} cannot be {doing}: {answer}.\nMend that and run the same command again.")
