"""What goes out is what the records say, value by value, in every format, from files whole, torn, growing or broken."""

import csv
import io
import re
import subprocess
import sys
import threading
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import orjson
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import layerscope
from conftest import Command
from layerscope.errors import LayerscopeError, UsageError
from layerscope.questions.sources import Question
from layerscope.records import progress
from layerscope.records.line.lines import error_line
from layerscope.records.line.pieces import SolutionScore
from layerscope.records.line.record import SOLUTIONS, parse
from layerscope.records.progress import shown
from layerscope.records.reading.run import RecordsFile
from layerscope.records.reading.stretches import read_lines
from layerscope.records.totals import Totals
from layerscope.tables import export as export_module
from layerscope.tables.columns import FEATURES, QUESTIONS
from layerscope.tables.export import export
from layerscope.tables.reading import RowGroups, read_records
from made_up import Features, identity, record_line, write_run

Json = dict[str, Any]

TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\x00\r\n",🧼\u2028'), max_size=8)
SOLUTION = TEXT.filter(bool)
FLOAT = st.floats(-3000, 0, width=32) | st.sampled_from([-1.5, *map(float, np.float32([-0.1, -1e-45]))])
SCORE = st.builds(SolutionScore, FLOAT, st.integers(1, 2000), TEXT, st.none(), st.just(0))
FEATURE = st.tuples(
    st.integers(0, 2**20 - 1), st.floats(0, width=32, exclude_min=True, allow_nan=False, allow_infinity=False)
)
FEATURE_LIST = st.lists(FEATURE, max_size=4, unique_by=lambda feature: feature[0]).map(
    lambda features: sorted(features, key=lambda feature: (-feature[1], feature[0]))
)
EXAMPLE_ID = st.integers(0, 2**31 - 1)


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[int], list[bytes]]:
    """The layers and the lines of a run."""
    layers = sorted(draw(st.sets(st.integers(0, 80), min_size=1, max_size=3)))
    lines = []
    for example_id in draw(st.lists(EXAMPLE_ID, max_size=5, unique=True)):
        if draw(st.integers(0, 3)) == 0:
            lines.append(error_line(example_id, draw(SOLUTION)).line)
            continue
        question = Question(example_id, draw(TEXT), draw(SOLUTION), draw(SOLUTION), draw(st.integers(0, 1)))
        features: dict[int, tuple[Features, Features]] = {
            layer: (draw(FEATURE_LIST), draw(FEATURE_LIST)) for layer in layers
        }
        lines.append(record_line(question, draw(st.tuples(SCORE, SCORE)), features, draw(st.integers(0, 9))))
    return layers, lines


def float32(value: float) -> float:
    return float(np.float32(value))


def records(layers: Sequence[int], features: Sequence[Json], questions: Sequence[Json]) -> list[Json]:
    """The records that two tables were made of: nothing of a record may be missing from them."""
    by_cell = defaultdict(list)
    for row in features:
        by_cell[row["example_id"], row["solution"], row["layer"]].append(row)
    found: list[Json] = []
    for row in questions:
        if row["error"] is not None:
            found.append(orjson.loads(error_line(row["example_id"], row["error"]).line))
            continue
        record = {name: row[name] for name in ("example_id", "question", "model_is_correct", "label")} | {"error": ""}
        for solution in SOLUTIONS:
            details = {
                name: row[f"{solution}_{name}"] for name in ("text", "log_likelihood", "token_count", "final_token")
            }
            cells = {str(layer): by_cell[row["example_id"], solution, layer] for layer in layers}
            details["active_features_by_layer"] = {
                layer: [{name: feature[name] for name in ("feature_id", "activation", "layer")} for feature in cell]
                for layer, cell in cells.items()
            }
            details["active_feature_count_by_layer"] = {
                layer: cell[0]["active_feature_count"] if cell else 0 for layer, cell in cells.items()
            }
            record[f"{solution}_solution_details"] = details
        found.append(record)
    return found


