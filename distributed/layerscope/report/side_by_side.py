"""The page of two runs over the same questions, made of what `compare` finds and of what each run's features say."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from layerscope.analysis.findings import analyse_firing
from layerscope.analysis.result import Options
from layerscope.formatting import size_text
from layerscope.records.reading.run import Run
from layerscope.report.charts.depth_axis import NARROW, WIDE
from layerscope.report.charts.sides_strip import sides_strip
from layerscope.report.document import address_of, document, page_environment, page_target, write_page
from layerscope.report.sections.groups import share_picture
from layerscope.report.sides import Side, Sides
from layerscope.report.stages import Stages
from layerscope.report.words import sides_said
from layerscope.report.words.depth_said import auroc_interval
from layerscope.report.words.sentences import number
from layerscope.report.words.untested import confirmed_in

Json = dict[str, Any]
_STYLE = ("page.css", "charts.css", "tables.css", "sides.css", "screens.css")
_SCRIPT = ("base.js", "state.js", "tables.js", "saving.js", "rows.js")
_MEASURES = (("acc", "by sum"), ("acc_norm", "per character"))


def side_by_side(
    found: Json, runs: tuple[Run, Run], whose: tuple[str, str], to: Path | None, title: str = "", show: bool = False
) -> str:
    """Writes the page and says where it is.

    Args:
        found: of `compare`.
        runs: what it compares.
        whose: the dictionary of each.
        to: the page; the first file with `.vs.SECOND.html` if None.
        title: what it is called; both files' names if empty.
        show: open it in the browser.

    Raises:
        UsageError: something else is there.
        LayerscopeError: it cannot be written.
    """
    inputs = [part.path for run in runs for part in run.parts]
    to = page_target(to, runs[0].path.with_suffix(f".vs.{_stem(runs[1])}.html"), inputs)
    with Stages() as stages:
        sides = []
        for letter, run, dictionary in zip("AB", runs, whose, strict=True):
            options = Options(reading=found["reading"], dictionary=dictionary, permutations=0)
            files, page = [part.path for part in run.parts], address_of(run.path.with_suffix(".html"), to)
            found_in = analyse_firing(files, options, partial(_tell, stages, letter))
            sides.append(Side(letter, run, found_in, page, dictionary))
    same = {int(layer): each["mean_jaccard"] for layer, each in found["layers"].items()}
    intervals = {int(layer): each["mean_jaccard_95"] for layer, each in found["layers"].items()}
    written = render_sides(found, Sides(sides[0], sides[1], same, intervals), title)
    write_page(to, written, show)
    return "\n".join([f"comparison  {to} ({size_text(len(written))})", *_notes(runs)])


def _tell(stages: Stages, letter: str, stage: str, share: float) -> None:
    stages.tell(f"{stage} {letter}", share)


def _notes(runs: tuple[Run, Run]) -> Iterator[str]:
    for run in runs:
        yield from run.notes


def _stem(run: Run) -> str:
    return run.path.name.split(".jsonl")[0]


def render_sides(found: Json, sides: Sides, title: str = "") -> bytes:
    said = {
        "title": title,
        "found": found,
        "sides": sides,
        "say": sides_said,
        "number": number,
        "accuracies": list(_accuracies(found)),
        "charts": [sides_strip(sides, width) for width in (WIDE, NARROW)],
        "rows": list(_layers(sides)),
    }
    return document(page_environment(), "sides.html.jinja", _STYLE, _SCRIPT, said)


def _accuracies(found: Json) -> Iterator[dict[str, Any]]:
    for measure, name in _MEASURES:
        of_both = [sides_said.accuracy(found, measure, run) for run in "ab"]
        yield {
            "name": name,
            "of_both": [(share, share_picture(share, 0.5)) for share in of_both],
            **found[measure],
            "p": sides_said.p_text(found[measure]["p"]),
        }


def _layers(sides: Sides) -> Iterator[list[str]]:
    """The table by layer: of A and B tested, confirmed, AUROC, its interval; confirmed in both; Jaccard."""
    for layer in sides.layers:
        cells = [str(layer)]
        for side in sides.both:
            own, of = side.index(layer), side.found.contrast
            if own is None:
                cells += ["–"] * 4
                continue
            cells += [f"{of.firing_by_layer.tested[own]:,}", confirmed_in(of.firing_by_layer, own)]
            cells += [number(float(of.held_out.auroc[own])), auroc_interval(of.held_out, own) or "–"]
        shared, jaccard = sides.shared(layer), sides.same.get(layer)
        yield [*cells, "–" if shared is None else f"{shared:,}", number(float("nan") if jaccard is None else jaccard)]
