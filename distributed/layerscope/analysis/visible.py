"""Untrusted text made harmless to read: what is invisible, or would turn the text around it, is shown as its code."""

import re

# Control characters but for tab and line feed, separators of lines, marks and overrides of direction, zero-width
# characters that join nothing, tags, halves of surrogate pairs. Joiners (U+200C, U+200D) stay: scripts need them.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """The text with every hidden character as its code point, such as [U+202E]; of CR LF the CR goes."""
    return _HIDDEN.sub(lambda match: f"[U+{ord(match[0]):04X}]", text.replace("\r\n", "\n"))
