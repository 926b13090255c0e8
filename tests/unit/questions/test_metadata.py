"""Other columns of question files: which are kept, and how they become JSON."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from layerscope.config import parse_metadata
from layerscope.errors import UsageError
from layerscope.questions.opening import Wanted, open_source
from layerscope.questions.pairs import PairTokenizer
from layerscope.questions.plan import make_plan
from layerscope.questions.selection import select_questions

ROWS = [
    {"goal": "g", "sol1": "a", "sol2": "b", "label": 0, "id": 7, "kind": "é", "of": {"x": [1, None]}},
    {"goal": "h", "sol1": "a", "sol2": "b", "label": 1, "id": 8},
]


def metadata(path: Path, asked: str) -> list[Any]:
    source = open_source(Wanted(str(path), metadata=parse_metadata(asked)))
    return [json.loads(source[index].metadata or b"null") for index in range(len(source))]


@pytest.fixture(params=["q.jsonl", "q.json"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    lines = [json.dumps(row) for row in ROWS]
    (tmp_path / request.param).write_text(f"[{','.join(lines)}]" if request.param == "q.json" else "\n".join(lines))
    return tmp_path / str(request.param)


def test_columns_that_are_asked_for_are_kept(path: Path) -> None:
    """In every row, so that all lines have the same keys where they are named."""
    assert metadata(path, "none") == [None, None]
    assert metadata(path, "kind,id") == [{"kind": "é", "id": 7}, {"kind": None, "id": 8}]
    assert metadata(path, "all") == [{"id": 7, "kind": "é", "of": {"x": [1, None]}}, {"id": 8}]


def test_a_column_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(UsageError, match=r"no column nid, which --metadata names\. Its other columns: id, kind, of"):
        metadata(path, "id,nid")
    for wrong in ("", "a,,b", "a,a"):
        with pytest.raises(UsageError, match="--metadata"):
            parse_metadata(wrong)


def test_around_a_document_and_inside_it(tmp_path: Path) -> None:
    """lm-eval's logs keep the row within the sample."""
    row = {"doc_id": 3, "doc": {k: v for k, v in ROWS[0].items() if k != "kind"}, "arguments": []}
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    assert metadata(tmp_path / "q.jsonl", "doc_id,id") == [{"doc_id": 3, "id": 7}]


def test_what_json_does_not_know_is_told_in_text_or_null(tmp_path: Path) -> None:
    row = {**ROWS[0], "when": pa.scalar(0, pa.date32()).as_py(), "far": float("inf"), "of": None}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "q.parquet")
    assert metadata(tmp_path / "q.parquet", "when,far") == [{"when": "1970-01-01", "far": None}]


def test_metadata_that_was_changed_is_another_plan(path: Path, tiny: Path) -> None:
    """Its bytes are in the file: a run must not go on with others."""
    tokenizer = PairTokenizer(tiny / "model" / "tokenizer.json", 8192)

    def digest(asked: str) -> str:
        selection, _ = select_questions(Wanted(str(path), metadata=parse_metadata(asked)))
        return make_plan(selection, tokenizer, 100).digest

    before = digest("id")
    assert digest("none") != before
    path.write_text(path.read_text().replace("7", "9"))
    assert digest("id") != before
