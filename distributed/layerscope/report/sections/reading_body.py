"""All that the page says of one reading: its header and its sections, made of what the other modules say and draw."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from layerscope.analysis.method import READ_AT
from layerscope.analysis.result import Analysis, Contrast
from layerscope.report.charts import confound_charts
from layerscope.report.charts.depth_axis import NARROW, WIDE
from layerscope.report.charts.depth_strip import depth_strip
from layerscope.report.charts.feature_map import CELLS, effect_legend, feature_map
from layerscope.report.charts.readings_strip import readings_strip
from layerscope.report.packs.question_pack import Pack
from layerscope.report.sections import baselines, causes, feature_tables, groups, mean_section
from layerscope.report.sections.causes import NOTHING, ShownCauses
from layerscope.report.sections.feature_tables import Descriptions
from layerscope.report.words import baselines_said, depth_said, readings_said, sentences, strata_said, untested
from layerscope.report.words.many_said import many_solutions


@dataclass(frozen=True)
class Shown:
    """One reading of the page."""

    analysis: Analysis
    pack: Pack
    beside: ShownCauses = NOTHING

    @property
    def reading(self) -> str:
        return self.analysis.options.reading


def body_of(
    environment: Environment,
    one: Shown,
    descriptions: Descriptions,
    shown: Sequence[Shown],
    title: str,
    beside: dict[str, Any] | None,
) -> Markup:
    """All that the page says of one reading: its header and its sections."""
    analysis = one.analysis
    body = environment.get_template("reading.html.jinja").render(
        analysis=analysis,
        title=title,
        header=analysis.header,
        readings=[each.reading for each in shown],
        reads=[(each.analysis, each.analysis.right_wrong) for each in shown],
        across=_across(shown) if one is shown[0] else [],
        dictionaries=beside,
        say_readings=readings_said,
        many_solutions=many_solutions,
        read_at=READ_AT[analysis.options.reading],
        say=sentences,
        say_depth=depth_said,
        say_strata=strata_said,
        untested=untested,
        contrasts=[
            _contrast(analysis, contrast, descriptions) for contrast in (analysis.right_wrong, analysis.chosen_rejected)
        ],
        explainers=feature_tables.explainers(descriptions),
        compared=baselines_said.compared(analysis),
        mean=mean_section.section(analysis, descriptions),
        beside=baselines.section(analysis),
        causes=causes.section(analysis, one.beside, descriptions),
        case_title=causes.case_title,
        legend=effect_legend(),
        cells=[CELLS[width] for width in (WIDE, NARROW)],
        charts=[
            [draw(analysis, width, kind) for width, kind in ((540, "wide"), (NARROW, "narrow"))]
            for draw in (confound_charts.margin_histogram, confound_charts.length_chart)
        ],
        pack=one.pack,
        groups=groups,
    )
    return Markup(body)


def _across(shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """All that the template shows of several readings together, by contrast; nothing of one alone."""
    if len(shown) == 1:
        return []
    pairs = [(each.analysis, each.analysis.right_wrong) for each in shown]
    contrasts = [pairs, [(analysis, analysis.chosen_rejected) for analysis, _ in pairs]]
    return [
        {
            "numbers": reads[0][1],
            "reads": reads,
            "strips": [readings_strip(reads, width) for width in (WIDE, NARROW)],
        }
        for reads in contrasts
    ]


def _contrast(analysis: Analysis, contrast: Contrast, descriptions: Descriptions) -> dict[str, Any]:
    """All that the template shows of a contrast."""
    widths = (WIDE, NARROW)
    return {
        "numbers": contrast,
        "strips": [depth_strip(analysis, contrast, width) for width in widths],
        "maps": [feature_map(analysis, contrast, width) for width in widths],
        "columns": feature_tables.columns(contrast),
        "confirmed": feature_tables.confirmed_table(analysis, contrast, descriptions),
        "layers": feature_tables.layer_tables(analysis, contrast, descriptions),
    }
