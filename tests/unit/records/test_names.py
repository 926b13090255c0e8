"""A file of a run is read under whatever name it has, by every function, and a home is found."""

import os
from pathlib import Path

import orjson
import pytest

from layerscope import read_features, read_questions
from layerscope.records.line.lines import error_line
from layerscope.records.status import as_json, as_text, status
from layerscope.records.verify import verify
from made_up import identity, note_lines, write_run

NAMES = [b"two words.jsonl", b"it's.jsonl", b"-o.jsonl", b"\xfc\xff.jsonl", b"[*].jsonl", b"x" * 200 + b".jsonl"]


@pytest.mark.parametrize("home", [True, False], ids=["by its home", "by its own name"])
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_whatever_a_file_is_called_it_is_read(
    name: bytes, home: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    lines = [error_line(index, "empty").line for index in (1, 0)]
    note_lines(write_run(tmp_path / os.fsdecode(name), lines, identity((0,))))
    path = Path("~" if home else ".", os.fsdecode(name))
    assert "2 of 2 lines" in verify(path)
    assert orjson.loads(as_json(status(path)))["done"] == 2
    assert "2 of 2 questions" in as_text(status(path))
    assert read_questions(path).num_rows == 2
    assert read_features(os.fspath(path)).num_rows == 0
