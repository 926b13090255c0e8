"""The rule for files that commands write: nobody else's file is replaced, and nothing fails after the work."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from layerscope.errors import UsageError
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.writing.marks import HEADER
from layerscope.records.writing.targets import LONGEST_NAME, begins_with, check_output, check_target

PAGE = b"<!page>"


def refused(check: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as refusal:
        check()
    assert len(str(refusal.value).splitlines()) <= 3
    return str(refusal.value)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """An output file with its manifest."""
    path = tmp_path / "run.jsonl"
    path.write_bytes(b'{"example_id":0}\n')
    manifest_path(path).write_bytes(b"{}")
    return path


@pytest.mark.parametrize("overwrite", [True, False, None])
def test_what_is_no_file_of_its_own_is_refused_even_to_overwrite(
    overwrite: bool | None, run: Path, tmp_path: Path
) -> None:
    """A command replaces a folder, follows a link, fills a device, or destroys a run."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "hard").hardlink_to(run)
    (tmp_path / "other-run").write_bytes(b"x")
    manifest_path(tmp_path / "other-run").write_bytes(b"{}")
    (tmp_path / "run.jsonl.residuals").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = {path: path.lstat().st_ino for path in tmp_path.iterdir()}
    for name, told in (
        ("folder", "is a folder"),
        ("new/", "a folder's name"),
        ("nowhere/x", "no folder"),
        ("link", "symbolic link"),
        ("pipe", "no regular file"),
        ("run.jsonl", "reads or writes already"),
        ("folder/../run.jsonl", "reads or writes already"),
        ("hard", "reads or writes already"),
        ("run.jsonl.manifest.json", "belongs to a run"),
        ("new.manifest.json", "belongs to a run"),
        ("run.jsonl.marks", "belongs to a run"),
        ("run.jsonl.overwritten", "belongs to a run"),
        ("run.jsonl.questions-0123abcd.json", "belongs to a run"),
        ("run.jsonl.residuals/page.html", "belongs to a run"),
        ("run.jsonl.residuals/layer_01.npy", "belongs to a run"),
        ("other-run", "belongs to a run"),
    ):
        message = refused(lambda name=name: check_target("--to", f"{tmp_path}/{name}", (run,), None, overwrite))  # type: ignore[misc]
        assert told in message
        assert message.startswith("--to: ")
    assert {path: path.lstat().st_ino for path in tmp_path.iterdir()} == before


def test_what_is_there_is_replaced_where_the_command_made_it_or_was_told_to(tmp_path: Path) -> None:
    there = tmp_path / "page"
    there.write_bytes(PAGE + b"x")
    assert check_target("--to", there, own=begins_with(PAGE)) == there
    there.write_bytes(b"mine")
    assert "is there already, made by something else" in refused(
        lambda: check_target("--to", there, own=begins_with(PAGE))
    )
    assert "--overwrite" not in refused(lambda: check_target("--to", there))
    assert "--overwrite" in refused(lambda: check_target("--to", there, overwrite=False))
    assert check_target("--to", there, overwrite=True) == there
    assert there.read_bytes() == b"mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "cannot be written to" in refused(lambda: check_target("--to", tmp_path / "x"))


@pytest.mark.parametrize("overwrite", [True, False])
def test_an_output_file_that_no_run_made_is_refused_even_to_overwrite(
    overwrite: bool, run: Path, tmp_path: Path
) -> None:
    """`--overwrite` moves the questions away, and deletes them with the first record."""
    questions = tmp_path / "questions.jsonl"
    questions.write_bytes(b'{"goal": "a"}\n')
    notes = tmp_path / "notes.jsonl"
    notes.write_bytes(b"mine")
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    lost = tmp_path / "lost.jsonl"
    lost.write_bytes(run.read_bytes())
    for path in (run, empty, lost, tmp_path / "new.jsonl"):
        check_output(path, None, [questions], overwrite)
    assert "reads or writes already" in refused(lambda: check_output(questions, None, [questions], overwrite))
    assert "reads or writes already" in refused(lambda: check_output(run, questions, [questions], overwrite))
    assert "was not made by a run" in refused(lambda: check_output(notes, None, [], overwrite))
    assert "was not made by a run" in refused(lambda: check_output(run, notes, [], overwrite))
    marks = run.with_name(
        f"{run.name}.marks"
    )  # though a finished run leaves them empty, as a run not begun leaves a file
    marks.touch()
    assert "belongs to a run" in refused(lambda: check_output(marks, None, [], overwrite))


