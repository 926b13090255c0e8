"""What the page says first, for a notebook: the answer, the warnings, the surest features, the charts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path

from markupsafe import Markup

from layerscope.analysis.result import Analysis
from layerscope.files import user_path
from layerscope.formatting import visible
from layerscope.records.line.dictionaries import FIRST
from layerscope.records.storage.addresses import beside_run
from layerscope.report.charts.figures import Figure, contrast_of, figure
from layerscope.report.charts.svg import element
from layerscope.report.page import report
from layerscope.report.sections import feature_tables
from layerscope.report.sections.feature_tables import Descriptions, Row
from layerscope.report.words import sentences

_CHARTS = ("depth", "margins", "lengths")
_ROWS = 20


@dataclass(frozen=True)
class RunReport:
    """The report of a run: shown by notebooks as its beginning, printed as its sentences, saved as the whole page."""

    files: Sequence[Path] = field(repr=False)
    analysis: Analysis = field(repr=False)
    contrast: str
    descriptions: Descriptions = field(repr=False)

    @property
    def verdict(self) -> str:
        """The answer, in a line."""
        said = sentences.verdict(self.analysis)
        return said[:1].upper() + said[1:]

    @property
    def warnings(self) -> list[str]:
        """What to know before believing a number."""
        return list(sentences.warnings(self.analysis))

    @cached_property
    def figures(self) -> list[Figure]:
        return [figure(name, [self.analysis], self.contrast) for name in _CHARTS]

    def save(self, to: str | PathLike[str] | None = None) -> Path:
        """Writes the whole page, as `layerscope report` does.

        Args:
            to: the (first) file with `.html` if None, of a further dictionary with `.NAME.html`. A report that is there
                is replaced, anything else is not.
        """
        dictionary = self.analysis.options.dictionary
        suffix = ".html" if dictionary == FIRST else f".{dictionary}.html"
        path = beside_run(self.files[0], suffix) if to is None else user_path(to)
        report(self.files, path, dictionary=dictionary)
        return path

    def __str__(self) -> str:
        return "\n".join([self.verdict, *self.warnings, *(each.title for each in self.figures)])

    def _repr_html_(self) -> str:
        return str(Markup("\n").join(self._parts()))

    def _parts(self) -> Iterator[Markup]:
        yield element("p", element("b", self.verdict))
        yield element("ul", *(element("li", warning) for warning in self.warnings))
        yield self._surest()
        for each in self.figures:
            yield element("p", each.title)
            yield Markup(each.svg)  # made of escaped texts alone

    def _surest(self) -> Markup:
        """The first rows of the page's table of confirmed features."""
        contrast = contrast_of(self.analysis, self.contrast)
        table = feature_tables.confirmed_table(self.analysis, contrast, self.descriptions)
        if not table.rows:
            return element("p", f"No feature is confirmed: {contrast.name}.")
        names = ["layer", "feature", "description", *(each.name for each in feature_tables.columns(contrast))]
        more = len(table.rows) + table.left_out - _ROWS
        return element(
            "div",
            element(
                "table",
                element("caption", f"{contrast.name}: the surest features{f', {more:,} more' if more > 0 else ''}"),
                element("thead", element("tr", *(element("th", name) for name in names))),
                element("tbody", *(_row(row) for row in table.rows[:_ROWS])),
            ),
            style="overflow-x:auto",
        )


def _row(row: Row) -> Markup:
    feature = element("a", row.feature_id, href=row.url, target="_blank", rel="noopener") if row.url else row.feature_id
    shown = (row.layer, feature, visible(row.description), *(cell.shown for cell in row.cells))
    return element("tr", *(element("td", each) for each in shown))
