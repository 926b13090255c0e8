"""The architecture as a picture: a box for each room, an arrow for each import, no arrow upwards.

The rooms stand in rows by `rooms.levels`. An arrow that passes a row goes through a gap in it. Rows are put in an order
in which few arrows cross, by moving each box towards those that it is joined to.
"""

import itertools
import textwrap
from dataclasses import dataclass
from html import escape

from documenting.rooms import Room, direct_uses, levels

STEPS = (
    "cli.py",
    "commands",
    "planning",
    "questions",
    "engine",
    "models",
    "saes",
    "records",
    "analysis",
    "report",
)
"""Where a question passes, in this order: the numbers in the picture and on the page below it."""

_BOX, _LANE, _GAP, _MARGIN = 208, 16, 18, 20
_ROW, _LINE, _CHARACTERS = 42, 15, 29  # between two rows; a line of text, and how many characters fit in one
LIGHT = {
    "page": "#ffffff",
    "box": "#f6f8fa",
    "edge": "#d0d7de",
    "ink": "#1f2328",
    "faint": "#59636e",
    "arrow": "#8c959f",
    "torch": "#bc4c00",
    "ray": "#0969da",
}
DARK = {
    "page": "#0d1117",
    "box": "#161b22",
    "edge": "#3d444d",
    "ink": "#f0f6fc",
    "faint": "#9198a1",
    "arrow": "#6e7681",
    "torch": "#f0883e",
    "ray": "#58a6ff",
}


@dataclass
class _Spot:
    """A room, or the gap that an arrow goes through, in its row."""

    width: int
    room: Room | None = None
    x: float = 0.0
    """Of its middle."""


def architecture(found: list[Room], colours: dict[str, str]) -> str:
    """The SVG."""
    rows, chains = _laid_out(found)
    heights = [
        max(len(_wrapped(spot.room)) for spot in row if spot.room) * _LINE + 44 for row in rows
    ]  # a name, the text, space around them
    tops = [_MARGIN + sum(heights[:number]) + number * _ROW for number in range(len(rows))]
    row_of = {id(spot): number for number, row in enumerate(rows) for spot in row}
    body = [_arrow([(spot, tops[row_of[id(spot)]], heights[row_of[id(spot)]]) for spot in chain]) for chain in chains]
    for row, top, height in zip(rows, tops, heights, strict=True):
        body += [_box(spot.room, spot.x, top, height) for spot in row if spot.room]
    width = max(spot.x + spot.width / 2 for row in rows for spot in row) + _MARGIN
    height = tops[-1] + heights[-1] + 56
    body.append(_legend(height - 30))
    style = "".join(f".{name}{{{rule}}}" for name, rule in _rules(colours).items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img" '
        f'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">'
        "<title>The folders of layerscope and their imports</title>"
        f"<style>{style}</style>"
        f'<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path class="head" d="M0 0 8 4 0 8z"/></marker></defs>'
        f'<rect class="page" width="{width:.0f}" height="{height}"/>' + "\n".join(["", *body, ""]) + "</svg>\n"
    )


def _rules(colours: dict[str, str]) -> dict[str, str]:
    return {
        "page": f"fill:{colours['page']}",
        "box": f"fill:{colours['box']};stroke:{colours['edge']}",
        "name": f"fill:{colours['ink']};font-size:15px;font-weight:600",
        "text": f"fill:{colours['faint']};font-size:11.5px",
        "arrow": f"fill:none;stroke:{colours['arrow']};stroke-width:1.4",
        "head": f"fill:{colours['arrow']}",
        "step": f"fill:{colours['ink']}",
        "number": f"fill:{colours['page']};font-size:11px;font-weight:600;text-anchor:middle",
        "torch": f"fill:{colours['torch']};font-size:11px;font-weight:600",
        "ray": f"fill:{colours['ray']};font-size:11px;font-weight:600",
    }


