"""A run of several writers: the parts are the single file, whatever form they have and wherever they were cut.

The actors and the writers are in one process; `test_parts_killed.py` has what only their own processes can show.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from threading import Timer

import pytest

import layerscope
from background import OUTPUT
from conftest import Command
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.reading.parts import part_paths
from layerscope.records.reading.stretches import read_stretches
from layerscope.records.storage import object_store
from layerscope.records.storage.addresses import run_path
from layerscope.records.storage.object_lock import ObjectLock
from layerscope.records.writing.locking import open_locked
from object_storage import Storage, storage  # noqa: F401 - a fixture

Here = Callable[..., "subprocess.CompletedProcess[str]"]
FORMS = (".jsonl.zst", ".jsonl.gz")


def lines(path: Path) -> bytes:
    return b"".join(stretch.text for stretch in read_stretches(path))


@pytest.mark.parametrize("form", FORMS)
def test_parts_are_the_single_file_wherever_a_run_was_cut(
    run_here: Here, expected: bytes, command: Command, tmp_path: Path, form: str
) -> None:
    single = tmp_path / f"one{form}"
    assert run_here("--output-file", single.name).returncode == 0
    base = tmp_path / f"x{form}"
    more = ("--output-file", base.name, "--writers", "3")
    done = run_here(*more)
    assert done.returncode == 0, done.stderr
    parts = part_paths(base, 3)
    assert b"".join(path.read_bytes() for path in parts) == single.read_bytes()
    assert b"".join(map(lines, parts)) == expected
    assert not base.exists()
    copy = tmp_path / f"copy{form}"
    assert command("export", base.name, "--to", copy.name, cwd=tmp_path).returncode == 0
    assert copy.read_bytes() == single.read_bytes()
    assert f"{copy} is complete already." in run_here("--output-file", copy.name).stdout
    assert f"file                  {parts[0]} and 2 more" in done.stdout
    whole = [path.read_bytes() for path in parts]
    before = manifest_path(base).read_bytes()
    for cuts in ((0, 1, 2), (1, 7, 3)):
        for path, content, cut in zip(parts, whole, cuts, strict=True):
            path.write_bytes(content[: len(content) * cut // 7])
        if cuts[0]:
            parts[1].unlink()  # with its manifest, as a node's disk that is gone
            manifest_path(parts[1]).unlink()
        again = run_here(*more)
        assert again.returncode == 0, again.stderr
        assert [path.read_bytes() for path in parts] == whole
        assert (f"{parts[1]} is not there: its part is computed from the beginning." in again.stderr) == bool(cuts[0])
    assert manifest_path(base).read_bytes() == before
    assert f"{base} is complete already." in run_here(*more).stdout
    assert "60 of 60 lines, all whole" in command("verify", base.name, cwd=tmp_path).stdout


def test_a_folder_gets_the_parts_and_is_the_run(
    run_here: Here, expected: bytes, command: Command, tmp_path: Path
) -> None:
    done = run_here("--output-file", "run/", "--writers", "2")
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == sorted(
        [
            "questions_sae_top10_all_layers-00001-of-00002.jsonl.zst",
            "questions_sae_top10_all_layers-00001-of-00002.jsonl.zst.manifest.json",
            "questions_sae_top10_all_layers-00002-of-00002.jsonl.zst",
            "questions_sae_top10_all_layers-00002-of-00002.jsonl.zst.manifest.json",
            "questions_sae_top10_all_layers.jsonl.zst.manifest.json",
        ]
    )
    assert b"".join(lines(tmp_path / "run" / name) for name in names if name.endswith(".zst")) == expected
    assert "60 of 60 lines" in command("verify", "run", cwd=tmp_path).stdout
    for words in (("--output-file", "run/"), ("--output-file", "nowhere/run/", "--writers", "2")):
        refused = run_here(*words)
        assert refused.returncode == 2
        assert "--output-file: " in refused.stderr


def test_a_signal_stops_every_writer_and_the_command_goes_on(run_here: Here, expected: bytes, tmp_path: Path) -> None:
    more = ("--writers", "3", "--timeline", "t.json")
    stopped = run_here(*more, fault="interrupt")
    assert stopped.returncode == 130, stopped.stderr
    assert "Stopped by SIGINT after " in stopped.stdout
    assert "To go on: layerscope run" in stopped.stdout
    parts = part_paths(tmp_path / OUTPUT, 3)
    left = b"".join(path.read_bytes() for path in parts)
    assert expected.startswith(left)
    assert len(left) < len(expected)
    assert run_here(*more).returncode == 0
    assert b"".join(path.read_bytes() for path in parts) == expected
    assert json.loads((tmp_path / "t-00003-of-00003.json").read_text(encoding="utf-8"))


def test_more_writers_than_batches_leave_parts_empty(
    run_here: Here, expected: bytes, command: Command, tmp_path: Path
) -> None:
    assert run_here("--writers", "40", "--batch-tokens", "400").returncode == 0
    parts = part_paths(tmp_path / OUTPUT, 40)
    assert len(lines(parts[0])) == 0
    assert sum(lines(path).count(b"\n") for path in parts) == len(expected.splitlines())
    assert "60 of 60 lines" in command("verify", OUTPUT, cwd=tmp_path).stdout
    assert run_here("--writers", "40", "--batch-tokens", "400").stdout.startswith(f"{tmp_path / OUTPUT} is complete")


def test_what_cannot_be_a_run_of_parts_is_refused_before_anything_starts(
    run_here: Here, expected: bytes, tmp_path: Path
) -> None:
    assert run_here("--writers", "2").returncode == 0
    base = tmp_path / OUTPUT
    parts = part_paths(base, 2)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    refusals = {
        ("--writers", "3"): "is a run of 2 parts, and --writers is 3.\nGo on with --writers 2",
        (): "is a run of 2 parts, and --writers is 1.\n",
        ("--writers", "2", "--top-k", "9"): f"{parts[0]} was made with other settings: settings.top_k was 10, is 9",
        ("--writers", "2", "--shard", "1/2"): "give one of them",
        ("--writers", "2", "--output-file", "x.json"): "layerscope export makes an array",
        ("--writers", "0"): "--writers is 0",
    }
    for words, told in refusals.items():
        refused = run_here(*words)
        assert refused.returncode == 2, words
        assert told in refused.stderr
        assert "Traceback" not in refused.stderr
    writer = open_locked(parts[0])  # of a head that was killed a moment ago
    Timer(1.5, os.close, [writer]).start()
    assert f"{base} is complete already." in run_here("--writers", "2").stdout
    head = open_locked(manifest_path(base))
    refused = run_here("--writers", "2")
    os.close(head)
    assert refused.returncode == 1
    assert "Another run is writing" in refused.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert run_here("--output-file", "one.jsonl").returncode == 0
    refused = run_here("--output-file", "one.jsonl", "--writers", "2")
    assert "is there already, as one writer makes it" in refused.stderr
    parts[0].write_bytes(before[parts[0]].replace(b'"feature_id":', b'"feature_Id":', 1))
    refused = run_here("--writers", "2")
    assert refused.returncode == 1
    assert f"{parts[0]}, line 1" in refused.stderr
    again = run_here("--writers", "2", "--overwrite")
    assert again.returncode == 0, again.stderr
    assert b"".join(path.read_bytes() for path in parts) == expected


def test_retried_errors_of_every_part_are_replaced(run_here: Here, expected: bytes, tmp_path: Path) -> None:
    more = ("--writers", "3")
    assert run_here(*more, fault="flaky:2").returncode == 0
    parts = part_paths(tmp_path / OUTPUT, 3)
    assert all(b"after layer 1" in path.read_bytes() for path in parts)
    done = run_here(*more, "--retry-errors")
    assert done.returncode == 0, done.stderr
    assert b"".join(path.read_bytes() for path in parts) == expected


@pytest.mark.parametrize("form", ["run", "run.jsonl"])
def test_parts_in_object_storage_are_the_single_file_wherever_a_run_was_cut(
    run_here: Here,
    expected: bytes,
    command: Command,
    storage: Storage,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    """Each part is a folder in the run's; one that is gone is computed again, and no reader misses that it is."""
    monkeypatch.setattr("layerscope.records.storage.object_journal.PART_BYTES", 1 << 14)
    address = f"s3://{storage.bucket}/{form}"
    more = ("--output-file", f"{address}/", "--writers", "3")
    stopped = run_here(*more, fault="interrupt")
    assert stopped.returncode == 130, stopped.stderr
    done = run_here(*more)
    assert done.returncode == 0, done.stderr
    parts = part_paths(run_path(address), 3)
    assert str(parts[2]) == f"{address}/00003-of-00003{'.jsonl' * (form == 'run.jsonl')}"
    assert b"".join(map(lines, parts)) == expected
    told = command("verify", address, cwd=tmp_path).stdout
    assert told.startswith(f"{address} (3 parts): 60 of 60 lines, all whole")
    assert layerscope.load(address, frames="arrow").questions().num_rows == 60
    assert command("export", address, "--to", "x.jsonl", cwd=tmp_path).returncode == 0
    assert (tmp_path / "x.jsonl").read_bytes() == expected
    there = {str(parts[1].part(name)) for name, _ in parts[1].objects()}  # type: ignore[attr-defined]
    assert len([each for each in there if "/part-" in each]) > 1
    for each in there:
        object_store.remove(each)
    assert "3 parts, and part 2 (such as 00002-of-" in command("verify", address, cwd=tmp_path).stderr
    again = run_here(*more)
    assert f"{parts[1]} is not there: its part is computed from the beginning." in again.stderr
    assert b"".join(map(lines, parts)) == expected
    assert f"{address} is complete already." in run_here(*more).stdout
    assert "is a run of 3 parts, and --writers is 1" in run_here("--output-file", address).stderr
    head = ObjectLock.take(run_path(address))  # type: ignore[arg-type]
    assert "a run is writing it" in command("status", address, cwd=tmp_path).stdout
    head.release()
    assert "state     complete" in command("status", address, cwd=tmp_path).stdout
