"""A timeline of a run as a Chrome trace, for chrome://tracing or ui.perfetto.dev: who worked when, who waited."""

from types import TracebackType
from typing import TextIO

import orjson

from layerscope.engine.logs import Span
from layerscope.errors import LayerscopeError
from layerscope.files import user_path


class Timeline:
    """Writes spans as they come, so that nothing is held; without a path, nothing at all.

    A process of the picture is a node, a thread is an actor. Every node's spans are by its own clock.
    """

    def __init__(self, path: str) -> None:
        self._file: TextIO | None = None
        self._nodes: dict[str, int] = {}
        self._actors: dict[tuple[str, str], int] = {}
        if path:
            try:
                self._file = user_path(path).open("w", encoding="utf-8")
            except OSError as error:
                raise LayerscopeError(
                    f"--timeline: {path} cannot be written: {error.strerror}. Name another."
                ) from error
            self._file.write("[\n")
            self._separator = ""

    def __enter__(self) -> "Timeline":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._file is not None:
            self._file.write("\n]\n")  # a reader does without it, where a run was killed
            self._file.close()

    def add(self, what: str, node: str, actor: str, span: Span, batch: int) -> None:
        """Draws one span."""
        if self._file is None:
            return
        process = self._nodes.get(node)
        if process is None:
            process = self._nodes[node] = len(self._nodes)
            self._write({"ph": "M", "name": "process_name", "pid": process, "args": {"name": node}})
        thread = self._actors.get((node, actor))
        if thread is None:
            thread = self._actors[node, actor] = len(self._actors)
            self._write({"ph": "M", "name": "thread_name", "pid": process, "tid": thread, "args": {"name": actor}})
        times = {"ts": span.start * 1e6, "dur": (span.end - span.start) * 1e6}
        self._write({"ph": "X", "name": what, "pid": process, "tid": thread, **times, "args": {"batch": batch}})

    def _write(self, event: dict[str, object]) -> None:
        if self._file is not None:
            self._file.write(self._separator + orjson.dumps(event).decode())
            self._separator = ",\n"
