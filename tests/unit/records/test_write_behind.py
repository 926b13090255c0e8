"""Writing in a thread of its own: the same file, and no error that gets lost on the way."""

import errno
import os
import threading
from pathlib import Path

import pytest

from layerscope.errors import LayerscopeError
from layerscope.records.writing.journal import Journal, open_journal
from layerscope.records.writing.write_behind import WriteBehind
from made_up import about, identity, typed

LINES = [b'{"example_id":%d}\n' % number for number in range(6)]


@pytest.fixture
def file(tmp_path: Path) -> Journal:
    parts = typed(identity((0,), questions=6), about((0,), range(6)))
    return open_journal(tmp_path / "out.jsonl", *parts, overwrite=False)


def break_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", broken)


def test_all_lines_are_there_in_order_when_it_is_left(file: Journal) -> None:
    with file, WriteBehind(file) as writer:
        for start in range(0, 6, 2):
            writer.append(LINES[start : start + 2])
        writer.flush()
        assert file.lines == 6
        writer.append([])
    assert file.path.read_bytes() == b"".join(LINES)


def test_who_appends_goes_on_while_the_lines_before_are_on_their_way(
    file: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on, sync = threading.Event(), os.fdatasync

    def slow(descriptor: int) -> None:
        assert may_go_on.wait(30)
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", slow)
    with file, WriteBehind(file) as writer:
        writer.append(LINES[:1])
        assert file.lines == 0
        may_go_on.set()
        writer.append(LINES[1:])
        assert file.lines >= 1
    assert file.path.read_bytes() == b"".join(LINES)


@pytest.mark.parametrize("more", [True, False])
def test_lines_that_cannot_be_written_end_the_run_at_the_next_or_when_it_is_left(
    file: Journal, monkeypatch: pytest.MonkeyPatch, more: bool
) -> None:
    def write() -> None:
        with WriteBehind(file) as writer:
            writer.append(LINES[:2])
            writer.flush()
            break_disk(monkeypatch)
            writer.append(LINES[2:4])
            if more:
                writer.append(LINES[4:])
                raise AssertionError("it went on after lines that were not written")

    with file, pytest.raises(LayerscopeError, match="Its 2 lines are whole"):
        write()
    assert file.path.read_bytes() == b"".join(LINES[:2])


def test_what_ends_the_run_is_not_hidden_and_what_was_appended_is_written(file: Journal) -> None:
    def write() -> None:
        with WriteBehind(file) as writer:
            writer.append(LINES[:3])
            raise KeyboardInterrupt

    with file, pytest.raises(KeyboardInterrupt):
        write()
    assert file.path.read_bytes() == b"".join(LINES[:3])
