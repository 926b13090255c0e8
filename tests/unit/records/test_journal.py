"""The output file is a prefix of the finished one whatever stops the run, and whoever spoils it is found out."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from layerscope.errors import LayerscopeError, UsageError
from layerscope.records.line.lines import error_line
from layerscope.records.line.record import Record, Unscored
from layerscope.records.manifest.differences import differences
from layerscope.records.manifest.identity import Identity, PackingName
from layerscope.records.manifest.manifest import About, manifest_path, read_manifest
from layerscope.records.manifest.noted import Progress
from layerscope.records.reading.array import write_array
from layerscope.records.reading.stretches import read_lines
from layerscope.records.writing.appending import Line
from layerscope.records.writing.journal import Journal, open_journal
from layerscope.records.writing.locking import is_locked
from layerscope.records.writing.marks import marks_path
from layerscope.records.writing.packing import Packed, pack, packing
from layerscope.records.writing.replacing import Replacement
from layerscope.records.writing.targets import records_path
from made_up import about, compressed, edit_manifest, identity, read_through, typed

ORDER = np.random.default_rng(0).permutation(24)
LAYERS = (0, 8)
IDENTITY: dict[str, Any] = identity(LAYERS, questions=len(ORDER), seed=0)
ABOUT: dict[str, Any] = about(LAYERS, ORDER.tolist())
PARTS = typed(IDENTITY, ABOUT)
TOLD = json.dumps([IDENTITY, ABOUT])

# Syncing costs nothing on a file system in memory, and nothing here cuts the power.
_MEMORY = Path("/dev/shm")
FAST = _MEMORY if os.access(_MEMORY, os.W_OK) else None


def line_of(index: int, version: int = 0) -> bytes:
    """A line of the finished file: of very different lengths, with all that JSON allows inside."""
    text = ["", "soap", 'a "quote" \\ and\nline end', "\u2028 ☃ \U0001f9fc", "x" * 200][index % 5]
    return error_line(int(ORDER[index]), f"{version} {text}").line


LINES = [line_of(index) for index in range(len(ORDER))]
WHOLE = b"".join(LINES)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of its own, in memory where there is such a file system."""
    with tempfile.TemporaryDirectory(dir=FAST) as name:
        yield Path(name)


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "out.jsonl"


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def resumed(path: Path, parts: tuple[Identity, About] = PARTS, overwrite: bool = False) -> Journal:
    """The journal as a run has it when it has read what is there."""
    return read_through(open_journal(path, *parts, overwrite), ORDER.tolist())


def written(path: Path, lines: list[bytes], progress: int | None = None) -> Path:
    """A file of these lines, left by a run that ended well; with `progress`, its manifest notes only so many lines."""
    with resumed(path) as journal:
        journal.append(lines[:progress])
    noted = manifest_path(path).read_bytes()
    if progress is not None:
        with resumed(path) as journal:
            journal.append(lines[progress:])
        manifest_path(path).write_bytes(noted)
    return path


def crash(journal: Journal, torn: bytes = b"") -> None:
    """Ends a journal as SIGKILL would: nothing more than these bytes is written, and the lock is gone."""
    if torn:
        journal._marks.begin(journal._extent)  # which takes the place of an earlier run's before anything is written
    os.write(journal._descriptor, torn)
    os.close(journal._descriptor)
    journal._descriptor = -1


def finish(path: Path) -> None:
    """Goes on to the end, as the next run would, and finds the finished file."""
    with resumed(path) as journal:
        if journal.lines < len(LINES):
            journal.append(LINES[journal.lines :])
    assert path.read_bytes() == WHOLE


def asides(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + ".overwritten"), path.with_name(path.name + ".overwritten.manifest.json")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


# ---------------------------------------------------------------- other processes

_CHILD = """
import os, resource, sys, time
from pathlib import Path
import msgspec, orjson
from layerscope.errors import LayerscopeError
from layerscope.records.reading.array import write_array
from layerscope.records.writing.journal import open_journal
from layerscope.records.manifest.identity import Identity
from layerscope.records.manifest.manifest import About, manifest_path
from layerscope.records.writing.replacing import Replacement
from layerscope.records.reading.stretches import read_lines

path, parts = Path(sys.argv[1]), orjson.loads(sys.argv[2])
parts = [msgspec.convert(part, kind, str_keys=True) for part, kind in zip(parts, (Identity, About))]
lines = [line + b"\\n" for line in sys.stdin.buffer.read().split(b"\\n")[:-1]]

def resumed(overwrite=False):
    journal = open_journal(path, *parts, overwrite)
    journal.recover(lambda record: None)
    return journal

def limit_file_size(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def refusal(call, *arguments):
    try:
        call(*arguments)
    except LayerscopeError as error:
        return str(error)
    raise AssertionError("nothing was raised")
"""


