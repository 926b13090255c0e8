"""A run of many questions: its manifest lists no line, and whoever spoils what lies beside it is found out.

And going on with any run: what its manifest notes is held against a digest, and not parsed.
"""

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import orjson
import pytest
from msgspec.structs import replace

from layerscope.commands.saying import warning
from layerscope.engine.work import recovered
from layerscope.errors import LayerscopeError, UsageError
from layerscope.questions.sources import Question
from layerscope.records.copying import copy_run
from layerscope.records.line.lines import error_line
from layerscope.records.line.pieces import SolutionScore
from layerscope.records.line.record import parse
from layerscope.records.manifest import order
from layerscope.records.manifest.identity import Identity
from layerscope.records.manifest.manifest import About, manifest_path, read_manifest
from layerscope.records.manifest.order import digest_of_many, listed, order_path
from layerscope.records.reading.array import write_array
from layerscope.records.reading.run import Run
from layerscope.records.totals import Totals
from layerscope.records.verify import verify
from layerscope.records.writing.journal import Journal, open_journal
from layerscope.records.writing.marks import marks_path
from layerscope.records.writing.packing import Packed, pack, packing_of
from layerscope.records.writing.replacing import Replacement
from made_up import about, compressed, identity, record_line, typed

N, BATCHES = 12, (5, 4, 3)
STARTS = np.cumsum([0, *BATCHES])
ORDER = np.random.default_rng(3).permutation(N) + (1 << 20)
ERRORS = {N - 1}
FORMS = pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.zst", "out.jsonl.gz"])


def line_of(place: int) -> bytes:
    example_id = int(ORDER[place])
    if place in ERRORS:
        return error_line(example_id, "sol1 is empty").line
    question = Question(example_id, f"goal {place}", "take soap", "eat it", place % 2)
    scores = SolutionScore(-20.0 - place % 3, 3, "p"), SolutionScore(-21.0, 2, "t")
    features = [((place, 1.5 + place), (70, 0.25)), ((place + 20, 3.0),)]
    return record_line(question, scores, dict.fromkeys((0, 8), (features[0], features[1])))


