"""A timeline of a run as a Chrome trace, for chrome://tracing or ui.perfetto.dev: who worked when, who waited."""

import sys
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TextIO

import orjson

from layerscope.engine.cluster.logs import Span
from layerscope.files import remove_leftovers, replacing, user_path
from layerscope.formatting import say


class Timeline:
    """Writes spans as they come, so that nothing is held; without a path, nothing at all.

    A process of the picture is a node, a thread is an actor. Every node's spans are by its own clock. The file takes
    its place as a whole when the run ends; where it cannot be written, the run goes on without it and says so.
    """

    def __init__(self, path: str) -> None:
        self._path = user_path(path) if path else None
        self._file: TextIO | None = None
        self._separator = "[\n"
        self._nodes: dict[str, int] = {}
        self._actors: dict[tuple[str, str], int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Timeline":
        if self._path is not None:
            try:
                remove_leftovers(self._path)
                temporary = self._stack.enter_context(replacing(self._path))
                self._file = self._stack.enter_context(temporary.open("w", encoding="utf-8"))
            except OSError as error:
                self._give_up(error)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._write_text("\n]\n" if self._nodes else "[]\n")
        try:
            self._stack.close()
        except OSError as error:
            self._give_up(error)

    def add(self, what: str, node: str, actor: str, span: Span, batch: int) -> None:
        """Draws one span."""
        if self._file is None:
            return
        process = self._nodes.get(node)
        if process is None:
            process = self._nodes[node] = len(self._nodes)
            self._write({"name": "process_name", "ph": "M", "pid": process, "args": {"name": node}})
        thread = self._actors.get((node, actor))
        if thread is None:
            thread = self._actors[node, actor] = len(self._actors)
            self._write({"name": "thread_name", "ph": "M", "pid": process, "tid": thread, "args": {"name": actor}})
        times = {"ts": span.start * 1e6, "dur": (span.end - span.start) * 1e6}
        self._write({"ph": "X", "name": what, "pid": process, "tid": thread, **times, "args": {"batch": batch}})

    def _write(self, event: dict[str, object]) -> None:
        self._write_text(self._separator + orjson.dumps(event).decode())
        self._separator = ",\n"

    def _write_text(self, text: str) -> None:
        if self._file is not None:
            try:
                self._file.write(text)
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._file = None
        say(f"Warning: --timeline: {self._path} cannot be written: {error.strerror or error}.", sys.stderr)
        with suppress(OSError):
            self._stack.__exit__(OSError, error, None)
