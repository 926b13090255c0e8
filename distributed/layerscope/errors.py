"""The errors that layerscope expects, each with the exit code of a command that ends in it.

A message says what happened (with the value), why it matters, and what to do, in at most three lines.
Everything else that is raised is a bug, and keeps its traceback.
"""


class LayerscopeError(Exception):
    """A known failure: the command prints its message without a traceback."""

    exit_code = 1


class UsageError(LayerscopeError):
    """The command line asks for something that cannot be: nothing was started."""

    exit_code = 2


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
