"""A look at a run's file from outside tells the truth, finds the first bad line, and changes nothing."""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from conftest import Command
from layerscope.errors import LayerscopeError, UsageError
from layerscope.questions.sources import Question
from layerscope.records.line.feature_lists import serialise_block
from layerscope.records.line.lines import error_line, frame_record, join_record
from layerscope.records.line.pieces import SolutionScore
from layerscope.records.manifest.identity import Identity
from layerscope.records.manifest.manifest import About, manifest_path, read_manifest
from layerscope.records.status import as_json, as_text, status
from layerscope.records.verify import verify
from layerscope.records.writing.journal import open_journal
from layerscope.records.writing.replacing import Replacement
from layerscope.report.page import report
from layerscope.saes.encoder import TopK
from made_up import about, edit_manifest, identity, typed, write_run

BLOCKS = ((0, 8), (20,))
LAYERS = (0, 8, 20)
ORDER = (7, 2, 40, 3, 11, 5, 0, 12)
ERRORS = (40, 12)
CORRECT = (2, 3, 11, 0)  # of the six that are scored; 0 by a tie
COMMAND = "layerscope run --standin --output-file 'my run.jsonl'"

_MEMORY = Path("/dev/shm")
FAST = _MEMORY if os.access(_MEMORY, os.W_OK) else None

Json = dict[str, Any]


def made_up_top_k(numbers: np.random.Generator, n_rows: int, k: int | None) -> TopK:
    """Features of some rows: none, fewer than k, and more than k, with equal activations among them."""
    counts = numbers.integers(0, 6, n_rows)
    counts[:3] = [0, 2, 5]
    ids, activations = list[NDArray[np.int64]](), list[NDArray[np.float32]]()
    for count in counts:
        row_ids = np.sort(numbers.choice(16384, count, replace=False))
        row = numbers.choice(np.array([0.25, 1.5, 3.3, 12.75, 1e-3], dtype=np.float32), count)
        strongest = np.lexsort((row_ids, -row))[:k]
        ids.append(row_ids[strongest])
        activations.append(row[strongest])
    starts = np.concatenate([[0], np.cumsum([len(row) for row in ids])])
    return TopK(np.concatenate(ids), np.concatenate(activations), starts, counts)


def made_up_lines(k: int | None) -> list[bytes]:
    """The lines of a finished file, as the actors and the driver would make them."""
    numbers = np.random.default_rng(1)
    blocks = [serialise_block(layers, [made_up_top_k(numbers, 2 * len(ORDER), k) for _ in layers]) for layers in BLOCKS]
    lines = []
    for row, example_id in enumerate(ORDER):
        if example_id in ERRORS:
            lines.append(error_line(example_id, "sol1 is empty").line)
            continue
        label = 0 if example_id == 0 else row % 2
        question = Question(example_id, "Öl ☃\n?", "take soap", "eat it ", label)
        better, worse = SolutionScore(-20.25, 3, "▁"), SolutionScore(-24.5 if example_id else -20.25, 2, "it")
        scores = (better, worse) if (label == 0) == (example_id in CORRECT) else (worse, better)
        frame = frame_record(question, scores, (2 * row, 2 * row + 1))
        assert frame.correct == (example_id in CORRECT)
        lines.append(b"".join(join_record(frame, blocks)))
    return lines


LINES = made_up_lines(k=3)


@dataclass(frozen=True)
class Run:
    """A run's file with what was written to it."""

    path: Path
    lines: Sequence[bytes]

    def holds(self, lines: Sequence[bytes]) -> "Run":
        """Puts other lines in the place of the file's."""
        self.path.write_bytes(b"".join(lines))
        return self

    def forgets_progress(self) -> "Run":
        """Leaves a manifest as it is before the first checkpoint, so that no digest helps."""
        edit_manifest(self.path, lambda manifest: manifest.pop("progress", None))
        return self


def parts(path: Path, top_k: int | str = 3, order: Sequence[int] = ORDER) -> tuple[Identity, About]:
    """Of the manifest."""
    return typed(identity(LAYERS, top_k, len(order)), about(LAYERS, order, command=COMMAND, folder=str(path.parent)))


def run_of(path: Path, lines: Sequence[bytes] = LINES, top_k: int | str = 3) -> Run:
    """A file of these lines, left by a run that ended well."""
    with open_journal(path, *parts(path, top_k), overwrite=False) as journal:
        journal.recover(lambda _: None)
        journal.append(lines)
    return Run(path, lines)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "my run.jsonl"