@contextmanager
def another_process(code: str, path: Path, *before: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs this code after `_CHILD`; it has said `ready`, and is killed in the end."""
    command = [*before, sys.executable, "-c", _CHILD + code, str(path), TOLD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin
            assert process.stdout
            process.stdin.write(WHOLE)
            process.stdin.close()
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def told_by_another_process(code: str, path: Path, *before: str) -> str:
    """What a process prints that runs this code after `_CHILD` and ends well."""
    command = [*before, sys.executable, "-c", _CHILD + code, str(path), TOLD]
    done = subprocess.run(command, input=WHOLE, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


_HOLD = """
journal = resumed()
print("ready", flush=True)
time.sleep(60)
"""

_OPEN = """
print(refusal(open_journal, path, *parts, len(sys.argv) > 3))
"""


# ---------------------------------------------------------------- the file


class JournalMachine(RuleBasedStateMachine):
    """A run that is stopped, killed, spoilt at its end, resumed, overwritten and retried in any order.

    The model knows which whole stretches the file must hold (lines, or batches of compressed ones) and what stands
    behind them.
    """

    name = "out.jsonl"
    method: PackingName | None = None
    batches = (1,) * 8

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=FAST)
        self.path = Path(self.folder.name) / self.name
        self.journal: Journal | None = None
        self.version = 0
        self.lines = [line_of(index) for index in range(8)]  # of the finished file
        self.ends = [0, *accumulate(self.batches)]
        self.whole = 0
        self.tail = b""
        self.aside: tuple[bytes, int] | None = None  # what was overwritten, and its version
        self.nothing_aside = True
        self.manifests: list[bytes] = []  # that were true of this file at some time

    @property
    def parts(self) -> tuple[Identity, About]:
        return self.parts_of(self.version)

    def parts_of(self, version: int) -> tuple[Identity, About]:
        order = ORDER[: len(self.lines)].tolist()
        parts = identity(LAYERS, questions=len(order), seed=version), about(LAYERS, order)
        return typed(*(compressed(*parts, self.method, self.batches) if self.method else parts))

    @property
    def stretches(self) -> list[bytes]:
        """Of the finished file."""
        joined = [b"".join(self.lines[start:stop]) for start, stop in pairwise(self.ends)]
        return [pack([each], packing(self.method)) for each in joined] if self.method else joined

    def to_append(self, count: int) -> list[Line]:
        there = list(zip(self.stretches, self.batches, strict=True))[self.whole : self.whole + count]
        return [Packed(np.frombuffer(raw, np.uint8), lines) if self.method else raw for raw, lines in there]

    @property
    def expected(self) -> bytes:
        return b"".join(self.stretches[: self.whole]) + self.tail

    def open(self, overwrite: bool) -> Journal:
        journal = open_journal(self.path, *self.parts, overwrite)
        seen: list[bytes] = []
        journal.recover(lambda record: seen.append(error_line(record.example_id, str(record.error)).line))
        assert seen == self.lines[: self.ends[self.whole]]
        assert journal.lines == self.ends[self.whole]
        self.journal, self.tail = journal, b""
        return journal

    @precondition(lambda self: self.journal is None)
    @rule()
    def resume(self) -> None:
        self.open(overwrite=False)

    @precondition(lambda self: self.journal is None)
    @rule()
    def overwrite(self) -> None:
        self.nothing_aside &= not self.expected
        if self.whole:  # of a torn first line alone, nobody minds what becomes
            self.aside = self.expected, self.version
        self.version += 1
        self.lines = [line_of(index, self.version) for index in range(len(self.lines))]
        self.whole, self.tail, self.manifests = 0, b"", []
        self.open(overwrite=True)

    @precondition(lambda self: self.journal is not None and self.whole < len(self.batches))
    @rule(count=st.integers(1, 5))
    def append(self, count: int) -> None:
        assert self.journal
        self.journal.append(self.to_append(count))
        self.whole = min(self.whole + count, len(self.batches))
        self.aside, self.nothing_aside = None, True

    @precondition(lambda self: self.journal is not None)
    @rule(data=st.data(), count=st.integers(0, 3), garbage=st.binary(max_size=8))
    def killed_while_appending(self, data: st.DataObject, count: int, garbage: bytes) -> None:
        assert self.journal
        pending = self.stretches[self.whole : self.whole + count]
        joined = b"".join(pending)
        torn = joined[: data.draw(st.integers(0, len(joined)), label="bytes")]
        # A power failure leaves a file its length, of zeros: anything else would not be a frame that was cut off.
        torn += bytes(600) * bool(garbage) if self.method else garbage.replace(b"\n", b"\0")
        ends = [0, *accumulate(map(len, pending))]
        # Compared, not counted: the last bytes of a gzip member are zeros, so these zeros may have made it whole.
        more = max(number for number, end in enumerate(ends) if torn[:end] == joined[:end])
        crash(self.journal, torn)
        self.journal = None
        self.whole, self.tail = self.whole + more, torn[ends[more] :]
        if self.whole:
            self.aside = None  # gone, or to be gone when the next run goes on

    @precondition(lambda self: self.journal is not None)
    @rule()
    def close(self) -> None:
        assert self.journal
        self.journal.close()
        self.journal = None

    @precondition(lambda self: self.journal is not None and self.whole)
    @rule(numbers=st.sets(st.integers(0, 7)), marker=st.integers(100, 999))
    def rewrite(self, numbers: set[int], marker: int) -> None:
        assert self.journal
        replacements = [
            Replacement(number, line_of(number, marker)) for number in sorted(numbers) if number < self.ends[self.whole]
        ]
        self.journal.rewrite(replacements)
        for number, line, _ in replacements:
            self.lines[number] = line
        self.manifests = []

    @precondition(lambda self: self.journal is None and self.expected)
    @rule()
    def resume_with_other_settings(self) -> None:
        before = contents(self.path.parent)
        with pytest.raises(UsageError, match=rf"settings\.seed was {self.version}, is -1"):
            open_journal(self.path, *self.parts_of(-1), overwrite=False)
        assert contents(self.path.parent) == before

    @rule(behind=st.sampled_from(["", ".manifest.json"]), content=st.binary())
    def leave_a_temporary_file(self, behind: str, content: bytes) -> None:
        leftover = self.path.parent / f".{self.name}{behind}.{len(content):016x}.tmp"
        leftover.write_bytes(content)
        os.utime(leftover, (0, 0))

    @precondition(lambda self: self.journal is None and self.manifests)
    @rule(data=st.data(), without_progress=st.booleans())
    def put_back_an_older_manifest(self, data: st.DataObject, without_progress: bool) -> None:
        manifest = orjson.loads(data.draw(st.sampled_from(self.manifests), label="manifest"))
        if without_progress:
            manifest.pop("progress", None)
        manifest_path(self.path).write_bytes(orjson.dumps(manifest))

    @invariant()
    def the_file_is_the_whole_lines_and_at_most_one_torn_one(self) -> None:
        if self.path.exists():
            assert self.path.read_bytes() == self.expected
            assert is_locked(self.path) == (self.journal is not None)
            if (manifest := manifest_path(self.path).read_bytes()) not in self.manifests:
                self.manifests.append(manifest)

    @invariant()
    def what_was_overwritten_stands_aside_until_there_is_a_new_record(self) -> None:
        records, manifest = asides(self.path)
        if self.aside:
            assert records.read_bytes() == self.aside[0]
            assert orjson.loads(manifest.read_bytes())["identity"]["settings"]["seed"] == self.aside[1]
        elif self.nothing_aside:
            assert not records.exists()
            assert not manifest.exists()

    def teardown(self) -> None:
        try:
            if self.journal:
                crash(self.journal)
            with self.open(overwrite=False) as journal:
                journal.append(self.to_append(len(self.batches)))
            finished = b"".join(self.stretches)
            assert self.path.read_bytes() == finished
            progress = read_manifest(self.path).progress
            assert isinstance(progress, Progress)
            assert progress.xxh3_128 == xxhash.xxh3_128(finished).hexdigest()
            assert (progress.lines, progress.bytes) == (len(self.lines), len(finished))
        finally:
            self.folder.cleanup()


class ZstdMachine(JournalMachine):
    """The same with a batch's lines in one frame."""

    name = "out.jsonl.zst"
    method: PackingName | None = "zstd"
    batches = (2, 1, 3, 2)


class GzipMachine(ZstdMachine):
    """And with gzip's members."""

    name = "out.jsonl.gz"
    method: PackingName | None = "gzip"


TestAnyLifeOfAFile = JournalMachine.TestCase
TestAnyLifeOfAFile.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestAnyLifeOfAZstdFile = ZstdMachine.TestCase
TestAnyLifeOfAZstdFile.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestAnyLifeOfAGzipFile = GzipMachine.TestCase
TestAnyLifeOfAGzipFile.settings = settings(max_examples=10, stateful_step_count=25, deadline=None)


def test_a_file_torn_at_any_byte_is_finished_to_the_same_bytes(path: Path) -> None:
    manifests = {}
    for noted in range(len(LINES) + 1):
        if path.exists():
            path.unlink()
        manifests[noted] = manifest_path(written(path, LINES[:noted])).read_bytes()
    for size in range(len(WHOLE) + 1):
        path.write_bytes(WHOLE[:size])
        whole = WHOLE[:size].count(b"\n")
        # The last checkpoint was now, some lines ago, never, or (a disk that lied) lines ahead.
        noted = [whole, whole // 2, 0, len(LINES)][size % 4]
        manifest_path(path).write_bytes(manifests[noted])
        with resumed(path) as journal:
            assert journal.lines == whole
            assert path.read_bytes() == b"".join(LINES[:whole]), f"the torn line is still there at {size}"
            journal.append(LINES[whole:])
        assert path.read_bytes() == WHOLE, f"torn at {size}"


def test_a_process_killed_again_and_again_loses_no_line_it_was_told_is_written(path: Path) -> None:
    code = """
journal = resumed()
print("ready", flush=True)
for number in range(journal.lines, len(lines)):
    journal.append([lines[number]])
    print(number + 1, flush=True)
    time.sleep(0.01)
time.sleep(60)
"""
    lines = 0
    for kill in range(5):
        with another_process(code, path) as process:
            assert process.stdout
            time.sleep(0.005 * kill)
            told = process.stdout.readline() if lines < len(LINES) else b""
            process.kill()
            told += process.stdout.read()
        lines = max([lines, *map(int, told.split())])
        content = path.read_bytes()
        assert WHOLE.startswith(content)
        assert content.count(b"\n") >= lines
    finish(path)


# ---------------------------------------------------------------- a spoilt file

Damage = Callable[[list[bytes]], list[bytes]]


def changed(lines: list[bytes]) -> list[bytes]:
    return [*lines[:4], lines[4].replace(b"xxx", b"xyx", 1), *lines[5:]]


def swapped(lines: list[bytes]) -> list[bytes]:
    return [*lines[:4], lines[5], lines[4], *lines[6:]]


def duplicated(lines: list[bytes]) -> list[bytes]:
    return [*lines[:4], lines[3], *lines[4:]]


def inserted(lines: list[bytes]) -> list[bytes]:
    return [*lines[:4], b'{"example_id":-1,"text":"new"}\n', *lines[4:]]


def blank(lines: list[bytes]) -> list[bytes]:
    return [*lines[:4], b"\n", *lines[4:]]


def deleted(lines: list[bytes]) -> list[bytes]:
    return [*lines[:4], *lines[5:]]


def cut(lines: list[bytes]) -> list[bytes]:
    return [*lines[:4], lines[4][:9] + b"\n", *lines[5:]]


def merged(lines: list[bytes]) -> list[bytes]:
    return [*lines[:4], lines[4][:-1] + lines[5], *lines[6:]]


def no_object(lines: list[bytes]) -> list[bytes]:
    return [*lines[:4], b"[1]\n", *lines[5:]]


def no_text(lines: list[bytes]) -> list[bytes]:
    return [*lines[:4], b"\xff\xfe\0\n", *lines[5:]]


DAMAGES = (changed, swapped, duplicated, inserted, blank, deleted, cut, merged, no_object, no_text)


def refused_at(path: Path, line: int) -> None:
    """The next run refuses the file, names this line and leaves everything as it is."""
    before = path.read_bytes()
    with pytest.raises(LayerscopeError, match=rf"out\.jsonl, line {line}: ") as caught:
        resumed(path)
    assert caught.value.exit_code == 1
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_spoilt_line_is_refused_by_its_number_and_the_file_is_left_alone(path: Path, damage: Damage) -> None:
    written(path, LINES[:10])
    path.write_bytes(b"".join(damage(LINES[:10])))
    refused_at(path, 5)


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage is not changed])
def test_a_line_out_of_place_is_refused_even_behind_what_the_manifest_notes(path: Path, damage: Damage) -> None:
    written(path, LINES[:10], progress=2)
    path.write_bytes(b"".join(damage(LINES[:10])))
    refused_at(path, 5)


