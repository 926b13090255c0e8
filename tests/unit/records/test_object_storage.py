"""A run in object storage is a disk's file cut into parts: read by everything, written whole, by one at a time."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace

import layerscope
from layerscope.errors import LayerscopeError
from layerscope.records.manifest.manifest import manifest_path, read_manifest
from layerscope.records.reading.stretches import read_lines
from layerscope.records.status import Status, status
from layerscope.records.storage import object_journal, object_lock, object_store
from layerscope.records.storage.object_journal import open_output
from layerscope.records.verify import verify
from layerscope.records.writing.locking import is_locked
from layerscope.report.page import report
from layerscope.tables.compare import as_json, compare
from layerscope.tables.export import export
from object_storage import Storage, storage  # noqa: F401 - a fixture
from stored import (
    BATCHES,
    ENDS,
    LINES,
    Dead,
    Death,
    batches_of,
    bury,
    die,
    finish,
    go_on,
    opened,
    parts_of,
    raw,
    stored,
)

FORMS = ("run", "run.jsonl", "run.jsonl.gz")
SUFFIXES = {"run": ".jsonl.zst", "run.jsonl": ".jsonl", "run.jsonl.gz": ".jsonl.gz"}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a few batches, and nobody waits."""
    monkeypatch.setattr(object_journal, "PART_BYTES", 700)
    monkeypatch.setattr(object_lock, "_LOOK_SECONDS", 0.2)


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder in fsspec's store in memory: what needs no server."""
    yield "memory://bucket"
    object_store.ask("memory://bucket", "read", lambda files: files.store.clear())


def file_of(address: str, folder: Path) -> Path:
    """The same run as a file on a disk."""
    path = folder / f"x{SUFFIXES[address.rpartition('/')[2]]}"
    finish(path)
    return path


def contents(address: str) -> dict[str, bytes]:
    """What lies at an address, but for locks."""
    return {
        name: object_store.read(f"{address}/{name}")
        for name, _ in stored(address).objects()
        if not name.startswith("lock-")
    }


def cut(address: str) -> list[bytes]:
    """The parts of the finished run: each ends with the first batch that makes it long enough, or the last."""
    parts, part = [], b""
    for batch in batches_of(stored(address)):
        part += raw(batch)
        if len(part) >= object_journal.PART_BYTES:
            parts.append(part)
            part = b""
    return [*parts, part] if part else parts


def expected(address: str) -> dict[str, bytes]:
    suffix = SUFFIXES[address.rpartition("/")[2]]
    return {f"part-{number:05d}{suffix}": part for number, part in enumerate(cut(address))}


@pytest.mark.parametrize("form", FORMS)
def test_the_parts_of_a_finished_run_are_the_file_of_a_disk(form: str, storage: Storage, tmp_path: Path) -> None:  # noqa: F811
    address = f"s3://{storage.bucket}/{form}"
    finish(stored(address))
    found = contents(address)
    del found["manifest.json"]
    assert found == expected(address)
    assert len(found) > 2
    on_disk = file_of(address, tmp_path)
    assert b"".join(found[name] for name in sorted(found)) == on_disk.read_bytes()
    assert read_manifest(stored(address)).progress == read_manifest(on_disk).progress


@pytest.mark.parametrize("form", FORMS)
def test_every_reader_takes_an_address(form: str, storage: Storage, tmp_path: Path) -> None:  # noqa: F811
    address = f"s3://{storage.bucket}/{form}"
    finish(stored(address))
    path, on_disk = Path(f"{address}/"), file_of(address, tmp_path)  # as a command line gives it
    assert verify(path) == verify(on_disk).replace(str(on_disk), address)
    there, here = status(path), status(on_disk)
    assert isinstance(there, Status)
    assert isinstance(here, Status)
    assert (there.file, there.bytes, there.done, there.state) == (address, here.bytes, here.done, "complete")
    for name in ("a.parquet", "b.parquet"):
        export(path if name == "a.parquet" else on_disk, tmp_path / name, overwrite=False)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    copied = export(path, tmp_path / f"copy{''.join(on_disk.suffixes)}", overwrite=False)
    assert (tmp_path / f"copy{''.join(on_disk.suffixes)}").read_bytes() == on_disk.read_bytes(), copied
    of_one, of_both = (as_json(compare(each, on_disk)) for each in (on_disk, path))
    assert of_both.replace(address, str(on_disk)) == of_one
    assert layerscope.read_features(address).equals(layerscope.read_features(on_disk))
    assert layerscope.load(address, "arrow").questions().equals(layerscope.load(on_disk, "arrow").questions())
    report(path, tmp_path / "page.html")
    assert "page.html" in {each.name for each in tmp_path.iterdir()}


# ---------------------------------------------------------------- a writer that is killed


def expect_prefix(address: str) -> None:
    """What is there is a prefix of the finished run in whole parts, and perhaps the beginning of the next."""
    wanted, found = expected(address), contents(address)
    assert found.pop("manifest.json", b"") or not found
    rests = {name: found.pop(name) for name in list(found) if name.startswith("rest-")}
    assert found == {name: wanted[name] for name in list(wanted)[: len(found)]}
    for name, rest in rests.items():
        assert wanted[name.replace("rest", "part")].startswith(rest)
    if manifest_path(stored(address)).exists():
        verify(stored(address))


def finished_unless_killed(address: str) -> None:
    journal: Any = open_output(stored(address), *parts_of(stored(address)), overwrite=False)
    try:
        journal.recover(lambda _: None)
        for _ in go_on(journal):
            wait([journal._on_its_way] if journal._on_its_way else [])  # so that every run has the same steps
        journal.close()
    except BaseException:
        die_quietly(journal)
        raise