@pytest.fixture(scope="module")
def scratch() -> Iterator[Run]:
    """A finished file that every example may spoil before it looks."""
    with tempfile.TemporaryDirectory(dir=FAST) as name:
        yield run_of(Path(name) / "out.jsonl")


def fields(text: str) -> dict[str, str]:
    """What `status` says, by the first word of each line."""
    return {line[:10].strip(): line[10:] for line in text.splitlines()}


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


# ---------------------------------------------------------------- status


def test_status_of_a_finished_file_has_the_counts_and_nothing_to_go_on_with(path: Path) -> None:
    told = fields(as_text(status(run_of(path).path)))
    assert told["file"].startswith(str(path))
    assert told["state"] == "complete"
    assert told["done"] == "8 of 8 questions"
    assert told["errors"] == "2 (example_id 40, 12)"
    assert told["accuracy"].startswith("66.67% ± 21.08% (acc), ")
    assert told["accuracy"].endswith("(acc_norm)")
    assert told.keys() == {"file", "state", "done", "errors", "accuracy"}


def test_status_counts_the_likelihood_per_character_for_acc_norm(path: Path) -> None:
    """Both ways of counting come from the file alone, without a run."""
    records = [json.loads(line) for line in LINES if b'"error":""' in line]
    right = 0
    for record in records:
        share = {
            side: record[f"{side}_solution_details"]["log_likelihood"] / len(record[f"{side}_solution_details"]["text"])
            for side in ("positive", "negative")
        }
        right += share["positive"] > share["negative"] or (
            share["positive"] == share["negative"] and record["label"] == 0
        )
    assert 0 < right < len(records)
    assert f", {right / len(records):.2%} ± " in as_text(status(run_of(path).path))


def test_status_of_a_stopped_run_gives_the_command_that_goes_on(path: Path) -> None:
    run_of(path, LINES[:3])
    path.write_bytes(path.read_bytes() + LINES[3][:50])
    told = fields(as_text(status(path)))
    assert told["state"] == "stopped"
    assert told["done"] == "3 of 8 questions"
    assert told["errors"] == "1 (example_id 40)"
    assert told["to go on"] == f"cd {path.parent} && {COMMAND}"


def test_the_command_that_goes_on_survives_a_folder_with_a_space(tmp_path: Path) -> None:
    folder = tmp_path / "it's my folder"
    folder.mkdir()
    told = fields(as_text(status(run_of(folder / "out.jsonl", LINES[:3]).path)))
    assert shlex.split(told["to go on"])[:3] == ["cd", str(folder), "&&"]


def test_status_of_a_run_without_a_line_yet(path: Path) -> None:
    told = fields(as_text(status(run_of(path, []).path)))
    assert told["state"] == "stopped"
    assert told["done"] == "0 of 8 questions"
    assert told["errors"] == "0"
    assert told["accuracy"] == "no question scored (acc), no question scored (acc_norm)"


def test_many_errors_are_counted_and_the_first_ten_named(path: Path) -> None:
    order = list(range(30))
    with open_journal(path, *parts(path, order=order), overwrite=False) as journal:
        journal.recover(lambda _: None)
        journal.append([error_line(number, "too long").line for number in order])
    told = fields(as_text(status(path)))
    assert told["errors"].startswith("30 (example_id 0, 1, 2, 3, 4, 5, 6, 7, 8, 9")
    assert "10" not in told["errors"]
    assert told["accuracy"] == "no question scored (acc), no question scored (acc_norm)"
    assert "30 of 30 lines" in verify(path)


@pytest.mark.parametrize("lines", [LINES[:3], LINES], ids=["some", "all"])
def test_status_of_a_file_that_a_live_process_writes_says_so(path: Path, lines: Sequence[bytes]) -> None:
    """A second start of a live run would be refused, so status must not send anybody there."""
    code = """
import fcntl, sys
stream = open(sys.argv[1], "r+b")
fcntl.flock(stream, fcntl.LOCK_EX)
print("ready", flush=True)
sys.stdin.read()
"""
    run_of(path, lines)
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == b"ready\n"
        told = fields(as_text(status(path)))
        assert f"{len(lines)} of 8 lines" in verify(path)
        process.stdin.close()
    assert told["state"] == "a run is writing it"
    assert told["done"] == f"{len(lines)} of 8 questions"
    assert "to go on" not in told
    assert fields(as_text(status(path)))["state"] == ("complete" if lines == LINES else "stopped")


