"""Long columns of numbers: the newest in memory, the others in a file without a name. Whatever they are."""

import weakref
from array import array
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from tempfile import TemporaryFile, gettempdir
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from layerscope.errors import LayerscopeError

_HELD = 1 << 16  # numbers of a column that wait in memory


class Column:
    """A long column of numbers: the newest in memory, the others in a file without a name."""

    def __init__(self, typecode: str, stack: ExitStack) -> None:
        self._held: array[Any] = array(typecode)
        self._file = stack.enter_context(TemporaryFile(buffering=0))  # noqa: SIM115

    def extend(self, numbers: Iterable[float]) -> None:
        self._held.extend(numbers)
        if len(self._held) >= _HELD:
            self._spill()

    def read(self, start: int = 0, count: int = -1) -> NDArray[Any]:
        """So many numbers from there; all that follow if -1."""
        self._spill()
        self._file.seek(start * self._held.itemsize)
        return np.fromfile(self._file, dtype=self._held.typecode, count=count)

    def _spill(self) -> None:
        written(self._file, self._held.tobytes())
        del self._held[:]


class Rows:
    """Rows of one type in a file without a name, written and read anywhere; those never written are zeros."""

    def __init__(self, dtype: DTypeLike) -> None:
        self._dtype = np.dtype(dtype)
        self._file = TemporaryFile(buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def write(self, start: int, rows: NDArray[Any]) -> None:
        """
        Raises:
            LayerscopeError: there is no room.
        """
        self._file.seek(start * self._dtype.itemsize)
        written(self._file, np.ascontiguousarray(rows, self._dtype).tobytes())

    def read(self, start: int, count: int) -> NDArray[Any]:
        """So many from there."""
        self._file.seek(start * self._dtype.itemsize)
        found = np.fromfile(self._file, self._dtype, count)
        return found if len(found) == count else np.append(found, np.zeros(count - len(found), self._dtype))


class Aside:
    """Arrays put aside, one after the other, in a file without a name."""

    def __init__(self, dtype: DTypeLike) -> None:
        self._rows, self._stop = Rows(dtype), 0

    def put(self, values: NDArray[Any]) -> Callable[[], NDArray[Any]]:
        """What reads them again.

        Raises:
            LayerscopeError: there is no room.
        """
        start, count = self._stop, len(values)
        self._rows.write(start, values)
        self._stop += count
        return lambda: self._rows.read(start, count)


def written(file: IO[bytes], data: bytes) -> None:
    """Writes all of it to a temporary file.

    Raises:
        LayerscopeError: there is no room for it.
    """
    unwritten = memoryview(data)
    try:
        while unwritten:  # `tofile`, of arrays of either kind, passes over a short write
            unwritten = unwritten[file.write(unwritten) :]
    except OSError as error:
        raise LayerscopeError(
            f"The temporary files of the analysis cannot be written: {error.strerror or error}.\n"
            f"They take 8 bytes a listed feature, and 12 more of a layer at a time, in {gettempdir()}.\n"
            "Make room there, or name another folder as TMPDIR."
        ) from error
