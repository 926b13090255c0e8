"""A chart of the page as a picture of its own: an SVG that needs no page, no style sheet, no CSS at all.

What the page's styles say of each element is settled here and written as the element's own attributes, so that a
picture looks the same in a notebook, on a slide and in programs for drawing, which know neither variables nor mixed
colours. The colours are those of the light page, on white.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

BEGINNING = b'<svg xmlns="http://www.w3.org/2000/svg"'
"""Of every picture."""
Legend = Sequence[tuple[str, str]]
"""Swatches, each an SVG element of at most 30 x 14 pixels, and what they stand for."""
_LEFT, _ROW, _SWATCH, _LETTER = 50.0, 22.0, 44.0, 6.4  # pixels of a legend: its place, heights and widths
_SHEETS = ("page.css", "charts.css")
_ON_WHITE = {"--page": "#ffffff"}
_SHOWN = (
    *("fill", "stroke", "stroke-width", "stroke-dasharray", "opacity"),
    *("font-family", "font-size", "font-weight", "letter-spacing"),
)
_OF_LINKS = ("href", "data-layer")

_PART = re.compile(r'([a-z]*)((?:\.[\w-]+)*)(?:\[data-contrast="(\w+)"\])?')
_VARIABLE = re.compile(r"var\((--[\w-]+)\)")
_LIGHT = re.compile(r"light-dark\(([^(),]+),[^(),]+\)")
_MIXED = re.compile(r"color-mix\(in srgb, (#\w{6}) (\d+)%, (#\w{6})\)")


class _Part(NamedTuple):
    """What one element of a selector must be."""

    tag: str
    classes: frozenset[str]
    contrast: str

    def fits(self, element: Element) -> bool:
        return (
            self.tag in ("", element.tag)
            and self.classes <= set(element.get("class", "").split())
            and self.contrast in ("", element.get("data-contrast", ""))
        )


class _Rule(NamedTuple):
    selector: tuple[_Part, ...]
    """From the outermost element to the one it is about."""
    says: dict[str, str]

    @property
    def weight(self) -> tuple[int, int]:
        """Of two rules for one element the heavier holds, of equal ones the later."""
        return (
            sum(len(part.classes) + bool(part.contrast) for part in self.selector),
            sum(bool(part.tag) for part in self.selector),
        )

    def fits(self, path: Sequence[Element]) -> bool:
        """
        Args:
            path: the element, behind all that it is in.
        """
        *around, own = self.selector
        if not own.fits(path[-1]):
            return False
        outer = iter(path[:-1])
        return all(any(part.fits(element) for element in outer) for part in around)


def standalone(chart: str, contrast: str, title: str, legend: Legend = ()) -> str:
    """
    Args:
        chart: an SVG element of the page.
        contrast: whose colours it has: `right` or `chosen`.
        title: what it shows, for those who cannot see it.
        legend: what the page has in words under it.
    """
    drawn = ElementTree.fromstring(chart)
    drawn.set("data-contrast", contrast)
    _add_legend(drawn, legend)
    _settle(drawn, (), _page())
    picture = Element("svg", xmlns="http://www.w3.org/2000/svg", role="img")
    for name in ("viewBox", "width", "height"):
        picture.set(name, drawn.attrib.pop(name))
    for name in ("data-contrast", "role", "aria-label"):
        drawn.attrib.pop(name, None)
    drawn.tag = "g"
    ElementTree.SubElement(picture, "title").text = title
    ElementTree.SubElement(picture, "rect", width="100%", height="100%", fill=_ON_WHITE["--page"])
    picture.append(drawn)
    return ElementTree.tostring(picture, encoding="unicode")


def _add_legend(drawn: Element, legend: Legend) -> None:
    """Sets a legend under a chart, in as many rows as it takes."""
    width, height = (float(drawn.attrib[name]) for name in ("width", "height"))
    x, y = _LEFT, height
    for swatch, label in legend:
        room = _SWATCH + _LETTER * len(label)
        if x + room > width:
            x, y = _LEFT, y + _ROW
        item = ElementTree.SubElement(drawn, "g", transform=f"translate({x:.0f} {y + 4:.0f})")
        item.append(ElementTree.fromstring(swatch))
        told = ElementTree.SubElement(item, "text", {"class": "note", "x": str(_SWATCH - 8), "y": "11"})
        told.text = label
        x += room
    if legend:
        drawn.set("height", f"{y + _ROW:.0f}")
        drawn.set("viewBox", f"0 0 {width:.0f} {y + _ROW:.0f}")


def _settle(element: Element, around: tuple[Element, ...], known: Mapping[str, str]) -> None:
    """Writes what the styles say of an element, and of all in it, as their attributes."""
    path = (*around, element)
    said: dict[str, str] = {}
    for rule in _rules():
        if rule.fits(path):
            said |= rule.says
    known = {**known, **{name: _value(value, known) for name, value in said.items() if name.startswith("--")}}
    for child in element:
        _settle(child, path, known)
    for name in _SHOWN:
        if name in said:
            element.set(name, _value(said[name], known))
    if said.get("white-space") == "pre":
        element.set("xml:space", "preserve")
    for name in ("class", "data-row", "data-columns", *(_OF_LINKS if element.tag == "a" else ())):
        element.attrib.pop(name, None)
    if element.tag == "a":  # leads to a table of the page
        element.tag = "g"


def _value(said: str, known: Mapping[str, str]) -> str:
    value = _VARIABLE.sub(lambda name: known[name[1]], said)
    return _MIXED.sub(lambda mixed: _mixed(mixed[1], int(mixed[2]), mixed[3]), _LIGHT.sub(r"\1", value))


def _mixed(one: str, percent: int, other: str) -> str:
    channels = zip(bytes.fromhex(one[1:]), bytes.fromhex(other[1:]), strict=True)
    return "#" + bytes(round((a * percent + b * (100 - percent)) / 100) for a, b in channels).hex()


@lru_cache
def _rules() -> list[_Rule]:
    """Those of the charts, the lightest first."""
    return sorted(_read(), key=lambda rule: rule.weight)


@lru_cache
def _page() -> dict[str, str]:
    """The variables of the whole page."""
    text = _text()
    found = dict(_declared(text[text.index(":root {") + len(":root {") : text.index("}")]))
    return {name: _LIGHT.sub(r"\1", value) for name, value in {**found, **_ON_WHITE}.items() if name.startswith("--")}


def _read() -> Iterator[_Rule]:
    for selectors, says in re.findall(r"([^{}]+)\{([^{}]*)\}", _text()):
        for selector in selectors.split(","):
            parts = [_PART.fullmatch(part) for part in selector.split()]
            found = [
                _Part(part[1], frozenset(part[2].split(".")) - {""}, part[3] or "")
                for part in parts
                if part is not None
            ]
            if parts and len(found) == len(parts):  # what is pointed at has other rules, which no picture needs
                yield _Rule(tuple(found), dict(_declared(says)))


def _declared(text: str) -> Iterator[tuple[str, str]]:
    for each in text.split(";"):
        name, colon, value = each.partition(":")
        if colon:
            yield name.strip(), value.strip()


@lru_cache
def _text() -> str:
    folder = files("layerscope.report").joinpath("templates")
    return re.sub(r"/\*.*?\*/", "", "\n".join(folder.joinpath(name).read_text("utf-8") for name in _SHEETS))
