"""Questions that are piped in are kept beside the output file, so that a run can go on."""

import io
from pathlib import Path

import pytest

from layerscope.errors import UsageError
from layerscope.questions.opening import Wanted, open_source
from layerscope.questions.standard_input import keep_standard_input

LINES = b'{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}\n' * 2
ARRAY = b'[{"question": "g", "choices": ["a", "b", "c"], "answer": 0}]'


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize(("content", "count"), [(LINES, 2), (ARRAY, 1)])
def test_what_is_piped_in_is_there_for_the_run_that_goes_on(
    content: bytes, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing in the pipe, or the same again."""
    records = tmp_path / "out.jsonl"
    for again in (content, b"", content):
        pipe(monkeypatch, again)
        copy = keep_standard_input(records, overwrite=False)
        assert copy.read_bytes() == content
        assert len(open_source(Wanted(str(copy)))) == count
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl.questions.json"]


def test_other_questions_do_not_take_the_place_of_those_that_a_run_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = tmp_path / "out.jsonl"
    pipe(monkeypatch, b"")
    with pytest.raises(UsageError, match="there is nothing"):
        keep_standard_input(records, overwrite=False)
    pipe(monkeypatch, LINES)
    copy = keep_standard_input(records, overwrite=False)
    pipe(monkeypatch, ARRAY)
    with pytest.raises(UsageError, match="other questions"):
        keep_standard_input(records, overwrite=False)
    assert copy.read_bytes() == LINES
    pipe(monkeypatch, ARRAY)
    assert keep_standard_input(records, overwrite=True).read_bytes() == ARRAY
    assert len(list(tmp_path.iterdir())) == 1
