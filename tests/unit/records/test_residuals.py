"""The residuals beside an output file: a row for every line whatever happens, and no row that is not the line's."""

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

import layerscope
from killing import before_every_step
from layerscope.analysis.baselines.residuals import scored_residuals
from layerscope.analysis.columns.reading import reading as columns_of
from layerscope.errors import LayerscopeError, UsageError
from layerscope.questions.sources import Question
from layerscope.records.line.lines import error_line
from layerscope.records.line.pieces import SolutionScore
from layerscope.records.manifest.manifest import manifest_path, read_manifest
from layerscope.records.reading.residuals import Array, Layout, residuals_path
from layerscope.records.reading.run import Run
from layerscope.records.reading.stretches import read_lines
from layerscope.records.status import as_text, status
from layerscope.records.verify import verify
from layerscope.records.writing.journal import Journal, open_journal
from layerscope.records.writing.replacing import Replacement
from layerscope.records.writing.residual_files import ResidualRows
from layerscope.records.writing.targets import check_output
from made_up import about, gone_on_with, identity, record_line, typed

pytestmark = pytest.mark.usefixtures("notes_are_far_apart")
N, D, LAYERS, READINGS = 8, 4, (3, 12), "final,last-word,max"
ERRORS = (2, 5)
SCORE = SolutionScore(-3.5, 2, "x", last_word=1)
CELLS = {layer: ([(1, 2.5)], [(4, 1.0)]) for layer in LAYERS}
OTHERS = {"last-word": CELLS, "max": CELLS}
SCORED = [
    record_line(
        Question(n, f"goal {n}", "a b", "c d", 0), (SCORE, SCORE), CELLS, others={"last-word": CELLS, "max": CELLS}
    )
    for n in range(N)
]
FAILED = [error_line(n, "no").line for n in range(N)]
LINES = [FAILED[n] if n in ERRORS else SCORED[n] for n in range(N)]
# Of every layer the residuals of 8 questions, 2 solutions and 2 readings, as the encoders number them.
NUMBERS = [np.random.default_rng(layer).normal(size=(4 * N, D)).astype(np.float16) for layer in LAYERS]


def rows(first: int, last: int, errors: Sequence[int] = ERRORS) -> ResidualRows:
    return ResidualRows(
        NUMBERS, [None if n in errors else (4 * n, 4 * n + 1, 4 * n + 2, 4 * n + 3) for n in range(first, last)]
    )


def expected(layer: int, reading: int, errors: Sequence[int] = ERRORS) -> Array:
    """[N, 2, D]"""
    found = NUMBERS[LAYERS.index(layer)].reshape(N, 2, 2, D)[:, :, reading].copy()
    found[list(errors)] = np.nan
    return found


def parts(kept: str | None = "float16", lines: Sequence[int] = range(N), **settings: Any) -> Any:
    settings = {"readings": READINGS, "residuals": kept, "num_samples": N, **settings}
    return typed(identity(LAYERS, questions=len(lines), **settings), about(LAYERS, lines, d_model=D))


def opened(path: Path, overwrite: bool = False, **settings: Any) -> Journal:
    return gone_on_with(path, parts(**settings), overwrite)


def go_on(journal: Journal, last: int = N) -> None:
    there = journal.lines
    journal.append(LINES[there:last], rows(there, last))


