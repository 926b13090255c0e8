"""How many tokens every question has: the expensive part of a plan, shared among processes where there are many.

A process gets a range of the questions and a folder for what the plan's digest is to be of, through its standard input.
Knows nothing of batches and order; that is `plan.py`.
"""

import os
import pickle
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from layerscope.errors import LayerscopeError
from layerscope.questions.pairs import PairTokenizer, UnscorableError
from layerscope.questions.selection import Selection
from layerscope.questions.sources import Question
from layerscope.questions.table import Copy

FEW: Final = 50_000
"""Questions that a process of their own does not pay for."""
_LOOK_EACH: Final = 4096
_READ_BYTES: Final = 1 << 20


@dataclass
class Measured:
    """What a plan needs to know of questions."""

    lengths: NDArray[np.int32]
    """Tokens of every pair, each shared token once; 0 for a question that cannot be scored."""
    common: NDArray[np.int32]
    """How many of these are the examples' of the prompt."""
    unshared: int = 0
    """Tokens of all solutions one at a time."""
    unscorable: int = 0
    of_solutions: int = 0
    """Tokens of all pairs behind their prompts."""
    among_shots: int = 0
    """Questions that are themselves among the examples."""

    @classmethod
    def of(cls, questions: int) -> Self:
        """Nothing yet; a list of zeros takes no memory until one is another."""
        return cls(np.zeros(questions, np.int32), np.zeros(questions, np.int32))


