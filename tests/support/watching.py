"""What can be seen of a run while it is there: its processes' command lines and ports, and what it has written."""

import ipaddress
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil


@dataclass
class Seen:
    """What a run showed from its beginning to its end."""

    secret: bytes
    folder: Path
    """What is written below it is read while it is there."""
    addresses: set[str] = field(default_factory=set)
    """On which its processes accepted connections."""
    command_lines: str = ""
    files: dict[Path, bool] = field(default_factory=dict)
    """Those below the folder that could be read, and whether the secret stood in them."""

    def watch(self, run: "subprocess.Popen[str]") -> None:
        """Until the run is over."""
        process = psutil.Process(run.pid)
        while run.poll() is None:
            self.addresses |= listening(process)
            self.command_lines += command_lines(process)
            self.look_through(self.folder)
            time.sleep(1)  # to look through all its processes' connections and files takes a good part of one

    def look_through(self, folder: Path) -> None:
        for path in folder.rglob("*"):
            with suppress(OSError):
                if path.is_file():
                    self.files[path] = self.files.get(path, False) or self.secret in path.read_bytes()


def below(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def listening(process: psutil.Process) -> set[str]:
    """Addresses on which a process and its children accept connections."""
    found = set()
    for one in below(process):
        try:
            found |= {c.laddr.ip for c in one.net_connections() if c.status == psutil.CONN_LISTEN}
        except psutil.Error:
            continue
    return found


def is_loopback(text: str) -> bool:
    address = ipaddress.ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def command_lines(process: psutil.Process) -> str:
    lines = []
    for one in below(process):
        try:
            lines += one.cmdline()
        except psutil.Error:
            continue
    return "\n".join(lines)
