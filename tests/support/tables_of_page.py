"""The tables of a page as a parser sees them, without a browser."""

from html.parser import HTMLParser


def widths_of_rows(page: str) -> list[tuple[str, set[int]]]:
    """Of every table its name, and how many columns its rows have: one number where heads stand over what is theirs."""
    reader = _Reader()
    reader.feed(page)
    return reader.tables


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tables: list[tuple[str, set[int]]] = []
        self._width = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if tag == "table":
            self.tables.append((told.get("data-name") or "", set()))
        elif tag == "tr":
            self._width = 0
        elif tag in ("td", "th"):
            self._width += int(told.get("colspan") or 1)

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self.tables[-1][1].add(self._width)