def test_looking_changes_nothing(path: Path) -> None:
    run_of(path, LINES[:3])
    path.write_bytes(path.read_bytes() + LINES[3][:50])
    before = contents(path.parent)
    status(path)
    verify(path)
    assert contents(path.parent) == before


@pytest.mark.parametrize("look", [status, verify])
def test_a_file_or_a_manifest_that_is_missing_is_named(path: Path, look: Callable[[Path], str]) -> None:
    with pytest.raises(UsageError, match=r"There is no file .*my run\.jsonl"):
        look(path)
    with pytest.raises(UsageError, match="has no output file of a run"):
        look(path.parent)
    path.write_bytes(b"".join(LINES))
    with pytest.raises(UsageError, match=r"my run\.jsonl\.manifest\.json"):
        look(path)


# ---------------------------------------------------------------- verify: what is sound


@pytest.mark.parametrize("count", range(len(LINES) + 1))
@pytest.mark.parametrize("noted", [False, True])
def test_a_sound_file_passes_at_every_line_that_a_run_may_stop_at(path: Path, count: int, noted: bool) -> None:
    run = run_of(path, LINES[:count])
    but = ""
    if not noted:
        run.forgets_progress()
        but = f" but for {count} that nothing notes" if count else ""
    if count == len(LINES) and not noted:
        assert "is finished, and its manifest notes none of its lines" in refused_by(path)
    else:
        assert verify(path) == f"{path}: {count} of 8 lines, all whole, in order and as they were written{but}."


def refused_by(path: Path) -> str:
    with pytest.raises(LayerscopeError) as caught:
        verify(path)
    return str(caught.value)


def test_lines_behind_the_last_checkpoint_pass(path: Path) -> None:
    run_of(path, LINES[:3]).holds(LINES[:6])
    assert f"{path}: 6 of 8 lines" in verify(path)


def test_a_torn_line_is_mentioned_and_is_no_damage(path: Path) -> None:
    run_of(path, LINES[:3])
    path.write_bytes(path.read_bytes() + LINES[3][:50])
    told = verify(path)
    assert "3 of 8 lines" in told
    assert "a torn line of 50 bytes" in told


@pytest.mark.parametrize(
    ("tail", "alive", "told"),
    [
        (b"".join(LINES[3:5]), True, "; 2 more were written meanwhile."),
        (LINES[3] + LINES[4][:70], True, "; 1 more was written meanwhile."),
        (LINES[3], False, "; 1 more was written meanwhile."),
        (LINES[3][:50], True, "; a run is writing the next."),
        (LINES[3][:50], False, "; behind them a torn line of 50 bytes, which the next run removes."),
    ],
)
def test_what_a_run_writes_while_its_file_is_read_is_no_damage(
    path: Path, monkeypatch: pytest.MonkeyPatch, tail: bytes, alive: bool, told: str
) -> None:
    """The file grows once it is read to its end."""
    run_of(path, LINES[:3])

    def grow(file: Path) -> bool:
        with file.open("ab") as stream:
            stream.write(tail)
        return alive

    monkeypatch.setattr("layerscope.records.writing.locking.is_locked", grow)
    assert verify(path) == f"{path}: 3 of 8 lines, all whole, in order and as they were written{told}"


def test_a_shard_without_batches_is_told_as_one(tmp_path: Path) -> None:
    of_shard = identity((3,), shard="5/7")
    path = write_run(tmp_path / "shard.jsonl", [], of_shard)
    assert "empty for good: its shard 5/7 has none of the job's batches" in verify(path)
    assert "empty for good: its shard 5/7 has none of the job's batches" in as_text(status(path))
    report(path)
    assert "shard 5/7 has none of the job" in path.with_suffix(".html").read_text("utf-8")


def test_a_file_with_every_active_feature_passes(path: Path) -> None:
    lines = made_up_lines(k=None)
    run = run_of(path, lines, top_k="all")
    assert "8 of 8 lines" in verify(path)
    run.holds(LINES).forgets_progress()  # these list three features of five
    with pytest.raises(LayerscopeError, match=r"lists 3 features of \d active ones"):
        verify(path)


