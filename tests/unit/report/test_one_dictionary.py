"""What is read of one dictionary of a run with several is what would be read of a run of that one alone."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import layerscope
from browsing import opened
from layerscope import read_features
from layerscope.cli import main
from layerscope.config import FIRST
from layerscope.errors import UsageError
from layerscope.report.page import report
from layerscope.tables.compare import as_text, compare
from layerscope.tables.export import export
from several import write_several
from synthetic_run import Effect

NAMES = (FIRST, "wide", "heads")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    planted = {"wide": Effect(0, 501, 0.2, 0.7), "heads": Effect(2, 502, 0.7, 0.2)}
    return write_several(tmp_path_factory.mktemp("several"), planted)


@pytest.mark.parametrize("name", NAMES)
def test_tables_of_one(files: dict[str, Path], name: str) -> None:
    """Of a file, of shards, of a file whose manifest is lost, and exported."""
    own = read_features(files[name])
    assert own.num_rows > 1000
    bare = files["whole"].with_name("bare.jsonl")
    bare.write_bytes(files["whole"].read_bytes())
    for where in (files["whole"], [files["part2"], files["part1"]], bare):
        assert read_features(where, dictionary=name).equals(own)
    target = files["whole"].with_name(f"{name}.parquet")
    export([files["part1"], files["part2"]], target, False, name)
    assert pq.read_table(target).equals(own)


def test_findings_and_charts_of_one_in_a_notebook(files: dict[str, Path]) -> None:
    several = layerscope.load(files["whole"], "arrow")
    assert several.dictionaries == NAMES
    for name, planted in zip(NAMES[1:], (501, 502), strict=True):
        single = layerscope.load(files[name], "arrow")
        assert several.features(dictionary=name).equals(single.features())
        found = several.findings(dictionary=name)
        assert found.equals(single.findings())
        assert planted in found["feature_id"].to_pylist()
        assert several.figure("depth", dictionary=name).svg == single.figure("depth").svg
        assert str(several.report(dictionary=name)) == str(single.report())


def test_two_runs_side_by_side_say_whose_lists_are_each_ones(files: dict[str, Path], tmp_path: Path) -> None:
    page = tmp_path / "two.html"
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["report", str(files["whole"]), str(files["heads"]), "--dictionary", "heads", "--to", str(page)])
    written = page.read_text()
    assert "of dictionary heads in A and first in B" in written
    saes = re.findall(r"<bdi>([^<]*)</bdi>", written.partition(">SAEs</th>")[2].partition("</tr>")[0])
    assert ["(heads)" in each for each in saes] == [True, False]
    assert [each.partition(", read at ")[2].partition(" ")[0] for each in saes] == ["mlp_out", "mlp_out"]


def test_the_chart_of_all_is_that_of_the_first_ones_page(files: dict[str, Path]) -> None:
    run = layerscope.load(files["whole"], "arrow")
    drawn = run.figure("dictionaries")
    assert drawn.title == "Features that tell right from wrong: 1 by first, 1 by wide, 1 by heads"
    report(files["whole"])
    page = files["whole"].with_suffix(".html").read_text()
    section = page[page.index('<section id="dictionaries"') :]
    for marks in (r"<circle[^>]*? cx=\"([^\"]*)", r"<(?:path|line)[^>]*? (?:d|y2)=\"([^\"]*)"):
        found = re.findall(marks, drawn.svg)
        assert found == re.findall(marks, section[: section.index("</svg>")]) != []
    assert "\nother SAEs          wide, heads\n" in str(run.summary)
    for asked, told in (
        ({"contrast": "chosen"}, "right against wrong alone. Leave contrast out"),
        ({"dictionary": "wide"}, "the first one's beside it.*Leave out dictionary='wide'"),
    ):
        with pytest.raises(UsageError, match=told):
            run.figure("dictionaries", **asked)
    with pytest.raises(UsageError, match=r"the run has one. Run again with --dictionary NAME=REPO"):
        layerscope.load(files["wide"], "arrow").figure("dictionaries")


def test_a_page_of_one_draws_and_lists_what_that_of_its_own_run_does(files: dict[str, Path]) -> None:
    """And lies beside that of the first."""
    name = "heads"
    drawn = re.compile(r"<(?:path|rect|circle)[^>]*>|data-v=\"[^\"]*\"|somebody/\w+|>[\w+/=]{400,}<")
    pages = []
    for file, dictionary in ((files["whole"], name), (files[name], FIRST)):
        report(file, dictionary=dictionary)
        to = file.with_suffix(".html" if dictionary == FIRST else ".heads.html")
        pages.append(drawn.findall(to.read_text()))
    assert len(pages[0]) > 100
    assert f"somebody/{name}" in pages[0]
    assert pages[0] == pages[1]


def test_a_page_says_which_dictionary_it_is_of_and_where_that_reads(files: dict[str, Path], chromium: Any) -> None:
    report(files["whole"], dictionary="heads")
    report(files["whole"])
    said = {}
    for name in ("whole.heads.html", "whole.html"):
        with opened(chromium, files["whole"].with_name(name)) as tab:
            said[name] = [tab.title(), *(tab.locator(part).first.inner_text() for part in (".eyebrow", ".facts"))]
    title, eyebrow, facts = said["whole.heads.html"]
    assert title == "whole.jsonl, dictionary heads – layerscope"
    assert "whole.jsonl, dictionary heads ·" in eyebrow
    assert "somebody/heads, read at mlp_out, top" in facts
    assert not any("heads" in told or "read at" in told for told in said["whole.html"][:2])
    assert "read at" not in said["whole.html"][2]


def test_two_runs_are_compared_by_one(files: dict[str, Path]) -> None:
    """A run of one needs no name for it beside a run of several."""
    found = compare(files["heads"], files["whole"], dictionary="heads")
    assert list(found["layers"]) == ["0", "1", "2"]
    for layer in found["layers"].values():
        assert (layer["mean_jaccard"], layer["largest_activation_difference"]) == (1, 0)
    assert "same features of dictionary heads (mean Jaccard)" in as_text(found)
    assert not compare(files["heads"], files["whole"])["layers"]  # the SAEs are others
    both = compare(files["whole"], [files["part1"], files["part2"]], dictionary="wide")
    assert [layer["mean_jaccard"] for layer in both["layers"].values()] == [1, 1, 1]


def test_one_that_a_file_does_not_have_is_refused_with_those_that_it_has(files: dict[str, Path]) -> None:
    whole, array = files["whole"], files["whole"].with_suffix(".json")
    refused: dict[str, Callable[[], object]] = {
        "has first, wide, heads.": lambda: read_features(whole, dictionary="big"),
        "has first, wide, heads.\n": lambda: compare(files["heads"], whole, dictionary="big"),
        "has first.": lambda: report(files["heads"], dictionary="heads"),
        "records have all dictionaries": lambda: export(whole, array, False, "wide"),
    }
    for says, does in refused.items():
        with pytest.raises(UsageError) as told:
            does()
        assert says in str(told.value)
        assert len(str(told.value).splitlines()) == 2