def written(lines: Sequence[bytes]) -> list[Json]:
    """The records of these lines, with the float32s that their decimals stand for."""
    found: list[Json] = [orjson.loads(line) for line in lines]
    for record in found:
        for solution in SOLUTIONS if not record["error"] else ():
            details = record[f"{solution}_solution_details"]
            details["log_likelihood"] = float32(details["log_likelihood"])
            for features in details["active_features_by_layer"].values():
                for feature in features:
                    feature["activation"] = float32(feature["activation"])
    return found


def distinct(lines: Sequence[bytes]) -> list[bytes]:
    """The first line of every example_id."""
    by_id: dict[int, bytes] = {}
    for line in lines:
        by_id.setdefault(orjson.loads(line)["example_id"], line)
    return list(by_id.values())


TIE = record_line(
    Question(3, "Öl ☃\n?", 'a "b", c\r\n', "éé", 1),
    (SolutionScore(-1.5, 2, "▁"), SolutionScore(-1.5, 1, "")),
    {0: ([(7, 5.81), (9, float32(0.1))], []), 25: ([], [(16383, 1e-45)])},
    unlisted=3,
)
CLEAR = record_line(
    Question(2**31 - 1, "", "soap ", "NULL", 0),
    (SolutionScore(-24.25, 7, " "), SolutionScore(-30.5, 2000, ",")),
    {0: ([(0, 16777216.0)], [(1, 2.5), (2, 2.5)]), 25: ([], [])},
)
SCORES = (SolutionScore(-3.0, 7, "a"), SolutionScore(-4.0, 7, "b"))
LINES = [CLEAR, error_line(40, "sol1 is empty").line, TIE]