def test_a_file_whose_error_lines_were_retried_passes(path: Path) -> None:
    run_of(path, [LINES[0], LINES[1], error_line(40, "once").line, *LINES[3:5]])
    with open_journal(path, *parts(path), overwrite=False) as journal:
        journal.recover(lambda _: None)
        journal.rewrite([Replacement(2, LINES[2])])
        journal.append(LINES[5:])
    assert path.read_bytes() == b"".join(LINES)
    assert "8 of 8 lines" in verify(path)


# ---------------------------------------------------------------- verify: any damage, found by the digest


def found_at(run: Run, line: int) -> str:
    """verify refuses the file and names this line, and of what looks like a frame its byte too; what it says."""
    with pytest.raises(LayerscopeError, match=rf"\.jsonl, line {line}( \(byte \d+\))?: ") as caught:
        verify(run.path)
    assert caught.value.exit_code == 1
    assert len(str(caught.value)) < 600
    return str(caught.value)


NUMBERS = st.integers(0, len(LINES) - 1)


@settings(max_examples=400, deadline=None)
@given(data=st.data(), number=NUMBERS, value=st.integers(0, 255) | st.sampled_from(b'\n"0123456789-.,{}[] \\'))
def test_any_changed_byte_is_found_in_its_line(scratch: Run, data: st.DataObject, number: int, value: int) -> None:
    line = bytearray(LINES[number])
    place = data.draw(st.integers(0, len(line) - 1) | st.just(len(line) - 1), label="byte")
    line[place] = value if value != line[place] else value ^ 1
    scratch.holds([*LINES[:number], bytes(line), *LINES[number + 1 :]])
    found_at(scratch, number + 1)


@settings(max_examples=100, deadline=None)
@given(number=NUMBERS, count=st.integers(1, 3))
def test_dropped_lines_are_found_at_the_first(scratch: Run, number: int, count: int) -> None:
    found_at(scratch.holds([*LINES[:number], *LINES[number + count :]]), number + 1)


@settings(max_examples=100, deadline=None)
@given(number=NUMBERS, again=NUMBERS)
def test_a_line_that_is_there_twice_is_found_at_its_second_place(scratch: Run, number: int, again: int) -> None:
    lines = [*LINES[: number + 1], LINES[min(number, again)], *LINES[number + 1 :]]
    found_at(scratch.holds(lines), number + 2)


@settings(max_examples=100, deadline=None)
@given(places=st.lists(NUMBERS, min_size=2, max_size=2, unique=True))
def test_swapped_lines_are_found_at_the_first(scratch: Run, places: list[int]) -> None:
    first, second = sorted(places)
    lines = list(LINES)
    lines[first], lines[second] = lines[second], lines[first]
    found_at(scratch.holds(lines), first + 1)


def test_a_file_cut_anywhere_within_what_was_noted_is_found_at_the_line_that_is_missing(scratch: Run) -> None:
    whole = b"".join(LINES)
    for size in range(0, len(whole), 7):
        content = whole[:size]
        scratch.path.write_bytes(content)
        assert "missing" in found_at(scratch, content.count(b"\n") + 1)


@settings(max_examples=100, deadline=None)
@given(garbage=st.binary(max_size=30) | st.sampled_from([b"{}", b"[]", b"null", b'"error"', b"1", LINES[0][:-1]]))
def test_a_line_too_many_is_found(scratch: Run, garbage: bytes) -> None:
    found_at(scratch.holds([*LINES, garbage + b"\n"]), len(LINES) + 1)


@settings(max_examples=100, deadline=None)
@given(number=NUMBERS, garbage=st.binary(max_size=30) | st.sampled_from([b"", b"{}", b"[]", b"null", b'"error"', b"7"]))
@example(number=0, garbage=b"(\xb5/\xfd")  # how a zstd frame begins
@example(number=0, garbage=b"\x1f\x8b\x08")  # a gzip member
def test_an_inserted_line_is_found(scratch: Run, number: int, garbage: bytes) -> None:
    found_at(scratch.holds([*LINES[:number], garbage + b"\n", *LINES[number:]]), number + 1)


def test_a_record_that_is_right_in_itself_but_not_the_one_written_is_found(scratch: Run) -> None:
    """Only the digest can know: another text, a smaller activation, another id at the end of a list."""
    for before, after in ((b"soap", b"coal"), (b"0.25,", b"0.20,"), (b"-24.5", b"-23.5")):
        number = next(number for number, line in enumerate(LINES) if before in line)
        lines = [*LINES[:number], LINES[number].replace(before, after, 1), *LINES[number + 1 :]]
        assert "not the line that was written there" in found_at(scratch.holds(lines), number + 1)
        with tempfile.TemporaryDirectory(dir=FAST) as name:
            assert "notes none" in refused_by(run_of(Path(name) / "out.jsonl").holds(lines).forgets_progress().path)


