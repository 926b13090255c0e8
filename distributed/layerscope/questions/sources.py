"""Questions with two solutions: where they come from, and whether they are well-formed.

Nothing here holds more than one question in memory: a source knows where its rows lie and reads one when asked.
"""

import hashlib
import json
import re
import stat
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, cast

from layerscope.errors import LayerscopeError, UsageError
from layerscope.files import COMPRESSED, user_path
from layerscope.formatting import visible
from layerscope.hub.repository import fetch, open_repository
from layerscope.strict_json import RepeatedKeyError, parse_object

PIQA = "baber/piqa"  # PIQA as parquet; the authors' own repository is a script, which `datasets` no longer runs
BUNDLED = {"bundled": "questions.jsonl", "bundled-middle": "questions_middle.jsonl"}
"""The files of questions that come with layerscope, by the name of the data set."""
MAX_LINE_BYTES = 16 << 20
_LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}


@dataclass(frozen=True)
class Question:
    """A goal and two solutions; `label` is 0 where `sol1` is right and 1 where `sol2` is."""

    example_id: int
    """The row's index in its split or file."""
    goal: str
    sol1: str
    sol2: str
    label: int

    def stripped(self) -> "Question":
        """The question with its solutions freed of surrounding white space."""
        return replace(self, sol1=self.sol1.strip(), sol2=self.sol2.strip())


class Source(Protocol):
    """Questions by their row's index, and where they come from."""

    origin: dict[str, str]
    """What the manifest says about the source."""

    def __len__(self) -> int: ...

    def __getitem__(self, example_id: int) -> Question: ...


def open_source(dataset: str, split: str = "validation", revision: str = "main") -> Source:
    """The source that `--dataset` names; `revision` is of the hub's.

    Raises:
        UsageError: there is none, or it has no revisions and one is asked for.
    """
    if dataset == "piqa":
        return HubQuestions(split, revision)
    if revision != "main":
        raise UsageError(
            f"--dataset-revision {visible(revision)} is of PIQA on the hub; --dataset {visible(dataset)} has none."
        )
    if dataset in BUNDLED:
        path = Path(str(resources.files("layerscope") / "standin" / BUNDLED[dataset]))
        return QuestionFile(path, origin={"dataset": dataset})
    path = user_path(dataset)
    _check_kind(path, dataset)
    return QuestionFile(path, origin={"dataset": visible(path.name)})  # may be moved: the plan has its content's hash


def _check_kind(path: Path, dataset: str) -> None:
    """Refuses what is no file of questions by what it is.

    Raises:
        UsageError: there is nothing, or a folder, a pipe, a device, or something compressed.
    """
    told = f"--dataset {visible(dataset)}"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        kinds = f"It is piqa, {', '.join(BUNDLED)}, or a JSON-lines file of questions."
        raise UsageError(f"{told}: no such file ({error.strerror}). {kinds}") from error
    if dataset.endswith("/") and not stat.S_ISDIR(mode):
        raise UsageError(f"{told} is a folder's name, and {path} a file. Leave out the / at its end.")
    if stat.S_ISDIR(mode):
        raise UsageError(f"{told} is a folder. Name the JSON-lines file of questions in it.")
    if not stat.S_ISREG(mode):
        raise UsageError(
            f"{told} is a pipe or a device; questions are read more than once, also by the run that goes on later.\n"
            "Write them to a file, and name that."
        )
    if path.suffix.lower() in COMPRESSED:
        raise UsageError(f"{told} is compressed; questions are read in any order. Unpack it, and name the plain file.")


def question_files(dataset: str) -> list[Path]:
    """The files that a run reads its questions from, as far as they are the user's own."""
    if dataset in ("auto", "piqa", *BUNDLED):
        return []
    path = user_path(dataset)
    return [path, _labels_path(path)]


class QuestionFile:
    """A JSON-lines file of questions, its labels inside or in a sibling `NAME-labels.lst`; checked whole when opened.

    A byte-order mark, CRLF line ends and blank lines are passed over; `example_id` counts the rows that are not blank.

    Raises:
        UsageError: what is wrong, with the line's number.
    """

    def __init__(self, path: Path, origin: dict[str, str]) -> None:
        self.origin = origin
        self._path = path
        self._offsets = array("q")
        self._hashes = array("Q")  # of the lines, because a row is read again when its turn comes
        self._labels: array[int] | None = None
        labels_path = _labels_path(path)
        with _readable(path), path.open("rb") as stream:
            for number, (offset, line) in enumerate(_lines(stream, path), start=1):
                if not line.strip():
                    continue
                row = self._parse(line, f"{path}, line {number}")
                if not self._offsets and "label" not in row:
                    self._labels = _read_labels(labels_path, path)
                self._offsets.append(offset)
                self._hashes.append(_hash(line))
                self._question(row, len(self._offsets) - 1, f"{path}, line {number}")
        if not self._offsets:
            raise UsageError(f"{path} holds no questions.")
        if self._labels is not None and len(self._labels) != len(self):
            raise UsageError(
                f"{labels_path} has {len(self._labels)} labels for the {len(self)} questions of {path.name}; "
                "it needs one line a question."
            )

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, example_id: int) -> Question:
        where = f"{self._path}, question {example_id}"
        with _readable(self._path), self._path.open("rb") as stream:
            stream.seek(self._offsets[example_id])
            line = stream.readline(MAX_LINE_BYTES)
        if _hash(line) != self._hashes[example_id]:
            raise LayerscopeError(f"{where} was changed while it was in use. Restore the file and run again.")
        return self._question(self._parse(line, where), example_id, where)

    @staticmethod
    def _parse(line: bytes, where: str) -> dict[str, Any]:
        try:
            row = parse_object(line)
        except RepeatedKeyError as error:
            raise UsageError(f"{where}: {error}, and nobody can say which value counts. Keep one.") from error
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"{where} is not JSON: {str(error)[:200]}.\nEvery line must be one JSON object."
            ) from error
        if not isinstance(row, dict):
            raise UsageError(
                f"{where} is {_json_type(row)}.\nEvery line must be one JSON object with goal, sol1 and sol2."
            )
        return row

    def _question(self, row: dict[str, Any], index: int, where: str) -> Question:
        for key in ("goal", "sol1", "sol2"):
            if not isinstance(row.get(key), str):
                problem = f"has {_json_type(row[key])} for {key!r}" if key in row else f"has no {key!r}"
                raise UsageError(f"{where} {problem}; goal, sol1 and sol2 must be strings.")
        if self._labels is None:
            if "label" not in row:
                raise UsageError(f"{where} has no 'label', though other lines have one.")
            label = parse_label(row["label"], where)
        else:
            if "label" in row:
                raise UsageError(f"{where} has a 'label', though the first line has none and the labels file was read.")
            label = self._labels[index] if index < len(self._labels) else 0  # too few are told once all are counted
        return Question(index, row["goal"], row["sol1"], row["sol2"], label)