def renumbered(lines: list[bytes]) -> bytes:
    """Each of another question."""
    return b"".join(re.sub(rb'"example_id":\d+', b'"example_id":%d' % each, line) for each, line in enumerate(lines))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a tie, a label 1, an error line, empty layers, all sorts of characters, and a torn last line."""
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"".join(LINES) + TIE[:50])
    return path


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export") / "run.jsonl"


@settings(max_examples=60, deadline=None)
@given(runs(), st.integers(0, 200))
@example(([0, 25], LINES), 100)
def test_the_tables_hold_what_the_records_hold(scratch: Path, run: tuple[list[int], list[bytes]], torn: int) -> None:
    layers, lines = run[0], distinct(run[1])
    scratch.write_bytes(b"".join(lines) + TIE[:torn])
    features, questions = layerscope.read_features(scratch), layerscope.read_questions(scratch)
    assert features.schema == FEATURES
    assert questions.schema == QUESTIONS
    assert records(layers, features.to_pylist(), questions.to_pylist()) == written(lines)

    target = scratch.with_name("tables.parquet")
    export(scratch, target, overwrite=True)
    assert parquet.read_table(target).equals(features)
    assert parquet.read_table(target.with_name("tables.questions.parquet")).equals(questions)


@settings(max_examples=40, deadline=None)
@given(runs())
@example(([0, 25], LINES))
def test_what_follows_from_a_record_is_as_the_summary_has_it(scratch: Path, run: tuple[list[int], list[bytes]]) -> None:
    lines = distinct(run[1])
    scratch.write_bytes(b"".join(lines))
    totals = Totals()
    for line in lines:
        totals.add_record(parse(line))
    rows = [row for row in layerscope.read_questions(scratch).to_pylist() if row["error"] is None]
    assert sum(row["model_is_correct"] for row in rows) == totals.correct
    assert sum(row["model_is_correct_per_character"] for row in rows) == totals.correct_per_character
    written = {record["example_id"]: record for record in map(orjson.loads, lines)}
    for row in rows:
        assert row["margin"] == float32(row["positive_log_likelihood"] - row["negative_log_likelihood"])
        # By float64, because a library that some other test loads may have float32's smallest numbers taken for zero.
        sides = (written[row["example_id"]][f"{side}_solution_details"] for side in ("positive", "negative"))
        positive, negative = (side["log_likelihood"] for side in sides)
        assert row["model_is_correct"] == (positive > negative or (positive == negative and row["label"] == 0))
    right = {row["example_id"]: row["model_is_correct"] for row in rows}
    ranks = defaultdict(list)
    for row in layerscope.read_features(scratch).to_pylist():
        assert row["correct"] == right[row["example_id"]]
        assert row["chosen"] == (row["correct"] == (row["solution"] == "positive"))
        ranks[row["example_id"], row["solution"], row["layer"]].append(row["rank"])
    assert all(found == list(range(1, len(found) + 1)) for found in ranks.values())


@settings(max_examples=40, deadline=None)
@given(runs(), st.integers(1, 3), st.randoms())
def test_a_selection_is_that_part_of_the_whole(
    scratch: Path, run: tuple[list[int], list[bytes]], top_k: int, random: Any
) -> None:
    layers, lines = run
    scratch.write_bytes(b"".join(lines))
    some = random.sample(layers, random.randint(1, len(layers)))
    whole = layerscope.read_features(scratch)
    part = [row for row in whole.to_pylist() if row["layer"] in some and row["rank"] <= top_k]
    assert layerscope.read_features(scratch, layers=some, top_k=top_k).to_pylist() == part


def test_a_selection_of_what_is_not_there_is_refused(path: Path) -> None:
    """An empty table would else be taken for layers in which nothing fires."""
    with pytest.raises(UsageError, match="no layer 8; it has 0, 25"):
        layerscope.read_features(path, layers=[8, 25])
    with pytest.raises(UsageError, match="top_k is 0"):
        layerscope.read_features(path, top_k=0)
    assert layerscope.read_features(path, layers=[]).num_rows == 0


def with_csv(target: Path) -> list[Json]:
    with target.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def with_polars(target: Path) -> list[Json]:
    frame = pl.read_csv(target) if target.suffix == ".csv" else pl.read_parquet(target)
    return frame.to_dicts()


def with_duckdb(target: Path) -> list[Json]:
    found = duckdb.sql(f"select * from '{target}'")
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


@pytest.mark.parametrize("read", [with_polars, with_duckdb])
def test_other_readers_of_parquet_read_the_same(read: Callable[[Path], list[Json]], path: Path) -> None:
    target = path.with_suffix(".parquet")
    export(path, target, overwrite=False)
    assert read(target) == layerscope.read_features(path).to_pylist()
    assert read(target.with_name("run.questions.parquet")) == layerscope.read_questions(path).to_pylist()


def test_csv_holds_the_same_in_decimals_that_give_the_numbers_back(path: Path) -> None:
    target = path.with_suffix(".csv")
    export(path, target, overwrite=False)

    def text(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)

    for file, table in (
        (target, layerscope.read_features(path)),
        (target.with_name("run.questions.csv"), layerscope.read_questions(path)),
    ):
        rows, expected = with_csv(file), table.to_pylist()
        assert len(rows) == len(expected) > 0
        for row, values in zip(rows, expected, strict=True):
            for name, value in values.items():
                if isinstance(value, float):
                    assert np.float32(row[name]) == np.float32(value)
                else:
                    assert row[name] == text(value)
    assert "5.81" in target.read_text(), "the record's decimal, not that of a double"
    features = layerscope.read_features(path).to_pylist()
    for read in (with_polars, with_duckdb):
        assert [row["feature_id"] for row in read(target)] == [row["feature_id"] for row in features]
        assert [float32(row["activation"]) for row in read(target)] == [row["activation"] for row in features]


def test_json_is_the_array_of_the_records(path: Path) -> None:
    target = path.with_name("array.json")
    export(path, target, overwrite=False)
    assert target.read_bytes() == b"[\n" + b",\n".join(line[:-1] for line in LINES) + b"\n]\n"


def test_an_empty_file_gives_empty_tables(path: Path) -> None:
    path.write_bytes(b"")
    for suffix in (".parquet", ".csv", ".json"):
        export(path, path.with_suffix(suffix), overwrite=False)
    assert parquet.read_table(path.with_suffix(".parquet")).schema == FEATURES
    assert with_csv(path.with_suffix(".csv")) == orjson.loads(path.with_suffix(".json").read_bytes()) == []


def test_a_file_that_grows_is_read_in_whole_lines(tmp_path: Path) -> None:
    """Half a line at the end, and then its other half: neither is a line, nor are both a broken one."""
    path = tmp_path / "growing.jsonl"
    lines = renumbered([TIE] * 100).splitlines(keepends=True)
    content, done = b"".join(lines), threading.Event()
    path.touch()

    def grow() -> None:
        with path.open("ab", buffering=0) as stream:
            for start in range(0, len(content), 7):
                stream.write(content[start : start + 7])
        done.set()

    writer = threading.Thread(target=grow)
    writer.start()
    finished = False
    while not finished:
        finished = done.is_set()
        found = list(read_lines(path))
        assert found == lines[: len(found)]
        assert layerscope.read_questions(path)["example_id"].to_pylist()[: len(found)] == list(range(len(found)))
    writer.join()
    assert layerscope.read_questions(path).num_rows == 100


def peak_bytes(call: Callable[[], object]) -> int:
    """The most that a call holds at once, of Python's memory and of Arrow's."""
    default, arrow = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(arrow)
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] + int(arrow.max_memory())
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(default)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "FEATURE_ROWS", 1000)
    monkeypatch.setattr(export_module, "QUESTION_ROWS", 10)
    features = [(feature_id, 200.0 - feature_id) for feature_id in range(100)]
    line = record_line(Question(0, "q", "a", "b", 0), SCORES, {8: (features, features)})
    peaks = []
    for number in (30, 300):
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(renumbered([line] * number))
        export(path, path.with_suffix(suffix), overwrite=False)  # what is imported and cached is not counted
        peaks.append(peak_bytes(lambda path=path: export(path, path.with_suffix(suffix), overwrite=True)))
    assert peaks[1] < 1.5 * peaks[0]


def test_row_groups_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers hold a row group at a time, and skip one by its statistics."""
    monkeypatch.setattr(export_module, "FEATURE_ROWS", 4)
    path.write_bytes(renumbered([CLEAR, TIE] * 20))
    export(path, path.with_suffix(".parquet"), overwrite=False)
    metadata = parquet.ParquetFile(path.with_suffix(".parquet")).metadata
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [6] * 20


