"""Writing beside the work: one batch is on its way to the disk while the next is put together."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from layerscope.records.totals import Totals
from layerscope.records.writing.appending import Line
from layerscope.records.writing.journal import Journal
from layerscope.records.writing.residual_files import NO_ROWS, ResidualRows


class WriteBehind:
    """Appends to a journal in a thread of its own, batch after batch; everything is on the disk when it is left."""

    def __init__(self, file: Journal) -> None:
        self._file = file
        self._thread = ThreadPoolExecutor(1, "writer")
        self._on_its_way: Future[None] | None = None

    def append(
        self,
        lines: Sequence[Line],
        residuals: ResidualRows = NO_ROWS,
        totals: Totals | None = None,
    ) -> None:
        """Begins to write whole lines and their residuals once those before them are on the disk.

        Args:
            totals: see `Journal.append`.

        Raises:
            LayerscopeError: those before them cannot be written; the file ends before these.
        """
        self.flush()
        self._on_its_way = self._thread.submit(self._file.append, lines, residuals, totals)

    def flush(self) -> None:
        """Waits until everything is on the disk.

        Raises:
            LayerscopeError: it cannot be written.
        """
        on_its_way, self._on_its_way = self._on_its_way, None
        if on_its_way is not None:
            on_its_way.result()

    def __enter__(self) -> "WriteBehind":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if kind is None:
            self.flush()
