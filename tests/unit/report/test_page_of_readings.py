"""A file with several readings makes one page, which shows them side by side and turns to each."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from playwright.sync_api import expect

from browsing import opened, overlapping_texts
from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Options
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.reading.run import Run
from layerscope.report.packs import question_pack
from layerscope.report.packs.question_pack import pack_questions
from layerscope.report.page import Shown, render, report
from layerscope.report.words.readings_said import beside_verdict
from made_up import note_lines
from synthetic_readings import PLANTED, write_readings
from synthetic_run import Spec, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readings") / "run.jsonl"
    write_readings(path)
    return path


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    report(run)
    return run.with_suffix(".html")


def test_one_page_has_what_every_reading_finds_and_the_control_that_passed(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "Features that tell right from wrong: 1 by max, not known by final" in text
    assert "That is by final alone; features that tell right from wrong: 1 by max, not known by final." in text
    assert "prompt, the control: check passed" in text
    assert "both have the same features in all of 300 questions" in text
    assert "active at the solution’s final token" in text
    assert [name for name in ("final", "max", "prompt") if f'id="packed-features-{name}"' in text] == ["final", "max"]


@pytest.mark.parametrize(
    ("reading", "says"),
    [
        ("max", ["active at any of the solution’s tokens", "The file has final, prompt too", str(PLANTED)]),
        (
            "prompt",
            ["The control: no finding, as it must be", "nothing can tell the solutions apart before they begin"],
        ),
    ],
)
def test_a_named_reading_has_a_page_of_its_own(run: Path, reading: str, says: list[str]) -> None:
    told = report(run, reading=reading)
    path = run.with_name(f"run.{reading}.html")
    assert str(path) in told
    text = path.read_text("utf-8")
    for words in [*says, "Check passed"]:
        assert words in text
    assert 'id="readings"' not in text


def test_readings_that_find_nothing_say_so_in_one_breath(tmp_path: Path) -> None:
    write_run(path := tmp_path / "run.jsonl", Spec(questions=400, layers=(0, 1)))
    final = analyse(path, Options(reading="final"))
    reads = [replace(final, options=replace(final.options, reading=name)) for name in ("final", "max")]
    told = beside_verdict([(each, each.right_wrong) for each in reads], "final")
    assert told == " That is by final; by max no feature tells right from wrong either."


@pytest.mark.parametrize("questions", [0, 12])
def test_too_few_questions_are_never_told_as_none_found(tmp_path: Path, questions: int) -> None:
    path = tmp_path / "run.jsonl"
    write_readings(path, questions)
    report(path)
    text = path.with_suffix(".html").read_text("utf-8")
    assert "Not known what any of the readings finds" in text
    assert "final: not known, too few pairs" in text
    assert "That is by" not in text
    assert ("check passed" in text) == bool(questions)


def test_readings_share_the_room_that_a_page_has(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a page of four readings is four times as heavy."""
    cells = 300 * 2
    monkeypatch.setattr(question_pack, "_FEATURES", 4 * cells)
    report(run)
    assert "the 2 strongest features are kept" in run.with_suffix(".html").read_text("utf-8")


def test_the_switch_turns_the_page_by_keyboard_and_keeps_what_was_opened(chromium: Any, page: Path) -> None:
    with opened(chromium, page) as tab:
        expect(tab.locator("main")).to_have_attribute("data-reading", "final")
        assert tab.locator(f'[data-feature="1/{PLANTED}"]').count() == 0
        tab.get_by_label("read at").focus()
        tab.keyboard.press("m")
        expect(tab.locator("main")).to_have_attribute("data-reading", "max")
        assert tab.evaluate("location.hash") == "#reading=max"
        expect(tab.get_by_label("read at")).to_be_focused()
        assert tab.locator("main, header").count() == 2, "the old sections are still there"
        layer = tab.locator('section[data-contrast=right] details.layer[data-layer="1"]')
        layer.locator("summary").click()
        expect(layer.locator(f'tr[data-feature="1/{PLANTED}"]')).to_have_class("confirmed")
        tab.get_by_label("read at").select_option("final")
        expect(tab.locator("main")).to_have_attribute("data-reading", "final")
        tab.go_back()
        expect(layer).to_have_attribute("open", "")