def test_a_line_is_read_when_it_is_asked_for(path: Path) -> None:
    path.write_bytes(TIE + b"broken\n")
    lines = read_records(RecordsFile.open(path))
    assert next(lines) == (TIE, parse(TIE))
    with pytest.raises(LayerscopeError, match="line 2: "):
        next(lines)


def test_groups_are_given_on_when_they_are_full() -> None:
    taken: list[int] = []
    three = pa.RecordBatch.from_pydict({"x": [1, 2, 3]})
    with RowGroups(lambda table: taken.append(table.num_rows), rows=4) as groups:
        groups.add(three)
        assert taken == []
        groups.add(three)
        assert taken == [6]
        groups.add(three)
    assert taken == [6, 3]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json"])
def test_nothing_is_overwritten_unless_told_to(path: Path, suffix: str) -> None:
    targets = [path.with_suffix(suffix)] + [path.with_suffix(f".questions{suffix}")] * (suffix != ".json")
    for target in targets:
        target.write_text("precious")
        with pytest.raises(UsageError, match=f"{target.name} is there already"):
            export(path, targets[0], overwrite=False)
        assert target.read_text() == "precious"
        export(path, targets[0], overwrite=True)
        assert target.read_bytes() != b"precious"
        for made in targets:
            made.unlink()


def test_targets_that_cannot_be_meant_are_refused(path: Path) -> None:
    path = path.rename(path.with_suffix(".csv"))
    write_run(path, LINES, identity((0, 25)))
    (path.parent / "link.csv").symlink_to(path)
    (path.parent / "folder.csv").mkdir()
    before = path.read_bytes()
    for name, reason in (
        ("run.csv", "reads or writes already"),
        ("link.csv", "reads or writes already"),
        ("run.csv.manifest.json", "reads or writes already"),
        ("out.xlsx", "take .parquet, .csv, .json, .jsonl, .jsonl.zst or .jsonl.gz"),
        ("out", "take .parquet, .csv, .json, .jsonl, .jsonl.zst or .jsonl.gz"),
        ("folder.csv", "is a folder"),
        ("nowhere/out.csv", "no folder"),
    ):
        with pytest.raises(UsageError, match=reason):
            export(path, path.parent / name, overwrite=True)
    with pytest.raises(UsageError, match="no file"):
        export(path.with_name("none.jsonl"), path.with_name("out.csv"), overwrite=False)
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*out*"))


