"""Numbers and untrusted text as people read them."""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TextIO

# Control characters but for tab and line feed, separators of lines, marks and overrides of direction, zero-width
# characters that join nothing, tags, halves of surrogate pairs. Joiners (U+200C, U+200D) stay: scripts need them.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)

_BYTES = re.compile("[\udc80-\udcff]")  # of a file's name, that are none of UTF-8


def size_text(size: float) -> str:
    """A number of bytes for people, in powers of 1000."""
    if size == 1:
        return "1 byte"
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def count_of(count: int, noun: str) -> str:
    """`1 question`, `2,000 questions`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def ranges(numbers: Iterable[int]) -> str:
    """`0-3,8` for 0, 1, 2, 3, 8: as `--layers` takes it."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def utf8(text: str) -> str:
    """A path or a word of a command line, whose bytes need be none of UTF-8, as text that is: such bytes as `\\xfc`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def shell_word(word: str) -> str:
    """A word as a shell reads it, whatever its bytes are."""
    if utf8(word) == word:
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"$'{utf8(escaped)}'"  # of bash, zsh and others


def visible(text: str) -> str:
    """Untrusted text made harmless to read: every hidden character as its code point, [U+202E]; of CRLF the CR goes."""
    return _HIDDEN.sub(lambda match: f"[U+{ord(match[0]):04X}]", text.replace("\r\n", "\n"))


def listed(names: Iterable[str], most: int = 8, joint: str = ", ") -> str:
    """Untrusted names for a message: a few of them, what is long cut short, none on a line of its own."""
    shown = [visible(name[:120].replace("\n", "[U+000A]")) for name in islice(names, most + 1)]
    return joint.join(shown[:most]) + (" …" if len(shown) > most else "")


def visible_json(text: str) -> str:
    """JSON of untrusted texts made harmless to read, and still the same JSON: hidden characters as its own escapes."""
    return _HIDDEN.sub(lambda match: json.dumps(match[0])[1:-1], text)


def say(text: str, stream: TextIO | None = None) -> None:
    """Prints a text for people, on standard output unless a stream is named.

    Whatever is printed goes this way: it may quote the name of a file, or what a file says, and neither must steer a
    terminal.
    """
    shown = _BYTES.sub(lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", text)
    print(visible(shown), file=stream or sys.stdout, flush=stream is not None)


def takes_back(stream: TextIO) -> bool:
    """A line can be taken back there, as a bar's is: it is a terminal, and none that calls itself dumb."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def told(value: float | None, form: str, undefined: str) -> str:
    """A number in a format, or what is said where there is none."""
    return undefined if value is None else format(value, form)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table as lines, whose columns begin below one another."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
