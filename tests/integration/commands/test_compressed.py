"""Compressed lines through the whole tool, with the actors in this process: run, stop, go on, read, retry."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import json as arrow_json

from conftest import Command, actors_here, called, words
from layerscope import read_features, read_questions, read_residuals
from layerscope.records.reading.run import Run
from layerscope.records.reading.stretches import read_stretches

METHODS = (".zst", ".gz")
KEPT = ("--residuals", "float16")  # which change no line


def texts(path: Path) -> bytes:
    return b"".join(stretch.text for stretch in read_stretches(path))


@pytest.fixture(scope="module")
def finished(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """The finished file of an undisturbed run, by the suffix of its name."""
    folder, made = tmp_path_factory.mktemp("finished"), dict[str, Path]()
    with actors_here():

        def run(suffix: str) -> Path:
            if suffix not in made:
                made[suffix] = folder / f"out.jsonl{suffix}"
                done = called("run", *words(settings), *KEPT, "--output-file", str(made[suffix]))
                assert done.returncode == 0, done.stderr
            return made[suffix]

        yield run


@pytest.mark.parametrize("suffix", METHODS[:1])
def test_the_lines_are_the_plain_files_and_a_torn_file_with_residuals_is_finished_to_the_same_bytes_by_another_crew(
    suffix: str,
    finished: Callable[[str], Path],
    settings: dict[str, str],
    expected: bytes,
    command: Command,
    one_process: Callable[[str], None],
    tmp_path: Path,
) -> None:
    one_process("")
    whole = finished(suffix)
    assert texts(whole) == expected
    raw = whole.read_bytes()
    ends = np.cumsum([0, *(stretch.size for stretch in read_stretches(whole))])
    assert len(ends) - 1 == len(Run.open(whole).manifest.about.batch_ends) > 5
    path = shutil.copytree(whole.parent, tmp_path / "torn") / whole.name
    path.write_bytes(raw[: (ends[3] + ends[4]) // 2])
    run = ["run", *words({**settings, "gemma_actors": "2", "layer_blocks": "2"}), *KEPT, "--output-file", path.name]
    done = command(*run, cwd=path.parent)
    assert done.returncode == 0, done.stderr
    assert f"Going on after {Run.open(whole).manifest.about.batch_ends[2]} of 60" in done.stderr
    assert path.read_bytes() == raw
    np.testing.assert_array_equal(read_residuals(path, 1), read_residuals(whole, 1))


def ids(lines: bytes) -> list[int]:
    return [json.loads(line)["example_id"] for line in lines.splitlines()]


def _by_pyarrow(path: str) -> list[int]:
    only = arrow_json.ParseOptions(pa.schema([("example_id", pa.int64())]), unexpected_field_behavior="ignore")
    found: list[int] = arrow_json.read_json(path, parse_options=only)["example_id"].to_pylist()
    return found


def _by_datasets(path: str) -> list[int]:
    """As text: in a layer where nothing fires in the first lines it stumbles over features, compressed or not."""
    rows = datasets.load_dataset("text", data_files=path, split="train", streaming=True)
    return [json.loads(row["text"])["example_id"] for row in rows]


READERS: dict[str, Callable[[str], list[int]]] = {
    "polars": lambda path: pl.read_ndjson(path, infer_schema_length=None)["example_id"].to_list(),
    "duckdb": lambda path: [row[0] for row in duckdb.sql(f"select example_id from read_json('{path}')").fetchall()],
    "pandas": lambda path: pd.read_json(path, lines=True)["example_id"].tolist(),
    "pyarrow": _by_pyarrow,
    "datasets": _by_datasets,
}


@pytest.mark.parametrize("suffix", METHODS)
@pytest.mark.parametrize("reader", READERS)
def test_whatever_reads_such_files_reads_every_frame(
    reader: str, suffix: str, finished: Callable[[str], Path], expected: bytes
) -> None:
    assert READERS[reader](str(finished(suffix))) == ids(expected)


@pytest.mark.parametrize(("program", "suffix"), [("zstdcat", ".zst"), ("zcat", ".gz")])
def test_the_programs_of_each_format_unpack_every_frame(
    program: str, suffix: str, finished: Callable[[str], Path], expected: bytes
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not on this machine")
    assert subprocess.run([program, finished(suffix)], capture_output=True, check=True).stdout == expected


@pytest.mark.parametrize(("program", "suffix"), [("zstd", ".zst"), ("gzip", ".gz")])
@pytest.mark.parametrize("more", ['{"mine": 1}\n', "no line", ""])
def test_what_another_tool_appends_is_named_with_the_command_that_cuts_it_off(
    program: str, suffix: str, more: str, finished: Callable[[str], Path], command: Command, tmp_path: Path
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not on this machine")
    before = finished(suffix).read_bytes()
    path = shutil.copytree(finished(suffix).parent, tmp_path / "run") / finished(suffix).name
    (tmp_path / "mine").write_text(more)
    subprocess.run(f"{program} -c mine >> {path}", shell=True, cwd=tmp_path, check=True)
    after = path.read_bytes()
    assert after[: len(before)] == before
    assert len(after) > len(before)
    for words_of in (["verify"], ["status"], ["export", "--to", "x.jsonl"]):
        refused = command(words_of[0], str(path), *words_of[1:], cwd=tmp_path)
        assert refused.returncode == 1
        assert f"{path}, line 61" in refused.stderr
        told, _, advised = refused.stderr.strip().rpartition("keep that alone with: ")
        assert len(told.splitlines()) == 2
        assert path.read_bytes() == after
    subprocess.run(advised, shell=True, check=True)
    assert path.read_bytes() == before
    assert command("verify", str(path), cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("suffix", METHODS)
def test_the_commands_read_it_as_they_read_the_plain_lines(
    suffix: str, finished: Callable[[str], Path], expected: bytes, command: Command, tmp_path: Path
) -> None:
    path, plain = finished(suffix), tmp_path / "plain.jsonl"
    plain.write_bytes(expected)
    assert read_features(path).equals(read_features(plain))
    assert read_questions(path).equals(read_questions(plain))
    for words_of in (
        ["status"],
        ["verify"],
        ["compare", str(plain)],
        ["compare", str(path)],
        ["report", "--to", "x.html"],
    ):
        done = command(words_of[0], str(path), *words_of[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert command("compare", str(plain), str(path), cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("suffix", METHODS)
def test_export_makes_each_form_of_each_other_to_the_bytes_that_a_run_writes(
    suffix: str, finished: Callable[[str], Path], expected: bytes, command: Command, tmp_path: Path
) -> None:
    done = command("export", str(finished(suffix)), "--to", "x.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.jsonl").read_bytes() == expected
    assert "60 of 60 lines, all whole" in command("verify", "x.jsonl", cwd=tmp_path).stdout
    for other in METHODS:
        assert command("export", "x.jsonl", "--to", f"x.jsonl{other}", cwd=tmp_path).returncode == 0
        assert (tmp_path / f"x.jsonl{other}").read_bytes() == finished(other).read_bytes()
