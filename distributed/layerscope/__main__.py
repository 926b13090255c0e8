"""The `layerscope` command, and `python -m layerscope`: imports nothing of others' before it knows from where."""

import os
import sys

from layerscope.process import Stops, leave_working_folder, provide_home, speak_while_waiting, strike_again


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and ends the process, as `cli.main` says, but with 1 where not all could be printed."""
    words = sys.argv[1:] if arguments is None else arguments
    stops = Stops()
    try:
        import signal  # takes a hundredth of a second

        stops.watch(signal.SIGINT)
        sys.unraisablehook = strike_again
        leave_working_folder()
        from layerscope.streams import lost_output, outlive_readers

        outlive_readers()
        hush = speak_while_waiting()
        if told := provide_home():
            _say(told)
        from layerscope.cli import main as run
    except BaseException as error:
        if not stops.raised and not isinstance(error, KeyboardInterrupt):
            raise
        _tell_stopped(words)
        os._exit(130)  # nothing is open yet, and another thread may be in the middle of an import
    try:
        run(arguments, lambda: stops.raised)
    except SystemExit as ended:
        # The work of a run lies in its file, whatever becomes of what it prints.
        if (lost := lost_output()) is not None and not ended.code and words[:1] not in (["run"], ["ablate"]):
            _say(f"layerscope: Not all could be printed: {lost.strerror}.")
            sys.exit(1)
        raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done and said
        hush()


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
