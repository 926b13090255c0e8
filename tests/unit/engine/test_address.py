"""A running Ray is found however it was started, or the user is told where it was looked for."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerscope.engine.cluster.address import _started, find_ray
from layerscope.errors import LayerscopeError, UsageError


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `ray start` notes an address; nothing else is on this machine."""
    monkeypatch.setattr("layerscope.engine.cluster.address._started", lambda: iter(()))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


@pytest.mark.parametrize("told", ["", "  "])
def test_an_empty_variable_is_none(told: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", told)
    address, looked_at = find_ray("auto")
    assert address is None
    assert str(file) in looked_at
    assert "is not there" in looked_at


def test_a_variable_that_asks_for_a_running_ray_starts_none(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(LayerscopeError, match="asks for a running Ray, and there is none") as refused:
        find_ray("auto")
    assert str(file) in str(refused.value)


@pytest.mark.parametrize("told", ["http://10.0.0.1:8265", "https://head/", "ray://head:10001", "head", "head:ray"])
def test_a_variable_that_is_no_address_is_refused_by_its_name(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second Ray starts in silence, or the option is blamed that nobody gave."""
    monkeypatch.setenv("RAY_ADDRESS", told)
    with pytest.raises(UsageError, match=f"^RAY_ADDRESS is '{told}'"):
        find_ray("auto")


def test_a_ray_that_was_asked_for_and_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(LayerscopeError, match="RAY_ADDRESS"):
        find_ray("auto")
    assert find_ray("local") == (None, "")


def test_the_address_in_the_file_is_taken_if_somebody_answers(file: Path, listening: str) -> None:
    file.write_text(f"{listening}\n")
    assert find_ray("auto").address == listening
    file.write_text("127.0.0.1:9")
    address, looked_at = find_ray("auto")
    assert address is None
    assert "does not answer" in looked_at


def test_a_file_that_cannot_be_read_is_told_and_no_traceback(file: Path) -> None:
    file.mkdir()  # root reads every file
    assert "cannot be read" in find_ray("auto").looked_at


@pytest.mark.parametrize("begun_by", ["ray start", "a program"])
def test_a_ray_under_another_folder_is_found_by_its_process_unless_a_program_has_it_for_itself(
    begun_by: str, listening: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of the same user, with a Ray of its own, would lose its Ray to another's, or give it up to it."""
    monkeypatch.undo()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    raylet = tmp_path / "raylet" / "raylet"
    raylet.parent.mkdir()
    raylet.symlink_to(sys.executable)
    session = f"session_2026-01-01_00-00-00_000000_{os.getpid() if begun_by == 'a program' else 2**22 + 1}"
    waits = "print(flush=True); input()"
    words = [str(raylet), "-c", waits, f"--gcs-address={listening}", f"--session-name={session}"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # a process that is only just being started has no command line yet
    try:
        found = set(_started())  # others may run on this machine, those of tests side by side among them
    finally:
        process.communicate(b"\n")
    assert (listening in found) is (begun_by == "ray start")