@contextmanager
def measured(
    selection: Selection, tokenizer: PairTokenizer, share: bool, processes: int
) -> Iterator[tuple[Measured, Iterator[bytes]]]:
    """Of every question, in the order of the selection; and what the questions say, which lies on the disk meanwhile.

    Args:
        share: whether tokens that examples have in common are told.
        processes: at most so many are at work.

    Raises:
        LayerscopeError: the temporary folder is full, or a process was killed.
    """
    number = max(1, min(processes, len(selection) // FEW))
    edges = [len(selection) * edge // number for edge in range(number + 1)]
    parts = [selection.part(first, last) for first, last in pairwise(edges)]
    with tempfile.TemporaryDirectory(prefix="layerscope-") as folder:
        files = [Path(folder) / f"{part}" for part in range(number)]
        try:
            if number == 1:
                found = measure(selection, tokenizer, share, files[0])
            else:
                jobs = [(part, tokenizer, share, file) for part, file in zip(parts, files, strict=True)]
                with ThreadPoolExecutor(number) as threads:
                    found = _joined(list(threads.map(_elsewhere, jobs)), files, edges)
            yield found, _content(files)
        except OSError as error:
            raise LayerscopeError(
                f"{folder} cannot be written: {error.strerror or error}. It has what the questions say meanwhile.\n"
                "Make room, or set TMPDIR to a folder elsewhere."
            ) from error


def measure(selection: Selection, tokenizer: PairTokenizer, share: bool, file: Path, of: int = 0) -> Measured:
    """Measures questions and writes to a file what they say.

    Args:
        of: the process that waits for this one, if any: without it there is nothing to do.
    """
    found = Measured.of(len(selection))
    with file.open("wb") as stream:

        def questions() -> Iterator[Question]:
            for question in selection:
                found.among_shots += tokenizer.sees_itself(question)
                stream.write(_said(question))
                yield question

        for index, outcome in enumerate(tokenizer.pairs(questions())):
            if isinstance(outcome, UnscorableError):
                found.unscorable += 1
                continue
            found.lengths[index] = len(outcome.tokens)
            if share and outcome.common:
                found.common[index] = outcome.common
            found.unshared += sum(outcome.lengths)
            found.of_solutions += len(outcome.tokens) - outcome.prompt
            if of and index % _LOOK_EACH == 0 and os.getppid() != of:
                raise SystemExit(1)
    return found


def _said(question: Question) -> bytes:
    """All that a question says, each text behind its length."""
    label = str(question.label) + (f" of {len(question.solutions)}" if question.more else "")
    texts = [text.encode("utf-8", "surrogatepass") for text in (question.goal, *question.solutions, label)]
    if question.metadata:
        texts.append(question.metadata)
    return b"".join([part for text in texts for part in (len(text).to_bytes(8, "little"), text)])


def _leave_lists(found: Measured, file: Path) -> Measured:
    """Writes what there is of every question beside a file of what they say; the rest is left."""
    with file.with_suffix(".lists").open("wb") as stream:
        found.lengths.tofile(stream)
        if found.common.any():
            found.common.tofile(stream)
    return replace(found, lengths=found.lengths[:0], common=found.common[:0])


def _joined(parts: Sequence[Measured], files: Sequence[Path], edges: Sequence[int]) -> Measured:
    """Of several processes: the lists are read where they are to be, so that they are in memory once."""
    found = Measured.of(edges[-1])
    for file, (first, last) in zip(files, pairwise(edges), strict=True):
        with file.with_suffix(".lists").open("rb", buffering=0) as stream:
            size = stream.readinto(found.lengths[first:last].data.cast("B"))
            if os.fstat(stream.fileno()).st_size > size:
                stream.readinto(found.common[first:last].data.cast("B"))
    names = ("unshared", "unscorable", "of_solutions", "among_shots")
    return replace(found, **{name: sum(getattr(part, name) for part in parts) for name in names})


def _content(files: Sequence[Path]) -> Iterator[bytes]:
    for file in files:
        with file.open("rb") as stream:
            while piece := stream.read(_READ_BYTES):
                yield piece


class _ForChild(pickle.Pickler):
    """Hands over copies of texts by their descriptors, which the child has as well."""

    descriptors: tuple[int, ...] = ()

    def persistent_id(self, value: object) -> int | None:
        if not isinstance(value, Copy):
            return None
        self.descriptors += (value.fileno(),)
        return value.fileno()

    def reducer_override(self, value: object) -> Any:
        """Arrays of millions are written as they lie in memory, where pickle would copy each first."""
        if not isinstance(value, array):
            return NotImplemented
        return _array_of, (value.typecode, pickle.PickleBuffer(value))


def _array_of(code: str, content: bytes) -> "array[Any]":
    return array(code, content)


class _OfParent(pickle.Unpickler):
    def persistent_load(self, descriptor: int) -> Copy:
        return Copy(os.fdopen(descriptor, "rb"))


def _elsewhere(job: tuple[Selection, PairTokenizer, bool, Path]) -> Measured:
    """What a process of its own measures: one that has this one's modules, and imports nobody's `__main__`."""
    code = "import sys; sys.path[:] = sys.argv[2:]; from layerscope.questions import measuring; measuring.serve()"
    command = [sys.executable, "-P", "-c", code, str(os.getpid()), *sys.path]
    # What it is given goes through a file: in memory it would be there once more for each of them.
    with tempfile.TemporaryFile(dir=job[-1].parent) as given:
        pickler = _ForChild(given, protocol=5)
        pickler.dump(job)
        given.seek(0)
        ended = subprocess.run(command, stdin=given, stdout=subprocess.PIPE, check=False, pass_fds=pickler.descriptors)
    if ended.returncode or not ended.stdout:
        raise LayerscopeError(
            f"A process that tokenises questions ended with {ended.returncode}: killed, perhaps for want of memory.\n"
            "Run again."
        )
    answer = pickle.loads(ended.stdout)  # of this very program, through a pipe
    if isinstance(answer, BaseException):
        raise answer
    found: Measured = answer
    return found


def serve() -> None:
    """What such a process does."""
    parts: Any = _OfParent(sys.stdin.buffer).load()
    try:
        selection, tokenizer, share, file = parts
        answer: object = _leave_lists(measure(selection, tokenizer, share, file, int(sys.argv[1])), file)
    except (LayerscopeError, OSError) as error:
        answer = error
    sys.stdout.buffer.write(pickle.dumps(answer))