# ---------------------------------------------------------------- verify: what a record must be, without a digest

NUMBER = 3  # of the line that is spoilt, from 0: a record with features


def details(record: Json, side: str = "negative") -> Json:
    found: Json = record[f"{side}_solution_details"]
    return found


def features(record: Json) -> list[Json]:
    """The first list of at least two features, of which one list has more active than listed."""
    lists = details(record)["active_features_by_layer"]
    found: list[Json] = next(found for found in lists.values() if len(found) >= 2)
    return found


def listed(record: Json) -> str:
    """The layer of that list."""
    found = features(record)
    return str(found[0]["layer"])


def counts(record: Json) -> Json:
    found: Json = details(record)["active_feature_count_by_layer"]
    return found


def put(place: Callable[[Json], Any], key: str | int, value: object) -> Callable[[Json], object]:
    """Sets one value of a record."""
    return lambda record: place(record).__setitem__(key, value)


def drop(place: Callable[[Json], Any], key: str | int) -> Callable[[Json], object]:
    return lambda record: place(record).__delitem__(key)


def outer(record: Json) -> Json:
    return record


def by_layer(record: Json) -> Json:
    found: Json = details(record)["active_features_by_layer"]
    return found


def rename_layer(record: Json) -> None:
    for place in (by_layer(record), counts(record)):
        place["21"] = place.pop("20")


def reorder(place: Json) -> None:
    place["0"] = place.pop("0")


def one_layer_more(record: Json) -> None:
    by_layer(record)["21"], counts(record)["21"] = [], 0


def swap_features(record: Json) -> None:
    found = features(record)
    found[0], found[1] = found[1], found[0]


def repeat_a_feature(record: Json) -> None:
    found = features(record)
    found[1] = found[0]


def swap_a_tie(record: Json) -> None:
    found = features(record)
    found[0]["activation"] = found[1]["activation"] = 50.0
    found[0]["feature_id"], found[1]["feature_id"] = 9, 8


def swap_likelihoods(record: Json) -> None:
    one, other = details(record), details(record, "positive")
    one["log_likelihood"], other["log_likelihood"] = other["log_likelihood"], one["log_likelihood"]


