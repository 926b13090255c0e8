"""What is on the pages of a PDF that a browser printed."""

import re
import zlib

_OBJECT = re.compile(rb"(\d+) 0 obj\s(.*?)endobj", re.S)
_STREAM = re.compile(rb"stream\r?\n(.*?)\nendstream", re.S)


def marks_on_pages(pdf: bytes) -> list[int]:
    """For every page, how many pieces of text and painted shapes it has."""
    objects = {int(number): content for number, content in _OBJECT.findall(pdf)}
    pages = [content for content in objects.values() if re.search(rb"/Type\s*/Page\b", content)]
    return [_marks(objects, page) for page in pages]


def _marks(objects: dict[int, bytes], page: bytes) -> int:
    found = re.search(rb"/Contents\s+(?:\[)?((?:\s*\d+ 0 R)+)", page)
    assert found is not None
    parts = [objects[int(number)] for number in re.findall(rb"(\d+) 0 R", found[1])]
    drawn = b"\n".join(map(_unpacked, parts))
    return len(re.findall(rb"\bT[jJ]\b|\bDo\b|(?m:^f\*?$|^S$)", drawn))


def _unpacked(content: bytes) -> bytes:
    stream = _STREAM.search(content)
    assert stream is not None
    if b"/FlateDecode" not in content:
        return stream[1]
    return zlib.decompressobj().decompress(stream[1])  # what it ends with may be "\r", and so may the line behind it