def finished(path: Path, lines: Sequence[bytes] = LINES, errors: Sequence[int] = ERRORS) -> None:
    """Goes on to the end and finds the finished file and all of its residuals."""
    with opened(path) as journal:
        go_on(journal)
    assert path.read_bytes() == b"".join(lines)
    for layer in LAYERS:
        whole = np.load(residuals_path(path) / f"layer_{layer:02}.npy", mmap_mode="r")
        for number, reading in enumerate(("final", "last-word")):
            np.testing.assert_array_equal(whole[:, number], expected(layer, number, errors))
            np.testing.assert_array_equal(layerscope.read_residuals(path, layer, reading), whole[:, number])
    assert verify(path).endswith("as they were written, with their residuals.")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A finished file."""
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "out.jsonl"
    with opened(path) as journal:
        go_on(journal, 3)
        go_on(journal)
    return path


def test_a_finished_file_has_a_row_for_every_line_in_files_that_numpy_opens(path: Path) -> None:
    finished(path)
    assert layerscope.read_residuals(path, 12).dtype == np.float16
    assert isinstance(layerscope.read_residuals(str(path), 12), np.memmap)
    assert sorted(file.name for file in residuals_path(path).iterdir()) == ["layer_03.npy", "layer_12.npy"]
    found = status(path)
    assert found.residuals is not None
    assert found.residuals["bytes"] == 2 * N * 2 * 2 * D * 2
    assert f"{residuals_path(path)} (512 bytes): float16 of final, last-word" in as_text(found)


def test_the_rows_of_a_growing_file_are_those_of_its_lines(tmp_path: Path) -> None:
    with opened(tmp_path / "out.jsonl", kept="float32") as journal:
        assert layerscope.read_residuals(journal.path, 3).shape == (0, 2, D)
        go_on(journal, 4)
        found = layerscope.read_residuals(journal.path, 3, "last-word")
        np.testing.assert_array_equal(found, expected(3, 1)[:4])
        assert found.dtype == np.float32


def test_a_run_killed_at_any_step_leaves_as_many_rows_as_lines_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with before_every_step(folder, monkeypatch) as copies, opened(folder / "out.jsonl") as journal:
        go_on(journal, 3)
        journal.checkpoint()
        go_on(journal, 6)
    assert len(copies) > 30
    for copy in copies:
        path = copy / "out.jsonl"
        if manifest_path(path).exists():
            lines = len(list(read_lines(path)))
            assert f"{lines} of {N} lines" in verify(path)
            assert len(layerscope.read_residuals(path, 12)) == lines
        finished(path)


def test_a_kill_at_any_step_of_rewriting_leaves_rows_that_are_those_of_the_lines(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that was an error has numbers now, and before that none, though they were on the disk already."""
    with opened(path) as journal, before_every_step(path.parent, monkeypatch) as copies:
        journal.rewrite([Replacement(2, SCORED[2], rows(2, 3, ())), Replacement(5, FAILED[5], rows(5, 6))])
    assert len(copies) > 10
    before = after = 0
    for copy in copies:
        path = copy / "out.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        errors = ERRORS if lines == LINES else (5,)
        before, after = before + (errors == ERRORS), after + (errors != ERRORS)
        assert verify(path).endswith("with their residuals.")
        for layer in LAYERS:
            np.testing.assert_array_equal(layerscope.read_residuals(path, layer), expected(layer, 0, errors))
        finished(path, lines, errors)
    assert before
    assert after
    assert (read_manifest(copies[0] / "out.jsonl").progress.residuals or {}).keys() == set(LAYERS)  # type: ignore[union-attr]