@pytest.mark.parametrize("damage", [changed, deleted])
def test_a_spoilt_line_is_refused_the_second_time_too(path: Path, damage: Damage) -> None:
    """The manifest must not take over, on the way out, the digest of a line that was just refused."""
    written(path, LINES[:10])
    path.write_bytes(b"".join(damage(LINES[:10])))
    manifest = manifest_path(path).read_bytes()
    refused_at(path, 5)
    assert manifest_path(path).read_bytes() == manifest
    refused_at(path, 5)
    path.write_bytes(b"".join(LINES[:10]))  # restored, as the message says
    finish(path)


def test_a_run_stopped_while_it_reads_its_file_forgets_nothing_about_the_lines_it_had_not_read(path: Path) -> None:
    written(path, LINES[:10])

    def stop(record: Record | Unscored) -> None:
        if record.example_id == ORDER[2]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_journal(path, *PARTS, False) as journal:
        journal.recover(stop)
    path.write_bytes(b"".join(changed(LINES[:10])))
    refused_at(path, 5)


@settings(max_examples=40, deadline=None)
@given(garbage=st.binary(min_size=1), behind=st.binary(max_size=5), noted=st.integers(0, 6))
def test_a_tail_of_whole_lines_that_are_no_records_is_refused(garbage: bytes, behind: bytes, noted: int) -> None:
    """A tail with a line end in it is not a torn line: to remove it could remove somebody's records."""
    with tempfile.TemporaryDirectory(dir=FAST) as name:
        path = written(Path(name) / "out.jsonl", LINES[:6], progress=noted)
        path.write_bytes(b"".join(LINES[:6]) + garbage + b"\n" + behind)
        refused_at(path, 7)


