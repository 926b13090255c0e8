"""In a notebook: tables, findings and charts are those of the commands, and importing layerscope costs nothing."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import layerscope
from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Analysis
from layerscope.errors import UsageError
from layerscope.report.charts.depth_strip import depth_strip
from layerscope.report.charts.figures import FIGURES, Figure
from layerscope.report.page import report
from layerscope.report.sections import feature_tables
from synthetic_run import Effect, Spec, write_run

SPEC = Spec(
    questions=160,
    layers=(0, 2),
    active=16,
    top_k=12,
    effects=[Effect(2, 7, first=0.9, second=0.1)],
    errors=(4,),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("notebook") / "run.jsonl"
    write_run(path, SPEC)
    return path


@pytest.fixture(scope="module")
def run(file: Path) -> "layerscope.LoadedRun[pa.Table]":
    """Analysed once for all tests."""
    return layerscope.load(file, frames="arrow")


@pytest.fixture(scope="module")
def analysis(file: Path) -> Analysis:
    return analyse(file)


def test_importing_is_quick_and_loads_nothing_of_what_the_functions_need() -> None:
    program = (
        "import sys, time; begun = time.process_time(); import layerscope; took = time.process_time() - begun\n"
        "names = dir(layerscope)\n"
        "assert set(layerscope.__all__) <= set(names), names\n"
        "heavy = {'torch', 'ray', 'pandas', 'pyarrow', 'numpy', 'scipy', 'transformers'} & sys.modules.keys()\n"
        "print(took < 0.3, sorted(heavy), sorted(name for name in names if name[0] != '_'))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    names = sorted(set(layerscope.__all__) - {"__version__"})
    assert told == f"True [] {names}\n"
    assert {"LoadedRun", "Scored", "load", "read_attributions", "read_features", "read_questions", "score"} < set(names)
    assert all(getattr(layerscope, name).__doc__ for name in names)


def test_what_is_shown_of_a_run_is_short(file: Path, run: "layerscope.LoadedRun[pa.Table]") -> None:
    assert repr(run) == f"layerscope.load({str(file)!r})"
    assert run.layers == [0, 2]
    assert run.readings == ("final",)
    assert run.manifest.identity.settings.top_k == SPEC.top_k


def test_the_tables_are_those_that_are_read_from_the_file(file: Path, run: "layerscope.LoadedRun[pa.Table]") -> None:
    assert run.questions().equals(layerscope.read_questions(file))
    assert run.features(layers=[2], top_k=3).equals(layerscope.read_features(file, layers=[2], top_k=3))
    with pytest.raises(UsageError, match="no layer 1"):
        run.features(layers=[1])


def test_tables_are_frames_of_the_kind_that_was_asked_for(file: Path) -> None:
    assert isinstance(layerscope.load(str(file)).questions(), pd.DataFrame)
    frame = layerscope.load(file, frames="polars").questions()
    assert isinstance(frame, pl.DataFrame)
    assert frame["example_id"].to_list() == list(range(SPEC.questions))
    with pytest.raises(UsageError, match=r"'excel'. There are pandas, polars, arrow"):
        layerscope.load(file, frames="excel")  # type: ignore[call-overload]


@pytest.mark.parametrize("named", [None, 5, b"x", True, [None], [["a.jsonl"]], {3}, "\0"], ids=repr)
@pytest.mark.parametrize(
    "of_files", ["load", "features", "questions", "attributions", "attribution_terms", "ablations"]
)
def test_what_names_no_file_is_shown(of_files: str, named: Any) -> None:
    """A traceback of Python's own says nothing of what it was given."""
    function = layerscope.load if of_files == "load" else getattr(layerscope, f"read_{of_files}")
    with pytest.raises(UsageError, match="cannot be a path: "):
        function(named)
    with pytest.raises(UsageError, match="cannot be a path: "):
        layerscope.write_means(named, "means.npz")
    with pytest.raises(UsageError, match="cannot be a path: "):
        layerscope.read_residuals(named, 0)


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda run: run.features(layers=0), "layers is 0; name them in a list"),
        (lambda run: run.features(layers="0,2"), "layers is '0,2'; name them in a list"),
        (lambda run: run.features(layers=[[0]]), "name them in a list"),
        (lambda run: run.features(top_k="3"), "top_k is '3'"),
        (lambda run: run.features(top_k=2.5), "top_k is 2.5"),
        (lambda run: run.features(dictionary=[]), "--dictionary"),
        (lambda run: run.findings(dictionary=[]), "--dictionary"),
        (lambda run: run.findings(reading=[]), "--reading"),
        (lambda run: run.findings(contrast=None), "no contrast None"),
        (lambda run: run.figure([]), "no figure"),
        (lambda run: run.report(contrast="nope"), "no contrast 'nope'"),
        (lambda run: layerscope.load(run.files, frames=[]), "no frames"),
    ],
)
def test_what_is_none_of_a_run_s_parts_is_told(
    ask: Callable[[Any], object], told: str, run: "layerscope.LoadedRun[pa.Table]"
) -> None:
    with pytest.raises(UsageError, match=re.escape(told)):
        ask(run)


def test_a_folder_is_the_run_in_it(file: Path, tmp_path: Path) -> None:
    """And not the questions that lie beside it; of several runs none is guessed."""
    assert layerscope.load(file.parent).files == [file]
    with pytest.raises(UsageError, match="no output file"):
        layerscope.load(tmp_path)
    for name in ("a.jsonl", "b.jsonl"):
        write_run(tmp_path / name, Spec(questions=2))
    with pytest.raises(UsageError, match=r"several runs: a.jsonl, b.jsonl"):
        layerscope.load(tmp_path)