SPOILT: dict[str, tuple[Callable[[Json], object], str]] = {
    "another question": (put(outer, "example_id", 999), "example_id is 999; the plan has 3 there"),
    "an endless id": (put(outer, "example_id", "9" * 5000), "`int`, got `str` - at `example_id`"),
    "no id": (drop(outer, "example_id"), "missing required field `example_id`"),
    "no goal": (drop(outer, "question"), "missing required field `question`"),
    "goal no text": (put(outer, "question", 5), "`str`, got `int` - at `question`"),
    "flipped": (lambda r: r.update(model_is_correct=not r["model_is_correct"]), "model_is_correct does not follow"),
    "not a boolean": (
        lambda r: r.update(model_is_correct=int(r["model_is_correct"])),
        "`bool`, got `int` - at `model_is_correct`",
    ),
    "no details": (drop(outer, "positive_solution_details"), "missing required field `positive_solution_details`"),
    "details no object": (
        put(outer, "negative_solution_details", []),
        "`object`, got `array` - at `negative_solution_details`",
    ),
    "no text": (drop(details, "text"), "missing required field `text` - at `negative_solution_details`"),
    "text a number": (put(details, "text", 1), "`str`, got `int` - at `negative_solution_details.text`"),
    "no likelihood": (drop(details, "log_likelihood"), "missing required field `log_likelihood`"),
    "likelihood null": (put(details, "log_likelihood", None), "."),
    "likelihood text": (put(details, "log_likelihood", "-24.5"), "."),
    "likelihoods swapped": (swap_likelihoods, "model_is_correct does not follow"),
    "layer missing": (lambda r: [place.pop("8") for place in (by_layer(r), counts(r))], "the layers are 0, 20, "),
    "layer renamed": (rename_layer, "the layers are 0, 8, 21, the run's are 0, 8, 20"),
    "layers in another order": (lambda r: reorder(by_layer(r)), "the layers are 8, 20, 0, the run's are 0, 8, 20"),
    "counts in another order": (lambda r: reorder(counts(r)), "the layers are"),
    "a layer more": (one_layer_more, "the layers are 0, 8, 20, 21"),
    "a count missing": (lambda r: counts(r).pop("8"), "the layers are"),
    "no counts": (
        drop(details, "active_feature_count_by_layer"),
        "missing required field `active_feature_count_by_layer`",
    ),
    "features no list": (lambda r: by_layer(r).update({"8": None}), "."),
    "out of order": (swap_features, "strongest first"),
    "tie by higher id": (swap_a_tie, "strongest first"),
    "twice": (repeat_a_feature, "a feature of layer \\d+ is listed twice"),
    "of another layer": (put(lambda r: features(r)[0], "layer", 5), "not its own"),
    "not active": (put(lambda r: features(r)[-1], "activation", 0), "`float` > 0"),
    "negative activation": (put(lambda r: features(r)[-1], "activation", -1.5), "`float` > 0"),
    "activation text": (put(lambda r: features(r)[0], "activation", "1.5"), "."),
    "no activation": (drop(lambda r: features(r)[0], "activation"), "missing required field `activation`"),
    "no feature id": (drop(lambda r: features(r)[0], "feature_id"), "missing required field `feature_id`"),
    "one feature too few": (lambda r: features(r).pop(), r"lists \d features of \d active ones"),
    "count too low": (lambda r: counts(r).update({listed(r): 1}), r"lists \d features of 1 active ones"),
    "count too high": (lambda r: counts(r).update({listed(r): 99}) or features(r).pop(), r"lists \d features of 99"),
    "count text": (lambda r: counts(r).update({listed(r): "3"}), "."),
    "error and record": (put(outer, "error", "too long"), "`null`, got `str` - at `question`"),
    # What the record also promises, and scripts read.
    "no label": (drop(outer, "label"), "label"),
    "label of no solution": (put(outer, "label", 2), "label"),
    "no token count": (drop(details, "token_count"), "token_count"),
    "no final token": (drop(details, "final_token"), "final_token"),
    "feature id text": (put(lambda r: features(r)[0], "feature_id", "x"), "."),
    "feature id beyond": (put(lambda r: features(r)[-1], "feature_id", 16384), "is not from 0 to 16383"),
    "feature id negative": (put(lambda r: features(r)[0], "feature_id", -1), "."),
}


@pytest.mark.parametrize(("spoil", "told"), SPOILT.values(), ids=SPOILT.keys())
def test_a_record_that_is_not_one_is_found_without_a_digest(
    path: Path, spoil: Callable[[Json], object], told: str
) -> None:
    record = orjson.loads(LINES[NUMBER])
    spoil(record)
    line = orjson.dumps(record) + b"\n"
    assert line != LINES[NUMBER]
    run = run_of(path).holds([*LINES[:NUMBER], line, *LINES[NUMBER + 1 :]]).forgets_progress()
    assert re.search(told, found_at(run, NUMBER + 1).partition(f"line {NUMBER + 1}: ")[2])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"log_likelihood":-', b'"log_likelihood":NaN,"x":-'),
        (b'"log_likelihood":-', b'"log_likelihood":-1e999,"x":-'),
        (b'"activation":', b'"activation":Infinity,"x":'),
        (b'"activation":', b'"activation":1e999,"x":'),
        (b'"text":"', b'"text":"\xff'),
        (b'"text":"', b'"text":"\\ud800'),
        (b"{", b"[" * 5000 + b"{"),
        (b"}\n", b"} {}\n"),
        (b"}\n", b"}}\n"),
        (b"}\n", b"}\0\n"),
    ],
)
def test_a_line_that_is_no_json_or_no_number_is_found_without_a_digest(path: Path, before: bytes, after: bytes) -> None:
    line = LINES[NUMBER].replace(before, after, 1)
    assert line != LINES[NUMBER]
    found_at(run_of(path).holds([*LINES[:NUMBER], line]).forgets_progress(), NUMBER + 1)


def test_a_tie_counts_for_the_first_solution(path: Path) -> None:
    """Question 0 is a tie with label 0, so right; the same with label 1 would be wrong."""
    number = ORDER.index(0)
    record = orjson.loads(LINES[number])
    assert record["model_is_correct"] is True
    assert details(record)["log_likelihood"] == details(record, "positive")["log_likelihood"]
    line = orjson.dumps({**record, "label": 1}) + b"\n"
    run = run_of(path).holds([*LINES[:number], line]).forgets_progress()
    assert "model_is_correct does not follow" in found_at(run, number + 1)