def test_a_line_too_many_is_refused(path: Path) -> None:
    written(path, LINES)
    path.write_bytes(WHOLE + LINES[0])
    refused_at(path, len(LINES) + 1)


# ---------------------------------------------------------------- the lock


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_run_is_refused_while_the_first_is_alive_and_goes_on_once_it_is_killed(
    path: Path, overwrite: bool
) -> None:
    """Refused in about a second, with nothing touched; a lock must not outlive its process."""
    written(path, LINES[:3])
    with another_process(_HOLD, path) as process:
        before = contents(path.parent)
        began = time.monotonic()
        with pytest.raises(LayerscopeError, match=r"Another run is writing .*out\.jsonl"):
            open_journal(path, *PARTS, overwrite)
        assert time.monotonic() - began < 3
        assert contents(path.parent) == before
        assert is_locked(path)
        process.kill()
        process.wait()
        began = time.monotonic()
        resumed(path).close()
        assert time.monotonic() - began < 0.4
    assert not is_locked(path)


def test_a_file_that_a_reader_looks_at_for_a_moment_can_be_opened(path: Path) -> None:
    """`layerscope status` takes a lock for an instant; a run that starts just then waits for it."""
    written(path, LINES[:3])
    with path.open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert not is_locked(path), "a reader is not a run"
        timer = threading.Timer(0.2, lambda: fcntl.flock(reader, fcntl.LOCK_UN))
        timer.start()
        resumed(path).close()
        timer.join()


def test_runs_start_under_the_eyes_of_a_reader_that_never_stops_looking(path: Path) -> None:
    written(path, LINES[:3])
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            is_locked(path)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            resumed(path).close()
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_the_file_that_took_the_place_of_the_one_just_opened_is_the_one_that_is_locked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking another run may replace the file: to write to the old one would lose every line."""
    written(path, LINES[:3])
    newer = path.with_name("newer.jsonl")
    newer.write_bytes(b"".join(LINES[:5]))
    lock = fcntl.flock

    def replace_and_lock(descriptor: int, operation: int) -> None:
        if newer.exists():
            newer.replace(path)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", replace_and_lock)
    with resumed(path) as journal:
        assert journal.lines == 5
        assert os.path.samestat(os.fstat(journal._descriptor), path.stat())
        journal.append(LINES[5:])
    assert path.read_bytes() == WHOLE


def test_runs_that_overwrite_each_other_all_the_time_are_never_two_at_once(path: Path) -> None:
    code = """
inside, opened, refused = path.with_name("inside"), 0, 0
print("ready", flush=True)
until = time.monotonic() + 1.5
while time.monotonic() < until:
    try:
        journal = resumed(overwrite=(opened + os.getpid()) % 2 == 0)
    except LayerscopeError as error:
        assert "Another run" in str(error), error
        refused += 1
        continue
    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
    if journal.lines < len(lines):
        journal.append([lines[journal.lines]])
    opened += 1
    inside.unlink()
    journal.close()
    time.sleep(0.002)
print(opened)
"""
    with another_process(code, path) as first, another_process(code, path) as second:
        outputs = [process.stdout.read() for process in (first, second) if process.stdout]
        assert [process.wait(timeout=20) for process in (first, second)] == [0, 0]
    assert all(int(output) >= 5 for output in outputs)


# ---------------------------------------------------------------- the disk


def test_a_file_that_may_not_grow_at_any_byte_keeps_its_whole_lines_and_is_finished_later(path: Path) -> None:
    """A real EFBIG after a short write, at every byte of three lines."""
    code = """
for before in (0, 2):
    for limit in range(len(b"".join(lines[:before])), len(b"".join(lines[:before + 3]))):
        have = before
        path.unlink(missing_ok=True)
        journal = resumed()
        if have:
            journal.append(lines[:have])
        limit_file_size(limit)
        told = refusal(journal.append, lines[have:have + 4])
        assert "cannot be written: File too large" in told, told
        assert f"Its {have} lines are whole" in told, told
        assert journal.lines == have
        assert path.read_bytes() == b"".join(lines[:have]), limit
        if limit % 2:
            limit_file_size(resource.RLIM_INFINITY)
            journal.append(lines[have:have + 1])
            have += 1
        journal.close()
        assert path.read_bytes() == b"".join(lines[:have]), limit
        limit_file_size(resource.RLIM_INFINITY)
        with resumed() as journal:
            assert journal.lines == have
            journal.append(lines[have:])
        assert path.read_bytes() == b"".join(lines), limit
print("passed")
"""
    assert told_by_another_process(code, path) == "passed\n"


def test_a_manifest_that_cannot_be_written_stops_the_run_and_the_lines_stay(path: Path) -> None:
    code = """
parts[1] = msgspec.structs.replace(parts[1], command="x" * 4000)
journal = resumed()
limit_file_size(3000)
try:
    with journal:
        journal.append(lines[:2])
except LayerscopeError as error:
    print(error)
limit_file_size(resource.RLIM_INFINITY)
left = {path.name + ending for ending in ("", ".manifest.json", ".marks")}  # the marks hold what nobody noted
assert {file.name for file in path.parent.iterdir()} == left
"""
    assert "The manifest of" in told_by_another_process(code, path)
    assert path.read_bytes() == b"".join(LINES[:2])
    finish(path)


def test_a_rewritten_file_that_does_not_fit_leaves_the_old_one(path: Path) -> None:
    code = """
journal = resumed()
limit_file_size(200)
print(refusal(journal.rewrite, [Replacement(1, lines[1])]))
limit_file_size(resource.RLIM_INFINITY)
journal.append(lines[10:])
journal.close()
"""
    written(path, LINES[:10])
    told = told_by_another_process(code, path)
    assert "File too large" in told
    assert "It is as it was" in told
    assert contents(path.parent).keys() == {path.name, manifest_path(path).name}
    assert path.read_bytes() == WHOLE


def test_the_rest_of_a_torn_line_is_no_line_of_its_own() -> None:
    """A run may write it while another process reads. A terminal can say `end of file` (^D) and then go on, too."""
    terminal, file = os.openpty()
    try:
        os.write(terminal, b"whole\nhal\x04\x04f\n\x04")
        assert list(read_lines(Path(os.ttyname(file)))) == [b"whole\n"]
    finally:
        os.close(terminal)
        os.close(file)


def test_an_array_that_does_not_fit_is_a_message_and_leaves_the_old_one(path: Path) -> None:
    """A full disk at the very end of a run must not be a traceback."""
    code = """
