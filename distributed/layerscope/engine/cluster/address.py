"""Which running Ray a command joins, if any: what was asked for, or what `ray start` left on this machine."""

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ray._common.utils import get_ray_address_file

from layerscope.errors import LayerscopeError, UsageError, did_you_mean

_CONNECT_SECONDS = 5.0
_PROC = Path("/proc")
_STARTED_BY = re.compile(r"session_[\d_-]+_(\d+)\b")  # a session is named after the process that began it


class Found(NamedTuple):
    """The Ray to join."""

    address: str | None
    """None where there is none to join: the command has one of its own."""
    looked_at: str = ""
    """Where a running one was looked for, and was not; empty where none was looked for."""


def find_ray(address: str) -> Found:
    """The running Ray that `--address`, or RAY_ADDRESS for `auto`, names; for `auto` alone one that is found here.

    Raises:
        UsageError: that is no address of a Ray.
        LayerscopeError: nobody answers there, or there are several to choose from.
    """
    told = os.environ.get("RAY_ADDRESS", "").strip()
    named, by = (told, "RAY_ADDRESS") if address == "auto" and told else (address, "--address")
    if named == "local":
        return Found(None)
    if named != "auto":
        check_reachable(named, by)
        return Found(named)
    file = Path(get_ray_address_file(None))
    left, what = _left_in(file)
    if left:
        return Found(left)
    started = sorted({found for found in _started() if _answers(found)})
    if len(started) > 1:
        raise LayerscopeError(
            f"Several Rays of yours run on this machine: {', '.join(started)}.\n"
            "Name the one to join with --address, or use --address local."
        )
    if started:
        return Found(started[0])
    looked_at = f"{file} {what}, and `ray start` left no process"
    if told:
        raise LayerscopeError(
            f"RAY_ADDRESS is auto, which asks for a running Ray, and there is none: {looked_at}.\n"
            "Give its address, or unset RAY_ADDRESS to let the run start its own."
        )
    return Found(None, f"RAY_ADDRESS is not set, {looked_at}")


def _left_in(file: Path) -> tuple[str, str]:
    """The address that `ray start` left in a file, if somebody answers there; else what is the matter with it."""
    try:
        address = file.read_text().strip()
    except FileNotFoundError:
        return "", "is not there"
    except (OSError, UnicodeDecodeError):
        return "", "cannot be read"
    return (address, "") if _answers(address) else ("", "names one that does not answer")


def _started() -> Iterator[str]:
    """The addresses of Rays that this user began with `ray start` here, and not some program for itself alone."""
    for process in _PROC.glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text(errors="replace").split("\0")
            if not words[0].endswith("raylet/raylet") or process.stat().st_uid != os.getuid():
                continue
            if any((process / name).readlink() != (_PROC / "self" / name).readlink() for name in ("ns/pid", "ns/net")):
                continue  # in a container, or a test's
        except OSError:
            continue  # gone, or not ours to look at
        addresses = [word.partition("=")[2] for word in words if word.startswith("--gcs-address=")]
        if addresses and not _belongs_to_a_program(" ".join(words)):
            yield addresses[0]


def _belongs_to_a_program(command: str) -> bool:
    """Whether who began a raylet's session lives, and is not `ray start` itself, which may wait for its end."""
    began = _STARTED_BY.search(command)
    try:
        words = (_PROC / (began[1] if began else "none") / "cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return False
    return "start" not in words


def _answers(address: str) -> bool:
    try:
        check_reachable(address)
    except LayerscopeError:
        return False
    return True


def check_reachable(address: str, by: str = "--address") -> None:
    """Ray itself tries an address that does not answer for many minutes.

    Args:
        by: what named it, for the message.

    Raises:
        UsageError: it is no address of a Ray.
        LayerscopeError: nobody answers there.
    """
    host, _, port = address.rpartition(":")
    if "://" in address:
        kind = "its client" if address.startswith("ray:") else "its dashboard, for `ray job submit`"
        raise UsageError(
            f"{by} is {address!r}: an address of {kind}. A run joins Ray itself.\n"
            "Give HOST:PORT of a Ray cluster (often port 6379), auto or local."
        )
    if not host or not port.isdigit():
        hint = did_you_mean(address, ("auto", "local"))
        raise UsageError(
            f"{by} is {address!r}; it is auto, local, or HOST:PORT of a Ray cluster (often port 6379).{hint}"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise LayerscopeError(
            f"No Ray cluster answers at {address} ({by}): {error}.\n"
            "Check the address, or use --address local to run on this machine alone."
        ) from error
