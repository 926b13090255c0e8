"""Data sets that others made: what is asked for is what is read, and what cannot be is told by its own name."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pytest

from hub_server import HubServer, Repository, point_to
from layerscope.errors import UsageError
from layerscope.questions import telling
from layerscope.questions.opening import Wanted, open_source

ROW = {"goal": "open a jar", "sol1": "turn the lid", "sol2": "turn it blue", "label": 0}
LINE = json.dumps(ROW).encode() + b"\n"
NAME = "some/questions"


def refusal(dataset: Path | str, **wanted: str) -> str:
    with pytest.raises(UsageError) as caught:
        open_source(Wanted(str(dataset), **wanted))  # type: ignore[arg-type]
    assert len(str(caught.value)) < 1500
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Has a hub hold files of questions, all with the same line unless they are named with others."""
    with HubServer() as hub:
        point_to(hub.endpoint, monkeypatch)
        yield lambda *paths, **contents: hub.add(
            Repository("dataset", NAME, {**dict.fromkeys(paths, LINE), **contents})  # type: ignore[arg-type]
        )


@pytest.mark.parametrize(
    ("paths", "split", "config", "files"),
    [
        (["validation.jsonl", "validation_extra.jsonl"], "validation", "", 1),
        (["a/validation_matched.jsonl", "a/validation_mismatched.jsonl"], "validation_matched", "", 1),
        (["validation-00000-of-00002.jsonl", "validation-00001-of-00002.jsonl"], "validation", "", 2),
        (["validation-00000-of-00002-0a1b2c3d4e5f.jsonl", "validation_00001.jsonl"], "validation", "", 2),
        (["x/validation/0000.jsonl", "x/validation/0001.jsonl", "x/test/0000.jsonl"], "validation", "x", 2),
        (["validation/part-a.jsonl", "validation/part-b.jsonl"], "validation", "", 2),
        (["validation.jsonl", "other/validation.jsonl"], "validation", "default", 1),
        (["data/x/validation.jsonl", "data/y/validation.jsonl"], "validation", "y", 1),
        (["piqa.validation.jsonl", "piqa.validation.more.jsonl"], "validation", "", 1),
    ],
)
def test_a_split_is_the_files_of_that_name(
    paths: list[str], split: str, config: str, files: int, serve: Callable[..., None]
) -> None:
    """Twice the questions, or another split's among them, are an accuracy of something else."""
    serve(*paths)
    assert len(open_source(Wanted(NAME, split, config))) == files


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        (
            ["validation.jsonl", "validation.csv"],
            "its validation split as .csv and as .jsonl: the same questions twice",
        ),
        (["validation_matched.jsonl", "validation_mismatched.jsonl"], "validation_matched, validation_mismatched"),
        (["validation.jsonl", "other/validation.jsonl"], "several configurations: other, default"),
        ([f"{number}/validation.jsonl" for number in range(60)], " …"),
        (["\x1b[31m\n\u202e/validation.jsonl", "b/validation.jsonl"], "[U+001B][31m[U+000A][U+202E]"),
        (["\x1b[31m\n\u202e.jsonl"], "Its data files: [U+001B][31m[U+000A][U+202E].jsonl"),
    ],
)
def test_what_cannot_be_told_apart_is_refused_in_few_words(
    paths: list[str], told: str, serve: Callable[..., None]
) -> None:
    serve(*paths)
    assert told in refusal(NAME)


@pytest.mark.parametrize(
    ("file", "told"), [("x/validation.jsonl", "is not UTF-8"), ("validation.jsonl.gz", "cannot be read")]
)
def test_a_file_of_the_hub_is_told_by_its_name_there(file: str, told: str, serve: Callable[..., None]) -> None:
    """Where the cache has it says nothing to whoever reads the message."""
    serve(**{file: b"\xff\xfe\n"})
    message = refusal(NAME)
    assert message.startswith(f"{NAME}, {file} {told}")


def test_a_split_that_is_asked_for_is_there_or_refused(tmp_path: Path) -> None:
    """Whoever asks a plain file for its test split gets all of it, and takes it for that."""
    (tmp_path / "q.jsonl").write_bytes(LINE)
    assert "--split test is of a data set on the hub or from save_to_disk" in refusal(
        tmp_path / "q.jsonl", split="test"
    )
    assert "--split test" in refusal("bundled", split="test")
    saved = datasets.Dataset.from_list([ROW])
    saved.save_to_disk(str(tmp_path / "one"))
    assert "holds one split, without a name" in refusal(tmp_path / "one", split="test")
    named = datasets.Dataset.from_list([ROW], split=datasets.Split.TEST)
    named.save_to_disk(str(tmp_path / "named"))
    assert len(open_source(Wanted(str(tmp_path / "named"), "test"))) == 1
    datasets.DatasetDict({f"s{number}": saved for number in range(25)}).save_to_disk(str(tmp_path / "many"))
    assert "--split s0 or s1 or" in refusal(tmp_path / "many")


@pytest.mark.parametrize("name", ["q.csv", "q.jsonl", "lines.jsonl.gz"])
def test_a_long_file_of_nothing_is_not_read_in_silence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fifty million blank lines take half a minute, and nobody could tell that from a hang."""
    monkeypatch.setattr(telling, "_TELL_SECONDS", 0.0)
    first = b"goal,sol1,sol2,label\n" if "csv" in name else b""
    content = first + b"\n" * 9000 + (b"a,b,c,0\n" if first else LINE)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert len(open_source(Wanted(str(tmp_path / name)))) == 1
    assert f"{name}: 8,192 lines read\n" in capsys.readouterr().err