limit_file_size(200)
print(refusal(write_array, path, path.with_suffix(".json"), read_lines(path)))
"""
    written(path, LINES)
    path.with_suffix(".json").write_bytes(b"[1]\n")
    assert "out.json" in told_by_another_process(code, path)
    assert path.with_suffix(".json").read_bytes() == b"[1]\n"
    assert not list(path.parent.glob(".*"))


_IN_A_SMALL_DISK = ("unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=64k none "$0" && exec "$@"')


def test_a_full_disk_keeps_the_whole_lines_and_the_run_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """ENOSPC after a short write, on a disk of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not shutil.which("unshare"):
        pytest.skip("this machine has no unshare, which mounts the small disk")
    mounted = subprocess.run([*_IN_A_SMALL_DISK, str(disk), "true"], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this machine does not let us mount a small disk: {mounted.stderr.strip()}")
    code = """
long = [line[:-2] + b',"long":"' + b"x" * 9000 + b'"}\\n' for line in lines[:5]]
ballast = path.with_name("ballast")
ballast.write_bytes(b"x" * 20_000)
journal = resumed()
journal.append(long[:2])
told = refusal(journal.append, long[2:])
assert "No space left on device" in told and "Its 2 lines are whole" in told, told
journal.close()
assert path.read_bytes() == b"".join(long[:2])
ballast.write_bytes(b"")
with resumed() as journal:
    assert journal.lines == 2
    journal.append(long[2:])
    assert path.read_bytes() == b"".join(long)
    told = refusal(journal.rewrite, [Replacement(0, long[0])])
    assert "No space left on device" in told and "as it was" in told, told
    assert path.read_bytes() == b"".join(long)
assert sorted(file.name for file in path.parent.iterdir()) == ["ballast", path.name, path.name + ".manifest.json"]
assert "No space" in refusal(write_array, path, path.with_suffix(".json"), read_lines(path))
print("passed")
"""
    assert told_by_another_process(code, disk / "out.jsonl", *_IN_A_SMALL_DISK, str(disk)) == "passed\n"


def test_lines_that_may_not_have_reached_the_disk_are_not_done(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails at fdatasync: the message of that is what the user sees, and nothing later hides it."""
    written(path, LINES[:3])

    def broken(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    journal = resumed(path)
    manifest = manifest_path(path).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(LayerscopeError, match="Input/output error") as caught, journal:
            journal.append(LINES[3:6])
    assert "Its 3 lines are whole" in str(caught.value)
    assert caught.value.exit_code == 1
    assert journal.lines == 3
    journal.close()
    assert path.read_bytes() == b"".join(LINES[:3])
    assert manifest_path(path).read_bytes() == manifest
    finish(path)


def fail_to_sync(patch: pytest.MonkeyPatch, only_folders: bool = False) -> None:
    """Makes the disk fail at every fsync, or at those of folders."""
    sync = os.fsync

    def broken(descriptor: int) -> None:
        if not only_folders or stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(descriptor)

    patch.setattr(os, "fsync", broken)


def rewrite_one(path: Path) -> None:
    with resumed(path) as journal:
        journal.rewrite([Replacement(3, LINES[3])])


def array_of(path: Path) -> None:
    write_array(path, path.with_suffix(".json"), read_lines(path))


@pytest.mark.parametrize("step", [resumed, rewrite_one, array_of])
@pytest.mark.parametrize("there", [0, 10])
def test_a_disk_that_fails_to_sync_is_a_message_and_the_file_can_be_gone_on_with(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: Callable[[Path], object], there: int
) -> None:
    written(path, LINES[:there])
    with monkeypatch.context() as patch:
        fail_to_sync(patch)
        with pytest.raises(LayerscopeError, match="Input/output error"):
            step(path)
    assert not list(path.parent.glob(".*"))
    finish(path)


def test_a_rewritten_file_whose_folder_cannot_be_synced_can_be_gone_on_with(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file is there by then: to go on as if it were the old one spoils the manifest."""
    written(path, [*LINES[:3], line_of(3, version=1), *LINES[4:10]])
    with monkeypatch.context() as patch:
        fail_to_sync(patch, only_folders=True)
        with pytest.raises(LayerscopeError, match="Input/output error"):
            rewrite_one(path)
    with resumed(path) as journal:
        assert journal.lines == 10


# ---------------------------------------------------------------- --overwrite

OTHER = typed(identity(LAYERS, questions=len(ORDER), seed=1), ABOUT)


def test_an_overwritten_file_stands_aside_until_the_new_one_has_a_record(path: Path) -> None:
    written(path, LINES[:5])
    old, manifest = path.read_bytes(), manifest_path(path).read_bytes()
    with resumed(path, OTHER, overwrite=True) as journal:
        assert journal.lines == 0
        assert path.read_bytes() == b""
        assert [aside.read_bytes() for aside in asides(path)] == [old, manifest]
        journal.append([])
        assert [aside.read_bytes() for aside in asides(path)] == [old, manifest], "no record yet"
        journal.append(LINES[:1])
        assert contents(path.parent).keys() == {path.name, manifest_path(path).name, marks_path(path).name}
    assert contents(path.parent).keys() == {path.name, manifest_path(path).name}
    assert read_manifest(path).identity == OTHER[0]


def test_a_file_overwritten_by_a_run_that_never_wrote_a_record_can_be_put_back(path: Path) -> None:
    written(path, LINES[:5])
    crash(resumed(path, OTHER, overwrite=True))
    for aside, there in zip(asides(path), (path, manifest_path(path)), strict=True):
        aside.replace(there)
    finish(path)


def test_a_run_that_failed_at_its_first_record_leaves_the_overwritten_file_aside(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(path, LINES[:5])

    def broken(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(LayerscopeError), resumed(path, OTHER, overwrite=True) as journal:
        journal.append(LINES[:1])
    assert asides(path)[0].read_bytes() == b"".join(LINES[:5])


def test_overwriting_again_after_a_torn_first_line_keeps_the_records_that_stood_aside(path: Path) -> None:
    """The same command typed again after a crash: the torn line must not take the place of the old records."""
    written(path, LINES[:5])
    crash(resumed(path, OTHER, overwrite=True), torn=LINES[0][:9])
    crash(resumed(path, OTHER, overwrite=True))
    assert asides(path)[0].read_bytes() == b"".join(LINES[:5])
    assert orjson.loads(asides(path)[1].read_bytes())["identity"] == IDENTITY


def test_what_stood_aside_is_gone_when_the_run_was_killed_after_its_first_record(path: Path) -> None:
    """Killed between writing the first record and removing the old file: gigabytes must not stay behind for good."""
    written(path, LINES[:5])
    crash(resumed(path, OTHER, overwrite=True), torn=LINES[0])
    with resumed(path, OTHER) as journal:
        journal.append(LINES[1:])
    assert contents(path.parent).keys() == {path.name, manifest_path(path).name}


@pytest.mark.parametrize("manifest", [b"not JSON", b'{"format":99}', None])
def test_a_file_that_layerscope_did_not_make_can_be_overwritten(path: Path, manifest: bytes | None) -> None:
    path.write_bytes(b"something\nelse")
    if manifest is not None:
        manifest_path(path).write_bytes(manifest)
    crash(resumed(path, overwrite=True))
    assert asides(path)[0].read_bytes() == b"something\nelse"
    finish(path)


# Ends the process before its n-th rename from now on, as a kill would.
_KILL_AT_RENAME = """
renames, replace = [int(sys.argv[3])], os.replace
def replace_or_die(*arguments):
    if not renames[0]:
        os._exit(9)
    renames[0] -= 1
    replace(*arguments)
"""


def killed_at_each_rename(code: str, path: Path, old: list[bytes]) -> Iterator[int]:
    """For every rename that this code makes: the files of a run of `old` lines as a kill just before it leaves them."""
    for rename in range(20):
        for file in path.parent.iterdir():
            file.unlink()
        written(path, old)
        command = [
            sys.executable,
            "-c",
            _CHILD + _KILL_AT_RENAME + code,
            str(path),
            TOLD,
            str(rename),
        ]
        done = subprocess.run(command, input=WHOLE, capture_output=True, timeout=60, check=False)
        assert done.returncode in (0, 9), done.stderr.decode()
        yield rename
        if done.returncode == 0:
            return
    raise AssertionError("there is no end to the renames")


def test_a_kill_at_any_rename_of_overwriting_leaves_the_old_run_restorable_even_if_tried_again(path: Path) -> None:
    code = """
os.replace = replace_or_die
resumed(overwrite=True)
os._exit(0)
"""
    old = LINES[:5]
    for rename in killed_at_each_rename(code, path, old):
        crash(resumed(path, OTHER, overwrite=True))
        assert asides(path)[0].read_bytes() == b"".join(old), f"killed at rename {rename}"
        progress = orjson.loads(asides(path)[1].read_bytes()).get("progress", {})
        assert progress.get("lines") == 5, f"killed at rename {rename}: the old manifest is lost"


# ---------------------------------------------------------------- rewrite


def retried(index: int) -> bytes:
    return line_of(index, version=1)


def test_rewriting_replaces_the_lines_and_the_run_goes_on_behind_them(path: Path) -> None:
    written(path, LINES[:10])
    expected = [retried(index) if index in (0, 4, 9) else line for index, line in enumerate(LINES)]
    with resumed(path) as journal:
        journal.rewrite(Replacement(index, retried(index)) for index in (0, 4, 9))
        assert path.read_bytes() == b"".join(expected[:10])
        assert journal.lines == 10
        journal.append(LINES[10:])
    assert path.read_bytes() == b"".join(expected)
    noted = orjson.loads(manifest_path(path).read_bytes())["progress"]
    assert noted["xxh3_128"] == xxhash.xxh3_128(b"".join(expected)).hexdigest()
    resumed(path).close()
    path.write_bytes(b"".join(changed(expected)))
    with pytest.raises(LayerscopeError, match="line 5: it is not the line that was written"):
        resumed(path)


def test_rewriting_that_fails_half_way_leaves_the_file_and_no_rest(path: Path) -> None:
    written(path, LINES[:10])

    def failing() -> Iterator[Replacement]:
        yield Replacement(1, retried(1))
        raise LayerscopeError("no GPU left")

    with resumed(path) as journal:
        with pytest.raises(LayerscopeError, match="no GPU left"):
            journal.rewrite(failing())
        assert is_locked(path)
        assert contents(path.parent).keys() == {path.name, manifest_path(path).name}
        assert path.read_bytes() == b"".join(LINES[:10])
        journal.append(LINES[10:])
    assert path.read_bytes() == WHOLE
    resumed(path).close()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's list of open files")
def test_rewriting_that_fails_leaves_no_open_file(path: Path) -> None:
    """A removed file that stays open keeps its gigabytes until the process ends."""
    written(path, LINES[:10])
    with resumed(path) as journal:
        before = sorted(file.name for file in Path("/proc/self/fd").iterdir())
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                journal.rewrite(Replacement(index, bytes([1 // (2 - index)])) for index in range(1, 9))
        assert sorted(file.name for file in Path("/proc/self/fd").iterdir()) == before


def test_another_process_stays_out_during_and_after_rewriting(path: Path) -> None:
    written(path, LINES[:10])

    def observed() -> Iterator[Replacement]:
        assert is_locked(path)
        assert path.read_bytes() == b"".join(LINES[:10])
        yield Replacement(1, retried(1))
        assert is_locked(path)
        assert path.read_bytes() == b"".join(LINES[:10]), "seen half-written"

    with resumed(path) as journal:
        journal.rewrite(observed())
        assert "Another run is writing" in told_by_another_process(_OPEN, path)
    assert not is_locked(path)


def test_a_run_that_waits_for_the_lock_while_the_file_is_rewritten_gets_the_new_file(path: Path) -> None:
    written(path, LINES[:10])
    journal = resumed(path)
    opened: list[Journal] = []
    waiting = threading.Thread(target=lambda: opened.append(resumed(path)))

    def replacements() -> Iterator[Replacement]:
        waiting.start()
        time.sleep(0.1)
        yield Replacement(1, retried(1))

    journal.rewrite(replacements())
    journal.close()
    waiting.join()
    with opened[0] as second:
        assert os.path.samestat(os.fstat(second._descriptor), path.stat())
        assert path.read_bytes().splitlines(keepends=True)[1] == retried(1)


def test_a_kill_at_any_rename_of_rewriting_leaves_a_file_that_can_be_gone_on_with(path: Path) -> None:
    """The new lines and the manifest that notes them are two files: a kill between them must not end in a refusal."""
    code = """
journal = resumed()
os.replace = replace_or_die
journal.rewrite([Replacement(3, lines[3])])
os._exit(0)
"""
    old = [*LINES[:3], retried(3), *LINES[4:10]]
    for rename in killed_at_each_rename(code, path, old):
        assert path.read_bytes() in (b"".join(old), b"".join(LINES[:10]))
        with resumed(path) as journal:
            assert journal.lines == 10, f"killed at rename {rename}"


# ---------------------------------------------------------------- names, links and permissions


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o022, 0o644)])
def test_every_file_has_the_permissions_that_the_umask_leaves(
    path: Path, umask: Callable[[int], int], mask: int, mode: int
) -> None:
    umask(mask)
    written(path, LINES[:3])
    write_array(path, path.with_suffix(".json"), read_lines(path))
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == {"out.jsonl": mode, "out.jsonl.manifest.json": mode, "out.json": mode}
    with resumed(path) as journal:
        journal.rewrite([Replacement(1, retried(1))])
    assert path.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_an_output_file_that_is_a_link_is_refused(path: Path, overwrite: bool, there: bool) -> None:
    target = path.with_name("precious")
    if there:
        target.write_bytes(b"precious")
    path.symlink_to(target)
    with pytest.raises(UsageError, match=r"out\.jsonl cannot be written: it is a symbolic link"):
        open_journal(path, *PARTS, overwrite)
    assert contents(path.parent) == ({"precious": b"precious", "out.jsonl": b"precious"} if there else {})


def test_an_output_file_that_is_a_folder_or_in_none_is_refused(path: Path) -> None:
    path.mkdir()
    for wrong in (path, path.with_name("nowhere") / "out.jsonl"):
        with pytest.raises(UsageError, match="cannot be written"):
            open_journal(wrong, *PARTS, False)


def test_links_planted_under_the_names_of_temporary_files_are_not_followed(path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=FAST) as name:
        target = Path(name) / "precious"
        target.write_bytes(b"precious")
        array = path.with_suffix(".json")
        names = [f".{file.name}.{0:016x}.tmp" for file in (path, manifest_path(path), array)]

        def plant(links: list[str]) -> None:
            for link in links:
                path.with_name(link).unlink(missing_ok=True)
                path.with_name(link).symlink_to(target)

        plant(names)
        written(path, LINES)
        plant(names)
        with resumed(path) as journal:
            journal.rewrite([Replacement(1, LINES[1])])
        plant(names)
        write_array(path, array, read_lines(path))
        plant([aside.name for aside in asides(path)])
        crash(resumed(path, overwrite=True))
        assert target.read_bytes() == b"precious"
        assert not any(file.is_symlink() for file in (path, manifest_path(path), array, *asides(path)))
        assert array.read_bytes().count(b"\n") == len(LINES) + 2


@settings(max_examples=40, deadline=None)
@given(
    records=st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=5) | st.integers(-9, 9), max_size=3)),
    torn=st.sampled_from([b"", b'{"example_id":']),
)
def test_the_array_holds_the_records_of_the_lines(records: list[dict[str, Any]], torn: bytes) -> None:
    with tempfile.TemporaryDirectory(dir=FAST) as name:
        lines, array = Path(name) / "out.jsonl", Path(name) / "out.json"
        array.write_bytes(b"older")
        lines.write_bytes(b"".join(json.dumps(record).encode() + b"\n" for record in records) + torn)
        write_array(lines, array, read_lines(lines))
        assert json.loads(array.read_bytes()) == records
        assert contents(lines.parent).keys() == {"out.jsonl", "out.json"}


def test_an_array_that_cannot_take_its_place_leaves_no_rest(path: Path) -> None:
    """A folder under the array's name, or the like, is a message at the end of a run, not a traceback."""
    written(path, LINES)
    path.with_suffix(".json").mkdir()
    with pytest.raises(LayerscopeError, match=r"out\.json"):
        write_array(path, path.with_suffix(".json"), read_lines(path))
    assert not list(path.parent.glob(".*"))


def test_lines_go_to_jsonl_beside_the_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert records_path("x.json") == tmp_path / "x.jsonl"
    assert records_path("x.y.jsonl") == tmp_path / "x.y.jsonl"
    assert records_path("x") == tmp_path / "x"
    assert records_path("~/x.json") == Path("/home/somebody/x.jsonl")


# ---------------------------------------------------------------- the manifest


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b'{"format":99,"identity":{}}',
        b'{"format":1}',
        b'{"identity":{}}',
        "folder",
        None,
    ],
)
def test_a_manifest_that_is_none_is_named_and_the_records_stay(path: Path, manifest: bytes | str | None) -> None:
    written(path, LINES[:3])
    beside = manifest_path(path)
    beside.unlink()
    if manifest == "folder":
        beside.mkdir()
    elif isinstance(manifest, bytes):
        beside.write_bytes(manifest)
    before = contents(path.parent)
    with pytest.raises(UsageError, match=r"out\.jsonl\.manifest\.json") as caught:
        open_journal(path, *PARTS, False)
    assert len(str(caught.value).splitlines()) <= 3
    assert contents(path.parent) == before
    with pytest.raises(UsageError, match=r"out\.jsonl\.manifest\.json"):
        read_manifest(path)


