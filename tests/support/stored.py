"""A small run for object storage: its lines, plain or compressed, its journal, and the death of its writer."""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from in_parts import line_of
from layerscope.records.manifest.identity import Identity
from layerscope.records.manifest.manifest import About
from layerscope.records.storage import object_store
from layerscope.records.storage.addresses import run_path
from layerscope.records.storage.object_journal import ObjectJournal, open_output
from layerscope.records.storage.stored_run import StoredRun
from layerscope.records.writing.appending import Line
from layerscope.records.writing.journal import Journal
from layerscope.records.writing.packing import Packed, pack, packing, packing_of
from made_up import about, identity, read_through, typed

LAYERS = (0, 8)
BATCHES = (3, 1, 4, 2, 5, 1, 3, 4)
ENDS = [0, *accumulate(BATCHES)]
ORDER = np.random.default_rng(0).permutation(ENDS[-1]).tolist()
LINES = [line_of(number) for number in ORDER]


def stored(address: str) -> StoredRun:
    path = run_path(address)
    assert isinstance(path, StoredRun)
    return path


def parts_of(path: Path) -> tuple[Identity, About]:
    """What the manifest says of the run at an address or of a file."""
    made = identity(LAYERS, questions=len(ORDER))
    said = about(LAYERS, ORDER, batches=" ".join(map(str, BATCHES)))
    how = packing_of(path)
    named = {**made, "plan": {**made["plan"], "batches": len(BATCHES)}}
    if how is not None:
        named["packing"] = orjson.loads(orjson.dumps({name: getattr(how, name) for name in how.__struct_fields__}))
    return typed(named, said)


def batches_of(path: Path) -> list[list[Line]]:
    """What a run appends, batch by batch."""
    how = packing_of(path)
    found: list[list[Line]] = []
    for start, stop in pairwise(ENDS):
        lines: list[bytes] = LINES[start:stop]
        packed = None if how is None else np.frombuffer(pack(lines, packing(how.method)), np.uint8)
        found.append([*lines] if packed is None else [Packed(packed, len(lines))])
    return found


def raw(batch: Sequence[Line]) -> bytes:
    return b"".join(bytes(line.data) if isinstance(line, Packed) else bytes(line) for line in batch)  # type: ignore[arg-type]


def whole(path: Path) -> bytes:
    """The bytes of the finished file."""
    return b"".join(map(raw, batches_of(path)))


def opened(path: Path, overwrite: bool = False) -> Journal:
    """The journal as a run has it when it has read what is there."""
    return read_through(open_output(path, *parts_of(path), overwrite), ORDER)


def go_on(journal: Journal) -> Iterator[Journal]:
    """Appends batch after batch."""
    for start, batch in zip(ENDS, batches_of(journal.path), strict=False):
        if start >= journal.lines:
            journal.append(batch)
            yield journal


def finish(path: Path) -> None:
    with opened(path) as journal:
        for _ in go_on(journal):
            pass


def die(journal: Journal) -> None:
    """Ends a journal as SIGKILL would: nothing more is put, and its lock says a process that is not there any more."""
    assert isinstance(journal, ObjectJournal)
    journal._known = False
    journal._thread.shutdown(cancel_futures=True)
    journal._lock._ended.set()
    bury(journal.path)


def bury(run: StoredRun) -> None:
    """Has the lock of a run, if it is held, say a process that is not there any more."""
    if locks := sorted(name for name, _ in run.objects() if name.startswith("lock-")):
        address = str(run.part(locks[-1]))
        object_store.put(address, orjson.dumps({**orjson.loads(object_store.read(address)), "started": "never"}))


class Dead(BaseException):
    """The process was killed."""


class Death:
    """Kills whoever writes to the store, before or after what he asks it for the n-th time; counts until then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, after: bool) -> None:
        self._at, self._after, self.steps = at, after, 0
        for name in ("put", "put_new", "remove"):
            monkeypatch.setattr(object_store, name, self._until_then(getattr(object_store, name)))

    def _until_then(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            self.steps += 1
            if self.steps == self._at and self._after:
                call(*arguments)
            if self.steps >= self._at > 0:
                raise Dead
            return call(*arguments)

        return step
