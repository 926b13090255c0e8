"""A run's file in another form is that run: its lines to the byte, its manifest, its residuals, and how it goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

import layerscope
from layerscope.errors import LayerscopeError, UsageError
from layerscope.formatting import size_text
from layerscope.questions.sources import Question
from layerscope.records.line.lines import error_line
from layerscope.records.line.pieces import SolutionScore
from layerscope.records.manifest.identity import PackingName
from layerscope.records.manifest.manifest import manifest_path, read_manifest
from layerscope.records.reading.residuals import residuals_path
from layerscope.records.reading.stretches import read_stretches
from layerscope.records.status import status
from layerscope.records.verify import verify
from layerscope.records.writing.journal import Journal
from layerscope.records.writing.marks import marks_path
from layerscope.records.writing.packing import Packed, pack, packing
from layerscope.records.writing.residual_files import ResidualRows
from layerscope.tables.export import export
from made_up import about, compressed, edit_manifest, gone_on_with, identity, record_line, typed

FORMS: dict[str, PackingName | None] = {"out.jsonl": None, "out.jsonl.zst": "zstd", "out.jsonl.gz": "gzip"}
BATCHES, N, D, LAYERS, ERROR = (3, 1, 2), 6, 4, (0, 8), 4
SCORES = SolutionScore(-2.5, 2, "a"), SolutionScore(-3.0, 2, "b")
CELLS = dict.fromkeys(LAYERS, ([(7, 4.0), (9, 1.5)], [(9, 0.25)]))
LINES = [
    error_line(n, "no").line if n == ERROR else record_line(Question(n, f"goal {n}", "a", "b", 0), SCORES, CELLS)
    for n in range(N)
]
NUMBERS = [np.random.default_rng(layer).normal(size=(2 * N, D)).astype(np.float32) for layer in LAYERS]


def rows(first: int, last: int) -> ResidualRows:
    return ResidualRows(NUMBERS, [None if n == ERROR else (2 * n, 2 * n + 1) for n in range(first, last)])


def opened(path: Path, method: PackingName | None) -> Journal:
    of_run = identity(LAYERS, questions=N, residuals="float32")
    of_run["plan"]["batches"] = len(BATCHES)
    said: tuple[Any, Any] = (
        of_run,
        about(
            LAYERS,
            range(N),
            d_model=D,
            command="layerscope run --output-file out.jsonl --seed 1",
            batches=" ".join(map(str, BATCHES)),
        ),
    )
    if method is not None:
        said = compressed(*said, method, BATCHES)
    return gone_on_with(path, typed(*said))


def go_on(journal: Journal, method: PackingName | None, last: int) -> None:
    """Up to a line, or as many batches as are whole there."""
    end = 0
    for size in BATCHES:
        begun, end = end, end + size
        if method is not None and begun >= journal.lines and end <= last:
            frame = pack(LINES[begun:end], packing(method))
            journal.append([Packed(np.frombuffer(frame, np.uint8), size)], rows(begun, end))
    if method is None:
        journal.append(LINES[journal.lines : last], rows(journal.lines, last))


def made(folder: Path, name: str, last: int = N) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    with opened(path, FORMS[name]) as journal:
        go_on(journal, FORMS[name], last)
    return path


def content(path: Path) -> dict[str, Any]:
    """All that there is of a run, but for the command and what a library adds."""
    manifest = orjson.loads(manifest_path(path).read_bytes())
    manifest["about"].pop("command")
    files = {file.name: file.read_bytes() for file in residuals_path(path).iterdir()}
    return {"records": path.read_bytes(), "manifest": manifest, **files}


@pytest.mark.parametrize("to", FORMS)
@pytest.mark.parametrize("name", FORMS)
def test_each_form_becomes_each_other_as_if_the_run_had_written_it(name: str, to: str, tmp_path: Path) -> None:
    path, other = made(tmp_path / "run", name), tmp_path / to
    assert export(path, other, overwrite=False).splitlines() == [f"{other}  {size_text(other.stat().st_size)}"]
    assert content(other) == content(made(tmp_path / "straight", to))
    assert (
        verify(other) == f"{other}: 6 of 6 lines, all whole, in order and as they were written, with their residuals."
    )
    back = tmp_path / "back" / name
    back.parent.mkdir()
    export(other, back, overwrite=False)
    assert content(back) == content(path)
    assert layerscope.read_features(other).equals(layerscope.read_features(path))


@pytest.mark.parametrize("to", FORMS)
def test_a_copy_of_an_unfinished_run_goes_on(to: str, tmp_path: Path) -> None:
    """A frame holds a batch: what there is of one that is not whole is computed again."""
    path, other = made(tmp_path / "run", "out.jsonl", last=5), tmp_path / to
    told = export(path, other, overwrite=False)
    lines = 5 if FORMS[to] is None else 4
    assert ("Without 1 line of a batch that is not whole yet" in told) == (lines == 4)
    found = status(other)
    assert (found.done, found.planned) == (lines, N)
    assert found.to_go_on == f"cd / && layerscope run --output-file {other} --seed 1"
    assert verify(other).endswith("with their residuals.")
    with opened(other, FORMS[to]) as journal:
        assert journal.lines == lines
        go_on(journal, FORMS[to], N)
    assert content(other) == content(made(tmp_path / "straight", to))


def test_what_a_later_version_noted_is_in_the_copy_too(tmp_path: Path) -> None:
    path = made(tmp_path / "run", "out.jsonl.zst")
    edit_manifest(path, lambda manifest: (manifest.update(later=1), manifest["about"].update(also=[2])))
    export(path, tmp_path / "out.jsonl", overwrite=False)
    copy = orjson.loads(manifest_path(tmp_path / "out.jsonl").read_bytes())
    assert (copy["later"], copy["about"]["also"]) == (1, [2])
    assert "packing" not in copy["identity"]
    assert not read_manifest(tmp_path / "out.jsonl").packed


def spoil_rows(path: Path) -> None:
    file = residuals_path(path) / "layer_08.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a line": (lambda path: path.write_bytes(path.read_bytes().replace(b"4.0", b"5.0")), "line 1: it is not the line"),
    "a row": (spoil_rows, "layer_08.npy was changed after it was written"),
    "a file of rows": (lambda path: (residuals_path(path) / "layer_00.npy").unlink(), "layer_00.npy is not there"),
    "lines": (lambda path: path.write_bytes(b"".join(LINES[:2])), "line 3: missing; 6 lines were written"),
    "no manifest": (lambda path: manifest_path(path).unlink(), "no manifest beside it, which says where a batch ends"),
    "no batches": (
        lambda path: edit_manifest(path, lambda manifest: manifest["about"].pop("batches")),
        "a frame holds a batch, and the manifest, of version 0.1.0, does not say where one ends",
    ),
}


@pytest.mark.parametrize(("spoil", "told"), SPOILT.values(), ids=SPOILT.keys())
def test_of_a_run_that_is_off_there_is_no_copy(spoil: Callable[[Path], object], told: str, tmp_path: Path) -> None:
    path, other = made(tmp_path / "run", "out.jsonl"), tmp_path / "copies"
    other.mkdir()
    spoil(path)
    with pytest.raises(LayerscopeError, match=told) as caught:
        export(path, other / "out.jsonl.zst", overwrite=False)
    assert 2 <= len(str(caught.value).splitlines()) <= 3
    assert list(other.iterdir()) == []


def test_what_is_there_is_replaced_if_it_is_no_runs_and_told_to_be(tmp_path: Path) -> None:
    path, other = made(tmp_path / "run", "out.jsonl"), tmp_path / "out.jsonl.zst"
    other.write_bytes(b"mine")
    with pytest.raises(UsageError, match="is there already"):
        export(path, other, overwrite=False)
    for beside in (marks_path(other), residuals_path(other)):
        beside.mkdir()
        with pytest.raises(UsageError, match="would belong to the copy, and is there already"):
            export(path, other, overwrite=True)
        beside.rmdir()
    assert other.read_bytes() == b"mine"
    export(path, other, overwrite=True)
    with pytest.raises(UsageError, match="belongs to a run"):
        export(path, other, overwrite=True)


def test_what_was_written_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library or a disk that gives back something else than it was given is not believed."""
    monkeypatch.setattr("layerscope.records.copying.pack", lambda lines, how: pack([lines[0]] * len(lines), how))
    other = tmp_path / "copies" / "out.jsonl.zst"
    other.parent.mkdir()
    with pytest.raises(LayerscopeError, match="does not hold what was written to it"):
        export(made(tmp_path / "run", "out.jsonl"), other, overwrite=False)
    assert list(other.parent.iterdir()) == []
    assert len(list(read_stretches(tmp_path / "run" / "out.jsonl"))) == N