def _laid_out(found: list[Room]) -> tuple[list[list[_Spot]], list[list[_Spot]]]:
    """The rows with their boxes and gaps at their places, and each arrow's way through them, from its beginning."""
    rows = [[_Spot(_BOX, room) for room in level] for level in levels(found)]
    places = {spot.room.name: (number, spot) for number, row in enumerate(rows) for spot in row if spot.room}
    chains = []
    for name, used in sorted(direct_uses(found).items()):
        first, spot = places[name]
        for use in sorted(used):
            last, end = places[use]
            gaps = [_Spot(_LANE) for _ in range(first + 1, last)]
            for number, gap in enumerate(gaps, start=first + 1):
                rows[number].append(gap)
            chains.append([spot, *gaps, end])
    joined: dict[int, list[_Spot]] = {}
    for chain in chains:
        for one, other in itertools.pairwise(chain):
            joined.setdefault(id(one), []).append(other)
            joined.setdefault(id(other), []).append(one)
    for row in rows:
        _spread(row, [0.0] * len(row))
    for sweep in range(60):
        for row in rows if sweep % 2 else reversed(rows):
            wanted = {id(spot): _mean([other.x for other in joined.get(id(spot), [spot])]) for spot in row}
            row.sort(key=lambda spot: wanted[id(spot)])
            _spread(row, [wanted[id(spot)] for spot in row])
    left = min(spot.x - spot.width / 2 for row in rows for spot in row)
    for spot in (spot for row in rows for spot in row):
        spot.x += _MARGIN - left
    return rows, chains


def _spread(row: list[_Spot], wanted: list[float]) -> None:
    """Puts the spots of a row, in their order, near where they are wanted and apart from each other."""
    apart = [(one.width + other.width) / 2 + _GAP for one, other in itertools.pairwise(row)]
    from_left, from_right = list(wanted), list(wanted)
    for number, distance in enumerate(apart):
        from_left[number + 1] = max(wanted[number + 1], from_left[number] + distance)
    for number, distance in reversed(list(enumerate(apart))):
        from_right[number] = min(wanted[number], from_right[number + 1] - distance)
    for spot, left, right in zip(row, from_left, from_right, strict=True):
        spot.x = (left + right) / 2


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def _wrapped(room: Room) -> list[str]:
    return textwrap.wrap(room.purpose, _CHARACTERS)


def _box(room: Room, x: float, top: float, height: float) -> str:
    left = x - _BOX / 2
    parts = [f'<rect class="box" x="{left:.0f}" y="{top}" width="{_BOX}" height="{height}" rx="8"/>']
    name = room.name if room.name.endswith(".py") else f"{room.name}/"
    parts.append(f'<text class="name" x="{left + 12:.0f}" y="{top + 24}">{escape(name)}</text>')
    for number, line in enumerate(_wrapped(room)):
        parts.append(f'<text class="text" x="{left + 12:.0f}" y="{top + 43 + number * _LINE}">{escape(line)}</text>')
    right = left + _BOX - 12
    if room.name in STEPS:
        parts.append(f'<circle class="step" cx="{right - 8:.0f}" cy="{top + 19}" r="9"/>')
        parts.append(f'<text class="number" x="{right - 8:.0f}" y="{top + 23}">{STEPS.index(room.name) + 1}</text>')
        right -= 24
    for heavy in sorted(room.heavy):
        parts.append(f'<text class="{heavy}" x="{right:.0f}" y="{top + 23}" text-anchor="end">{heavy}</text>')
        right -= 36
    return "".join(parts)


def _arrow(way: list[tuple[_Spot, float, float]]) -> str:
    """From the lower edge of a box, straight through the gaps of the rows between, to the upper edge of another."""
    (start, top, height), *between, (end, end_top, _) = way
    path = f"M{start.x:.0f} {top + height:.0f}"
    y = top + height
    for spot, spot_top, spot_height in between:
        middle = (y + spot_top) / 2
        path += f" C{_x(path)} {middle:.0f} {spot.x:.0f} {middle:.0f} {spot.x:.0f} {spot_top:.0f}"
        path += f" L{spot.x:.0f} {spot_top + spot_height:.0f}"
        y = spot_top + spot_height
    middle = (y + end_top) / 2
    path += f" C{_x(path)} {middle:.0f} {end.x:.0f} {middle:.0f} {end.x:.0f} {end_top:.0f}"
    return f'<path class="arrow" d="{path}" marker-end="url(#head)"/>'


def _x(path: str) -> str:
    """Where a path has come to."""
    return path.replace("M", " ").replace("L", " ").split()[-2]


def _legend(y: float) -> str:
    lines = (
        "An arrow is an import. What a folder reaches through another one has no arrow of its own.",
        'The numbers are the way of one question. <tspan class="torch">torch</tspan> and '
        '<tspan class="ray">ray</tspan> are imported in those folders alone.',
    )
    return "".join(f'<text class="text" x="{_MARGIN}" y="{y + i * 18}">{line}</text>' for i, line in enumerate(lines))
