"""What goes wrong with an object store: what passes is tried again, the rest is said in words, and nothing is lost."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec.registry  # noqa: F401 - looked into
import pytest

from layerscope.errors import LayerscopeError, UsageError
from layerscope.records.status import status
from layerscope.records.storage import object_journal, object_lock, object_store
from layerscope.records.storage.addresses import existing_records, run_path
from layerscope.records.verify import verify
from layerscope.records.writing.targets import check_address, check_target
from object_storage import Fault, Storage, storage  # noqa: F401 - a fixture
from stored import LINES, finish, go_on, opened, stored, whole

PASSING = ("503 SlowDown", "500 InternalError", "503 ServiceUnavailable", "502 BadGateway", "429 Busy", "reset", "lost")
PUT, GET, LIST = "PUT .*part-0000[01]", "GET .*part-", r"GET .*list-type"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a few batches, and not much patience."""
    monkeypatch.setattr(object_journal, "PART_BYTES", 700)
    monkeypatch.setattr(object_lock, "_LOOK_SECONDS", 0.2)
    monkeypatch.setattr(object_store, "READ_SECONDS", 0.2)
    monkeypatch.setattr(object_store, "WRITE_SECONDS", 0.5)


def joined(found: dict[str, bytes]) -> bytes:
    return b"".join(found[name] for name in sorted(found) if name.startswith("part-"))