def test_overwriting_keeps_the_residuals_until_the_new_file_has_a_record(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = path.parent
    with before_every_step(folder, monkeypatch) as copies:
        opened(path, overwrite=True).close()
        with opened(path, overwrite=True) as journal:
            go_on(journal, 4)
    for copy in copies:
        path = copy / "out.jsonl"
        if path.read_bytes():
            continue
        aside = path.with_name("out.jsonl.overwritten")
        for each, name in ((aside, "back.jsonl"), (manifest_path(aside), "back.jsonl.manifest.json")):
            shutil.copy(each, copy / name)
        shutil.copytree(residuals_path(aside), copy / "back.jsonl.residuals")
        finished(copy / "back.jsonl")
        with opened(path, overwrite=True) as journal:
            go_on(journal, 4)
    assert not list(folder.glob("*overwritten*"))
    finished(folder / "out.jsonl")


def remove(path: Path) -> None:
    path.unlink()


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def put_another_array(path: Path) -> None:
    np.save(path, np.zeros((N, 2, 2, D + 1), np.float16))


def edit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (remove, "is not there: the residuals of layer 12 of out.jsonl"),
        (shorten, "has 7 rows, and out.jsonl 8 lines"),
        (empty, "is no array of numpy's that a run has written"),
        (put_another_array, r"holds \(8, 2, 2, 5\) of float16, and not \(8, 2, 2, 4\) of float16"),
        (edit, "was changed after it was written: its first 8 rows are others"),
    ],
)
def test_residuals_that_are_not_those_that_were_written_are_told_in_two_lines(
    path: Path, spoil: Callable[[Path], None], told: str
) -> None:
    spoil(residuals_path(path) / "layer_12.npy")
    looks: list[Callable[[Path], object]] = [verify, opened, lambda path: layerscope.read_residuals(path, 12)]
    for look in looks if spoil is edit else [*looks, status]:
        with pytest.raises(LayerscopeError, match=told) as caught:
            look(path)
        assert str(caught.value).count("\n") == 1
    layerscope.read_residuals(path, 3)
    opened(path, overwrite=True).close()


def test_an_error_with_numbers_and_a_record_without_are_found(path: Path) -> None:
    """Whoever writes them anew with digests to match: the rows would be another question's."""
    for line, what in (
        (2, "line 3: its residuals of layer 3 are there, though it has an error"),
        (6, "line 7: .* finite"),
    ):
        with opened(path) as journal:
            journal._residuals.replace(line, rows(line, line + 1, () if line == 2 else (line,)))
            journal._residuals.end_replacing()
        with pytest.raises(LayerscopeError, match=what):
            verify(path)
        with opened(path) as journal:
            journal._residuals.replace(line, rows(line, line + 1))
            journal._residuals.end_replacing()
    finished(path)