BROKEN = {
    "no JSON": TIE[:-40] + b"\n",
    "an array": b"[]\n",
    "a number": b"5\n",
    "no id": TIE.replace(b"example_id", b"example"),
    "an id that is too large": TIE.replace(b'"example_id":3', b'"example_id":%d' % 2**40),
    "a text for an activation": TIE.replace(b"5.81", b'"5.81"'),
    "a null for a text": TIE.replace('"éé"'.encode(), b"null"),
    "a layer without a name": TIE.replace(b'"25"', b'"last"'),
    "a count that is missing": TIE.replace(b'{"0":5,"25":0}', b'{"0":5}').replace(b'{"0":0,"25":4}', b'{"0":0}'),
    "a solution that is missing": TIE.replace(b"negative_solution", b"other"),
}


@pytest.mark.parametrize(
    ("suffix", "broken"),
    [(suffix, broken) for suffix in (".parquet", ".csv", ".json") for broken in BROKEN],
)
def test_a_broken_line_is_named_and_nothing_is_left(path: Path, broken: str, suffix: str) -> None:
    assert BROKEN[broken] != TIE
    path.write_bytes(CLEAR + BROKEN[broken] + CLEAR)
    target = path.with_suffix(suffix)
    target.write_text("precious")
    with pytest.raises(LayerscopeError, match="line 2: ") as caught:
        export(path, target, overwrite=True)
    assert str(caught.value).count("\n") == 1
    assert target.read_text() == "precious"
    assert sorted(file.name for file in path.parent.iterdir()) == sorted([path.name, target.name])


