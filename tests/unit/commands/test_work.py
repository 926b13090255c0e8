"""What a run does with the lines that are computed, however it ends; the actors are a generator here."""

import errno
import io
import json
import os
import shlex
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerscope.commands.saying import command_line
from layerscope.engine.batches.lines import BatchLines, Line
from layerscope.engine.work import Work
from layerscope.errors import LayerscopeError
from layerscope.questions.plan import Plan
from layerscope.records.line.lines import error_line
from layerscope.records.manifest.fingerprints import Fingerprint, Fingerprints
from layerscope.records.manifest.manifest import read_manifest
from layerscope.records.progress import Progress
from layerscope.records.totals import Totals
from layerscope.records.writing.journal import Journal, open_journal
from layerscope.records.writing.residual_files import ResidualRows
from made_up import about, identity, typed

STARTS = (0, 2, 3, 6)
PLAN = Plan(np.arange(6), np.array(STARTS), 0, 0, 0, "")
NOTED = {"EPYC": Fingerprint(digests={"model": "1"}, circumstances={})}


def line(number: int, reason: str) -> bytes:
    return error_line(number, reason).line


def computed(batches: Sequence[int], reason: str, halved: Sequence[int], closed: list[int]) -> Generator[BatchLines]:
    """The lines of some batches; notes when it is closed."""
    try:
        for batch in batches:
            lines = [Line([line(number, reason)], None) for number in range(STARTS[batch], STARTS[batch + 1])]
            yield BatchLines.of(batch, lines, batch in halved, 1)
    finally:
        closed.append(1)


def opened(path: Path) -> Journal:
    return open_journal(path, *typed(identity((0,), questions=6), about((0,), range(6))), overwrite=False)


def work(file: Journal, reason: str, halved: Sequence[int], closed: list[int], stop_after: int = 9) -> Work:
    progress = Progress(6, Totals(), io.StringIO())
    return Work(
        PLAN, file, progress, Fingerprints(NOTED), lambda b: computed(list(b)[:stop_after], reason, halved, closed)
    )


def test_a_retry_that_is_stopped_replaces_what_was_computed_and_says_what_is_left(tmp_path: Path) -> None:
    """Else the run would end as if all had been done; and which batches were halved is remembered of a retry too."""
    path, closed = tmp_path / "out.jsonl", list[int]()
    with opened(path) as file:
        work(file, "first", [2], closed).go_on()
        assert work(file, "second", [0, 2], closed, stop_after=1).retry([1, 2, 5]) == 2
        assert path.read_bytes() == b"".join(line(n, "second" if n == 1 else "first") for n in range(6))
        assert work(file, "third", [0], closed, stop_after=0).retry([1]) == 1
        assert work(file, "third", [0], closed).retry([2, 3]) == 0
    assert path.read_bytes() == b"".join(
        line(n, {1: "second", 2: "third", 3: "third"}.get(n, "first")) for n in range(6)
    )
    assert read_manifest(path).halved_batches == [2, 0]
    assert len(closed) == 4


def test_how_lines_were_computed_is_on_the_disk_before_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed when its lines are written and nothing else: here its disk fails at that moment."""

    def broken(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path, closed = tmp_path / "out.jsonl", list[int]()
    with opened(path) as file, monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(LayerscopeError, match="cannot be written"):
            work(file, "x", [0], closed).go_on()
        assert closed, "the actors are ended while Ray is there: a later call would start another Ray"
    manifest = read_manifest(path)
    assert manifest.halved_batches == [0]
    assert manifest.fingerprints == NOTED


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ({}, []),
        ({"_ray_commit": "abc", "env_vars": {}}, []),
        ({"working_dir": "gcs://_ray_pkg_1.zip"}, ["--working-dir", "THE_SAME_FOLDER"]),
        ({"working_dir": "gcs://_ray_pkg_1.zip", "pip": {"packages": ["."]}}, ["--runtime-env", "THE_SAME.yaml"]),
        ({"env_vars": {"HF_TOKEN": "secret"}}, ["--runtime-env", "THE_SAME.yaml"]),
    ],
)
def test_the_command_to_go_on_of_a_ray_job_brings_its_environment(
    environment: dict[str, Any], options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that goes on without it would not find layerscope on the nodes."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": environment, "metadata": {}}))
    monkeypatch.setattr(sys, "argv", ["/bin/layerscope", "run", "--overwrite", "--output-file", "/shared/x.jsonl"])
    rest = ["--", "layerscope", "run", "--output-file", "/shared/x.jsonl"]
    assert shlex.split(command_line()) == ["ray", "job", "submit", *options, *rest]


def test_a_run_and_a_retry_write_the_residuals_of_the_right_lines_and_name_what_is_beyond_their_format(
    tmp_path: Path,
) -> None:
    """From the middle of a batch on too, where the lines before are there."""
    parts = typed(identity((0,), questions=6, residuals="float16"), about((0,), range(6), d_model=1))
    numbers, path = np.arange(12, dtype=np.float16).reshape(1, 12, 1), tmp_path / "out.jsonl"

    def rows_of(first: int, last: int, errors: Sequence[int] = ()) -> ResidualRows:
        lists = [None if n in errors else (2 * n, 2 * n + 1) for n in range(first, last)]
        return ResidualRows(list(numbers), lists, clamped=first == 3)

    def results(batches: Sequence[int], errors: Sequence[int]) -> Generator[BatchLines]:
        for batch in batches:
            ends = STARTS[batch], STARTS[batch + 1]
            lines = [Line([line(number, "x")], None) for number in range(*ends)]
            yield BatchLines.of(batch, lines, False, 1, rows_of(*ends, errors))

    def run(file: Journal, *errors: int) -> Work:
        progress = Progress(6, Totals(), io.StringIO())
        return Work(PLAN, file, progress, Fingerprints(NOTED), lambda batches: results(batches, errors))

    with open_journal(path, *parts, overwrite=False) as file:
        file.append([line(number, "x") for number in range(4)], rows_of(0, 4, [1]))
        run(file, 1, 5).go_on()
        run(file, 5).retry([1, 5])
    found = np.load(tmp_path / "out.jsonl.residuals" / "layer_00.npy")
    assert np.nan_to_num(found, nan=-1).reshape(6, 2).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [-1, -1]]
    assert read_manifest(path).clamped_batches == [2]
