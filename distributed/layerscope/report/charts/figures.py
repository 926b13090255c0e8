"""The charts of the page by name, as pictures of their own: for notebooks, slides and papers.

Each is drawn by what draws the page's, and has the sentence over it as its title.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from layerscope.analysis.dictionaries import Dictionary
from layerscope.analysis.result import Analysis, Contrast
from layerscope.errors import LayerscopeError, UsageError, did_you_mean
from layerscope.files import replacing
from layerscope.records.line.dictionaries import FIRST
from layerscope.records.writing.targets import begins_with, check_target
from layerscope.report.charts.confound_charts import length_chart, margin_histogram
from layerscope.report.charts.depth_axis import WIDE
from layerscope.report.charts.depth_strip import depth_strip
from layerscope.report.charts.dictionaries_strip import dictionaries_strip
from layerscope.report.charts.feature_map import effect_legend, feature_map
from layerscope.report.charts.readings_strip import readings_strip
from layerscope.report.charts.standalone import BEGINNING, Legend, standalone
from layerscope.report.charts.svg import element, rectangle
from layerscope.report.sections import baselines, dictionaries
from layerscope.report.words import baselines_said, sentences

_HALF = 540  # pixels of a chart that has another beside it


class _Drawn(NamedTuple):
    title: str
    chart: str
    legend: Legend = ()


class _Of(NamedTuple):
    """What a chart is of."""

    analyses: Sequence[Analysis]
    dictionaries: Sequence[Dictionary]

    @property
    def analysis(self) -> Analysis:
        return self.analyses[0]


@dataclass(frozen=True)
class Figure:
    """A chart; shown by notebooks, and written by `save`."""

    name: str
    title: str
    svg: str = field(repr=False)

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, to: str | PathLike[str]) -> Path:
        """Writes it; a picture that was written there before is replaced, anything else is not.

        Args:
            to: a name that ends in `.svg`.

        Raises:
            UsageError: it has another ending, or something else is there.
            LayerscopeError: it cannot be written.
        """
        path = check_target("save", to, own=begins_with(BEGINNING))
        if path.suffix.lower() != ".svg":
            raise UsageError(
                f"save: {path.name} is to be an SVG. Name a file that ends in .svg; browsers make PNG of it."
            )
        try:
            with replacing(path) as temporary:
                temporary.write_text(self.svg, encoding="utf-8")
        except OSError as error:
            raise LayerscopeError(f"{path} cannot be written: {error.strerror or error}. Name another one.") from error
        return path


def figure(
    name: str, analyses: Sequence[Analysis], contrast: str = "right", several: Sequence[Dictionary] = ()
) -> Figure:
    """One of the charts of `FIGURES`.

    Args:
        analyses: of the reading that it is about; behind it those of the others, for `readings`.
        contrast: `right` (right vs wrong) or `chosen` (chosen vs rejected).
        several: the run's dictionaries by depth, for `dictionaries`.

    Raises:
        UsageError: there is no such chart, or not of this run.
    """
    if name not in list(FIGURES):
        raise UsageError(f"There is no figure {name!r}. There are {', '.join(FIGURES)}.{did_you_mean(name, FIGURES)}")
    shown = contrast_of(analyses[0], contrast)
    drawn = FIGURES[name](_Of(analyses, several), shown)
    return Figure(name, drawn.title, standalone(drawn.chart, shown.first, drawn.title, drawn.legend))


def contrast_of(analysis: Analysis, name: str) -> Contrast:
    """
    Raises:
        UsageError: there is no such contrast.
    """
    for contrast in (analysis.right_wrong, analysis.chosen_rejected):
        if name == contrast.first:
            return contrast
    raise UsageError(
        f"There is no contrast {name!r}. right holds the right solution against the wrong one, chosen the one that the "
        "model chooses against the other; mean, the right one against the mean of the wrong ones, has no chart "
        "but the table findings('mean')."
    )


def _depth(of: _Of, contrast: Contrast) -> _Drawn:
    return _Drawn(sentences.answer(of.analysis, contrast), depth_strip(of.analysis, contrast, WIDE))


def _features(of: _Of, contrast: Contrast) -> _Drawn:
    swatches = [(_cell(kind), label) for kind, label in effect_legend()]
    odds = f"odds {contrast.first} only : {contrast.second} only, validation half; dot: confirmed"
    return _Drawn(
        sentences.map_title(contrast), feature_map(of.analysis, contrast, WIDE), [*swatches, (element("g"), odds)]
    )


def _margins(of: _Of, _contrast: Contrast) -> _Drawn:
    return _Drawn(sentences.margin_title(of.analysis), margin_histogram(of.analysis, _HALF, "wide"))


def _lengths(of: _Of, _contrast: Contrast) -> _Drawn:
    return _Drawn(sentences.length_title(of.analysis.length_bins), length_chart(of.analysis, _HALF, "wide"))


def _baselines(of: _Of, _contrast: Contrast) -> _Drawn:
    section = baselines.section(of.analysis)
    if section is None:
        why = of.analysis.comparison.why or "the control has no baselines"
        raise UsageError(f"There is no figure of baselines: {why}.")
    return _Drawn(baselines_said.compared(of.analysis), section["charts"][0], section["legend"])


def _readings(of: _Of, contrast: Contrast) -> _Drawn:
    if len(of.analyses) < 2:
        raise UsageError(
            "There is no figure of readings: the run has one. Run again with --readings final,last-word,max."
        )
    reads = [(analysis, contrast_of(analysis, contrast.first)) for analysis in of.analyses]
    return _Drawn(f"{contrast.name}: what each reading finds, layer by layer", readings_strip(reads, WIDE))


def _dictionaries(of: _Of, contrast: Contrast) -> _Drawn:
    if contrast is not of.analysis.right_wrong:
        raise UsageError("The figure of dictionaries is of right against wrong alone. Leave contrast out.")
    read = of.analysis.options
    if read.dictionary != FIRST or read.reading == "prompt":
        asked = f"dictionary={read.dictionary!r}" if read.dictionary != FIRST else "reading='prompt'"
        raise UsageError(
            f"The figure of dictionaries has the first one's beside it, and no control. Leave out {asked}."
        )
    if not of.dictionaries:
        raise UsageError("There is no figure of dictionaries: the run has one. Run again with --dictionary NAME=REPO.")
    layers = [int(layer) for layer in of.analysis.layers.layer]
    return _Drawn(dictionaries.title(of.dictionaries), dictionaries_strip(layers, of.dictionaries, WIDE))


def _cell(kind: str) -> str:
    return element("svg", rectangle(0, 0, 18, 14, f"cell {kind}"), width=18, height=14)


FIGURES: dict[str, Callable[[_Of, Contrast], _Drawn]] = {
    "depth": _depth,
    "features": _features,
    "margins": _margins,
    "lengths": _lengths,
    "baselines": _baselines,
    "readings": _readings,
    "dictionaries": _dictionaries,
}
"""By name: over depth what fires, how much and how surely; each layer's surest features; the margins; accuracy by
difference in length; features beside baselines; what each reading finds, and what each dictionary."""