def test_what_is_not_there_is_told_with_what_is(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no layer 4.\nIt has 3,12"):
        layerscope.read_residuals(path, 4)
    with pytest.raises(UsageError, match=r"no residuals of the reading max.\nIt has final, last-word"):
        layerscope.read_residuals(path, 3, "max")
    with opened(tmp_path / "without.jsonl", kept=None) as journal:
        journal.append(LINES)
    assert not residuals_path(journal.path).exists()
    assert "residuals" not in verify(journal.path)
    assert status(journal.path).residuals is None
    with pytest.raises(UsageError, match=r"was made without residuals.\nRun again with --residuals"):
        layerscope.read_residuals(journal.path, 3)
    with pytest.raises(UsageError, match=r"settings.residuals was float16, is float32"):
        opened(path, kept="float32")


def test_shards_are_joined_in_the_order_of_the_plan(tmp_path: Path) -> None:
    paths = []
    for shard, (first, last) in enumerate(((0, 3), (3, N)), start=1):
        paths.append(tmp_path / f"{shard}.jsonl")
        said = {"shard": f"{shard}/2", "lines": range(first, last)}
        with open_journal(paths[-1], *parts(**said), False) as journal:
            journal.append(LINES[first:last], rows(first, last))
    found = layerscope.read_residuals(paths[::-1], 12, "last-word")
    np.testing.assert_array_equal(found, expected(12, 1))
    assert f"{N} of {N} lines" in verify(paths)


def test_what_is_compared_is_of_the_lines_that_were_read_whatever_is_written_meanwhile(tmp_path: Path) -> None:
    """A shard that grows in between would move all rows of the next one; lines computed once more are others."""
    paths = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    journals = [
        gone_on_with(path, parts(shard=f"{number}/2", lines=lines))
        for number, (path, lines) in enumerate(zip(paths, (range(4), range(4, N)), strict=True), start=1)
    ]
    with journals[0], journals[1]:
        journals[0].append(LINES[:3], rows(0, 3))
        journals[1].append(LINES[4:7], rows(4, 7))
        with columns_of(paths, "final", lambda _: None) as columns:
            read = columns.scored
        journals[0].append(LINES[3:4], rows(3, 4))
    kept = [n for n in (0, 1, 2, 4, 5, 6) if n not in ERRORS]
    np.testing.assert_array_equal(scored_residuals(read, 12, "final"), expected(12, 0)[kept].astype(np.float32))
    with gone_on_with(paths[1], parts(shard="2/2", lines=range(4, N))) as journal:
        journal.rewrite([Replacement(1, SCORED[5], rows(5, 6, ()))])
    with pytest.raises(LayerscopeError, match=r"2\.jsonl was written anew while it was read"):
        scored_residuals(read, 12, "final")


def test_a_disk_that_fails_leaves_as_many_rows_as_lines_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.jsonl"
    with opened(path) as journal:
        for there in (0, 2):
            for failing in ("fdatasync", "writev"):
                with monkeypatch.context() as patch:
                    patch.setattr(os, failing, once_more(failing, 2))
                    with pytest.raises(LayerscopeError, match=rf"No space left. Its {there} lines are whole"):
                        go_on(journal, 5)
                for layer in LAYERS:
                    assert len(layerscope.read_residuals(path, layer)) == there
            go_on(journal, there + 2)
    finished(path)


def once_more(name: str, calls: int) -> Callable[..., Any]:
    """A step of the system that works until the last of so many calls."""
    step, left = getattr(os, name), iter(range(calls - 1))

    def failing(*arguments: Any) -> Any:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left")
        return step(*arguments)

    return failing


def test_rows_come_with_their_lines(tmp_path: Path) -> None:
    """Else every row behind would be another question's: a run that gets it wrong notes nothing and ends."""
    path = tmp_path / "out.jsonl"
    journal = opened(path)
    journal.append(LINES[:3], rows(0, 2))
    with pytest.raises(LayerscopeError, match="is not what the run has written"):
        journal.close()
    assert not read_manifest(path).lines_noted()


@pytest.mark.parametrize("spoil", [remove, shorten, put_another_array])
def test_residuals_that_somebody_takes_away_end_the_run_that_writes_them(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    path = tmp_path / "out.jsonl"
    journal = opened(path)
    go_on(journal, 3)
    spoil(residuals_path(path) / "layer_03.npy")
    for _ in range(2):
        with pytest.raises(LayerscopeError, match=r"layer_03.npy is not what the run has written"):
            go_on(journal, 5)
    journal.close()
    assert len(list(read_lines(path))) == 3


def test_a_folder_that_no_run_made_is_somebodys(path: Path, tmp_path: Path) -> None:
    check_output(path, None, (), overwrite=False)
    records = tmp_path / "mine.jsonl"
    (residuals_path(records) / "photos").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"mine.jsonl.residuals is where a run keeps the residuals.*no run made it"):
        check_output(records, None, (), overwrite=True)
    shutil.rmtree(residuals_path(records))
    residuals_path(records).write_text("notes")
    with pytest.raises(UsageError, match="no run made it"):
        check_output(records, None, (), overwrite=True)


def test_the_size_that_is_foretold_is_that_of_the_rows(path: Path) -> None:
    run = Run.open(path)
    layout = Layout.of(path, run.manifest)
    sizes = [layout.file(layer).stat().st_size - len(layout.header()) for layer in LAYERS]
    assert sum(sizes) == layout.size(N)


def test_digests_of_no_line_or_of_other_layers_are_no_manifest(path: Path) -> None:
    manifest = orjson.loads(manifest_path(path).read_bytes())
    manifest["progress"]["residuals"].pop("3")
    manifest_path(path).write_bytes(orjson.dumps(manifest))
    with pytest.raises(UsageError, match=r"`progress.residuals` has other layers"):
        verify(path)