@pytest.mark.parametrize("what", [*PASSING, "slow"])
def test_what_passes_is_tried_again_and_the_bytes_are_the_same(
    what: str,
    storage: Storage,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = stored(storage.run)
    monkeypatch.setattr(object_store, "READ_SECONDS", 20.0)
    monkeypatch.setattr(object_store, "WRITE_SECONDS", 20.0)
    storage.faults += [Fault(match, what, 3) for match in (PUT, "PUT .*manifest", "PUT .*lock", LIST)]
    finish(path)
    assert joined(storage.objects()) == whole(path)
    storage.faults += [Fault(match, what, 3) for match in (GET, LIST, "GET .*manifest")]
    assert f"{len(LINES)} of {len(LINES)} lines, all whole" in verify(stored(storage.run))
    assert all(fault.times < 3 for fault in storage.faults if "lock" not in fault.match)


def write_until(path: Path, change: Callable[[], None]) -> None:
    """Writes three batches, which make a part, and then goes on in a world that has changed."""
    with opened(path) as journal:
        for number, _ in enumerate(go_on(journal)):
            if number == 3:
                journal.checkpoint()
                change()


LASTING = {
    "400 ExpiredToken": "the credentials have expired.\nRenew them and run the same command again.",
    "403 AccessDenied": "these credentials may not (AccessDenied).\nAsk for s3:ListBucket, GetObject, PutObject and ",
    "403 InvalidAccessKeyId": "S3 does not know these credentials (InvalidAccessKeyId).\nLog in as for the `aws` ",
    "404 NoSuchBucket": "there is no bucket bucket-",
    "503 SlowDown": "S3 did not answer as it should, however often it was asked (SlowDown of the test).\nRun the same ",
    "501 NotImplemented": "NotImplemented of the test.\nMend that and run the same command again.",
    "reset": "S3 did not answer as it should, however often it was asked (",
}


def expect_words(error: LayerscopeError, words: str) -> None:
    assert words in str(error)
    assert "s3://bucket-" in str(error)
    assert len(str(error).splitlines()) <= 3
    assert "secretsecret" not in str(error)
    assert "AKIATEST" not in str(error)


@pytest.mark.parametrize("what", LASTING)
def test_what_lasts_stops_the_writer_with_words_and_the_next_run_goes_on(what: str, storage: Storage) -> None:  # noqa: F811
    path = stored(storage.run)
    with pytest.raises(LayerscopeError) as raised:
        write_until(path, lambda: storage.faults.append(Fault("bucket", what, 10**6)))
    expect_words(raised.value, LASTING[what])
    found = storage.objects()
    assert whole(path).startswith(joined(found))
    assert any(name.startswith("part-") for name in found)
    storage.faults.clear()
    finish(stored(storage.run))
    assert joined(storage.objects()) == whole(path)


@pytest.mark.parametrize("what", LASTING)
def test_what_lasts_is_told_a_reader(what: str, storage: Storage) -> None:  # noqa: F811
    finish(stored(storage.run))
    storage.faults.append(Fault("bucket", what, 10**6))
    with pytest.raises(LayerscopeError) as raised:
        status(Path(storage.run))
    expect_words(raised.value, LASTING[what])


def test_credentials_that_were_renewed_meanwhile_are_taken(storage: Storage) -> None:  # noqa: F811
    storage.faults.append(Fault(PUT, "400 ExpiredToken"))
    finish(stored(storage.run))
    assert joined(storage.objects()) == whole(stored(storage.run))


def test_no_credentials_are_told_with_how_to_get_some(
    storage: Storage,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    object_store._file_system.cache_clear()
    with pytest.raises(UsageError, match=r"no credentials for S3 are here.\nLog in as for the `aws` command"):
        status(Path(storage.run))


def test_no_server_is_told(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    object_store._file_system.cache_clear()
    with pytest.raises(LayerscopeError, match="did not answer as it should"):
        status(Path(storage.run))


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, library, None)
    for scheme in ("s3", "gs"):
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)
    for scheme, extra, told in (("s3", "s3", "S3"), ("gs", "gs", "Google Cloud Storage")):
        object_store._file_system.cache_clear()
        with pytest.raises(UsageError) as raised:
            existing_records(f"{scheme}://bucket/run")
        first, second = str(raised.value).splitlines()
        assert first.startswith(f"{scheme}:// is {told}, whose library is not installed here")
        assert second == f"pip install 'layerscope[{extra}]'"
    object_store._file_system.cache_clear()


@pytest.mark.parametrize(
    "address",
    ["s3://KEY:secret@bucket/run", "s3://KEY:sec/ret@bucket/run", "s3://KEY@bucket/run", "s3://bucket/run?secret=x"],
)
def test_credentials_have_no_place_in_an_address(address: str) -> None:
    with pytest.raises(UsageError) as raised:
        run_path(Path(address))
    assert "without credentials or a query" in str(raised.value)
    assert "sec" not in str(raised.value)
    assert "KEY" not in str(raised.value)


def test_an_address_names_a_folder_of_a_bucket() -> None:
    with pytest.raises(UsageError, match=r"s3://bucket names no folder of a bucket. A run is at s3://bucket/folder."):
        run_path("s3://bucket/")


def test_nothing_but_a_run_is_written_to_an_address() -> None:
    with pytest.raises(UsageError, match=r"--to: only a run's output may lie in object storage. Name a file of this"):
        check_target("--to", "s3://bucket/x.parquet")


# ---------------------------------------------------------------- what others did to a folder


@pytest.fixture
def spoilt(storage: Storage) -> Iterator[Storage]:  # noqa: F811
    finish(stored(storage.run))
    return storage


def remove_behind(storage: Storage, first: str) -> None:  # noqa: F811
    """What a person does who is told so."""
    for name in storage.objects():
        if name.startswith(("part-", "rest-")) and name >= first:
            object_store.remove(f"{storage.run}/{name}")


def test_what_needs_a_disk_is_told_with_the_way_to_one(spoilt: Storage) -> None:
    with pytest.raises(
        UsageError, match=r"where --retry-errors cannot be .*\nLeave it out, or name a file on a disk;"
    ) as raised:
        check_address(stored(spoilt.run), {"--retry-errors": True, "--residuals": False})
    assert str(raised.value).endswith(f"layerscope export {spoilt.run} --to copy.jsonl.zst")


def test_a_part_that_is_missing_between_others_is_named(spoilt: Storage) -> None:
    object_store.remove(f"{spoilt.run}/part-00001.jsonl.zst")
    for call in (verify, lambda path: opened(stored(str(path)))):
        with pytest.raises(
            LayerscopeError, match=r"/run: part 1 is missing, and part-00002.jsonl.zst is there"
        ) as raised:
            call(stored(spoilt.run))
    assert "remove the parts behind it: the run's own command computes them again" in str(raised.value)
    remove_behind(spoilt, "part-00001")
    finish(stored(spoilt.run))
    assert joined(spoilt.objects()) == whole(stored(spoilt.run))


def test_last_parts_that_are_gone_are_missed_and_written_again(spoilt: Storage) -> None:
    last = max(name for name in spoilt.objects() if name.startswith("part-"))
    object_store.remove(f"{spoilt.run}/{last}")
    with pytest.raises(LayerscopeError, match=f"missing; {len(LINES)} lines were written"):
        verify(stored(spoilt.run))
    finish(stored(spoilt.run))
    assert joined(spoilt.objects()) == whole(stored(spoilt.run))


def test_parts_of_two_runs_are_told(spoilt: Storage) -> None:
    object_store.put(f"{spoilt.run}/part-00001.jsonl.gz", b"another's")
    with pytest.raises(LayerscopeError, match=r"has both part-00001.jsonl.* and part-00001.jsonl.*: parts of two runs"):
        verify(stored(spoilt.run))


def test_a_part_of_another_run_is_found(spoilt: Storage) -> None:
    first = object_store.read(f"{spoilt.run}/part-00000.jsonl.zst")
    object_store.put(f"{spoilt.run}/part-00001.jsonl.zst", first)
    with pytest.raises(LayerscopeError, match=r"line \d+: example_id is .*\nRestore part-00001.jsonl.zst, or"):
        verify(stored(spoilt.run))


def test_a_part_that_was_cut_is_found_and_nothing_is_written_over_it(spoilt: Storage) -> None:
    first = object_store.read(f"{spoilt.run}/part-00000.jsonl.zst")
    object_store.put(f"{spoilt.run}/part-00000.jsonl.zst", first[:-9])
    for call in (verify, opened):
        with pytest.raises(LayerscopeError, match="damaged") as raised:
            call(stored(spoilt.run))
    assert object_store.read(f"{spoilt.run}/part-00000.jsonl.zst") == first[:-9]
    assert "\nRestore part-00000.jsonl.zst, or remove it and what follows it: the run's own" in str(raised.value)
    remove_behind(spoilt, "part-00000")
    finish(stored(spoilt.run))
    assert joined(spoilt.objects()) == whole(stored(spoilt.run))


def test_the_last_part_cut_is_not_gone_on_with(spoilt: Storage) -> None:
    last = max(name for name in spoilt.objects() if name.startswith("part-"))
    data = object_store.read(f"{spoilt.run}/{last}")
    object_store.put(f"{spoilt.run}/{last}", data[:-3])
    with pytest.raises(LayerscopeError, match=f"{last} does not end with a whole line. Another tool wrote it"):
        opened(stored(spoilt.run))
    object_store.remove(f"{spoilt.run}/{last}")
    finish(stored(spoilt.run))
    assert joined(spoilt.objects()) == whole(stored(spoilt.run))
