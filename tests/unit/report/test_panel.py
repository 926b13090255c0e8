"""What one clicks on: the feature panel says of a feature what the records say, and an address leads back to it."""

import csv
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import orjson
import pytest
from PIL import Image
from playwright.sync_api import expect

from browsing import opened
from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Analysis, Options
from layerscope.errors import UsageError
from layerscope.neuronpedia.explanations import Explanation
from layerscope.records.effects import ControlEffect, Effect, FeatureEffect, Interval
from layerscope.records.reading.run import Run
from layerscope.report.packs.feature_pack import ablation_sentence
from layerscope.report.packs.kept import tracked_features
from layerscope.report.packs.question_pack import pack_questions
from layerscope.report.page import Shown, render, report
from synthetic_readings import write_readings
from synthetic_run import Effect as Planted
from synthetic_run import Spec, write_run

SIDES = ("positive_solution_details", "negative_solution_details")
LAYER, FEATURE = 1, 7


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("panel") / "run.jsonl"
    effects = [Planted(LAYER, FEATURE, first=0.9, second=0.2), Planted(2, 5, first=0.9, second=0.1, by_model=True)]
    write_run(path, Spec(questions=100, layers=(0, 1, 2), active=16, top_k=10, effects=effects, seed=5))
    return path


@pytest.fixture(scope="module")
def analysis(run: Path) -> Analysis:
    return analyse(run, Options(permutations=0))


@pytest.fixture(scope="module")
def page(run: Path, analysis: Analysis) -> Path:
    told = {LAYER: {FEATURE: Explanation("<b>liquids</b>", "somebody (method)", None)}}
    path = run.with_name("page.html")
    path.write_bytes(render([Shown(analysis, pack_questions(Run.open(run), analysis, lambda _: None))], told))
    return path


def firings(run: Path) -> dict[int, list[float]]:
    """Both activations of the planted feature, of the questions on which it is listed; 0 where it is not."""
    found = {}
    for record in map(orjson.loads, run.read_bytes().splitlines()):
        listed = [
            {each["feature_id"]: each["activation"] for each in record[side]["active_features_by_layer"][str(LAYER)]}
            for side in SIDES
        ]
        if any(FEATURE in side for side in listed):
            found[record["example_id"]] = [side.get(FEATURE, 0.0) for side in listed]
    return found


def test_a_panel_has_the_questions_of_the_records_the_strongest_first(chromium: Any, page: Path, run: Path) -> None:
    known = firings(run)
    with opened(chromium, page, f"#feature={LAYER}/{FEATURE}") as tab:
        panel = tab.get_by_role("dialog", name=f"Feature {FEATURE} of layer {LAYER}")
        expect(panel).to_contain_text(f"The {len(known)} questions it fires on")
        expect(panel.locator(".explained")).to_have_text("<b>liquids</b> by somebody (method)")
        expect(panel.locator(".states li").first).to_contain_text("right vs wrong · confirmed")
        while (more := panel.get_by_role("button", name="more of")).count() and more.is_visible():
            more.click()
        rows = panel.locator(".fired tbody tr")
        assert rows.count() == len(known)
        strengths = []
        for row in rows.all():
            example_id = int(re.findall(r"q=(\d+)", row.locator("a").get_attribute("href") or "")[0])
            shown = row.locator("td").all_inner_texts()[:3]
            right, wrong = known[example_id]
            for text, value in zip(shown[:2], (right, wrong), strict=True):
                assert (float(text) == pytest.approx(value, rel=0.06)) if value else text in "–?"
            if "?" not in shown[:2]:
                assert float(shown[2].replace("−", "-")) == pytest.approx(right - wrong, rel=0.05, abs=0.6)
            strengths.append(max(right, wrong))
        assert strengths == pytest.approx(sorted(strengths, reverse=True), rel=0.05)
        bars = panel.locator("svg.chart rect.first")
        counted = sum(value > 0 for value, _ in known.values())
        expect(panel.locator("svg.chart")).to_have_attribute("aria-label", re.compile(f": {counted} right solutions"))
        assert bars.count() == 32