class HubQuestions:
    """PIQA from the hub, through `datasets`: rows stay in a memory-mapped file.

    The split's parquet files are fetched at one commit and opened from disk. (`load_dataset` with a revision falls back
    to whatever it built last when the hub does not answer, of any revision.)

    Raises:
        LayerscopeError: the hub cannot be reached.
        UsageError: the split is not there, or its rows are not questions.
    """

    def __init__(self, split: str, revision: str = "main") -> None:
        repository = open_repository(PIQA, revision, kind="dataset")
        self.origin = {"dataset": PIQA, "revision": str(repository.commit), "split": split}
        of_split = re.compile(rf"(.*[/_.-])?{split}([/_.-].*)?\.parquet")
        paths = sorted(path for path in repository.files if of_split.fullmatch(path))
        if not paths:
            raise UsageError(f"{PIQA} at {repository.commit} has no parquet file of a {split} split.")
        local = [str(fetch(repository, path)) for path in paths]
        import datasets  # a second to import, and needed only here

        datasets.disable_progress_bars()
        try:
            self._rows = datasets.Dataset.from_parquet(local)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise LayerscopeError(f"The {split} split of {PIQA} cannot be read: {str(error)[:300]}") from error
        missing = {"goal", "sol1", "sol2", "label"} - set(self._rows.column_names)
        if missing:
            raise UsageError(f"{PIQA} at {repository.commit} has no column {', '.join(sorted(missing))}.")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, example_id: int) -> Question:
        row = cast(dict[str, Any], self._rows[example_id])
        label = parse_label(row["label"], f"{PIQA}, row {example_id}")
        return Question(example_id, row["goal"], row["sol1"], row["sol2"], label)


def parse_label(value: object, where: str) -> int:
    """0 or 1 from a label as JSON or a text file holds it: a number, also as data frames write it, or its text.

    True and false are refused: they may say "sol1 is right" as well as "1".

    Raises:
        UsageError: for anything else.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    text = str(value).strip() if is_number or isinstance(value, str) else ""
    if text in _LABELS:
        return _LABELS[text]
    hint = " (-1 stands in PIQA's test split, which has no labels)" if text in ("-1", "-1.0") else ""
    raise UsageError(f"{where} has the label {_shown(value)}{hint}; a label is 0 (sol1 is right) or 1 (sol2 is right).")


def _shown(value: object) -> str:
    """A value as it stands in JSON, what is long cut short."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = repr(type(value))
    return visible(text if len(text) <= 80 else text[:77] + "…")


def _hash(line: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(line, digest_size=8).digest(), "little")


def _labels_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}-labels.lst")


def _read_labels(labels_path: Path, path: Path) -> "array[int]":
    if not labels_path.is_file():
        raise UsageError(
            f"{path} has no 'label' in its first question, and there is no {labels_path.name} beside it.\n"
            "Add a label (0 or 1) to every line, or put that file there, one label a line."
        )
    labels = array("b")
    with _readable(labels_path), labels_path.open("rb") as stream:
        for number, (_, line) in enumerate(_lines(stream, labels_path), start=1):
            if line.strip():
                labels.append(parse_label(line.decode(errors="replace").strip(), f"{labels_path}, line {number}"))
    return labels


def _lines(stream: Any, path: Path) -> Iterator[tuple[int, bytes]]:
    """Every line with its offset in bytes, the byte-order mark of the first left out."""
    offset = 0
    while line := stream.readline(MAX_LINE_BYTES):
        if len(line) == MAX_LINE_BYTES:
            raise UsageError(
                f"{path} has a line of over {MAX_LINE_BYTES >> 20} MiB at byte {offset}: not a file of questions."
            )
        mark = 3 if offset == 0 and line.startswith(b"\xef\xbb\xbf") else 0
        yield offset + mark, line[mark:]
        offset += len(line)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error


def _json_type(value: object) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return f"a JSON {names.get(type(value), 'number')}"