_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from layerscope.tables.export import export
from layerscope.errors import LayerscopeError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path, told = Path(sys.argv[1]), ""
for suffix in (".parquet", ".csv", ".json"):
    for room in (0, 1000, 20_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        try:
            export(path, path.with_suffix(suffix), overwrite=True)
        except LayerscopeError as error:
            told += f"{suffix} {room}: {error}\\n"
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
print(told, end="")
"""


def test_a_full_disk_is_two_lines_and_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    numbers = np.sort(np.random.default_rng(0).random(4000, dtype=np.float32))[::-1].tolist()
    features = list(enumerate(numbers))
    path.write_bytes(record_line(Question(0, "q", "a", "b", 0), SCORES, {8: (features, features)}))
    targets = [path.with_suffix(suffix) for suffix in (".parquet", ".csv", ".json")]
    for target in targets:
        target.write_text("precious")
    command = [sys.executable, "-W", "error", "-c", _FULL_DISK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("cannot be written: File too large") == 9
    assert len(done.stdout.splitlines()) == 2 * 9, done.stdout
    assert not done.stderr
    assert [target.read_text() for target in targets] == ["precious"] * 3
    assert sorted(tmp_path.iterdir()) == sorted([path, *targets])


def test_the_commands(layerscope: Command, path: Path) -> None:
    done = layerscope("export", path.name, "--to", "tables.parquet", cwd=path.parent)
    assert done.returncode == 0, done.stderr
    told = [line.split()[0] for line in done.stdout.splitlines()]
    assert told == ["tables.parquet", "tables.questions.parquet", "run.jsonl:"], (
        "the last says that there is no manifest"
    )
    assert not done.stderr
    done = layerscope("export", path.name, "--to", "x" * 300 + ".csv", cwd=path.parent)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_the_package_is_imported_quickly_and_its_functions_when_asked_for() -> None:
    """`layerscope --help` would else wait for pyarrow."""
    code = """
import sys, layerscope, layerscope.cli
assert "pyarrow" not in sys.modules and "numpy" not in sys.modules, "heavy"
from layerscope import read_features, read_questions
assert not {"torch", "ray", "scipy"} & set(sys.modules), "heavier"
assert not hasattr(layerscope, "read_everything")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_reading_is_shown(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    plain, terminal, file = io.StringIO(), Terminal(), RecordsFile.open(path)
    assert [[line for line, _ in shown(file.records(), file, stream)] for stream in (plain, terminal)] == [LINES, LINES]
    size = path.stat().st_size
    assert (
        plain.getvalue().splitlines()[-1]
        == f"run.jsonl: {len(b''.join(LINES)) / 1000:.1f} kB of {size / 1000:.1f} kB read"
    )
    assert "\r" in terminal.getvalue()
    assert "100%" not in plain.getvalue()


def test_a_spreadsheet_runs_nothing_of_a_csv(path: Path) -> None:
    """A question of a stranger, opened in a spreadsheet, is run as a formula."""
    runs, shown_as_it_is = ["=1+1", "+a", "-b", "@SUM(A1)", "\t=2", "\r\n=3", "＝4"], ["a=b", "'=5", ""]
    score = SolutionScore(-1.5, 2, "=")
    questions = [Question(number, text, "-a", "b", 0) for number, text in enumerate([*runs, *shown_as_it_is])]
    path.write_bytes(b"".join(record_line(question, (score, score), {1: ([], [])}) for question in questions))
    for suffix in (".csv", ".parquet"):
        export(path, path.with_suffix(suffix), overwrite=False)
    rows = with_csv(path.with_name("run.questions.csv"))
    assert [row["question"] for row in rows] == [*("'" + text for text in runs), *shown_as_it_is]
    assert {(row["positive_text"], row["positive_final_token"], row["margin"]) for row in rows} == {("'-a", "'=", "0")}
    assert {row["positive_log_likelihood"] for row in rows} == {"-1.5"}
    held = parquet.read_table(path.with_name("run.questions.parquet"))
    assert held.column("question").to_pylist() == [*runs, *shown_as_it_is]


# ---------------------------------------------------------------- several readings


@pytest.mark.parametrize("with_manifest", [False, True])
def test_rows_of_several_readings_say_which_and_where(tmp_path: Path, with_manifest: bool) -> None:
    """Without the column a feature would be counted once for every reading."""
    others: dict[str, dict[int, tuple[Features, Features]]] = {
        "last-word": {3: ([(1, 2.5)], [])},
        "max": {3: ([(5, 3.5), (1, 2.5)], [(4, 0.25)])},
        "prompt": {3: ([(2, 0.5)], [(2, 0.5)])},
    }
    scores = (SCORES[0]._replace(last_word=3), SCORES[1]._replace(last_word=6))
    line = record_line(Question(7, "goal", "a", "b", 0), scores, {3: ([(1, 2.0)], [])}, others=others)
    lines = [error_line(6, "sol1 is empty").line, line]
    path = tmp_path / "run.jsonl"
    if with_manifest:
        write_run(path, lines, identity((3,), readings="final,last-word,max,prompt"))
    else:
        path.write_bytes(b"".join(lines))
    table = layerscope.read_features(path)
    names = ("solution", "reading", "rank", "feature_id", "token", "token_count")
    found = [tuple(row[name] for name in names) for row in table.to_pylist()]
    assert found == [
        ("positive", "final", 1, 1, 6, None),
        ("positive", "last-word", 1, 1, 3, None),
        ("positive", "max", 1, 5, 5, 1),
        ("positive", "max", 2, 1, 1, 1),
        ("positive", "prompt", 1, 2, None, None),
        ("negative", "max", 1, 4, 4, 1),
        ("negative", "prompt", 1, 2, None, None),
    ]
    assert table.schema.names == [*FEATURES.names, "reading", "token", "token_count"]
    export(path, tmp_path / "tables.parquet", overwrite=False)
    assert parquet.read_table(tmp_path / "tables.parquet").equals(table)
    export(path, tmp_path / "tables.csv", overwrite=False)
    assert (tmp_path / "tables.csv").read_text().splitlines()[0].endswith('"reading","token","token_count"')
