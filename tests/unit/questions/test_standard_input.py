"""Questions that are piped in are kept beside the output file, so that a run can go on."""

import io
from pathlib import Path

import pytest

from layerscope.errors import UsageError
from layerscope.questions.opening import Wanted, open_source
from layerscope.questions.standard_input import keep_standard_input, records_of_copy

LINES = b'{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}\n' * 2
ARRAY = b'[{"question": "g", "choices": ["a", "b", "c"], "answer": 0}]'


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def keep(records: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, began_with: str = "", **more: bool) -> Path:
    pipe(monkeypatch, content)
    return keep_standard_input(records, began_with, **{"overwrite": False, **more})


@pytest.mark.parametrize(("content", "count"), [(LINES, 2), (ARRAY, 1)])
def test_what_is_piped_in_is_there_for_the_run_that_goes_on(
    content: bytes, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing in the pipe, or the same again."""
    records, name = tmp_path / "out.jsonl", ""
    for again in (content, b"", content):
        copy = keep(records, again, monkeypatch, name)
        name = copy.name
        assert copy.read_bytes() == content
        assert len(open_source(Wanted(str(copy)))) == count
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert records_of_copy(copy) == records


def test_questions_that_no_run_began_with_do_not_hold_up_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever mends a line that was refused pipes in other content than the first time."""
    records = tmp_path / "out.jsonl"
    with pytest.raises(UsageError, match="there is nothing"):
        keep(records, b"", monkeypatch)
    assert list(tmp_path.iterdir()) == []
    keep(records, b"no question", monkeypatch)
    assert keep(records, LINES, monkeypatch).read_bytes() == LINES
    with pytest.raises(UsageError, match="Pipe in the questions that you mean"):
        keep(records, b"", monkeypatch)


def test_other_questions_never_take_the_place_of_those_that_a_run_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run may be reading them now, or have yet to go on; the second command may be refused a moment later."""
    records = tmp_path / "out.jsonl"
    first = keep(records, LINES, monkeypatch)
    with pytest.raises(UsageError, match="other questions"):
        keep(records, ARRAY, monkeypatch, first.name)
    assert keep(records, ARRAY, monkeypatch, first.name, overwrite=True).read_bytes() == ARRAY
    assert first.read_bytes() == LINES
    assert keep(records, b"", monkeypatch, first.name) == first
    first.write_bytes(b"edited")
    assert keep(records, LINES, monkeypatch, first.name).read_bytes() == LINES
    first.unlink()
    with pytest.raises(UsageError, match=f"nor is {first.name} there"):
        keep(records, b"", monkeypatch, first.name)
