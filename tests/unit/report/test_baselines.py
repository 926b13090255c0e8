"""The section of the page that sets features beside baselines."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from layerscope.analysis.baselines.result import NAMES, Ahead, Baseline, Comparison, Measured
from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Analysis, Options
from layerscope.report.charts.svg import band
from layerscope.report.page import report
from layerscope.report.sections.baselines import section
from layerscope.report.words.baselines_said import compared
from synthetic_readings import write_readings
from synthetic_run import Effect, Spec, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("baselines") / "run.jsonl"
    write_run(path, Spec(questions=160, layers=(0, 3), distinct=True, effects=[Effect(3, 7, 0.9, 0.1)]))
    return path


@pytest.fixture(scope="module")
def analysis(run: Path) -> Analysis:
    return analyse(run, Options(permutations=0))


def test_every_score_has_a_row_and_what_is_missing_is_told(analysis: Analysis) -> None:
    shown = section(analysis)
    assert shown is not None
    rows = {row["name"]: row for row in shown["rows"]}
    assert rows["probe on residuals"]["needs"] == "needs a run with --residuals"
    assert "auroc" not in rows["probe on residuals"], "nothing was measured, so there is no number"
    best = [row for row in shown["rows"] if row["best"]]
    assert [row["layer"] for row in best] == ["3"]
    assert rows["log-likelihood"]["layer"] == "–"
    assert float(rows["log-likelihood"]["ahead"]) == pytest.approx(
        float(best[0]["auroc"]) - float(rows["log-likelihood"]["auroc"]), abs=0.011
    )
    assert "bag of words" in rows, "which are no tokens where the file has none"


def test_lines_are_told_apart_without_their_colours(analysis: Analysis) -> None:
    """Of what is in one panel each has a glyph of its own, and the legend has them all."""
    shown = section(analysis)
    assert shown is not None
    drawn = [re.findall(r'd="M([^"]+)Z"|<circle[^>]*class="glyph (\w+)', swatch)[0] for swatch, _ in shown["legend"]]
    kinds = [re.findall(r"glyph (\w+) of-([-\w]+)", swatch)[0] for swatch, _ in shown["legend"]]
    assert len(drawn) == 8
    assert len({(*form, filled) for form, (filled, _) in zip(drawn, kinds, strict=True)}) == 8
    for chart in shown["charts"]:
        assert {key for _, key in kinds} == set(re.findall(r'class="glyph \w+ of-([-\w]+)"', chart))


def test_every_layer_is_reached_by_the_keyboard_and_read_aloud(analysis: Analysis) -> None:
    shown = section(analysis)
    assert shown is not None
    links = re.findall(r'<a href="([^"]+)" data-layer="(\d+)" aria-label="([^"]+)"', shown["charts"][0])
    assert [(href, layer) for href, layer, _ in links] == [
        (f"#contrast=right&amp;layer={layer}", str(layer)) for layer in (0, 3)
    ]
    assert all("AUROC: log-likelihood 0." in said and "probe on 20 features" in said for _, _, said in links)


def test_the_page_says_what_it_came_to_at_its_top_and_is_the_same_each_time(run: Path, tmp_path: Path) -> None:
    pages = [tmp_path / "one.html", tmp_path / "two.html"]
    for page in pages:
        report(run, page)
    source = pages[0].read_text()
    said = source.index('class="compared">Beside baselines: probes on features tell right')
    assert said < source.index('class="tiles"')
    assert source.count('id="baselines"') == 1
    assert "Hidden knowledge: " in source
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_what_has_too_few_questions_has_no_chart(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write_run(path, Spec(questions=12, layers=(0,)))
    assert section(analyse(path, Options(permutations=0))) is None
    report(path)
    assert "Beside baselines: not known, because either half" in path.with_suffix(".html").read_text()


def scored(key: str, auroc: float, low: float, ahead: Ahead | None = None) -> Baseline:
    columns = [np.full(2 if key.startswith("sparse") else 1, value) for value in (auroc, low, 0.99, 0.7, 0.6, 0.8)]
    return Baseline(key, Measured(*columns), 0, ahead)


@pytest.mark.parametrize(
    ("auroc", "low", "others", "words"),
    [
        (
            0.8,
            0.7,
            [scored("length", 0.6, 0.5, Ahead(0.2, 0.1, 0.3))],
            "layer 0), better than length (0.60).",
        ),
        (
            0.8,
            0.7,
            [
                scored("length", 0.78, 0.7, Ahead(0.02, -0.1, 0.1)),
                scored("likelihood", 0.9, 0.8, Ahead(-0.1, -0.2, -0.05)),
            ],
            "but they beat nothing that they are compared with. Log-likelihood (0.90) alone does better; length (0.78) "
            "alone does as well, as far as these pairs can tell.",
        ),
        (
            0.6,
            0.51,
            [scored("words", 0.55, 0.45, Ahead(0.05, -0.1, 0.1))],
            ", but whether they are better than bag of words (0.55) cannot be told.",
        ),
        (
            0.55,
            0.45,
            [scored("last", 0.4, 0.3, Ahead(0.15, 0.05, 0.3))],
            "probes on features are not shown to tell right from wrong on the half that chose nothing (AUROC 0.55, "
            "95 %: 0.45 to 0.99; a probe on 5 features in layer 0), and neither is anything else: last token (0.40).",
        ),
    ],
)
def test_better_as_well_and_worse_are_said_by_intervals(
    auroc: float, low: float, others: list[Baseline], words: str, analysis: Analysis
) -> None:
    """What does not tell by itself is never said to be beaten by features that do not tell either."""
    comparison = Comparison("", (scored("sparse-5", auroc, low), *others), best="sparse-5")
    assert words in compared(replace(analysis, comparison=comparison))


def test_the_control_is_compared_with_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write_readings(path, 120)
    report(path, tmp_path / "page.html", reading="prompt")
    assert "Beside baselines: nothing to compare" in (tmp_path / "page.html").read_text()


def test_a_band_is_broken_where_nothing_is_known() -> None:
    nan = float("nan")
    lower, upper = [(0, 1), (1, 1), (2, nan), (3, 1), (4, 1)], [(0, 2), (1, 2), (2, nan), (3, 2), (4, 2)]
    drawn = band(lower, upper, "band")
    assert re.findall(r'd="([^"]+)"', drawn) == ["M0 1L1 1L1 2L0 2ZM3 1L4 1L4 2L3 2Z"]
    assert set(NAMES) >= {"likelihood", "length", "words", "last", "means", "dense"}