def test_a_layer_of_a_lane_leads_to_that_readings_features(chromium: Any, page: Path) -> None:
    with opened(chromium, page) as tab:
        lane = tab.locator(
            '#readings figure[data-contrast=right] svg.wide a[href="#reading=max&contrast=right&layer=1"]'
        )
        lane.focus()
        assert re.match(r"max, layer 1: 1 confirmed", tab.locator("#readings .readout:visible").inner_text())
        lane.press("Enter")
        expect(tab.locator("main")).to_have_attribute("data-reading", "max")
        expect(tab.locator('section[data-contrast=right] details.layer[data-layer="1"]')).to_have_attribute("open", "")
        links = tab.locator("main a[href^='#']").evaluate_all("links => links.map(link => link.getAttribute('href'))")
        assert {link for link in links if not link.startswith("#reading=max&")} == set()


def test_an_address_names_reading_and_question(chromium: Any, page: Path) -> None:
    with opened(chromium, page, "#reading=max&q=7") as tab:
        expect(tab.locator("main")).to_have_attribute("data-reading", "max")
        expect(tab.locator("main article .eyebrow")).to_contain_text("question 7 ")
        tab.evaluate("location.hash = '#q=8'")
        expect(tab.locator("main")).to_have_attribute("data-reading", "final")
        tab.evaluate("location.hash = '#reading=nonsense&q=9'")
        expect(tab.locator("main article .eyebrow")).to_contain_text("question 9 ")


def test_a_run_that_grows_while_it_is_read_shows_each_reading_with_its_own_questions(
    chromium: Any, run: Path, tmp_path: Path
) -> None:
    """Else the features of one question are shown beside another."""
    shorter = tmp_path / "run.jsonl"
    shutil.copy(manifest_path(run), manifest_path(shorter))
    shorter.write_bytes(b"".join(run.read_bytes().splitlines(keepends=True)[:250]))
    note_lines(shorter)
    shown = []
    for path, reading in ((shorter, "final"), (run, "max")):
        analysis = analyse(path, Options(permutations=0, reading=reading))
        shown.append(Shown(analysis, pack_questions(Run.open(path), analysis, lambda _: None)))
    page = tmp_path / "grown.html"
    page.write_bytes(render(shown, {}))
    assert "not of the same questions: final of 250, max of 300." in page.read_text("utf-8")
    with opened(chromium, page, "#reading=max&q=299") as tab:
        expect(tab.locator("main article .eyebrow")).to_contain_text("question 299 ")
        listed = orjson.loads(run.read_bytes().splitlines()[299])["positive_solution_details"]["other_readings"]["max"]
        strongest = listed["active_features_by_layer"]["1"][0]["feature_id"]
        assert tab.locator(f'.chip[data-feature="1/{strongest}"]').count() == 1


@pytest.mark.parametrize("width", [1400, 400])
def test_no_text_of_the_readings_chart_lies_on_another(chromium: Any, page: Path, width: int) -> None:
    with opened(chromium, page, width=width) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert overlapping_texts(tab, "#readings ") == []


def test_without_scripts_the_chart_and_the_first_reading_are_there(chromium: Any, page: Path) -> None:
    with opened(chromium, page, scripts=False) as tab:
        assert tab.locator("#readings svg.wide:visible").count() == 2
        assert tab.locator("#readings table").count() == 2
        assert "--reading max" in tab.locator("#readings").inner_text()
        assert tab.locator("select:visible").count() == 0


@pytest.mark.parametrize("width", [1200, 1000, 800])
def test_every_section_can_be_gone_to_beside_the_switches(chromium: Any, page: Path, width: int) -> None:
    """The last links were cut off where “read at” stands beside them."""
    with opened(chromium, page, width=width) as tab:
        hidden = tab.evaluate("""() => [...document.querySelectorAll("nav .links a")].filter((link) => {
            const [box, bar] = [link.getBoundingClientRect(), link.parentElement.getBoundingClientRect()];
            return box.left < bar.left || box.right > bar.right || box.bottom > bar.bottom;
        }).map((link) => link.textContent)""")
        assert hidden == []
        assert tab.evaluate("document.documentElement.scrollWidth") == width