LINES = [line_of(place) for place in range(N)]
RECORDS = [parse(line) for line in LINES]


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four questions are many."""
    monkeypatch.setattr(order, "MOST_LISTED", 4)


def parts(path: Path) -> tuple[Identity, About]:
    how = packing_of(path)
    both = identity((0, 8), "all", N), about((0, 8), [])
    said, told = typed(*both if how is None else compressed(*both, how.method, BATCHES))
    batches, plan = " ".join(map(str, BATCHES)), replace(said.plan, batches=len(BATCHES))
    own = replace(told, order=listed(ORDER), order_xxh3=digest_of_many(ORDER), batches=batches)
    return replace(said, plan=plan), own.with_order(ORDER)


def write(journal: Journal, first: int, last: int) -> None:
    """Appends batches."""
    how = packing_of(journal.path)
    for begun, end in list(pairwise(STARTS.tolist()))[first:last]:
        lines = LINES[begun:end]
        totals = Totals()
        for place in range(begun, end):
            totals.add_record(RECORDS[place])
        frame = [] if how is None else [Packed(np.frombuffer(pack(lines, how), np.uint8), len(lines))]
        journal.append(frame or lines, totals=totals)


def stopped(path: Path, batches: int) -> Path:
    with open_journal(path, *parts(path), overwrite=False) as journal:
        write(journal, 0, batches)
    return path


@FORMS
def test_the_manifest_has_no_entry_for_a_line_and_every_reader_knows_the_order(tmp_path: Path, name: str) -> None:
    path = stopped(tmp_path / name, 3)
    manifest = orjson.loads(manifest_path(path).read_bytes())
    assert manifest["format"] == 3
    assert manifest["about"]["order"] == manifest["progress"]["running"] == ""
    assert order_path(path).is_file()
    assert marks_path(path).is_file()
    assert list(read_manifest(path).about.example_ids) == ORDER.tolist()
    assert f"{N} of {N} lines, all whole, in order and as they were written." in verify(path)
    array = tmp_path / "array.json"
    write_array(path, array, Run.open(path).lines())
    assert [each["example_id"] for each in orjson.loads(array.read_bytes())] == ORDER.tolist()


@FORMS
def test_going_on_parses_nothing_that_the_manifest_notes(tmp_path: Path, name: str) -> None:
    """And comes to the same totals, marks and bytes as whoever parses all of it, or was never stopped."""
    path, whole = stopped(tmp_path / name, 2), stopped(tmp_path / f"whole-{name}", 3)
    with open_journal(path, *parts(path), overwrite=False) as journal:
        seen: list[object] = []
        journal.recover(seen.append, every=False)
        assert (seen, journal.lines) == ([], 9)
        quick, marks = journal.totals, journal._extent.marks
        journal.recover(seen.append)
        assert len(seen) == 9
        assert (journal.totals, journal._extent.marks) == (quick, marks)
        journal.recover(seen.append, every=False)
        write(journal, 2, 3)
    for each in (path, marks_path(path)):
        assert each.read_bytes() == each.with_name(f"whole-{each.name}").read_bytes()
    assert read_manifest(path).progress == read_manifest(whole).progress


@pytest.mark.usefixtures("notes_are_far_apart")
@FORMS
def test_lines_behind_the_note_are_parsed_and_counted(tmp_path: Path, name: str) -> None:
    path = stopped(tmp_path / name, 1)
    running = open_journal(path, *parts(path), overwrite=False)
    running.recover(lambda _: None, every=False)
    write(running, 1, 3)
    assert read_manifest(path).lines_noted() == BATCHES[0]
    os.close(running._descriptor)  # killed
    with open_journal(path, *parts(path), overwrite=False) as journal:
        seen: list[object] = []
        assert not journal.recover(seen.append, every=False)
        assert seen == RECORDS[BATCHES[0] :]
        totals = Totals()
        for record in RECORDS:
            totals.add_record(record)
        assert journal.totals == totals


@FORMS
def test_a_changed_byte_is_found_by_a_run_that_parses_nothing(tmp_path: Path, name: str) -> None:
    path = stopped(tmp_path / name, 3)
    content = bytearray(path.read_bytes())
    for place in (len(content) // 3, len(content) - 5):
        content[place] ^= 1
        path.write_bytes(content)
        for look in (verify, gone_on_with):
            with pytest.raises(LayerscopeError, match=r"out\.jsonl.* line"):
                look(path)
        content[place] ^= 1


def gone_on_with(path: Path) -> None:
    with open_journal(path, *parts(path), overwrite=False) as journal:
        recovered(journal, warning, False)


def test_without_marks_a_changed_line_is_found_and_no_line_is_blamed(tmp_path: Path) -> None:
    path = stopped(tmp_path / "out.jsonl", 3)
    marks_path(path).unlink()
    assert f"{N} of {N} lines" in verify(path)
    path.write_bytes(path.read_bytes().replace(b"goal 2", b"goal X", 1))
    for look in (verify, gone_on_with):
        with pytest.raises(LayerscopeError, match=f"line {N}: it or one before it is not"):
            look(path)


def _missing(beside: Path) -> None:
    beside.unlink()


def _cut(beside: Path) -> None:
    beside.write_bytes(beside.read_bytes()[:-8])


def _another(beside: Path) -> None:
    np.save(beside, ORDER[::-1])


def _of_objects(beside: Path) -> None:
    np.save(beside, np.array([{}, 1], dtype=object), allow_pickle=True)


def _a_folder(beside: Path) -> None:
    beside.unlink()
    beside.mkdir()


@pytest.mark.parametrize("spoil", [_missing, _cut, _another, _of_objects, _a_folder])
def test_an_order_that_is_not_the_one_that_was_written_is_named(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path = stopped(tmp_path / "out.jsonl", 2)
    before = path.read_bytes()
    spoil(order_path(path))
    for look in (verify, gone_on_with):
        with pytest.raises(UsageError, match=r"out\.jsonl\.order\.npy"):
            look(path)
    assert path.read_bytes() == before


def test_a_line_that_the_plan_has_elsewhere_is_refused_where_nothing_notes_it(tmp_path: Path) -> None:
    path = stopped(tmp_path / "out.jsonl", 0)
    path.write_bytes(LINES[1])
    with pytest.raises(LayerscopeError, match=f"example_id is {ORDER[1]}; the plan has {ORDER[0]} there"):
        gone_on_with(path)


@pytest.mark.parametrize("target", ["copy.jsonl", "copy.jsonl.zst"])
@FORMS
def test_a_copy_has_all_that_lies_beside(tmp_path: Path, name: str, target: str) -> None:
    copy = tmp_path / target
    copy_run(Run.open(stopped(tmp_path / name, 2)), copy)
    assert f"9 of {N} lines, all whole, in order and as they were written." in verify(copy)
    with open_journal(copy, *parts(copy), overwrite=False) as journal:
        recovered(journal, warning, False)
        write(journal, 2, 3)
    assert copy.read_bytes() == stopped(tmp_path / f"whole.{target}", 3).read_bytes()


def test_another_order_is_another_run(tmp_path: Path) -> None:
    path = stopped(tmp_path / "out.jsonl", 1)
    said, told = parts(path)
    with pytest.raises(UsageError, match="the order of the questions was another"):
        open_journal(path, said, replace(told, order_xxh3="0" * 32).with_order(ORDER), overwrite=False)


def test_what_overwrite_replaces_keeps_its_order_until_there_is_a_line(tmp_path: Path) -> None:
    path = stopped(tmp_path / "out.jsonl", 2)
    with open_journal(path, *parts(path), overwrite=True) as journal:
        aside = path.with_name("out.jsonl.overwritten")
        assert f"9 of {N} lines" in verify(aside)
        write(journal, 0, 1)
        assert [file.name for file in tmp_path.glob("*overwritten*")] == []


def test_a_replaced_line_changes_marks_and_totals(tmp_path: Path) -> None:
    path = stopped(tmp_path / "out.jsonl", 3)
    with open_journal(path, *parts(path), overwrite=False) as journal:
        _, errors = recovered(journal, warning, True)
        assert errors == [N - 1]
        better = line_of(0).replace(str(ORDER[0]).encode(), str(ORDER[-1]).encode(), 1)
        journal.rewrite([Replacement(errors[0], better)])
    assert f"{N} of {N} lines, all whole" in verify(path)
    with open_journal(path, *parts(path), overwrite=False) as journal:
        totals, _ = recovered(journal, warning, False)
        assert (totals.questions, totals.errors) == (N, 0)


def test_totals_of_other_lines_count_nothing(tmp_path: Path) -> None:
    """A version that knows none keeps in the manifest what it read there, while the file grows."""
    path = stopped(tmp_path / "out.jsonl", 1)
    before = orjson.loads(manifest_path(path).read_bytes())["progress"]["totals"]
    with open_journal(path, *parts(path), overwrite=False) as journal:
        recovered(journal, warning, False)
        write(journal, 1, 2)
    content = orjson.loads(manifest_path(path).read_bytes())
    content["progress"]["totals"] = before
    manifest_path(path).write_bytes(orjson.dumps(content))
    with open_journal(path, *parts(path), overwrite=False) as journal:
        totals, _ = recovered(journal, warning, False)
        assert totals.questions == 9


def test_few_lines_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "MOST_LISTED", N)
    path = stopped(tmp_path / "out.jsonl", 3)
    manifest = read_manifest(path)
    assert (manifest.format, manifest.about.order) == (2, " ".join(map(str, ORDER)))
    assert [each.name for each in tmp_path.iterdir()] == [path.name, manifest_path(path).name]


def test_a_manifest_of_an_earlier_version_has_no_totals_and_goes_on(tmp_path: Path) -> None:
    path = stopped(tmp_path / "out.jsonl", 2)
    content = orjson.loads(manifest_path(path).read_bytes())
    noted = content["progress"].pop("totals")
    manifest_path(path).write_bytes(orjson.dumps(content))
    with open_journal(path, *parts(path), overwrite=False) as journal:
        totals, _ = recovered(journal, warning, False)
        assert totals.questions == 9
    assert orjson.loads(manifest_path(path).read_bytes())["progress"]["totals"] == noted
