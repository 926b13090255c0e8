"""What another user of the machine meets: tests often run as root, to whom every file is readable."""

import os
import pickle
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
NOBODY = 65534


def as_somebody(act: Callable[[], T]) -> T:
    """What a function gives, called by a user who is not root and owns nothing, in a process of its own.

    What it imports must be imported before: our packages may lie in root's home.
    """
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        with suppress(BaseException):
            os.close(reader)
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            try:
                answer = pickle.dumps((act(), ""))
            except BaseException:
                answer = pickle.dumps((None, traceback.format_exc()))
            with os.fdopen(writer, "wb") as stream:
                stream.write(answer)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        content = stream.read()
    os.waitpid(child, 0)
    answer, trouble = pickle.loads(content)
    assert not trouble, trouble
    return answer  # type: ignore[no-any-return]
