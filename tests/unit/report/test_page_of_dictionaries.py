"""The first dictionary's page has a section of all: a title, a sentence for each, a chart, a table by layer."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from browsing import opened, overlapping_texts
from layerscope.analysis.findings import analyse
from layerscope.report.page import report
from several import write_several
from synthetic_run import Effect


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    planted = {"wide": Effect(1, 501, 0.2, 0.7), "heads": Effect(2, 502, 0.7, 0.2)}
    return write_several(tmp_path_factory.mktemp("several"), planted)


@pytest.fixture(scope="module")
def page(files: dict[str, Path]) -> Path:
    report(files["whole"])
    return files["whole"].with_suffix(".html")


def test_what_each_finds_is_said_and_tabled(files: dict[str, Path], page: Path, chromium: Any) -> None:
    """Without a script too: as a run of each alone says it."""
    with opened(chromium, page, scripts=False) as tab:
        section = tab.locator("#dictionaries")
        expect(section.locator("h2")).to_have_text(
            "Features that tell right from wrong: 1 by first, 1 by wide, 1 by heads"
        )
        wide, heads = section.locator("p:not(.how):not(.under)").all_inner_texts()
        assert wide.startswith("wide (mlp_out, width 2k, L0 30) does best in layer 1, with a held-out AUROC of 0.")
        assert "of the questions that either ranks right there, both do of" in wide
        assert heads.endswith("there first has no selected feature.")
        section.locator("summary").click()
        rows = [row.split("\t") for row in section.locator("tbody tr").all_inner_texts()]
    assert [row[:2] for row in rows] == [
        [f"{layer}", name] for layer in range(3) for name in ("first", "wide", "heads")
    ]
    for name, row in zip(("first", "wide", "heads"), rows[3:6], strict=True):
        found = analyse(files[name]).right_wrong
        counts = found.firing_by_layer
        auroc = f"{found.held_out.auroc[1]:.2f}" if name != "heads" else "–"
        expected = [f"{counts.tested[1]}", f"{counts.selected[1]}", f"{counts.confirmed[1]}", auroc]
        assert row[2:6] == expected
    assert [row[7] != "–" for row in rows] == [number == 4 for number in range(9)]


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (360, "dark")])
def test_it_is_drawn_for_screens_and_its_table_can_be_sorted(
    page: Path, chromium: Any, width: int, scheme: str
) -> None:
    with opened(chromium, page, width=width, color_scheme=scheme) as tab:
        tab.evaluate("document.fonts.ready")
        assert overlapping_texts(tab, "#dictionaries ") == []
        told = tab.locator("#dictionaries svg.chart:visible title").all_text_contents()
        assert len(told) == 9
        assert [each for each in told if "overlap" in each] == [told[4]]
        assert tab.locator("#dictionaries svg.chart:visible .whisker").count() == 3 + 1, "AUROCs, and an overlap"
        tab.locator("#dictionaries summary").click()
        tab.locator("#dictionaries th button", has_text=re.compile("^AUROC$")).click()
        expect(tab.locator("#dictionaries tbody tr").first).not_to_have_text("–")
        assert tab.locator("nav a[href='#dictionaries']").count() == 1
        scroll: bool = tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert scroll


def test_pages_of_one_have_no_such_section(files: dict[str, Path]) -> None:
    for name, dictionary in (("wide", "first"), ("whole", "heads")):
        to = files[name].with_name(f"{name}-{dictionary}.html")
        report(files[name], to, dictionary=dictionary)
        assert "dictionaries" not in to.read_text().split("<script>")[0].replace("--dictionar", "")


def test_too_few_questions_are_said_to_be_too_few(tmp_path: Path) -> None:
    files = write_several(tmp_path, {"wide": Effect(1, 501, 0.2, 0.7)}, questions=12)
    report(files["whole"])
    page = files["whole"].with_suffix(".html").read_text("utf-8")
    assert "Not known what any of the dictionaries finds" in page
    assert "wide (mlp_out, width 2k, L0 30) has no selected feature" in page