def test_what_fires_with_a_feature_is_counted_over_solutions(
    chromium: Any, page: Path, run: Path, analysis: Analysis
) -> None:
    tracked = tracked_features(analysis, 100, 400_000).all
    cells: dict[str, set[tuple[int, int]]] = {}
    for record in map(orjson.loads, run.read_bytes().splitlines()):
        for side, name in enumerate(SIDES):
            for layer, listed in record[name]["active_features_by_layer"].items():
                for each in listed:
                    if each["feature_id"] in tracked[int(layer)]:
                        cells.setdefault(f"{layer}/{each['feature_id']}", set()).add((record["example_id"], side))
    own = cells[f"{LAYER}/{FEATURE}"]
    shares = {name: len(own & other) / len(own | other) for name, other in cells.items() if other is not own}
    with opened(chromium, page, f"#feature={LAYER}/{FEATURE}") as tab:
        table = tab.get_by_role("region", name="Features that fire with it")
        for row in table.locator("tbody tr").all()[:5]:
            name = row.locator("th").inner_text()
            assert float(row.locator("td").first.inner_text()) == pytest.approx(shares[name], abs=0.006)
        first = table.locator("tbody th").first.inner_text()
        assert shares[first] == max(shares.values())
        table.locator("tbody a").first.click()
        expect(tab.locator("#panel-title")).to_have_text("Feature {1} of layer {0}".format(*first.split("/")))


def test_a_panel_opens_from_everywhere_and_the_back_button_leads_back(chromium: Any, page: Path) -> None:
    with opened(chromium, page) as tab:
        panel = tab.locator("#panel")
        tab.locator("table.features:visible tbody th a").first.click()
        expect(panel).to_be_visible()
        expect(tab.locator("#panel-title")).to_be_focused()
        tab.keyboard.press("Escape")
        expect(panel).to_be_hidden()
        assert "feature" not in tab.evaluate("location.hash")
        tab.locator(".lane .chip").first.click()
        expect(panel).to_be_visible()
        panel.locator(".fired a").first.click()
        expect(panel).to_be_hidden()
        assert re.search(r"q=\d+", tab.evaluate("location.hash"))
        tab.go_back()
        expect(panel).to_be_visible()
        tab.go_back()
        expect(panel).to_be_hidden()
        tab.locator("svg:visible a[href*=feature]").first.click()
        expect(panel).to_be_visible()


def test_filters_are_in_the_address_and_come_back_from_it(chromium: Any, page: Path) -> None:
    with opened(chromium, page) as tab:
        tab.get_by_label("answered wrong").check()
        tab.get_by_label("order").select_option("closest")
        tab.get_by_label("contains").fill("goal b")
        tab.get_by_label("Search features").first.fill("7")
        tab.get_by_role("button", name="chosen vs rejected").click()
        counted = tab.locator("#browser .found").first.inner_text()
        tab.locator(".list a").first.click()
        address = tab.evaluate("location.hash")
        for part in ("wrong=1", "order=closest", "word=goal%20b", "search=7", "contrast=chosen", "q="):
            assert part in address
        tab.get_by_label("answered wrong").uncheck()
        tab.get_by_label("contains").fill("")
        assert "wrong" not in tab.evaluate("location.hash")
    with opened(chromium, page, address) as tab:
        expect(tab.locator("#browser .found").first).to_have_text(counted)
        assert tab.get_by_label("answered wrong").is_checked()
        assert tab.get_by_label("contains").input_value() == "goal b"
        assert tab.get_by_label("Search features").last.input_value() == "7"
        assert tab.evaluate("document.documentElement.dataset.shown") == "chosen"


def test_a_feature_that_is_only_among_the_strongest_says_so(chromium: Any, page: Path, analysis: Analysis) -> None:
    features = analysis.features
    tracked = tracked_features(analysis, 100, 400_000).all
    rest = [
        (layer, feature_id)
        for layer, feature_id in zip(features.layer.tolist(), features.feature_id.tolist(), strict=True)
        if feature_id not in tracked[layer]
    ]
    layer, feature_id = rest[0] if rest else (0, 500)
    with opened(chromium, page, f"#feature={layer}/{feature_id}") as tab:
        expect(tab.locator("#panel")).to_contain_text("its other firings are not in the page")


def test_tracked_features_fit_their_room_and_the_selected_come_first(analysis: Analysis) -> None:
    whole = tracked_features(analysis, 100, 1e9)
    selected = {
        (int(analysis.features.layer[row]), int(analysis.features.feature_id[row]))
        for contrast in (analysis.right_wrong, analysis.chosen_rejected)
        for row in np.flatnonzero(contrast.firing.selected | contrast.magnitude.selected)
    }
    assert {(layer, each) for layer, ids in whole.selected.items() for each in ids} == selected
    assert whole.count > len(selected)
    listed = int(analysis.features.listed[analysis.features.feature_id == FEATURE].max())
    some = tracked_features(analysis, 100, listed)
    assert FEATURE in some.selected[LAYER]
    assert some.count < whole.count
    assert tracked_features(analysis, 100, 0).count == 0


