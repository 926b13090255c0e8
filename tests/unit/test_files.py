"""Files that are replaced as a whole: what others find there, and what is cleaned up."""

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerscope.errors import LayerscopeError, UsageError
from layerscope.files import read_plain, remove_leftovers, replacing, user_path
from layerscope.records.status import status
from synthetic_run import Spec, write_run


@pytest.fixture
def group_umask() -> Iterator[None]:
    before = os.umask(0o002)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def left_over(path: Path, age: float = 3600, token: str = "0123456789abcdef") -> Path:
    """What a process that was killed within `replacing` leaves."""
    leftover = path.with_name(f".{path.name}.{token}.tmp")
    leftover.write_text("half")
    os.utime(leftover, (time.time() - age,) * 2)
    return leftover


@pytest.mark.usefixtures("group_umask")
def test_a_group_reads_what_a_library_wrote_for_its_user_alone(tmp_path: Path) -> None:
    """A cache that a group shares gives a traceback to all but one."""
    path = tmp_path / "file"
    with replacing(path) as temporary:
        temporary.unlink()  # as safetensors does: a file of its own takes the name
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL, 0o600))
    assert mode(path) == 0o664


@pytest.mark.usefixtures("group_umask")
def test_the_mode_that_a_user_gave_a_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o600)
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert (path.read_text(), mode(path)) == ("new", 0o600)


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise OSError("full")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("file", "old")]


@pytest.mark.parametrize("name", ["ü" * 120, "n" * 250, " -a'b\"", "a[b]*?"])
def test_names_of_every_kind_are_replaced(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with replacing(path) as temporary:
        assert len(os.fsencode(temporary.name)) <= 255
        temporary.write_text("x")
    assert path.read_text() == "x"


@pytest.mark.parametrize("name", ["out.jsonl", "a[bc]*.jsonl"])
def test_only_leftovers_of_the_very_file_are_removed(name: str, tmp_path: Path) -> None:
    """A cleanup deletes what a neighbour's command is writing, or what a user keeps under a similar name."""
    path = tmp_path / name
    own = left_over(path)
    others = [
        left_over(tmp_path / f"{name}.b"),
        left_over(tmp_path / "ab.jsonl"),
        left_over(tmp_path / "out.jsonl.0123456789abcdef"),
        left_over(path, token="not-ours"),
        left_over(path, age=0, token="1" * 16),
    ]
    remove_leftovers(path)
    assert not own.exists()
    assert all(other.exists() for other in others)


def test_what_somebody_is_writing_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as temporary:
        os.utime(temporary, (0, 0))
        remove_leftovers(path)
        assert temporary.exists()
    leftover = left_over(path)
    with leftover.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        remove_leftovers(path)
        assert leftover.exists()
    remove_leftovers(path)
    assert not leftover.exists()


def test_a_link_under_a_leftovers_name_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("x")
    (tmp_path / ".file.0123456789abcdef.tmp").symlink_to(precious)
    remove_leftovers(tmp_path / "file")
    assert precious.read_text() == "x"


def test_a_home_is_found_whoever_wrote_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--to=~/x`, which no shell expands, makes a folder called `~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/x") == user_path(Path("~/x")) == tmp_path / "x"
    for impossible in ("a\0b", "~nobody-of-this-name/x", "x" * 5000):
        with pytest.raises(UsageError, match="cannot be a path"):
            user_path(impossible)


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a machine that loses its power may keep the new name and none of the content."""
    events: list[tuple[str, int, int]] = []
    fsync, rename = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        events.append(("synced", os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))

    def renamed(path: Path, target: Path) -> Path:
        events.append(("renamed", path.stat().st_ino, path.stat().st_size))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("content")
    where = ((tmp_path / "file").stat().st_ino, len("content"))
    assert events == [("synced", *where), ("renamed", *where)]


@pytest.mark.parametrize("name", ["run.jsonl.manifest.json", "run.jsonl.marks"])
def test_a_pipe_under_the_name_of_a_file_is_refused_and_not_waited_for(name: str, tmp_path: Path) -> None:
    write_run(tmp_path / "run.jsonl", Spec(questions=1, layers=(0,)))
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(OSError, match="not a plain file"):
        read_plain(tmp_path / name)
    with pytest.raises(LayerscopeError, match=f"{name} cannot be read: not a plain file"):
        status(tmp_path / "run.jsonl")