def test_a_name_that_leaves_no_room_for_the_manifests_is_refused(tmp_path: Path) -> None:
    """The run fails once it has begun, because its manifest's name is too long."""
    check_output(tmp_path / ("ü" * (LONGEST_NAME // 2)), None, [], overwrite=False)
    message = refused(lambda: check_output(tmp_path / ("ü" * 125), None, [], overwrite=False))
    assert f"250 bytes; with those that its manifest's has besides, {LONGEST_NAME}" in message


@pytest.mark.parametrize("suffix", [".gz", ".GZ", ".zst", ".bz2", ".xz", ".zip"])
def test_a_name_that_promises_compressed_content_is_refused(suffix: str, tmp_path: Path) -> None:
    """Plain text under it is taken for a broken archive by whatever opens it; of records two kinds can be written."""
    assert "promises compressed content" in refused(
        lambda: check_target("--to", tmp_path / f"x.html{suffix}", overwrite=True)
    )
    if suffix in (".gz", ".zst"):
        check_output(tmp_path / f"x.jsonl{suffix}", None, [], overwrite=False)
        (tmp_path / f"x.jsonl{suffix}").write_bytes(b"not made by a run")
        assert "was not made by a run" in refused(
            lambda: check_output(tmp_path / f"x.jsonl{suffix}", None, [], overwrite=False)
        )
        for inner in (".json", ".csv", ".parquet"):
            assert f"make {inner} of it" in refused(
                lambda inner=inner: check_output(tmp_path / f"x{inner}{suffix}", None, [], overwrite=False)
            )
    else:
        assert "promises compressed content" in refused(
            lambda: check_output(tmp_path / f"x.jsonl{suffix}", None, [], overwrite=True)
        )


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".html"])
def test_records_do_not_go_to_a_file_of_another_format(suffix: str, tmp_path: Path) -> None:
    assert "would hold lines of JSON" in refused(lambda: check_output(tmp_path / f"x{suffix}", None, [], False))


def test_the_longest_name_of_an_input_is_compared_too(tmp_path: Path) -> None:
    """The labels beside a file of questions have a longer name, which no file can have."""
    check_output(tmp_path / "x.jsonl", None, [tmp_path / ("x" * 250), tmp_path / ("x" * 261)], overwrite=False)


def test_marks_that_no_run_wrote_are_somebodys_file(tmp_path: Path) -> None:
    """A run writes `run.jsonl.marks` beside its records, and would replace what somebody keeps under that name."""
    records, marks = tmp_path / "run.jsonl", tmp_path / "run.jsonl.marks"
    marks.write_bytes(b"my marks at school")
    assert f"{marks} would be written" in refused(lambda: check_output(records, None, (), True))
    for own in (b"", HEADER[:5], HEADER, HEADER + b"12345678"):
        marks.write_bytes(own)
        check_output(records, None, (), False)
    check_target("--to", tmp_path / "school.marks")


def test_what_a_run_would_delete_when_it_begins_is_its_own(run: Path, tmp_path: Path) -> None:
    """What stood aside goes with a new file's first record: no note of somebody's under that name, nor a folder."""
    aside = tmp_path / "run.jsonl.overwritten"
    aside.write_bytes(b"my notes")
    assert "no run made it" in refused(lambda: check_output(run, None, (), overwrite=True))
    aside.write_bytes(b'{"example_id":0}\n')
    check_output(run, None, (), overwrite=True)
    (tmp_path / "run.jsonl.overwritten.residuals").mkdir()
    (tmp_path / "run.jsonl.overwritten.residuals" / "notes").touch()
    assert "no run made it" in refused(lambda: check_output(run, None, (), overwrite=True))


def test_a_run_puts_no_file_into_the_folder_of_anothers_residuals(run: Path) -> None:
    """The other run would refuse to go on with a folder that has more than its layers."""
    folder = run.with_name("run.jsonl.residuals")
    folder.mkdir()
    assert "belongs to a run" in refused(lambda: check_output(folder / "new.jsonl", None, (), False))
