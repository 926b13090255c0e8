"""What a command that runs a job says, the command that goes on with it, and what is said when a signal stops it."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from layerscope.errors import Stopped
from layerscope.formatting import say, shell_word, size_text
from layerscope.planning.job import Job, download_bytes
from layerscope.planning.output import in_ray_job, ray_job_environment
from layerscope.planning.placement import Placement
from layerscope.process import Stops
from layerscope.records.progress import Progress


def warn(job: Job) -> None:
    for each in job.warnings:
        warning(each)


def warning(text: str) -> None:
    say(f"Warning: {text}", sys.stderr)


def tell_place(job: Job, progress: Progress, placements: Sequence[Placement] = ()) -> None:
    """Says who works where, and what is downloaded first.

    Args:
        placements: of the writers, where there are several.
    """
    for placement in placements or [job.placement]:
        for line in placement.lines:
            progress.note(line)
    if missing := download_bytes(job):
        progress.note(f"Up to {size_text(missing)} come from the hub first, to every node that lacks them.")


class Stop(Stops):
    """Those that end a command which writes a file, and where it stands then."""

    stands: Callable[[], str] | None = None
    """Gives `after 3 of 10 questions`; None before there is a file."""
    left = ""
    """What was to be computed again, and was not."""

    def stopped(self) -> Stopped:
        number = self.first or signal.SIGINT
        if self.stands is None:
            return Stopped(number)
        told = f"Stopped by {signal.Signals(number).name} {self.stands()}{self.left}.\nTo go on: {command_line()}"
        return Stopped(number, told)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """What signals end inside the block ends in words.

    Raises:
        Stopped: one has ended it.
    """
    stop, numbers = Stop(), (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    stop.watch(*numbers)
    try:
        yield stop
    except (Exception, KeyboardInterrupt) as error:
        if not stop.raised and not isinstance(error, KeyboardInterrupt):
            raise
        raise stop.stopped() from None
    except SystemExit as ended:  # what Ray, which takes SIGTERM when it starts, makes of one before it is taken back
        if ended.code != signal.SIGTERM:
            raise
        stop.first = signal.SIGTERM
        raise stop.stopped() from None
    finally:
        if not stop.first:  # else another one would end the process before all is said
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


def command_line() -> str:
    """This process's command, to be typed again to go on: without `--overwrite`, which would start anew."""
    program = Path(sys.argv[0])
    words = ["python", str(program)] if program.suffix == ".py" and program.stem != "__main__" else ["layerscope"]
    return " ".join(
        map(shell_word, [*_submission(), *words, *(word for word in sys.argv[1:] if word != "--overwrite")])
    )


def _submission() -> list[str]:
    """How this process was submitted, if it was: a job without its environment would not find layerscope."""
    if not in_ray_job():
        return []
    brought = ray_job_environment()
    if not brought:
        environment = []
    elif brought == {"working_dir"}:
        environment = ["--working-dir", "THE_SAME_FOLDER"]
    else:
        environment = ["--runtime-env", "THE_SAME.yaml"]  # Ray knows what it holds, not the file
    return ["ray", "job", "submit", *environment, "--"]