def test_questions_are_known_by_their_content_whatever_their_file_is_called(path: Path) -> None:
    """A renamed or moved file of questions ends an unfinished run; the hub's may still not be taken for a file's."""
    first, *others = (
        typed(IDENTITY | {"questions": origin}, ABOUT)
        for origin in ({"dataset": "a.jsonl"}, {"dataset": "b.jsonl"}, {"dataset": "b.jsonl", "revision": "0" * 40})
    )
    with resumed(path, first) as journal:
        journal.append(LINES[:2])
    noted = manifest_path(path).read_bytes()
    with resumed(path, others[0]) as journal:
        assert journal.lines == 2
    assert orjson.loads(manifest_path(path).read_bytes())["identity"] == orjson.loads(noted)["identity"]
    with pytest.raises(UsageError, match=r"questions\.dataset was a\.jsonl, is b\.jsonl"):
        resumed(path, others[1])
    other_content = {"questions": {"dataset": "a.jsonl"}, "plan": IDENTITY["plan"] | {"sha256": "1" * 64}}
    with pytest.raises(UsageError, match=r"settings: plan\.sha256 was 0+, is 1+\."):
        resumed(path, typed(IDENTITY | other_content, ABOUT))


PARTS_WITH_COMMITS = {"model": "commit", "saes": "commit", "questions": "revision"}