@pytest.mark.parametrize("error", [b'{"example_id":40,"error":5}', b'{"example_id":40,"error":"x","question":"y"}'])
def test_an_error_line_says_why_and_nothing_else(path: Path, error: bytes) -> None:
    number = ORDER.index(40)
    run = run_of(path).holds([*LINES[:number], error + b"\n"]).forgets_progress()
    assert re.search("got `int` - at `error`|got `str` - at `question`", found_at(run, number + 1))


# ---------------------------------------------------------------- the commands


def test_the_commands_end_with_zero_on_a_sound_file(path: Path, layerscope: Command) -> None:
    run_of(path, LINES[:5])
    told = layerscope("status", str(path))
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout == as_text(status(path)) + "\n"
    told = layerscope("verify", path.name, cwd=path.parent)
    assert (told.returncode, told.stderr) == (0, "")
    assert "5 of 8 lines" in told.stdout


def test_verify_ends_with_one_on_a_bad_file(path: Path, layerscope: Command) -> None:
    run_of(path).holds([*LINES[:2], LINES[3], *LINES[3:]])
    told = layerscope("verify", str(path))
    assert told.returncode == 1
    assert told.stdout == ""
    assert told.stderr.startswith(f"layerscope: {path}, line 3: example_id is 3; the plan has 40 there")
    assert "Traceback" not in told.stderr


def test_the_commands_end_with_two_where_there_is_no_run(tmp_path: Path, layerscope: Command) -> None:
    (tmp_path / "alone.jsonl").write_bytes(b"".join(LINES))
    for command, name, message in (
        ("status", "none.jsonl", "There is no file"),
        ("verify", "alone.jsonl", "alone.jsonl.manifest.json"),
    ):
        told = layerscope(command, name, cwd=tmp_path)
        assert told.returncode == 2
        assert told.stdout == ""
        assert message in told.stderr
        assert "Traceback" not in told.stderr
        assert len(told.stderr.splitlines()) <= 3


@pytest.mark.parametrize(
    "line", [b"garbage\n", b"{}\n", b"[]\n", b'{"error":"x"}\n', LINES[0].replace(b"take soap", b"")]
)
def test_status_of_a_spoilt_file_is_a_message(path: Path, line: bytes) -> None:
    """A line that status cannot count is named, with verify's exit code; a traceback helps nobody."""
    run_of(path).holds([*LINES[:4], line, *LINES[4:]])
    with pytest.raises(LayerscopeError, match="line 5") as caught:
        status(path)
    assert caught.value.exit_code == 1


def test_the_status_command_on_a_spoilt_file_prints_no_traceback(path: Path, layerscope: Command) -> None:
    run_of(path).holds([*LINES[:4], b"garbage\n", *LINES[4:]])
    told = layerscope("status", str(path))
    assert told.returncode == 1
    assert "line 5" in told.stderr
    assert "Traceback" not in told.stderr


def test_what_programs_are_told_of_a_run_names_what_it_was_made_with(tmp_path: Path) -> None:
    """Whoever reports a fault sends this; without versions and hardware nobody can repeat it."""
    run = run_of(tmp_path / "out.jsonl", LINES[:3])
    told = orjson.loads(as_json(status(run.path)))
    assert (told["done"], told["planned"], told["state"]) == (3, len(LINES), "stopped")
    manifest = read_manifest(run.path)
    assert told["software"] == manifest.identity.software
    assert told["hardware"] == manifest.identity.hardware
    assert told["to_go_on"].endswith(manifest.about.command)


def test_a_command_from_a_manifest_reaches_a_terminal_as_text(tmp_path: Path) -> None:
    """A manifest of somebody else's would clear the screen, or write a command that looks like another."""
    path = run_of(tmp_path / "out.jsonl", LINES[:3]).path
    beside = manifest_path(path)
    beside.write_bytes(beside.read_bytes().replace(b'"command": "', b'"command": "\\u001b[2J'))
    assert "\x1b" in status(path).to_go_on  # type: ignore[operator]
    assert "\x1b" not in as_text(status(path))
    assert "[U+001B][2J" in as_text(status(path))
