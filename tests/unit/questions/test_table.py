"""Questions of a table are those of the same file of JSON lines: planned alike, read in any order, held on the disk."""

import csv
import errno
import gzip
import json
import pickle
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from layerscope.errors import LayerscopeError
from layerscope.hub import cache
from layerscope.questions import kept_plans, measuring
from layerscope.questions.kept_plans import kept_plan
from layerscope.questions.opening import Wanted
from layerscope.questions.pairs import PairTokenizer
from layerscope.questions.plan import Plan, make_plan
from layerscope.questions.selection import Selection, select_questions
from layerscope.questions.table import QuestionTable
from layerscope.standin import standin_folder

N = 100
WORDS = ["take", "the", "soap", "and", "put", "it", "ін", "a", 'new\nline"', "near", "water"]
ROWS = [
    {"goal": " ".join(WORDS[: 1 + i % 11]), "sol1": "eat it", "sol2": f"rub {i}", "label": i % 2, "note": f"n{i % 3}"}
    for i in range(N)
]


def as_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def as_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def as_packed(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


TABLES = {"q.csv": as_csv, "q.parquet": as_parquet, "q.jsonl.gz": as_packed}


@pytest.fixture
def lines(tmp_path: Path) -> Selection:
    as_lines(tmp_path / "q.jsonl", ROWS)
    return select_questions(Wanted(str(tmp_path / "q.jsonl"), metadata=("note",)))[0]


@pytest.fixture(params=TABLES)
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Selection:
    TABLES[request.param](tmp_path / request.param, ROWS)
    return select_questions(Wanted(str(tmp_path / request.param), metadata=("note",)))[0]


@pytest.fixture
def tokenizer() -> PairTokenizer:
    return PairTokenizer(standin_folder() / "model" / "tokenizer.json", 8192)


def test_it_holds_the_questions_of_the_lines(table: Selection, lines: Selection) -> None:
    assert isinstance(table.source, QuestionTable)
    assert list(table) == list(lines)
    order = np.random.default_rng(0).permutation(N)
    assert list(table.read(order)) == [lines[number] for number in order]


def test_processes_make_the_plan_of_the_lines(
    table: Selection, lines: Selection, tokenizer: PairTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "FEW", 25)
    assert make_plan(table, tokenizer, 60, processes=3).digest == make_plan(lines, tokenizer, 60).digest


def test_elsewhere_it_has_its_texts(table: Selection) -> None:
    questions, travelled = list(table), pickle.dumps(table)
    del table
    assert list(pickle.loads(travelled)) == questions


def test_its_plan_is_made_once(
    table: Selection, tokenizer: PairTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr(kept_plans, "FEW", 10)
    made = list[Plan]()

    def plan_of(selection: Selection) -> Plan:
        def make() -> Plan:
            made.append(make_plan(selection, tokenizer, 60))
            return made[-1]

        return kept_plan(selection, tokenizer, 60, True, make)

    first = plan_of(table)
    assert plan_of(table).digest == first.digest
    assert len(made) == 1
    for change in ({"sol2": "rob"}, {"label": 1}, {"note": "other"}):
        as_csv(tmp_path / "other.csv", [*ROWS[:-2], {**ROWS[-2], **change}, ROWS[-1]])
        plan_of(select_questions(Wanted(str(tmp_path / "other.csv"), metadata=("note",)))[0])
    assert len({plan.digest for plan in made}) == len(made) == 4


def test_memory_does_not_hold_its_texts() -> None:
    text = "x" * 1000

    def rows(count: int) -> Iterator[tuple[str, object]]:
        for number in range(count):
            yield f"row {number}", {"goal": text, "sol1": f"{number}", "sol2": text, "label": 0}

    tracemalloc.start()
    try:
        source = QuestionTable(rows(10_000), "rows", {})
        assert source[9_999].sol1 == "9999"
        assert tracemalloc.get_traced_memory()[1] < 2 << 20  # of 20 MB of texts
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("write", [as_csv, as_parquet])
def test_no_room_for_the_copy_is_told(
    write: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ("q.csv" if write is as_csv else "q.parquet")
    write(path, ROWS)
    full = tempfile.TemporaryFile

    class Full:
        def __init__(self) -> None:
            self._file = full()
            self.close, self.fileno = self._file.close, self._file.fileno

        def write(self, _: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(LayerscopeError, match=r"cannot be copied: No space left on device\.\n.*TMPDIR"):
        select_questions(Wanted(str(path)))
