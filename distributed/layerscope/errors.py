"""The errors that layerscope expects, each with the exit code of a command that ends in it.

A message says what happened (with the value), why it matters, and what to do, in at most three lines.
Everything else that is raised is a bug, and keeps its traceback.
"""

import re
from collections.abc import Iterable

# What may stand between :// and the host of an address: a user, or a user and a password, in which some write / and #
# as they are. A path has one slash of the two left. Without a scheme, as proxies are named: user:password@host.
_CREDENTIALS = re.compile(r"(:/{1,3}|(?<![\w:/.])//)(?:[^/?#\s:]*:(?!\d+[/?#])\S*@|[^/?#\s]*@)")
_BARE_CREDENTIALS = re.compile(r"(?<![\w/.@])[^\s:/'\"@=(,]{1,100}:[^\s/'\"@]{1,200}@(?=[\w\[])")
# And the query behind it, which signs an address of a download, or what follows # and has a value.
_QUERY = re.compile(r"((?::/{1,3}|(?<![\w:/.])//)[^?\s'\"]*?)(?:\?[^\s'\"]*|#[^\s'\"=]*=[^\s'\"]*)")
# What a request of a client shows that repeats its headers, and a token of the hub wherever it stands.
_TOKENS = re.compile(
    r"(\bauthorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic|token)\s+)?|\bbearer\s+)[^\s'\",]{6,}|\bhf_[a-z0-9]{20,}",
    re.IGNORECASE,
)


_ALSO_CALLED = {"gpu": "cuda", "fp32": "float32", "bf16": "bfloat16"}
"""What people call values of options, nearer in letters to another one or to none."""


class LayerscopeError(Exception):
    """A known failure: the command prints its message without a traceback, and addresses in it without credentials."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(without_credentials(message))


class UsageError(LayerscopeError):
    """The command line asks for something that cannot be: nothing was started."""

    exit_code = 2


class TakenError(LayerscopeError):
    """Another run is on the file."""


class Stopped(KeyboardInterrupt):
    """A signal has ended a command.

    Args:
        number: the signal's.
        told: where things stand, and what goes on with them; empty where nothing was begun.
    """

    def __init__(self, number: int, told: str = "") -> None:
        super().__init__(told)
        self.number, self.told, self.exit_code = number, told, 128 + number


def did_you_mean(word: object, known: Iterable[str], nearness: float = 0.6) -> str:
    """` Did you mean final?`, behind what is said of a word that is none of the known ones; empty if none is near."""
    import difflib

    by_small = {each.lower(): each for each in known}
    small = str(word).lower()  # from Python it may be anything
    small = _ALSO_CALLED.get(small, small)
    near = difflib.get_close_matches(small, list(by_small), n=1, cutoff=nearness)
    begun = [each for each in by_small if len(small) > 1 and each.startswith(small)]
    meant = begun if len(begun) == 1 else near
    return f" Did you mean {by_small[meant[0]]}?" if meant else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind."""
    lines = [line.strip() for line in without_credentials(str(error)).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def remedy(error: OSError, otherwise: str) -> str:
    """What to do about a file that is there and cannot be read: nothing is broken where somebody may not read it."""
    return "Have its owner make it readable to you (chmod)." if isinstance(error, PermissionError) else otherwise


def without_credentials(text: str) -> str:
    """A text without tokens, whose addresses have neither user nor password, nor a query, in which signatures stand."""
    addresses = _QUERY.sub(r"\1", _BARE_CREDENTIALS.sub("", _CREDENTIALS.sub(r"\1", text)))
    return _TOKENS.sub(r"\1...", addresses)
