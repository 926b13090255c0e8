"""What a command that runs a job says, the command that goes on with it, and the signals that stop it."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from layerscope.formatting import say, shell_word, size_text
from layerscope.planning.job import Job, download_bytes
from layerscope.planning.output import in_ray_job, ray_job_environment
from layerscope.planning.placement import Placement
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


@contextmanager
def stop_signals() -> Iterator[list[signal.Signals]]:
    """Collects the first signal that asks to stop; a second one stops at once, but for a hang-up, which may come twice.

    To be entered after Ray's start, which takes SIGTERM. What is ignored (a hang-up, under nohup) stays so.
    """
    caught: list[signal.Signals] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        if not caught:
            caught.append(signal.Signals(number))
        elif number != signal.SIGHUP:  # of which a closed terminal's shell and the kernel send one each
            raise KeyboardInterrupt

    numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield caught
    finally:
        for number, handler in zip(numbers, before, strict=True):
            if number not in caught:
                signal.signal(number, handler)
            elif number == signal.SIGHUP:  # the second would end the process while Ray is shut down, or Python itself
                signal.signal(number, signal.SIG_IGN)


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
