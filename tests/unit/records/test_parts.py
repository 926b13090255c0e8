"""A run of parts is one run for every reader, whether its name, its manifest or its folder is given."""

import gzip
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import layerscope
from in_parts import ORDER, PARTS, run, run_of_parts
from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Options
from layerscope.errors import LayerscopeError, UsageError
from layerscope.records.manifest.manifest import manifest_path, read_manifest
from layerscope.records.reading.parts import held, part_paths
from layerscope.records.reading.shards import open_run, two_runs
from layerscope.records.status import Status, as_text, status
from layerscope.records.verify import verify
from layerscope.records.writing.locking import open_locked
from layerscope.report.page import report
from layerscope.tables.compare import compare
from layerscope.tables.export import export
from made_up import edit_manifest

FORMS = (".jsonl", ".jsonl.zst", ".jsonl.gz")


@pytest.fixture(params=FORMS)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The name of a finished run of three parts, which is alone in its folder."""
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / f"my run{request.param}"
    run_of_parts(path)
    return path


def plain(tmp_path: Path) -> Path:
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "x.jsonl"
    run_of_parts(path)
    return path


def names(base: Path) -> list[Path]:
    """All that a person may call a run."""
    return [base, manifest_path(base), base.parent]


def test_parts_are_numbered_before_the_suffixes() -> None:
    assert [path.name for path in part_paths(Path("/a/x.y.jsonl.zst"), 2)] == [
        "x.y-00001-of-00002.jsonl.zst",
        "x.y-00002-of-00002.jsonl.zst",
    ]
    assert part_paths(Path("/a/x.jsonl"), 16)[2] == Path("/a/x-00003-of-00016.jsonl")


def test_in_order_the_parts_are_the_single_file(base: Path, tmp_path: Path) -> None:
    whole = run(tmp_path / f"whole{''.join(base.suffixes[-2:] if base.suffix != '.jsonl' else ['.jsonl'])}", ORDER)
    assert b"".join(path.read_bytes() for path in part_paths(base, 3)) == whole.read_bytes()


def test_every_name_of_a_run_of_parts_is_read_as_the_whole_run(base: Path, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole.jsonl", ORDER)
    expected, compared = analyse(whole, Options(permutations=20)), compare(whole, whole)
    export(whole, tmp_path / "whole.parquet", False)
    for number, name in enumerate(names(base)):
        assert verify(name) == f"{base} (3 parts): 7 of 7 lines, all whole, in order and as they were written."
        export(name, tmp_path / f"{number}.parquet", False)
        assert pq.read_table(tmp_path / f"{number}.parquet") == pq.read_table(tmp_path / "whole.parquet")
        found = analyse(name, Options(permutations=20))
        assert found.questions.example_id.tolist() == list(ORDER[:2] + ORDER[3:])
        assert found.features.listed.tolist() == expected.features.listed.tolist()
        assert (found.header.planned, found.header.finished) == (7, True)
        assert found.header.file == f"{base.name} (3 parts)"
        assert compare(*two_runs([name, whole]))["layers"] == compared["layers"]
        loaded = layerscope.load(name, frames="arrow")
        assert loaded.files == part_paths(base, 3)
        assert loaded.questions().equals(layerscope.load(whole, frames="arrow").questions())
    told = report(base)
    assert told.startswith(f"report      {base.with_suffix('.html')} ")


def test_exported_as_lines_it_is_the_file_that_one_writer_makes(base: Path, tmp_path: Path) -> None:
    form = base.name.removeprefix("my run")
    whole, copy = run(tmp_path / f"whole{form}", ORDER), tmp_path / f"copy{form}"
    assert export(base.parent, copy, False).count("\n") == 0
    assert copy.read_bytes() == whole.read_bytes()
    ours, expected = read_manifest(copy), read_manifest(whole)
    assert ours.identity.plan.questions == expected.identity.plan.questions
    assert ours.identity.settings == expected.identity.settings
    assert (ours.about.order, ours.about.batches) == (expected.about.order, expected.about.batches)
    assert "7 of 7 lines" in verify(copy)
    second = part_paths(base, 3)[1]
    for path in (second, manifest_path(second)):
        path.unlink()
    run(second, PARTS[1], "2/3", written=1)
    copy = copy.with_name(f"more-{copy.name}")
    told = export(base, copy, False)
    assert "Without 2 lines behind part 2, which is not finished: go on with the run and export it again." in told
    assert whole.read_bytes().startswith(copy.read_bytes())
    assert "4 of 7 lines" in verify(copy)
    with pytest.raises(UsageError, match="Not among these files: shard 2 of 3") as refused:
        export(part_paths(base, 3)[::2], tmp_path / "no.jsonl", False)
    assert "copy each alone" in str(refused.value)


def test_status_sees_one_run(base: Path) -> None:
    for name in names(base):
        found = status(name)
        assert isinstance(found, Status)
        assert (found.state, found.done, found.planned, found.errors) == ("complete", 7, 7, (ORDER[2],))
        assert found.bytes == sum(path.stat().st_size for path in part_paths(base, 3))
        assert as_text(found).startswith(f"file      {base} (3 parts) (")


def test_a_run_whose_parts_grow_is_half_done_and_alive_while_its_head_is(tmp_path: Path) -> None:
    base = plain(tmp_path)
    for path in part_paths(base, 3)[1:]:
        path.unlink()
        manifest_path(path).unlink()
    second, third = part_paths(base, 3)[1:]
    run(second, PARTS[1], "2/3", written=1)
    run(third, PARTS[2], "3/3", written=0)
    assert "4 of 7 lines" in verify(base)
    found = status(base)
    assert (found.state, found.done, found.to_go_on) == ("stopped", 4, "cd / && layerscope run")
    head = open_locked(manifest_path(base))
    assert status(base).state == "a run is writing it"
    os.close(head)
    assert status(base).state == "stopped"


def test_what_fails_while_a_run_of_parts_is_held_is_no_fault_of_its_manifest(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with pytest.raises(FileNotFoundError, match="another"), held(path, 2, "command"):
        raise FileNotFoundError("another")
    with held(path, 2, "command") as was_there:
        assert was_there


READERS: list[Callable[[Path], object]] = [verify, status, report, layerscope.load, lambda base: two_runs([base] * 3)]


@pytest.mark.parametrize("read", READERS)
def test_a_part_that_is_missing_is_named_with_what_to_do(tmp_path: Path, read: Callable[[Path], object]) -> None:
    base = plain(tmp_path)
    part_paths(base, 3)[1].unlink()
    for name in names(base):
        with pytest.raises(UsageError, match=r"3 parts, and part 2 \(such as x-00002-of-00003\.jsonl\) is") as e:
            read(name)
        assert "Put back what was moved" in str(e.value)
    assert "Not among these files: shard 2 of 3." in verify(part_paths(base, 3)[::2]), "the others can be read alone"


def gone(_: Path, part: Path) -> None:
    manifest_path(part).unlink()


def cut_short(_: Path, part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-9])


def appended(first: Path, part: Path) -> None:
    part.write_bytes(part.read_bytes() + first.read_bytes())


def half_a_manifest(_: Path, part: Path) -> None:
    manifest_path(part).write_bytes(manifest_path(part).read_bytes()[:300])


def changed(_: Path, part: Path) -> None:
    part.write_bytes(part.read_bytes().replace(b"4.0", b"4.5", 1))


def packed_in_place(_: Path, part: Path) -> None:
    part.write_bytes(gzip.compress(part.read_bytes()))


def packed_beside(_: Path, part: Path) -> None:
    part.with_name(f"{part.name}.gz").write_bytes(gzip.compress(part.read_bytes()))
    part.unlink()


def of_another_run(_: Path, part: Path) -> None:
    edit_manifest(part, lambda manifest: manifest["identity"]["settings"].update(dtype="bfloat16"))


def in_another_s_place(first: Path, part: Path) -> None:
    for file in (lambda path: path, manifest_path):
        file(part).write_bytes(file(first).read_bytes())


SPOILT = {
    gone: "has no manifest (x-00002-of-00003.jsonl.manifest.json) beside it",
    half_a_manifest: "x-00002-of-00003.jsonl.manifest.json is not a whole manifest",
    changed: "x-00002-of-00003.jsonl, line 1: it is not the line",
    cut_short: "x-00002-of-00003.jsonl, line 2: missing; 2 lines were written",
    appended: "x-00002-of-00003.jsonl, line 3: the plan ends after 2 lines",
    packed_in_place: "x-00002-of-00003.jsonl, line 1: a gzip member where plain lines were written",
    packed_beside: "3 parts, and part 2 (such as x-00002-of-00003.jsonl) is not there",
    of_another_run: "x-00002-of-00003.jsonl are not of one job: settings.dtype was float32",
    in_another_s_place: "x-00002-of-00003.jsonl are both shard 1 of 3",
}
WAYS_OUT = {
    cut_short: "have the run's own command write them again",
    appended: "keep that alone with: truncate -s ",
    packed_beside: "packed by another tool: gunzip ",
}
LINES_READ: list[Callable[[Path], object]] = [
    verify,
    status,
    report,
    lambda base: export(base, base.with_name("o.csv"), overwrite=True),
    lambda base: compare(*two_runs([base, base])),
]


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_a_part_that_is_off_is_told_alike_by_every_command_with_the_command_that_mends_it(
    tmp_path: Path, spoil: Callable[[Path, Path], None]
) -> None:
    base = plain(tmp_path / "a run")
    first, second, third = part_paths(base, 3)
    spoil(first, second)
    messages = set()
    for read in LINES_READ:
        with pytest.raises(LayerscopeError) as caught:
            read(base)
        messages.add(str(caught.value))
    assert len(messages) == 1
    (message,) = messages
    assert SPOILT[spoil] in message
    assert len(message.splitlines()) <= 3
    assert WAYS_OUT.get(spoil, "the run's own command computes this part again:\nmkdir -p ") in message
    *_, way = message.split("\n")
    if spoil in (cut_short, packed_beside):
        return
    subprocess.run(way.rpartition(": ")[2], shell=True, check=True)
    if spoil is appended:
        assert "7 of 7 lines" in verify(base)
    else:
        there = sorted(path.name for path in (base.parent / "away").iterdir())
        assert there == [second.name, manifest_path(second).name][: 1 if spoil is gone else 2]
        assert not second.exists()
        assert verify(third)


def test_a_folder_of_several_runs_is_asked_for_one_of_them(tmp_path: Path) -> None:
    base = plain(tmp_path)
    run(tmp_path / "other.jsonl", ORDER)
    run_of_parts(tmp_path / "y.jsonl.zst")
    with pytest.raises(UsageError, match=r"several runs: other\.jsonl, x\.jsonl, y\.jsonl\.zst\.\nName one of them"):
        verify(tmp_path)
    assert "7 of 7 lines" in verify(base)


def test_what_overwrite_keeps_beside_parts_is_no_other_run(tmp_path: Path) -> None:
    base = plain(tmp_path)
    run(tmp_path / "x-00001-of-00003.jsonl.overwritten", PARTS[0], "1/3")
    assert "7 of 7 lines" in verify(tmp_path)
    assert open_run(base).planned == 7


def test_a_folder_of_shards_without_a_manifest_of_all_is_read_as_the_shards(tmp_path: Path) -> None:
    base = plain(tmp_path)
    manifest_path(base).unlink()
    assert "x-00001-of-00003.jsonl and 2 more: 7 of 7 lines" in verify(tmp_path)
    other = run(tmp_path / "other.jsonl", ORDER)
    with pytest.raises(UsageError, match=r"runs: other\.jsonl, x-00001-of-00003\.jsonl and 2 more\.\n.* all files\."):
        verify(tmp_path)
    other.unlink()
    manifest_path(other).unlink()
    with pytest.raises(UsageError, match="There is no file"):
        verify(base)


BROKEN = {
    "no whole JSON": (b'{"parts": ["a", "b"], "comm', "not a whole manifest of parts"),
    "one part": (b'{"parts": ["a"], "command": "", "folder": ""}', "Expected `array` of length >= 2"),
    "a path for a name": (b'{"parts": ["../a", "b"], "command": "", "folder": ""}', "Expected `str` matching"),
    "nothing else": (b'{"parts": ["a", "b"]}', "missing required field `command`"),
}


@pytest.mark.parametrize(("content", "told"), BROKEN.values(), ids=BROKEN.keys())
def test_a_manifest_of_parts_that_is_none_is_named(tmp_path: Path, content: bytes, told: str) -> None:
    base = plain(tmp_path)
    manifest_path(base).write_bytes(content)
    for name in names(base):
        with pytest.raises(UsageError, match=told) as caught:
            verify(name)
        assert "name the files of the parts" in str(caught.value)
