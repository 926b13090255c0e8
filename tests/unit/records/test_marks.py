"""Lines behind the manifest's last note: whoever changed one is found out, and no honest line is lost or refused."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from killing import before_every_step
from layerscope.commands.saying import warning
from layerscope.engine.work import recovered
from layerscope.errors import LayerscopeError
from layerscope.records.line.lines import error_line
from layerscope.records.manifest.manifest import manifest_path, read_manifest
from layerscope.records.verify import verify
from layerscope.records.writing.journal import Journal, open_journal
from layerscope.records.writing.marks import HEADER, marks_path
from layerscope.records.writing.replacing import Replacement
from made_up import about, gone_on_with, identity, typed

pytestmark = pytest.mark.usefixtures("notes_are_far_apart")
N = 8
PARTS = typed(identity((3, 5), questions=N), about((3, 5), range(N)))
LINES = [error_line(number, f"line {number} " + "x" * 50).line for number in range(N)]
ENTRY_BYTES = 8
NOTED = 2
_MEMORY = Path("/dev/shm")  # where syncing costs nothing
FAST = _MEMORY if os.access(_MEMORY, os.W_OK) else None


def opened(path: Path) -> Journal:
    return gone_on_with(path, PARTS)


def killed(folder: Path, lines: int) -> Path:
    """A file of a run that was killed with so many lines, of which its manifest notes `NOTED`."""
    path = folder / "out.jsonl"
    with opened(path) as journal:
        journal.append(LINES[:NOTED])
    running = opened(path)
    running.append(LINES[NOTED:3])
    running.append(LINES[3:lines])
    copy = folder / "killed"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("killed"))
    running.close()
    return copy / path.name


@contextmanager
def changed(path: Path, number: int) -> Iterator[None]:
    """A file with another letter in one line, and then again as it was."""
    before = path.read_bytes()
    lines = before.splitlines(keepends=True)
    lines[number] = lines[number].replace(b"xxx", b"xyx", 1)
    path.write_bytes(b"".join(lines))
    yield
    path.write_bytes(before)


def refused(path: Path, line: int) -> None:
    """By readers and by a run, and the second time too."""
    for look in (verify, opened, verify):
        with pytest.raises(LayerscopeError, match=f"line {line}: it is not the line that was written there"):
            look(path)


def finished(path: Path) -> None:
    """Goes on to the end and finds the finished file, without marks beside it."""
    with opened(path) as journal:
        journal.append(LINES[journal.lines :])
    assert path.read_bytes() == b"".join(LINES)
    assert f"{N} of {N}" in verify(path)
    assert not marks_path(path).exists()


def test_every_line_of_a_killed_run_is_covered(tmp_path: Path) -> None:
    path = killed(tmp_path, 6)
    assert read_manifest(path).lines_noted() == NOTED
    for number in range(6):
        with changed(path, number):
            refused(path, number + 1)
    finished(path)


@settings(max_examples=40, deadline=None)
@given(kept=st.integers(0, len(HEADER) + 6 * ENTRY_BYTES), lines=st.integers(NOTED + 1, 6), zeros=st.integers(0, 20))
def test_marks_that_end_anywhere_lose_and_refuse_no_line_and_cover_what_they_still_have(
    kept: int, lines: int, zeros: int
) -> None:
    """A kill tears the last entry; where the power failed some file systems leave zeros, or lines without a mark."""
    with tempfile.TemporaryDirectory(dir=FAST) as name:
        path = killed(Path(name), lines)
        marks = marks_path(path).read_bytes()
        marks_path(path).write_bytes(marks[:kept] + bytes(zeros))
        assert f"{lines} of {N} lines" in verify(path)
        whole = (min(kept, len(marks)) - len(HEADER)) // ENTRY_BYTES if kept >= len(HEADER) else 0
        for number in range(lines):
            with changed(path, number):
                if number < max(whole, NOTED):
                    refused(path, number + 1)
                else:
                    assert f"{lines} of {N} lines" in verify(path)
        finished(path)


def test_a_file_without_marks_goes_on_as_those_of_the_first_version_do(tmp_path: Path) -> None:
    path = killed(tmp_path, 6)
    marks_path(path).unlink()
    assert f"6 of {N} lines" in verify(path)
    with changed(path, 1):
        refused(path, 2)
    finished(path)


def test_a_run_that_goes_on_says_which_lines_nothing_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It vouches for them from then on: whoever edited one and the marks is not found out by anybody later."""
    path = killed(tmp_path, 6)
    whole = marks_path(path).read_bytes()
    spoilt = bytearray(whole)
    spoilt[len(HEADER) + ENTRY_BYTES * 4] ^= 1
    for marks, told in ((whole, ""), (bytes(spoilt), "the last 2 lines"), (None, "the last 4 lines")):
        marks_path(path).unlink(missing_ok=True)
        if marks is not None:
            marks_path(path).write_bytes(marks)
        journal = open_journal(path, *PARTS, False)
        before = [(file, file.read_bytes()) for file in path.parent.iterdir() if file.is_file()]
        totals, _ = recovered(journal, warning, False)
        journal.close()
        assert totals.questions == 6
        said = capsys.readouterr().err
        assert (f"Nothing notes {told} of {path}: out.jsonl.marks is gone" in said) if told else not said
        for file, content in before:
            file.write_bytes(content)


def test_marks_of_another_file_are_held_against_none(tmp_path: Path) -> None:
    """A copy of a run brought back over a later one, or somebody's file of that name."""
    path = killed(tmp_path, 6)
    for content in (b"my marks at school", HEADER + bytes(range(48))):
        marks_path(path).write_bytes(content)
        assert f"6 of {N} lines" in verify(path)
    finished(path)


def test_marks_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    path = killed(tmp_path, 6)
    marks_path(path).unlink()
    marks_path(path).mkdir()
    with pytest.raises(LayerscopeError, match=r"out\.jsonl\.marks cannot be read: Is a directory"):
        verify(path)


def test_a_run_killed_at_any_step_leaves_lines_that_are_all_covered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with before_every_step(folder, monkeypatch) as copies, opened(folder / "out.jsonl") as journal:
        journal.append(LINES[:2])
        journal.checkpoint()
        journal.append(LINES[2:5])
    assert len(copies) > 20
    for copy in copies:
        path = copy / "out.jsonl"
        for number in range(path.read_bytes().count(b"\n") if path.exists() else 0):
            with changed(path, number):
                refused(path, number + 1)
        finished(path)


def test_a_kill_at_any_step_of_rewriting_leaves_marks_that_refuse_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    again = error_line(3, "again " + "x" * 50).line
    with opened(folder / "out.jsonl") as journal:
        journal.append(LINES[:6])
        with before_every_step(folder, monkeypatch) as copies:
            journal.rewrite([Replacement(3, again)])
            journal.append(LINES[6:7])
    for copy in copies:
        path = copy / "out.jsonl"
        assert f" of {N} lines" in verify(path)
        with opened(path) as journal:
            journal.append(LINES[journal.lines :])
        assert path.read_bytes().splitlines(keepends=True) in (
            LINES,
            [*LINES[:3], again, *LINES[4:]],
        )


def test_marks_stay_where_the_manifest_could_not_be_noted(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    journal = opened(path)
    journal.append(LINES[:4])
    os.truncate(path, len(b"".join(LINES[:3])))
    with pytest.raises(LayerscopeError, match="goes on behind the lines that are left"):
        journal.close()
    assert read_manifest(path).lines_noted() == 0
    with changed(path, 2):
        refused(path, 3)
    finished(path)
    assert manifest_path(path).exists()
