"""The `layerscope` command, and `python -m layerscope`: imports nothing of others' before it knows from where."""

import os
import sys

from layerscope.process import Stops, leave_working_folder, provide_home, speak_while_waiting, strike_again


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and ends the process, as `cli.main` says."""
    stops, hush = Stops(), _nothing
    try:
        import signal  # takes a hundredth of a second

        stops.watch(signal.SIGINT)
        sys.unraisablehook = strike_again
        leave_working_folder()
        hush = speak_while_waiting()
        if told := provide_home():
            _say(told)
        from layerscope.cli import main as run
    except BaseException as error:
        if not stops.raised and not isinstance(error, KeyboardInterrupt):
            raise
        hush()
        _tell_stopped(sys.argv[1:] if arguments is None else arguments)
        os._exit(130)  # nothing is open yet, and another thread may be in the middle of an import
    try:
        run(arguments, lambda: stops.raised)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done and said
        hush()


def _nothing() -> None:
    """Hushes what does not speak yet."""


def _say(text: str) -> None:
    if sys.stderr:
        from contextlib import suppress

        with suppress(OSError):  # nobody reads it
            print(text, file=sys.stderr, flush=True)


def _tell_stopped(words: list[str]) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import shlex

    command = shlex.join(["layerscope", *words])
    _say(f"Stopped by SIGINT before anything began; nothing was changed.\nTo go on: {command}")


if __name__ == "__main__":
    main()
