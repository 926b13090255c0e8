"""Features in columns of lists hold what the rows hold, in a tenth of the records' size, and are read back as rows."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import orjson
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import parquet

import layerscope
from layerscope.errors import LayerscopeError, UsageError
from layerscope.questions.sources import Question
from layerscope.records.line.lines import error_line
from layerscope.records.line.pieces import SolutionScore
from layerscope.tables import reading as reading_module
from layerscope.tables.export import export
from made_up import Features, identity, record_line, write_run

LAYERS, K, N = (3, 8), 100, 40
SCORES = SolutionScore(-3.0, 7, "a", last_word=2), SolutionScore(-4.0, 7, "b", last_word=4)
DICE = np.random.default_rng(0)


def features() -> Features:
    """As of a real SAE: ids all over, activations of a few tens, and sometimes fewer than `K`."""
    ids = DICE.permutation(16384)[: K if DICE.random() < 0.8 else int(DICE.integers(0, K))]
    activations = -np.sort(-DICE.lognormal(2, 1, len(ids)).astype(np.float32))
    return list(zip(ids.tolist(), activations.tolist(), strict=True))


def line(number: int, **others: Any) -> bytes:
    cells = {layer: (features(), features()) for layer in LAYERS}
    question = Question(number, f"goal {number}", "a b", "c d", number % 2)
    return record_line(question, SCORES, cells, others=dict.fromkeys(others.get("readings", ()), cells))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    lines = [error_line(n, "sol1 is empty").line if n == 5 else line(n) for n in range(N)]
    return write_run(tmp_path / "run.jsonl", lines, identity(LAYERS))


def lists_of(path: Path, **options: Any) -> Path:
    target = path.with_name("lists.parquet")
    export(path, target, overwrite=True, layout="lists", **options)
    return target


@pytest.mark.parametrize("groups", [1 << 14, 100])
def test_both_layouts_are_read_back_as_the_records_are(
    path: Path, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerscope.tables.export.LIST_ROWS", groups)
    whole, rows, lists = layerscope.read_features(path), path.with_name("rows.parquet"), lists_of(path)
    export(path, rows, overwrite=False)
    assert parquet.ParquetFile(lists).num_row_groups == (1 if groups > 1000 else 2)
    for exported in (rows, lists):
        assert layerscope.read_features(exported).equals(whole)
        some = layerscope.read_features(str(exported), layers=[8], top_k=3)
        assert some.equals(layerscope.read_features(path, layers=[8], top_k=3))
        assert layerscope.read_features([exported, exported]).num_rows == 2 * len(whole)
        with pytest.raises(UsageError, match="no layer 7; it has 3,8"):
            layerscope.read_features(exported, layers=[7, 8])
        with pytest.raises(UsageError, match="one dictionary's features"):
            layerscope.read_features(exported, dictionary="wide")


def test_a_row_is_a_list_and_those_without_features_are_there_too(path: Path) -> None:
    table = parquet.read_table(lists_of(path))
    assert table.num_rows == (N - 1) * 2 * len(LAYERS)
    assert table.schema.field("feature_id").type == pa.list_(pa.int32())
    record = orjson.loads(path.read_bytes().splitlines()[0])
    details = record["positive_solution_details"]
    first = table.slice(0, 1).to_pylist()[0]
    assert first["feature_id"] == [f["feature_id"] for f in details["active_features_by_layer"]["3"]]
    assert [np.float32(a) for a in first["activation"]] == [
        np.float32(f["activation"]) for f in details["active_features_by_layer"]["3"]
    ]
    assert first["active_feature_count"] == details["active_feature_count_by_layer"]["3"]
    assert parquet.read_table(lists_of(path).with_name("lists.questions.parquet")).num_rows == N


def test_they_are_a_tenth_of_the_records(path: Path) -> None:
    encodings = set(parquet.ParquetFile(lists_of(path)).metadata.row_group(0).column(3).encodings)
    assert "DELTA_BINARY_PACKED" in encodings
    assert lists_of(path).stat().st_size < path.stat().st_size / 10


def test_polars_and_duckdb_take_the_lists_apart(path: Path) -> None:
    target, whole = lists_of(path), layerscope.read_features(path)
    found = pl.read_parquet(target).explode("feature_id", "activation").drop_nulls("feature_id")
    assert found["feature_id"].to_list() == whole["feature_id"].to_pylist()
    sql = f"select unnest(feature_id) as id from '{target}'"
    assert [row[0] for row in duckdb.sql(sql).fetchall()] == whole["feature_id"].to_pylist()


@pytest.mark.parametrize("number", [N, 0])
def test_several_readings_and_none_at_all(number: int, tmp_path: Path) -> None:
    lines = [line(n, readings=("last-word", "max", "prompt")) for n in range(number)]
    path = write_run(tmp_path / "run.jsonl", lines, identity(LAYERS, readings="final,last-word,max,prompt"))
    whole = layerscope.read_features(path)
    assert layerscope.read_features(lists_of(path)).equals(whole)
    assert parquet.read_table(lists_of(path)).num_rows == number * 2 * len(LAYERS) * 4


def test_a_group_of_long_lists_is_bounded_in_bytes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_module, "GROUP_BYTES", 10_000)
    assert parquet.ParquetFile(lists_of(path)).num_row_groups > 5


def test_what_has_no_features_is_refused_in_two_lines(path: Path) -> None:
    for suffix in (".csv", ".json", ".jsonl.zst"):
        with pytest.raises(UsageError, match="columns of lists are Parquet's"):
            export(path, path.with_name(f"x{suffix}"), overwrite=False, layout="lists")
    questions = lists_of(path).with_name("lists.questions.parquet")
    broken = path.with_name("broken.parquet")
    broken.write_bytes(lists_of(path).read_bytes()[:500])
    for file, told, kind in (
        (questions, "has no features as `layerscope export` writes them", UsageError),
        (broken, "cannot be read as Parquet", LayerscopeError),
        (path.with_name("none.parquet"), "There is no file", UsageError),
    ):
        with pytest.raises(kind, match=told) as caught:
            layerscope.read_features(file)
        assert len(str(caught.value).splitlines()) <= 2
