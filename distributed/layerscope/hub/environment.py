"""What the environment says of the way to the hub, where the hub's client would end in a traceback over it."""

import os
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from layerscope.errors import UsageError, first_line

_PROXIES = ("all_proxy", "https_proxy", "http_proxy")
_T = TypeVar("_T")


def check_endpoint() -> None:
    """
    Raises:
        UsageError: HF_ENDPOINT is no address.
    """
    told = os.environ.get("HF_ENDPOINT", "")
    try:
        urlsplit(told).port  # noqa: B018 - which is looked at when it is asked for
    except ValueError:
        raise UsageError(
            f"HF_ENDPOINT is no address: {told}\n"
            "It is https://HOST or http://HOST:PORT; in a password / is written %2F, # %23, ? %3F and @ %40."
        ) from None


def through_proxies(make: Callable[[], _T]) -> _T:
    """What makes a client that goes through the proxies of the environment.

    Raises:
        UsageError: it cannot.
    """
    try:
        return make()
    except ImportError as error:
        raise UsageError(
            f"{_named()}: a SOCKS proxy needs a package that is not installed ({first_line(error)}).\n"
            "Install it (pip install socksio), name an HTTP proxy, or unset the variable."
        ) from error
    except Exception as error:  # of several kinds, and with a part of the password in the message
        raise UsageError(
            f"{_named()} cannot be used: it is no address of a proxy ({type(error).__name__}).\n"
            "It is http://HOST:PORT; in a password / is written %2F, # %23, ? %3F and @ %40. Or unset the variable."
        ) from None


def _named() -> str:
    """The variables that name a proxy."""
    names = [name for lower in _PROXIES for name in (lower, lower.upper()) if os.environ.get(name)]
    return "The proxy in " + (" or ".join(names) or "the environment")