def test_what_taking_a_feature_out_did_is_told_in_numbers() -> None:
    def effect(change: float | None) -> Effect:
        return Effect(
            questions=40,
            touched=12,
            mean_change=change,
            mean_change_interval=None if change is None else Interval(change - 0.1, change + 0.1),
            mean_magnitude=change,
            right_to_wrong=3,
            wrong_to_right=1,
        )

    control = ControlEffect(
        effect=effect(0.02),
        excess=0.2,
        excess_interval=Interval(0.1, 0.3),
        excess_p=0.001,
        feature_alone=3,
        control_alone=1,
        flips_p=0.3125,
    )
    made = FeatureEffect(
        layer=1,
        feature_id=7,
        matched=None,
        effect=effect(-0.25),
        q=None,
        controls={"matched": control},
        flips_q=0.3125,
        beyond_controls=True,
        flips_beyond_controls=False,
    )
    told = ablation_sentence(made)
    assert "in 12 of 40 questions: the margin changes by −0.250 nats (95 %: −0.350 to −0.150)" in told
    assert "3 answers become wrong and 1 right; its controls change it by 0.020 at most" in told
    assert told.endswith("more than each of its controls does.")


def test_figures_and_tables_are_taken_away(chromium: Any, page: Path, tmp_path: Path, analysis: Analysis) -> None:
    """As pictures that need no page, and as numbers."""
    with opened(chromium, page) as tab:
        figures = tab.locator("figure:visible:has(> p.take-away)")
        assert figures.count() >= 4
        for figure in figures.all():
            with tab.expect_download() as coming:
                figure.get_by_role("button", name="SVG").click()
            coming.value.save_as(tmp_path / "figure.svg")
            told = (tmp_path / "figure.svg").read_text(encoding="utf-8")
            assert coming.value.suggested_filename.endswith(".svg")
            assert not re.search("var\\(|light-dark|class=|<a |data-", told), "it needs no page"
            assert ElementTree.fromstring(told).findtext("{http://www.w3.org/2000/svg}title") == (
                figure.locator("h2, h3").first.inner_text()
            )
        with tab.expect_download() as coming:
            figures.nth(1).get_by_role("button", name="PNG").click()
        coming.value.save_as(tmp_path / "figure.png")
        width = int(figures.nth(1).locator("svg.chart.wide").get_attribute("width") or 0)
        with Image.open(tmp_path / "figure.png") as image:
            assert image.width == 2 * width
        tab.evaluate("navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }")
        figures.nth(1).get_by_role("button", name="Copy data").click()
        rows = list(csv.DictReader(tab.evaluate("window.copied").splitlines()))
        found = next(row for row in rows if (row["layer"], row["feature_id"]) == (str(LAYER), str(FEATURE)))
        at = np.flatnonzero((analysis.features.layer == LAYER) & (analysis.features.feature_id == FEATURE))[0]
        expected = analysis.right_wrong.firing.validation.effect[at]
        assert float(found["log_odds_validation"]) == pytest.approx(expected, rel=1e-3)
        with tab.expect_download() as coming:
            tab.locator("button.download:visible").first.click()
        coming.value.save_as(tmp_path / "features.csv")
        read = list(csv.DictReader((tmp_path / "features.csv").read_text(encoding="utf-8").splitlines()))
        assert read[0]["feature_id"] == str(FEATURE)


def test_every_feature_that_was_tested_is_written_beside_the_page(run: Path, tmp_path: Path) -> None:
    page, beside = tmp_path / "page.html", tmp_path / "page.features.csv"
    assert f"features    {beside} (" in report(run, to=page, all_features=True)
    rows = list(csv.DictReader(beside.read_text(encoding="utf-8").splitlines()))
    expected = analyse(run)
    assert len(rows) == 2 * len(expected.features.layer)
    assert {row["contrast"] for row in rows} == {"right vs wrong", "chosen vs rejected"}
    assert (rows[0]["layer"], rows[0]["feature_id"], rows[0]["state"]) == (str(LAYER), str(FEATURE), "confirmed")
    at = np.flatnonzero((expected.features.layer == LAYER) & (expected.features.feature_id == FEATURE))[0]
    assert int(rows[0]["first_only"]) == expected.right_wrong.firing.everything.first_only[at]
    report(run, to=page, all_features=True)
    beside.write_text("mine")
    with pytest.raises(UsageError):
        report(run, to=page, all_features=True)


def test_a_reading_of_which_nothing_is_tested_has_no_rows_beside_the_page(tmp_path: Path) -> None:
    write_readings(tmp_path / "run.jsonl", 40)  # nothing fires at the final token
    report(tmp_path / "run.jsonl", all_features=True)
    rows = list(csv.DictReader((tmp_path / "run.features.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["reading"] for row in rows} == {"max"}
