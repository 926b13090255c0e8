"""What a run must not give away: the hub token, and a port that others can reach."""

import ipaddress
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

TOKEN = "hf_plantedTokenThatMustStayHidden"


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A short path: Ray's sockets lie below it, and their names have a limit."""
    folder = Path(tempfile.mkdtemp(prefix="ls", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


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


def holding_the_token(folder: Path) -> dict[Path, bool]:
    """The files below a folder that can be read in this moment, and whether the token stands in them."""
    found = {}
    for path in folder.rglob("*"):
        with suppress(OSError):
            if path.is_file():
                found[path] = TOKEN.encode() in path.read_bytes()
    return found


def test_the_token_is_written_nowhere_and_nobody_else_is_served(
    tiny_options: list[str], hub_home: Path, tmp_path: Path, ray_folder: Path
) -> None:
    """Greps all that a run writes and shows; its Ray listens on the loopback only, with its authentication on."""
    environment = {**os.environ, "HF_HOME": str(hub_home), "HF_TOKEN": TOKEN, "RAY_TMPDIR": str(ray_folder)}
    environment["HOME"] = str(ray_folder)  # where Ray makes the token of its own authentication
    run = subprocess.Popen(
        [sys.executable, "-m", "layerscope", "run", *tiny_options, "--output-file", "out.jsonl"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process = psutil.Process(run.pid)
    addresses: set[str] = set()
    lines = ""
    files: dict[Path, bool] = {}
    while run.poll() is None:
        addresses |= listening(process)
        lines += command_lines(process)
        files |= holding_the_token(ray_folder)
        time.sleep(0.4)
    out, err = run.communicate()
    assert run.returncode == 0, err
    assert "raylet" in lines, "the process list was never seen while Ray was there"
    assert addresses
    assert all(is_loopback(address) for address in addresses), addresses
    assert (ray_folder / ".ray" / "auth_token").is_file(), "Ray's authentication was off"
    assert TOKEN not in out + err + lines
    assert any("raylet" in path.name for path in files), "Ray's logs were not where the test looks"
    for folder in (tmp_path, ray_folder, hub_home):
        files |= holding_the_token(folder)
    assert not [path for path, holds in files.items() if holds]
    assert [path.name for path in ray_folder.iterdir()] == [".ray"], "a finished run leaves its Ray's files behind"