@pytest.mark.parametrize("part", PARTS_WITH_COMMITS)
def test_a_commit_more_on_the_hub_ends_no_run_whose_contents_are_the_same(path: Path, part: str) -> None:
    """An edited README on the hub refuses a resume; or other contents are taken, or refused without their commit."""
    commit = PARTS_WITH_COMMITS[part]
    hub = IDENTITY | {"questions": {"dataset": "ybisk/piqa", "revision": "a" * 40, "split": "validation"}}
    hub |= {name: hub[name] | {"commit": "a" * 40} for name in ("model", "saes")}
    moved = {part: hub[part] | {commit: "b" * 40}}
    with resumed(path, typed(hub, ABOUT)) as journal:
        journal.append(LINES[:2])
    noted = orjson.loads(manifest_path(path).read_bytes())["identity"]
    with resumed(path, typed(hub | moved, ABOUT)) as journal:
        assert journal.lines == 2
    assert orjson.loads(manifest_path(path).read_bytes())["identity"] == noted
    contents = {
        "model": {"files": {"config.json": "1" * 64}},
        "saes": {"layers": {layer: sae | {"sha256": "1" * 64} for layer, sae in IDENTITY["saes"]["layers"].items()}},
        "questions": {},
    }
    other = moved | {part: moved[part] | contents[part]}
    if part == "questions":
        other |= {"plan": IDENTITY["plan"] | {"sha256": "1" * 64}}
    with pytest.raises(UsageError, match=rf"{part}\.{commit} was a+, is b+"):
        resumed(path, typed(hub | other, ABOUT))


