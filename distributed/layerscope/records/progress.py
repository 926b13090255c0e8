"""What a person sees while a run is on, or a file is read: a bar on a terminal, else a plain line every ten seconds."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

from tqdm import tqdm

from layerscope.formatting import count_of, say, size_text, takes_back, visible
from layerscope.records.reading.run import RecordsFile
from layerscope.records.totals import Effort, Totals

T = TypeVar("T")

_LINE_SECONDS = 10.0


class Progress:
    """Shows how far a run is, on standard error; closed by leaving its `with` block."""

    at_work = False
    """One in this process counts: what is said while something is waited for would only disturb it."""

    def __init__(self, total: int, totals: Totals, stream: TextIO | None = None, noun: str = "question") -> None:
        """
        Args:
            noun: what is counted.
        """
        self._noun = noun
        self._stream = stream or sys.stderr
        self._total = total
        self.totals = totals
        self.already = totals.questions
        """That were there before."""
        self.begun_again = 0
        """Questions that were computed once more, because an actor or a node was lost."""
        self._began: float | None = None
        self._told = time.monotonic()
        self._bar = (
            tqdm(total=total, initial=totals.questions, unit=noun, file=self._stream, dynamic_ncols=True)
            if takes_back(self._stream)
            else None
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        Progress.at_work = False
        if self._bar is not None:
            self._bar.close()

    def begin(self) -> None:
        """Notes that work begins, unless it has: what comes before it (Ray's start, loading) is no part of a rate."""
        if self._began is None:
            self._began = time.monotonic()

    def begin_again(self, questions: int) -> None:
        """Counts questions that are computed once more."""
        self.begun_again += questions

    def update(self) -> None:
        """Shows the totals as they are now."""
        Progress.at_work = True
        if self._bar is not None:
            self._bar.set_postfix_str(self.totals.standing(self._total), refresh=False)
            self._bar.update(self.totals.questions - self._bar.n)
        elif time.monotonic() - self._told >= _LINE_SECONDS:
            self._told = time.monotonic()
            self.note(self._line())

    def note(self, text: str) -> None:
        """Tells something without disturbing the bar."""
        if self._bar is not None:
            self._bar.write(visible(text), file=self._stream)
        else:
            say(text, self._stream)

    def effort(self, writers_lost: int = 0) -> Effort:
        """What the run took, as far as it is."""
        return Effort(self.rate(), self.begun_again, writers_lost)

    def rate(self) -> float:
        """How many per second since work began."""
        if self._began is None:
            return 0.0
        return (self.totals.questions - self.already) / max(time.monotonic() - self._began, 1e-9)

    def _line(self) -> str:
        done, rate = self.totals.questions, self.rate()
        left = f"{(self._total - done) / rate:.0f} s left" if rate else f"no {self._noun} done yet"
        return f"{done}/{count_of(self._total, self._noun)}, {rate:.1f}/s, {left}, {self.totals.standing(self._total)}"


def shown(
    lines: Iterable[tuple[bytes, T]], file: RecordsFile, stream: TextIO | None = None
) -> Iterator[tuple[bytes, T]]:
    """What is read of a file, line by line; shows on standard error how much of it is read."""
    stream = stream or sys.stderr
    name, size, done, told = visible(file.path.name) + file.others, file.size, 0, time.monotonic()
    bar = {"unit": "B", "unit_scale": True, "dynamic_ncols": True, "leave": False}
    with tqdm(total=size, desc=name, file=stream, disable=not takes_back(stream), **bar) as progress:
        for line, what in lines:
            yield line, what
            progress.update(file.bytes_read - done)
            done = file.bytes_read
            if progress.disable and time.monotonic() - told >= _LINE_SECONDS:
                told = time.monotonic()
                say(f"{name}: {size_text(done)} of {size_text(size)} read", stream)
