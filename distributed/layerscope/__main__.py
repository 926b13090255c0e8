"""The `layerscope` command, and `python -m layerscope`: imports nothing of others' before it knows from where."""

import os
import sys

from layerscope.process import Stops, leave_working_folder, provide_home, speak_while_waiting, strike_again


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and ends the process, as `cli.main` says."""
    stops = Stops()
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
        _say("Stopped by SIGINT before anything began. Nothing was changed.")
        os._exit(130)  # nothing is open yet, and another thread may be in the middle of an import
    try:
        run(arguments, lambda: stops.raised)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done and said
        hush()


def _say(text: str) -> None:
    if sys.stderr:
        from contextlib import suppress

        with suppress(OSError):  # nobody reads it
            print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