def test_a_refusal_names_every_setting_that_differs(path: Path) -> None:
    written(path, LINES[:3])
    edit_manifest(path, lambda manifest: manifest["identity"]["settings"].update(new=True))
    other = typed(identity(LAYERS, questions=5, seed=7), ABOUT)
    before = contents(path.parent)
    with pytest.raises(UsageError) as caught:
        open_journal(path, *other, False)
    for told in ("settings.seed was 0, is 7", "settings.new was True, is None", "plan.questions was 24, is 5"):
        assert told in str(caught.value)
    assert "dtype" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert contents(path.parent) == before


def test_the_manifest_keeps_who_began_the_run_and_which_batches_were_halved(path: Path) -> None:
    first, second = (typed(IDENTITY, ABOUT | {"command": command}) for command in ("first", "second"))
    with open_journal(path, *first, False) as journal:
        journal.recover(lambda _: None)
        journal.note_computed([3], {})
        journal.append(LINES[:2])
    with open_journal(path, *second, False) as journal:
        journal.recover(lambda _: None)
        journal.note_computed([5], {})
    manifest = read_manifest(path)
    assert manifest.about == first[1]
    assert manifest.halved_batches == [3, 5]
    assert manifest.lines_noted() == 2


def test_what_a_later_version_adds_to_a_manifest_stays_there(path: Path) -> None:
    """A run of this version must not forget what it cannot read."""
    written(path, LINES[:2])
    added = {"later": {"deep": [1]}}
    edit_manifest(path, lambda manifest: (manifest.update(added), manifest["about"].update(added)))
    finish(path)
    manifest = orjson.loads(manifest_path(path).read_bytes())
    assert manifest["later"] == manifest["about"]["later"] == added["later"]
    assert manifest["progress"]["lines"] == len(LINES)
    edit_manifest(path, lambda manifest: manifest["identity"]["settings"].update(added))
    with pytest.raises(UsageError, match=r"settings\.later was {'deep': \[1\]}, is None"):
        open_journal(path, *PARTS, False)


def test_a_file_begun_with_sha256_goes_on_with_it(path: Path) -> None:
    """As the first files were."""
    written(path, LINES[:4])
    ends = [hashlib.sha256(b"".join(LINES[: n + 1])).hexdigest() for n in range(4)]
    running = " ".join(end[:8] for end in ends)
    progress = {"lines": 4, "bytes": len(b"".join(LINES[:4])), "sha256": ends[-1], "running": running}
    edit_manifest(path, lambda manifest: manifest.update(progress=progress))
    with resumed(path) as journal:
        journal.append(LINES[4:])
    progress_now = read_manifest(path).progress
    assert isinstance(progress_now, Progress)
    assert progress_now.sha256 == hashlib.sha256(b"".join(LINES)).hexdigest()
    path.write_bytes(b"".join(changed(LINES)))
    with pytest.raises(LayerscopeError, match=r"line \d+: it is not"):
        resumed(path)


SETTINGS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda values: st.dictionaries(st.sampled_from("abc"), values, max_size=3),
    max_leaves=8,
)


def leaves(value: object, prefix: str = "") -> dict[str, object]:
    """The values of nested settings by their dotted names."""
    if not isinstance(value, dict):
        return {prefix[:-1]: value}
    return {name: leaf for key, inner in value.items() for name, leaf in leaves(inner, f"{prefix}{key}.").items()}


@given(old=st.dictionaries(st.sampled_from("abc"), SETTINGS), new=st.dictionaries(st.sampled_from("abc"), SETTINGS))
def test_settings_are_the_same_when_no_value_differs(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert differences(old, old) == []
    told = differences(old, new)
    before, after = leaves(old), leaves(new)
    for name in before.keys() & after.keys():
        if before[name] != after[name]:
            assert f"{name} was {before[name]}, is {after[name]}" in told
    if old == new:
        assert not told


def test_differences_name_nested_settings_with_both_values_and_cut_long_ones() -> None:
    old = {"a": {"b": {"c": 1, "same": [1]}}, "gone": "x", "kind": {"d": 1}, "long": "y" * 500}
    new = {"a": {"b": {"c": 2, "same": [1]}}, "came": 0, "kind": None, "long": "z" * 500}
    told = differences(old, new)
    assert told[:3] == ["a.b.c was 1, is 2", "gone was x, is None", "kind was {'d': 1}, is None"]
    assert told[3].startswith("long was yyy")
    assert len(told[3]) < 200
    assert told[4:] == ["came was None, is 0"]