def test_the_summary_says_what_the_report_says(run: "layerscope.LoadedRun[pa.Table]", analysis: Analysis) -> None:
    summary, header = run.summary, analysis.header
    assert (summary.questions, summary.errors, summary.planned) == (159, 1, 160)
    assert (summary.accuracy, summary.accuracy_per_character) == (header.accuracy, header.accuracy_per_character)
    assert summary.median_margin == pytest.approx(header.median_margin)
    assert f"{header.accuracy.share:.1%}".replace("%", " %") in str(summary)
    assert run._repr_html_().count("<tr>") == len(str(summary).splitlines())


def test_findings_are_the_rows_of_the_page_in_numbers(
    run: "layerscope.LoadedRun[pa.Table]", analysis: Analysis
) -> None:
    page = feature_tables.confirmed_table(analysis, analysis.right_wrong, {})
    findings = run.findings()
    assert [(row.layer, row.feature_id) for row in page.rows] == [
        (row["layer"], row["feature_id"]) for row in findings.to_pylist()
    ]
    assert (2, 7) in zip(findings["layer"].to_pylist(), findings["feature_id"].to_pylist(), strict=True)
    for column, cells in zip(
        feature_tables.columns(analysis.right_wrong), zip(*(row.cells for row in page.rows), strict=True), strict=True
    ):
        values = findings[column.csv].to_pylist()
        for cell, value in zip(cells, values, strict=True):
            shown = (cell.value or cell.shown).replace("−", "-").replace(",", "")
            assert shown in ("–", "< 0.0001") if value is None else float(shown) == pytest.approx(value, abs=0.006)
    every = run.findings("chosen", every=True)
    assert len(every) == len(analysis.features.layer)
    assert {"chosen_fires", "rejected_only"} < set(every.column_names)


@pytest.mark.parametrize("contrast", ["right", "chosen"])
def test_a_figure_is_the_chart_of_the_page(
    contrast: str, run: "layerscope.LoadedRun[pa.Table]", analysis: Analysis
) -> None:
    """Mark for mark, and its styles are in its marks: drawing programs know neither classes nor variables."""
    figure = run.figure("depth", contrast)
    shown = analysis.right_wrong if contrast == "right" else analysis.chosen_rejected
    page = ElementTree.fromstring(depth_strip(analysis, shown, 1120))
    picture = ElementTree.fromstring(figure.svg)
    for attribute in ("d", "x", "y", "cx", "cy", "r"):
        marks = [mark.get(attribute) for mark in picture.iter() if mark.get(attribute)]
        assert marks == [mark.get(attribute) for mark in page.iter() if mark.get(attribute)]
    assert [text for text in picture.itertext() if text != figure.title] == list(page.itertext())
    own = "#1f6db3" if contrast == "right" else "#14784a"
    assert {own, "none"} < {mark.get("fill") for mark in picture.iter()}


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in ("readings", "dictionaries")])
def test_every_figure_needs_no_page(name: str, run: "layerscope.LoadedRun[pa.Table]") -> None:
    figure = run.figure(name)
    assert figure._repr_svg_().startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert not re.search(r"var\(|light-dark|color-mix|class=|style=|href=|data-", figure.svg)
    assert figure.title
    if name in ("features", "baselines"):  # whose colours the page explains beside them
        assert "about 1:1" in figure.svg or "log-likelihood" in figure.svg


def test_there_is_no_figure_of_what_the_run_has_not(run: "layerscope.LoadedRun[pa.Table]") -> None:
    with pytest.raises(UsageError, match=r"no figure 'deep'. There are depth"):
        run.figure("deep")
    with pytest.raises(UsageError, match=r"the run has one. Run again with --readings"):
        run.figure("readings")
    with pytest.raises(UsageError, match="no contrast 'wrong'"):
        run.figure("depth", contrast="wrong")


def test_a_figure_is_saved_over_itself_and_nothing_else(tmp_path: Path) -> None:
    figure = Figure("depth", "a title", '<svg xmlns="http://www.w3.org/2000/svg"/>')
    path = figure.save(tmp_path / "x.svg")
    assert path.read_text() == figure.save(str(path)).read_text() == figure.svg
    (tmp_path / "other.svg").write_text("<svg/>")
    with pytest.raises(UsageError, match="made by something else"):
        figure.save(tmp_path / "other.svg")
    with pytest.raises(UsageError, match=r"ends in .svg"):
        figure.save(tmp_path / "x.png")
    assert "svg" not in repr(figure)


def test_the_report_begins_in_the_notebook_and_is_saved_whole(
    file: Path, run: "layerscope.LoadedRun[pa.Table]", tmp_path: Path
) -> None:
    shown = run.report()
    html = shown._repr_html_()
    assert html.count("<svg") == 3 == len(shown.figures)
    assert str(shown).startswith(shown.verdict)
    assert "1 question could not be scored" in str(shown)
    assert ">7</a>" in html, "with a link to its page"
    saved = shown.save(tmp_path / "page.html")
    report(file, tmp_path / "by_command.html")
    assert saved.read_bytes() == (tmp_path / "by_command.html").read_bytes()


def test_what_was_read_is_kept_and_loading_again_sees_what_came(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write_run(path, Spec(questions=3, planned=6))
    before = layerscope.load(path)
    assert len(before.questions()) == 3
    assert not before.summary.finished
    write_run(path, Spec(questions=6))
    assert len(before.questions()) == 3
    assert layerscope.load(path).summary.finished
