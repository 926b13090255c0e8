"""Files and folders that belong to somebody else: what may not be read is told as that, with nothing broken."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet  # noqa: F401 - what a command imports is imported before somebody else does
import pytest

import layerscope.report.page
import layerscope.tables.compare
import layerscope.tables.export  # noqa: F401
from as_somebody import as_somebody
from conftest import Command
from layerscope.errors import LayerscopeError
from layerscope.hub.cache import told
from layerscope.hub.repository import fetch, open_repository, sha256
from layerscope.process import provide_home
from layerscope.questions.opening import Wanted, open_source, question_files
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.reading.residuals import residuals_path
from layerscope.records.status import as_text, status
from layerscope.records.writing.marks import HEADER, marks_path
from layerscope.records.writing.targets import check_output
from made_up import edit_manifest
from synthetic_run import Spec, write_run


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where everybody may look, unlike pytest's own folders."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for each in folder.rglob("*"):
        each.chmod(0o700)
    shutil.rmtree(folder)


@pytest.fixture
def run(folder: Path) -> Path:
    path = folder / "run" / "run.jsonl"
    path.parent.mkdir()
    write_run(path, Spec(questions=3, layers=(0,)))
    return path


def refused(act: Callable[[], object]) -> str:
    def message() -> str:
        try:
            act()
        except LayerscopeError as error:
            return str(error)
        return ""

    return as_somebody(message)


@pytest.mark.parametrize("closed", ["the folder", "the file", "the manifest", "the marks", "the residuals"])
def test_what_may_not_be_read_is_told_by_every_command(closed: str, run: Path, folder: Path, command: Command) -> None:
    """A traceback, or the advice to bring back from a copy what is whole."""
    if closed == "the residuals":
        edit_manifest(run, lambda manifest: manifest["identity"]["settings"].update(residuals="float16"))
        residuals_path(run).mkdir()
    if closed == "the marks":
        marks_path(run).write_bytes(HEADER)
    beside = {"folder": run.parent, "file": run, "manifest": manifest_path(run), "marks": marks_path(run)}
    {**beside, "residuals": residuals_path(run)}[closed.removeprefix("the ")].chmod(0)
    commands = [["status", run], ["verify", run], ["report", run, "--to", folder / "x.html"]]
    if closed != "the residuals":
        commands += [["compare", run, run], ["export", run, "--to", folder / "x.csv"]]
    if os.geteuid() == 0:
        folder.chmod(0o777)
    for words in commands:
        done = as_somebody(lambda words=words: command(*map(str, words)))  # type: ignore[misc]
        assert done.returncode in (1, 2)
        assert "Permission denied" in done.stderr
        assert "chmod" in done.stderr
        assert len(done.stderr.splitlines()) <= 3
        assert not [path for path in folder.iterdir() if path != run.parent]


def test_a_run_in_somebodys_home_has_a_status(run: Path, folder: Path) -> None:
    """Its command was given in a folder that nobody else may look into."""
    home = folder / "home"
    home.mkdir(mode=0o700)
    edit_manifest(run, lambda manifest: manifest["about"].update(folder=str(home / "work")))
    edit_manifest(run, lambda manifest: manifest["identity"]["plan"].update(questions=4))
    edit_manifest(run, lambda manifest: manifest["about"].update(order=manifest["about"]["order"] + " 9"))
    assert "to go on  layerscope run" in as_somebody(lambda: as_text(status(run)))


def test_residuals_that_may_not_be_looked_into_keep_no_run_in_a_traceback(run: Path) -> None:
    residuals_path(run).mkdir(mode=0)
    run.parent.chmod(0o777)
    for path in run.parent.iterdir():
        if path.is_file():
            path.chmod(0o666)
    told = refused(lambda: check_output(run, None, (), False))
    assert "run.jsonl.residuals cannot be read: Permission denied" in told
    assert "chmod" in told


def test_a_working_folder_that_may_not_be_looked_into_hides_no_repository(folder: Path) -> None:
    """Whoever acts as another user stands in his own home yet; `owner/name` is no file there."""
    (folder / "home").mkdir(mode=0o700)

    def look() -> tuple[list[Path], str, str]:
        os.environ["HF_HUB_OFFLINE"] = "1"
        messages = []
        for act in (lambda: open_repository("some/model"), lambda: open_source(Wanted("mine.jsonl"))):
            with pytest.raises(LayerscopeError) as refusal:
                act()
            messages.append(str(refusal.value))
        return question_files("some/questions"), messages[0], messages[1]

    before = Path.cwd()
    os.chdir(folder / "home")
    try:
        files, of_model, of_questions = as_somebody(look)
    finally:
        os.chdir(before)
    assert files == []
    assert "some/model" in of_model
    assert "cannot be looked at" not in of_model
    assert "mine.jsonl cannot be looked at: Permission denied" in of_questions


def test_a_home_that_may_not_be_looked_into_is_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of `docker run -u` in an image of root's: HOME is /root."""
    (folder / "root").mkdir(mode=0o700)
    for home in (folder / "root", folder / "root" / "below"):
        monkeypatch.setenv("HOME", str(home))
        assert "cannot be written" in as_somebody(provide_home)


def test_somebodys_cache_is_no_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "hf" / "hub").mkdir(parents=True)
    (folder / "hf" / "layerscope" / "encoders").mkdir(parents=True)
    for closed in ("hf/layerscope/encoders", "hf/layerscope", "hf"):
        (folder / closed).chmod(0)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hf" / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert "layerscope" in as_somebody(told)
        assert "is not in the hub's cache" in refused(lambda: open_repository("some/model"))


def test_weights_of_somebody_are_named(folder: Path) -> None:
    """In a folder that a group shares, or in its cache."""
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_bytes(b"{}")
    (folder / "model" / "config.json").chmod(0)
    repository = open_repository(str(folder / "model"))
    for act in (lambda: fetch(repository, "config.json"), lambda: sha256(repository, "config.json")):
        said = refused(act)
        assert "config.json cannot be read: Permission denied" in said
        assert "chmod" in said


def test_a_question_file_of_somebody_is_named(folder: Path) -> None:
    for name in ("q.jsonl", "q.csv", "q.parquet", "q.jsonl.gz", "q.json"):
        (folder / name).write_bytes(b"x")
        (folder / name).chmod(0)
        said = refused(lambda name=name: open_source(Wanted(str(folder / name))))  # type: ignore[misc]
        assert name in said
        assert "ermission denied" in said
