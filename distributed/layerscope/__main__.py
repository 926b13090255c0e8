"""The `layerscope` command, and `python -m layerscope`: imports nothing of others' before it knows from where."""

import sys
from contextlib import suppress

from layerscope.process import leave_working_folder, provide_home, speak_while_waiting


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and ends the process, as `cli.main` says."""
    leave_working_folder()
    speak_while_waiting()
    if (told := provide_home()) and sys.stderr:
        with suppress(OSError):  # nobody reads it
            print(told, file=sys.stderr)
    try:
        from layerscope.cli import main as run
    except KeyboardInterrupt:
        if sys.stderr:
            with suppress(OSError):
                print("Stopped by SIGINT before anything began. Nothing was changed.", file=sys.stderr)
        sys.exit(130)
    run(arguments)


if __name__ == "__main__":
    main()
