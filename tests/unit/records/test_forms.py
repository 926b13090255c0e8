"""The form of a line: libraries that guess a schema see every line and message, and files of the first form go on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import duckdb
import pandas
import polars
import pyarrow
import pyarrow.dataset
import pyarrow.json
import pytest

import layerscope
from layerscope.questions.sources import Question
from layerscope.records.line.lines import error_line
from layerscope.records.line.pieces import SolutionScore
from layerscope.records.manifest.manifest import FORMAT, read_manifest
from layerscope.records.reading.run import Run
from layerscope.records.reading.stretches import read_lines
from layerscope.records.verify import verify
from layerscope.records.writing.journal import open_journal
from layerscope.records.writing.replacing import Replacement
from made_up import record_line
from paths import DATA

BEHIND = 21_000  # duckdb looks at 20,480 lines, polars at 100, datasets at 10 MiB, pyarrow at 1 MiB
REASONS = {BEHIND: "sol1 is empty", BEHIND + 500: "non-finite activation"}
N = BEHIND + 501


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records whose first error lines come behind all that a reader looks at before it settles on a schema."""
    scores = SolutionScore(-1.5, 2, "a"), SolutionScore(-2.5, 2, "b")
    question = Question(4711, "goal " * 40, "a", "b", 0)
    scored = record_line(question, scores, {3: ([(1, 2.5)], [(2, 0.5), (7, 0.25)])})
    path = tmp_path_factory.mktemp("late") / "late.jsonl"
    with path.open("wb") as stream:
        for number in range(N):
            reason = REASONS.get(number)
            stream.write(error_line(number, reason).line if reason else scored.replace(b"4711", b"%d" % number))
    assert path.stat().st_size > 11 << 20
    return path


def _by_datasets(path: Path) -> tuple[int, list[str]]:
    found = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(path.parent))
    return len(found), [text for text in found["error"] if text]


def _by_datasets_as_a_stream(path: Path) -> tuple[int, list[str]]:
    lines = datasets.load_dataset("json", data_files=str(path), split="train", streaming=True)
    found = [text for table in lines.with_format("arrow").iter(1000) for text in table["error"].to_pylist()]
    return len(found), [text for text in found if text]


def _by_polars(path: Path) -> tuple[int, list[str]]:
    found = polars.read_ndjson(path)
    return len(found), found.filter(polars.col("error") != "")["error"].to_list()


def _by_duckdb(path: Path) -> tuple[int, list[str]]:
    found = duckdb.sql(f"select error from read_json('{path}')").fetchall()
    return len(found), [text for (text,) in found if text]


def _by_pandas(path: Path) -> tuple[int, list[str]]:
    found = pandas.read_json(path, lines=True)
    return len(found), found["error"][found["error"] != ""].to_list()


def _of_arrow(table: pyarrow.Table) -> tuple[int, list[str]]:
    return len(table), [text for text in table["error"].to_pylist() if text]


READERS: dict[str, Callable[[Path], tuple[int, list[str]]]] = {
    "datasets": _by_datasets,
    "datasets, streaming": _by_datasets_as_a_stream,
    "polars": _by_polars,
    "duckdb": _by_duckdb,
    "pandas": _by_pandas,
    "pyarrow.json": lambda path: _of_arrow(pyarrow.json.read_json(path)),
    "pyarrow.json, streaming": lambda path: _of_arrow(pyarrow.json.open_json(path).read_all()),
    "pyarrow.dataset": lambda path: _of_arrow(pyarrow.dataset.dataset(path, format="json").to_table()),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.filterwarnings("ignore")  # of these libraries, at each other
def test_a_reader_sees_every_line_and_the_message_of_the_last_ones(reader: str, late: Path) -> None:
    assert READERS[reader](late) == (N, list(REASONS.values()))


# ---------------------------------------------------------------- files of the first form, of version 0.1.0


@pytest.fixture
def first(tmp_path: Path) -> Path:
    for name in ("first_form.jsonl", "first_form.jsonl.manifest.json"):
        shutil.copy(DATA / name, tmp_path)
    return tmp_path / "first_form.jsonl"


def test_a_file_of_the_first_form_is_read_and_verified(first: Path) -> None:
    assert read_manifest(first).format == 1 < FORMAT
    assert "4 of 4 lines" in verify(first)
    assert layerscope.read_questions(first)["error"].to_pylist() == [None, None, None, "sol1 is empty"]


@pytest.mark.parametrize("there", range(5))
def test_an_unfinished_file_of_the_first_form_goes_on_in_it(there: int, first: Path) -> None:
    whole = first.read_bytes()
    lines = list(read_lines(first))
    now = [_in_todays_form(line) for line in lines]
    manifest = read_manifest(first)
    first.write_bytes(b"".join(lines[:there]) + b'{"exam')
    with open_journal(first, manifest.identity, manifest.about, overwrite=False) as journal:
        journal.recover(lambda _: None)
        journal.append(now[there:])
        if there:
            journal.rewrite([Replacement(0, now[0])])
    assert first.read_bytes() == whole
    assert read_manifest(first).format == 1
    assert len(list(Run.open(first).records())) == 4


def test_overwritten_it_begins_in_todays_form(first: Path) -> None:
    manifest, lines = read_manifest(first), [_in_todays_form(line) for line in read_lines(first)]
    with open_journal(first, manifest.identity, manifest.about, overwrite=True) as journal:
        journal.append(lines)
    assert first.read_bytes() == b"".join(lines)
    assert read_manifest(first).format == FORMAT


def _in_todays_form(line: bytes) -> bytes:
    if b'"label":' not in line:
        return error_line(1, "sol1 is empty").line
    return line.removesuffix(b"}\n") + b',"error":""}\n'
