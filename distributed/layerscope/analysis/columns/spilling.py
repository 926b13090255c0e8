"""Long columns of numbers: the newest in memory, the others in a file without a name. Whatever they are."""

from array import array
from collections.abc import Iterable
from contextlib import ExitStack
from tempfile import TemporaryFile, gettempdir
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

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
            f"They take 8 bytes a feature in {gettempdir()}. Make room there, or name another folder as TMPDIR."
        ) from error
