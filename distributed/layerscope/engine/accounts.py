"""What metrics and the timeline are told of a run's batches."""

import socket
from collections.abc import Callable

from layerscope.engine.batches.lines import BatchLines
from layerscope.engine.cluster.logs import Span
from layerscope.engine.interface import Engine
from layerscope.engine.member import Member
from layerscope.engine.timeline import Timeline


class Accounts:
    """Of one run."""

    def __init__(self, engine: Engine, timeline: Timeline, begins_again: Callable[[int], None]) -> None:
        self._engine, self._timeline, self._begins_again = engine, timeline, begins_again

    def begun_again(self, questions: int) -> None:
        """A batch of so many is computed once more."""
        self._engine.measure("batch_retries", 1)
        self._begins_again(questions)

    def called(self, stage: str, member: Member, batch: int, span: Span) -> None:
        """An actor has answered."""
        self._engine.measure("batch_seconds", span.end - span.start, stage=stage)
        self._timeline.add(stage, member.node_name, member.name, span, batch)

    def written(self, lines: BatchLines, span: Span) -> None:
        """A batch was handed to whoever writes."""
        self._engine.measure("batch_seconds", span.end - span.start, stage="write")
        self._timeline.add("write", socket.gethostname(), "driver", span, lines.batch)
        self._engine.measure("questions", lines.totals.questions)
        self._engine.measure("error_lines", lines.totals.errors)
        self._engine.measure("tokens", lines.tokens)
        self._engine.measure("bytes", lines.nbytes)
