"""What every run promises, for each form in which its records may lie: one file, plain or packed, parts, a bucket.

Each form has one run, with the actors in this process. Whatever a kill before any of its steps would have left is kept,
and at one moment somebody else looks at it.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from conftest import actors_here, called, words
from in_process import InProcess
from killing import before_every_step
from layerscope.records.storage import object_journal, object_lock, object_store
from object_storage import Storage, a_bucket
from stored import bury, stored

Files = dict[str, bytes]
FORMS = {
    "lines": ("x.jsonl", ()),
    "zstd": ("x.jsonl.zst", ()),
    "gzip": ("x.jsonl.gz", ()),
    "parts in a folder": ("run/", ("--writers", "3")),
    "object storage": ("", ()),
}
LOOKS = {
    "another run": ("run",),
    "status": ("status",),
    "verify": ("verify",),
    "report": ("report", "--to", "../seen.html"),
}


def records(files: Files) -> bytes:
    """The bytes of the records, whatever files they are in."""
    behind = (".json", ".marks", ".tmp")
    return b"".join(files[name] for name in sorted(files) if ".jsonl" in name and not name.endswith(behind))


@dataclass
class Life:
    """A run from its beginning to its end."""

    target: str
    more: Sequence[str]
    settings: dict[str, str]
    folder: Path
    storage: Storage | None
    left: list[Files] = field(default_factory=list)
    """What a kill before each step would have left, where that is another thing than a step before."""
    told: dict[str, "CompletedProcess[str]"] = field(default_factory=dict)
    """What whoever looked at it half-way was told."""
    seen: bytes = b""
    """The lines that an export of then has."""
    _read: dict[tuple[str, str], bytes] = field(default_factory=dict)
    _exports: Iterator[int] = field(default_factory=count)

    def call(self, command: str, *more: str, **other: Any) -> "CompletedProcess[str]":
        if command != "run":
            return called(command, self.target, *more, cwd=self.folder)
        crew = {**self.settings, **other}
        return called("run", *words(crew), "--output-file", self.target, *self.more, *more, cwd=self.folder)

    def files(self) -> Files:
        """What there is now; of a bucket the locks too."""
        if self.storage is None:
            there = {}
            for path in self.folder.rglob("*"):
                with suppress(FileNotFoundError, IsADirectoryError):  # a temporary file that has taken its place by now
                    there[str(path.relative_to(self.folder))] = path.read_bytes()
            return there
        found = {}
        for each in object_store.listed(self.target):
            name, which = str(each["name"]), (each["name"], each["ETag"])
            if which not in self._read:
                self._read[which] = object_store.read(f"s3://{name}")
            found[name.partition("/")[2]] = self._read[which]
        return found

    def has_begun(self) -> bool:
        """Whether some lines are there."""
        if self.storage is not None:
            return sum("PUT" in line and "/part-" in line for line in self.storage.requests) > 2
        return sum(map(len, self.files().values())) > 20_000

    def put(self, files: Files) -> None:
        """Has these files there and no others, as a process that is gone leaves them."""
        for name in self.files().keys() - files.keys():
            if self.storage is None:
                (self.folder / name).unlink()
            else:
                object_store.remove(f"s3://{self.storage.bucket}/{name}")
        for name, content in files.items():
            if self.storage is None:
                (self.folder / name).parent.mkdir(exist_ok=True)
                (self.folder / name).write_bytes(content)
            else:
                object_store.put(f"s3://{self.storage.bucket}/{name}", content)
        if self.storage is not None:
            bury(stored(self.target))

    def lines(self) -> bytes:
        """As everything of ours reads them."""
        path = self.folder.with_name(f"seen-{next(self._exports)}.jsonl")
        done = self.call("export", "--to", str(path))
        assert done.returncode == 0, done.stderr
        return path.read_bytes()

    def half_way(self) -> Files:
        """What a kill in the middle leaves: in a file half of a line or frame too; an object is put or is not."""
        whole = len(records(self.left[-1]))
        number = min(range(len(self.left)), key=lambda at: abs(2 * len(records(self.left[at])) - whole))
        files = dict(self.left[number])
        if self.storage is None:
            name = max(name for name in files if records({name: files[name]}))
            more = next(after[name] for after in self.left[number:] if len(after[name]) > len(files[name]))
            files[name] = more[: (len(files[name]) + len(more)) // 2]
        return files


def keep(life: Life, files: Files) -> None:
    if not life.left or life.left[-1] != files:
        life.left.append(files)


def look(life: Life) -> None:
    """Once there are lines, and while the run goes on."""
    if not life.told and threading.current_thread() is threading.main_thread() and life.has_begun():
        life.told = {"another run": CompletedProcess((), -1)}  # whoever is begun here does not look too
        life.told |= {name: life.call(*its_words) for name, its_words in LOOKS.items()}
        life.seen = life.lines()


@pytest.fixture(scope="module", params=FORMS)
def life(
    request: pytest.FixtureRequest, settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Life]:
    target, more = FORMS[request.param]
    folder = tmp_path_factory.mktemp("life") / "here"
    folder.mkdir()
    with ExitStack() as stack:
        patch = stack.enter_context(actors_here())
        storage = stack.enter_context(a_bucket()) if not target else None
        lived = Life(target or storage.run, more, settings, folder, storage)  # type: ignore[union-attr]
        patch.setattr(object_journal, "PART_BYTES", 9000)
        patch.setattr(object_lock, "RENEW_SECONDS", 0.5)
        patch.setattr(object_lock, "_LOOK_SECONDS", 3.0)
        with pytest.MonkeyPatch.context() as watching:
            wait = InProcess.wait
            watching.setattr(InProcess, "wait", lambda *given: (look(lived), wait(*given))[1])
            if storage is not None:
                storage.watch = lambda line: None if "/lock-" in line else keep(lived, lived.files())
                done = lived.call("run")
                storage.watch = None
            else:
                with before_every_step(folder, watching) as copies:
                    done = lived.call("run")
        assert done.returncode == 0, done.stderr
        if storage is None:
            for copy in copies:
                keep(lived, Life(target, more, settings, copy, None).files())
        keep(lived, lived.files())
        yield lived


def test_at_every_step_it_is_a_prefix_of_the_finished_run(life: Life, expected: bytes) -> None:
    """As an export of ours reads it, which leaves out a torn end."""
    assert len(life.left) > 10
    read: dict[bytes, bytes] = {}
    for files in life.left:
        if records(files) and records(files) not in read:
            life.put(files)
            read[records(files)] = life.lines()
    assert read.pop(records(life.left[-1])) == expected
    assert len(read) > 4
    assert all(expected.startswith(lines) and len(lines) < len(expected) for lines in read.values())
    assert sorted(read.values(), key=len) == list(read.values()), "it loses what it had"


def test_killed_it_is_gone_on_with_by_another_crew_to_the_same_bytes(life: Life) -> None:
    """Behind what is whole: a torn end, of a line or of a frame, goes."""
    files = life.half_way()
    life.put(files)
    begun = life.lines().count(b"\n")
    assert 0 < begun < 60
    stopped = life.call("status")
    assert f"{begun} of 60" in stopped.stdout
    assert "state     stopped" in stopped.stdout
    assert f"{begun} of 60 lines" in life.call("verify").stdout
    # Two writers at once would load two models at once, in two threads of this process.
    done = life.call("run", layer_blocks="2", gemma_actors="1" if life.more else "2")
    assert done.returncode == 0, done.stderr
    # The head of a run of parts tells what their manifests note, before the writers have looked at the lines behind.
    assert f"Going on after {'at least ' if life.more else f'{begun} of 60'}" in done.stderr
    assert records(life.files()) == records(life.left[-1])
    assert "60 of 60 lines, all whole" in life.call("verify").stdout
    assert "state     complete" in life.call("status").stdout
    assert "is complete already" in life.call("run").stdout


def test_other_settings_are_refused_and_change_nothing(life: Life) -> None:
    life.put(life.half_way())
    before = records(life.files())
    done = life.call("run", "--dtype", "bfloat16")
    assert done.returncode == 2
    assert "settings.dtype was float32, is bfloat16" in done.stderr
    assert records(life.files()) == before


def test_while_it_grows_nobody_else_writes_and_everybody_reads(life: Life, expected: bytes) -> None:
    refused = life.told["another run"]
    assert refused.returncode == 1, refused.stderr
    assert "Another run is writing" in refused.stderr
    assert "state     a run is writing it" in life.told["status"].stdout
    assert " of 60 lines" in life.told["verify"].stdout
    assert {done.returncode for name, done in life.told.items() if name != "another run"} == {0}, life.told
    assert 0 < len(life.seen) < len(expected)
    assert expected.startswith(life.seen)


def test_a_byte_that_was_changed_is_found_and_not_gone_on_with(life: Life) -> None:
    for files in (life.left[-1], life.half_way()):
        name = next(name for name in sorted(files) if records({name: files[name]}))
        content = bytearray(files[name])
        content[len(content) // 3] ^= 1
        life.put({**files, name: bytes(content)})
        done = life.call("verify")
        assert done.returncode == 1, done.stdout
        assert f"{name if life.storage is None else life.target}, line " in done.stderr
    again = life.call("run")
    assert again.returncode == 1, again.stderr
    assert ", line " in again.stderr
    assert life.files()[name] == content
