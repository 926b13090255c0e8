"""An output file that is moved, deleted, replaced, cut or edited under its run: told at once, and nothing lost."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from layerscope.errors import LayerscopeError
from layerscope.records.line.lines import error_line
from layerscope.records.verify import verify
from layerscope.records.writing import taken_away
from layerscope.records.writing.journal import Journal, open_journal
from made_up import about, identity, typed

N = 8
PARTS = typed(identity((3, 5), questions=N), about((3, 5), range(N)))
LINES = [error_line(number, f"line {number} " + "x" * 50).line for number in range(N)]


def opened(path: Path) -> Journal:
    path.parent.mkdir(exist_ok=True)
    return open_journal(path, *PARTS, False)


def finished(path: Path) -> str:
    """Goes on with a file to its end, and gives what `verify` says."""
    with opened(path) as journal:
        journal.recover(lambda _: None)
        journal.append(LINES[journal.lines :])
    assert path.read_bytes() == b"".join(LINES)
    return verify(path)


def renamed_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("renamed"))


def renamed_file(path: Path) -> None:
    path.rename(path.with_name("it's here.jsonl"))


def deleted_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("somebody's")
    other.replace(path)


TAKEN: dict[Callable[[Path], Any], str] = {
    renamed_folder: "renamed/out.jsonl",
    renamed_file: "out/it's here.jsonl",
    Path.unlink: "out/out.jsonl",
    deleted_folder: "out.saved-*.jsonl",
    replaced: "out/out.saved-*.jsonl",
}


@pytest.mark.parametrize("take", TAKEN)
@pytest.mark.parametrize("found_by", ["the next lines", "the end"])
def test_what_was_written_is_saved_and_gone_on_with(take: Callable[[Path], Any], found_by: str, tmp_path: Path) -> None:
    """The run computes to the end, and ends with 0, and the file it names is not there."""
    path = tmp_path / "out" / "out.jsonl"
    journal = opened(path)
    journal.append(LINES[:3])
    take(path)
    go_on = (lambda: journal.append(LINES[3:])) if found_by == "the next lines" else journal.close
    with pytest.raises(LayerscopeError, match="somebody took it away") as told:
        go_on()
    journal.close()
    (saved,) = tmp_path.glob(TAKEN[take])
    assert str(saved) in str(told.value).replace("'\"'\"'", "'")
    assert len(str(told.value).splitlines()) == 2
    assert saved.read_bytes() == b"".join(LINES[:3])
    assert f"3 of {N}" in verify(saved)
    if take is replaced:
        assert path.read_text() == "somebody's"
    assert f"{N} of {N}" in finished(saved)


def test_a_folder_that_goes_while_lines_are_written_is_no_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "out" / "out.jsonl"

    def lines() -> Iterator[bytes]:
        yield from LINES[:3]
        renamed_folder(path)

    journal = opened(path)
    with pytest.raises(LayerscopeError, match=r"Its 3 lines are in .*renamed/out\.jsonl"):
        journal.append(lines())
    journal.close()
    assert f"{N} of {N}" in finished(tmp_path / "renamed" / "out.jsonl")


@pytest.mark.parametrize("left", [0, 10, len(LINES[0]), 2 * len(LINES[0]) + 1])
def test_a_file_that_was_cut_goes_on_behind_what_is_left(left: int, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    journal = opened(path)
    journal.append(LINES[:3])
    os.truncate(path, left)
    with pytest.raises(LayerscopeError, match="goes on behind the lines that are left"):
        journal.close()
    assert f"{N} of {N}" in finished(path)


@pytest.mark.parametrize("found_by", ["the next lines", "the end"])
def test_an_edited_line_stops_the_run_and_is_named(found_by: str, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    journal = opened(path)
    journal.append(LINES[:3])
    with path.open("r+b") as stream:
        stream.seek(len(LINES[0]) + LINES[1].index(b"xxx"))
        stream.write(b"y")
    go_on = (lambda: journal.append(LINES[3:])) if found_by == "the next lines" else journal.close
    with pytest.raises(LayerscopeError, match="was edited by somebody else"):
        go_on()
    journal.close()
    with pytest.raises(LayerscopeError, match="line 2: it is not the line that was written there"):
        verify(path)


def test_lines_that_somebody_added_stop_the_run(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    journal = opened(path)
    journal.append(LINES[:3])
    with path.open("ab") as stream:
        stream.write(b"{}\n")
    with pytest.raises(LayerscopeError, match="somebody took it away"):
        journal.close()


def test_other_modes_and_times_are_no_edit(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with opened(path) as journal:
        journal.append(LINES[:3])
        path.chmod(0o640)
        os.utime(path, (0, 0))
        journal.append(LINES[3:])
    assert f"{N} of {N}" in verify(path)


def test_a_run_that_waits_for_a_batch_sees_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds later, not when the next batch is there."""
    path = tmp_path / "out.jsonl"
    monkeypatch.setattr(taken_away, "_LOOK_SECONDS", 0.0)
    journal = opened(path)
    journal.append(LINES[:3])
    assert not journal.is_taken_away()
    path.rename(path.with_name("moved.jsonl"))
    assert journal.is_taken_away()
    with pytest.raises(LayerscopeError, match=r"moved\.jsonl"):
        journal.close()