def noted(address: str) -> Any:
    """What a manifest says of the bytes."""
    progress = read_manifest(stored(address)).progress
    return progress and replace(progress, totals=UNSET)


def die_quietly(journal: Any) -> None:
    journal._thread.shutdown(cancel_futures=True)
    journal._lock._ended.set()


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_a_writer_killed_at_every_step_leaves_a_prefix_and_the_next_one_goes_on_to_the_same_bytes(
    seconds: float, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_journal, "_REST_SECONDS", seconds)
    with monkeypatch.context() as patched:
        steps = Death(patched, 0, False)
        finished_unless_killed(f"{memory}/counted/run")
    assert steps.steps > (18 if not seconds else 8)
    for at in range(1, steps.steps + 1):
        for after in (False, True):
            address = f"{memory}/{at}-{after}/run"
            with monkeypatch.context() as patched:
                Death(patched, at, after)
                with pytest.raises(Dead):
                    finished_unless_killed(address)
            expect_prefix(address)
            bury(stored(address))
            finish(stored(address))
            found = contents(address)
            assert found.pop("manifest.json")
            assert noted(address) == noted(f"{memory}/counted/run")
            assert found == expected(address)


def test_a_run_that_is_stopped_keeps_all_lines_and_goes_on_behind_them(memory: str) -> None:
    path = stored(f"{memory}/run")
    for stop in range(1, len(BATCHES)):
        with opened(path) as journal:
            next(go_on(journal))
        assert journal.lines == ENDS[stop]
        assert list(read_lines(stored(f"{memory}/run"))) == LINES[: ENDS[stop]]
        expect_prefix(f"{memory}/run")
        found = status(stored(f"{memory}/run"))
        assert isinstance(found, Status)
        assert (found.state, found.done) == ("stopped", ENDS[stop])
    finish(path)
    assert sorted(contents(f"{memory}/run")) == ["manifest.json", *expected(f"{memory}/run")]


def test_a_growing_run_is_read_while_its_beginning_becomes_a_part(memory: str) -> None:
    path = stored(f"{memory}/run")
    with opened(path) as journal:
        next(go_on(journal))
        journal.checkpoint()
        with path.open() as stream:
            list(go_on(journal))
            assert not any(name.startswith("rest-") for name in contents(f"{memory}/run"))
            assert stream.read() == raw(batches_of(path)[0])


# ---------------------------------------------------------------- one writer at a time


def test_a_second_run_is_refused_and_a_dead_one_does_not_block(storage: Storage) -> None:  # noqa: F811
    path = stored(storage.run)
    journal = opened(path)
    next(go_on(journal))
    assert is_locked(path)
    with pytest.raises(LayerscopeError, match=r"Another run is writing s3://bucket-\d+/run \(.*process \d+\)"):
        renewed(journal, lambda: opened(path))
    die(journal)
    assert not is_locked(path)
    finish(path)
    assert not is_locked(path)
    assert [name for name, _ in path.objects() if name.startswith("lock-")] == ["lock-00000002.json"]


def renewed(journal: Any, call: Callable[[], object]) -> None:
    """Calls while a journal renews its lock."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(0.02):
            object_store.put(str(journal._lock._object), journal._lock._content())

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        call()
    finally:
        ended.set()
        thread.join()


def test_a_writer_that_slept_finds_its_folder_taken_over_and_spoils_nothing(memory: str) -> None:
    path = stored(f"{memory}/run")
    sleeper = opened(path)
    steps = go_on(sleeper)
    next(steps)
    with opened(path) as journal:  # the sleeper's lock is not renewed meanwhile
        assert journal.lines == 0
        for _ in range(3):
            next(go_on(journal))
        with pytest.raises(LayerscopeError, match="Another run has taken memory://bucket/run over"):
            list(steps)
        with pytest.raises(LayerscopeError, match="Another run has taken memory://bucket/run over"):
            sleeper.checkpoint()
        assert sleeper.is_taken_away()
        sleeper.close()
        expect_prefix(f"{memory}/run")
        list(go_on(journal))
    assert contents(f"{memory}/run").keys() == {"manifest.json", *expected(f"{memory}/run")}
    verify(path)


def test_of_two_that_take_a_dead_runs_lock_at_once_one_gets_it(storage: Storage) -> None:  # noqa: F811
    path = stored(storage.run)
    die(opened(path))
    taken, refused = list[Any](), list[str]()

    def take() -> None:
        try:
            taken.append(object_lock.ObjectLock.take(stored(storage.run)))
        except LayerscopeError as error:
            refused.append(str(error))

    many = [threading.Thread(target=take) for _ in range(6)]
    for thread in many:
        thread.start()
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(0.02):
            for lock in list(taken):
                object_store.put(str(lock._object), lock._content())

    renewing = threading.Thread(target=renew)
    renewing.start()
    for thread in many:
        thread.join()
    stop.set()
    renewing.join()
    assert (len(taken), len(refused)) == (1, 5)
    taken[0].release()


def test_a_part_with_other_bytes_is_another_runs(memory: str) -> None:
    with opened(stored(f"{memory}/run")) as journal:
        object_store.put(f"{memory}/run/part-00000.jsonl.zst", b"another's")
        with pytest.raises(LayerscopeError, match="is there already, with other bytes: another run wrote it"):
            list(go_on(journal))
    assert object_store.read(f"{memory}/run/part-00000.jsonl.zst") == b"another's"
