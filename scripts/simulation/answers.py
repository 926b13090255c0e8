"""What the actors of a job answer, made before the clock starts: in a file that all of them map, so that to answer
costs an actor nothing but what Ray takes for it."""

import mmap
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from layerscope.engine.batches.answers import Scores
from layerscope.engine.batches.lines import BatchLines, batch_lines, packed
from layerscope.engine.cluster.logs import Span
from layerscope.planning.job import Job
from simulation.workload import Features, first_rows, make_frame

TOKENS = 48  # of a question, of those that its record counts


class Answers:
    """Those of every batch of the whole plan, by its number."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._bytes = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self._pieces: list[list[tuple[int, int]]] = pickle.loads(_index(path).read_bytes())

    def scores(self, batch: int) -> Scores:
        return self._load(2 * batch)  # type: ignore[no-any-return]

    def lines(self, batch: int) -> BatchLines:
        """Compressed."""
        return self._load(2 * batch + 1)  # type: ignore[no-any-return]

    def _load(self, number: int) -> Any:
        first, *buffers = [self._bytes[begin:end] for begin, end in self._pieces[number]]
        return pickle.loads(first, buffers=buffers)


def write_answers(path: Path, job: Job, features: Features) -> None:
    """Makes the file of the answers of a whole job."""
    pieces: list[list[tuple[int, int]]] = []
    with path.open("wb") as file:
        for scores, lines in _answers(job, features):
            pieces += [_append(file, scores), _append(file, lines)]
    _index(path).write_bytes(pickle.dumps(pieces))


def _answers(job: Job, features: Features) -> Iterator[tuple[Scores, BatchLines | None]]:
    for batch in range(len(job.plan)):
        questions = list(job.selection.read(job.plan.batch(batch)))
        frames = [make_frame(question, index) for index, question in enumerate(questions)]
        scores = Scores.of(list(frames), False, TOKENS * len(questions), Span(0.0, 0.0))
        blocks = [first_rows(block, 2 * len(questions)) for block in features.values()]
        yield scores, packed(batch_lines(batch, scores, blocks), job.packing) if job.packing else None


def _append(file: BinaryIO, answer: Any) -> list[tuple[int, int]]:
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(answer, protocol=5, buffer_callback=buffers.append)
    return [_placed(file, piece) for piece in (pickled, *(buffer.raw() for buffer in buffers))]


def _placed(file: BinaryIO, piece: bytes | memoryview) -> tuple[int, int]:
    begin = file.tell()
    file.write(piece)
    return begin, file.tell()


def _index(path: Path) -> Path:
    return path.with_suffix(".index")
