"""The simulation of a cluster, small: it survives its own deaths, and a wrong file does not pass for a right one."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from simulation.answers import Answers, write_answers
from simulation.checking import check
from simulation.options import parse
from simulation.workload import first_rows, make_frame, make_job, manifest

from layerscope.planning.node import Gpu, Node
from layerscope.planning.shares import part_of, share_of
from layerscope.records.line.lines import join_record
from layerscope.records.verify import verify
from layerscope.records.writing.journal import open_journal
from paths import ROOT

SCRIPT = ROOT / "scripts" / "simulate_cluster.py"
SMALL = {"actors": 3, "gpus-per-node": 2, "questions-per-second-per-gpu": 20, "seconds": 2, "top-k": 5}
DISTURBED = {"batch-tokens": 200, "deaths": 0.1, "stragglers": 0.4, "late": 0.5, "seed": 1}


def words(options: dict[str, Any]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def simulated(options: dict[str, Any], *more: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SCRIPT), *words(options), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.nightly
def test_every_line_is_written_in_order_under_deaths_stragglers_and_a_late_node(tmp_path: Path) -> None:
    """The script compares every line with the plain functions' and stops where one differs."""
    report = tmp_path / "report.json"
    done = simulated(SMALL | DISTURBED | {"folder": tmp_path, "json": report})
    (run,) = json.loads(report.read_text(encoding="utf-8"))["runs"]
    assert (run["gemma_actors"], run["questions"], run["nodes"]) == (3, 120, 2)
    assert run["deaths"] > 0
    assert run["actors_lost"] >= run["deaths"]
    assert run["ideal"] == 60
    assert 0 < run["questions"] / run["wall"] < run["ideal"]
    assert run["ray_cpu"] < run["cpu"] < run["wall"]
    assert 0 < run["write_cpu"] < run["wall"]
    assert 0 <= run["head_of_line_mean"] < run["head_of_line_max"]
    assert run["bytes"] / run["questions"] > 26 * 2 * 5 * 40  # layers, solutions, features, bytes of one
    assert "derived questions/s" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.nightly
def test_parts_of_writers_that_were_killed_are_gone_on_with(tmp_path: Path) -> None:
    """Every line of every part is compared."""
    report = tmp_path / "report.json"
    more = {"actors": 4, "writers": 2, "seconds": 4, "folder": tmp_path, "json": report}
    done = simulated(SMALL | DISTURBED | more, "--compressed")
    (run,) = json.loads(report.read_text(encoding="utf-8"))["runs"]
    assert "The writer of part" in done.stderr
    assert run["writers"] == 2
    assert 0 < run["head_bytes"] < run["bytes"] / 10
    assert 0 < run["head_cpu"] < run["wall"]


@pytest.mark.nightly
def test_a_slow_disk_slows_the_actors_and_fills_no_store(tmp_path: Path) -> None:
    """What all actors of two writers have begun would be more than the store holds."""
    report = tmp_path / "report.json"
    slow = {"slow-disk": 0.2, "store-megabytes": 100, "gigabytes": 0.4, "batch-tokens": 1000, "top-k": 100}
    more = {"actors": 4, "writers": 2, "gpus-per-node": 6, "questions-per-second-per-gpu": 1000}
    simulated(SMALL | slow | more | {"folder": tmp_path, "json": report}, "--one-node")
    (run,) = json.loads(report.read_text(encoding="utf-8"))["runs"]
    assert run["bytes"] > 3 * 100e6
    assert run["disk_wait"] > 0.2 * run["batches"]
    assert run["questions"] / run["wall"] < 0.2 * run["ideal"]
    assert 0 < run["store_fullest"] < 0.6
    assert run["store_spilled"] == 0


def test_compressed_records_are_made_beforehand_and_are_the_same_lines(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["simulate_cluster.py", *words(SMALL | {"batch-tokens": 500}), "--compressed"])
        options = parse("")
    node = Node("node", 8, 1 << 38, (Gpu("simulated", 80 << 30),) * 4)
    whole, features = make_job(3, 2, options, [node], tmp_path)
    assert len(whole.plan) > 5
    write_answers(tmp_path / "answers", whole, features)
    answers, texts, first = Answers(tmp_path / "answers"), list[bytes](), 0
    for number, share in enumerate([share_of(whole, whole.crew, [node])] * 2, start=1):
        part = part_of(whole, number, share)
        with open_journal(part.output.records, *manifest(part), overwrite=False) as file:
            for batch in range(first, first + len(part.plan)):
                lines = answers.lines(batch)
                assert len(answers.scores(batch).outcomes) == lines.totals.questions
                file.append(lines.to_append())
                texts += lines.texts()
        first += len(part.plan)
    assert first == len(whole.plan)
    assert f"{len(whole.selection)} of {len(whole.selection)} lines" in verify(list(whole.output.parts))
    check(whole.output.files, whole, features)
    with pytest.raises(SystemExit):
        check(whole.output.files[::-1], whole, features)
    assert sum(path.stat().st_size for path in whole.output.files) < sum(map(len, texts)) / 4


def test_its_records_are_records_and_any_other_file_is_refused(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["simulate_cluster.py", *words(SMALL | {"batch-tokens": 500})])
        options = parse("")
    gpus = (Gpu("simulated", 80 << 30),) * 4
    job, features = make_job(3, 1, options, [Node("node", 8, 1 << 38, gpus)], tmp_path)
    assert len(job.plan) > 5
    path = tmp_path / "records.jsonl"
    with open_journal(path, *manifest(job), overwrite=False) as file:
        for batch in range(len(job.plan)):
            questions = [job.selection[int(example_id)] for example_id in job.plan.batch(batch)]
            blocks = [first_rows(block, 2 * len(questions)) for block in features.values()]
            frames = [make_frame(question, index) for index, question in enumerate(questions)]
            file.append([b"".join(join_record(frame, blocks)) for frame in frames])
    assert f"{len(job.selection)} of {len(job.selection)} lines" in verify(path)
    check([path], job, features)

    lines = path.read_bytes().splitlines(keepends=True)
    wrong: list[Callable[[list[bytes]], list[bytes]]] = [
        lambda lines: lines[:-1],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [*lines[:-1], lines[-1].replace(b'"layer":25', b'"layer":24', 1)],
    ]
    for spoil in wrong:
        path.write_bytes(b"".join(spoil(lines)))
        with pytest.raises(SystemExit):
            check([path], job, features)
