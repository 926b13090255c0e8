"""The section of causes says what holds and no more, and shows where in the solutions a feature matters."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace as replace_struct
from playwright.sync_api import expect

from browsing import opened, overlapping_texts
from layerscope.analysis.causes.result import Causes, Chosen
from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Analysis, Options
from layerscope.records.effects import (
    AblationSummary,
    Beside,
    ControlEffect,
    Effect,
    FeatureEffect,
    Interval,
    LayerAgreement,
)
from layerscope.records.line.record import Record, parse
from layerscope.records.reading.run import Run
from layerscope.report.packs.question_pack import pack_questions
from layerscope.report.page import Shown, render
from layerscope.report.sections.causes import ShownCauses, section, shown_causes
from layerscope.report.words.causes_said import causes_verdict
from synthetic_attributions import write_attributions
from synthetic_run import Effect as Planted
from synthetic_run import Spec
from tables_of_page import widths_of_rows

SEPARATES, MATTERS = (1, 7), (2, 9)
SPEC = Spec(
    questions=120,
    layers=(1, 2),
    active=10,
    distinct=True,
    effects=[Planted(*SEPARATES, 0.95, 0.05), Planted(*MATTERS, 0.9, 0.9)],
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("causes") / "run.jsonl"
    write_attributions(path, SPEC, {MATTERS: 0.8})
    return path


@pytest.fixture(scope="module")
def analysis(run: Path) -> Analysis:
    return analyse(run, Options(permutations=20))


@pytest.fixture(scope="module")
def page(run: Path, analysis: Analysis) -> Path:
    """With ablations and a check beside it."""
    shown, path = shown_causes(Run.open(run), analysis, BESIDE, lambda _: None), run.with_name("page.html")
    pack = pack_questions(Run.open(run), analysis, lambda _: None)
    path.write_bytes(render([Shown(analysis, pack, shown)], {}))
    return path


def test_what_passes_beside_the_features_is_shown_where_there_is_any(run: Path, analysis: Analysis) -> None:
    """As a transcoder's affine connection; a page of others has no term that is always 0."""
    causes = analysis.causes
    assert causes is not None
    terms = causes.depth.terms.copy()
    terms[:, 0, -1] = 0.25
    beside = replace(analysis, causes=replace(causes, depth=replace(causes.depth, terms=terms)))
    for of, n_terms, shown in ((analysis, 4, False), (beside, 5, True)):
        made = section(of, ShownCauses(), {})
        assert len(made["terms"]) == len(made["legend"]) == n_terms
        assert all(len(numbers) == 4 * n_terms + 4 for _, numbers in made["layers"])
        page = render([Shown(of, pack_questions(Run.open(run), of, lambda _: None), ShownCauses())], {}).decode()
        assert {name: widths for name, widths in widths_of_rows(page) if name and len(widths) > 1} == {}
        for chart in made["charts"]:
            assert ("of-skip" in chart, "beside the features 0.25" in chart) == (shown, shown)


@pytest.mark.parametrize(
    ("site", "place"),
    [
        ("resid_post", "the residual stream after its layer"),
        ("transcoder", "the output that its transcoder stands for"),
    ],
)
def test_where_features_act_is_said(run: Path, analysis: Analysis, site: str, place: str) -> None:
    there = replace(analysis, header=replace(analysis.header, site=site))
    pack = pack_questions(Run.open(run), analysis, lambda _: None)
    page = render([Shown(there, pack, ShownCauses(ablated=BESIDE))], {}).decode()
    assert f"along its decoder direction, taken at {place}: to first order" in page
    assert f"at which a feature fires it was taken out of {place}, and the model run on" in page


def test_what_was_taken_out_stands_first(analysis: Analysis) -> None:
    """In the order of what it does, however little is attributed to it; then all others by attribution."""
    usual = [(row.layer, row.feature_id) for row in section(analysis, ShownCauses(), {})["rows"]]
    last, before = usual[-1], usual[-2]
    taken_out = Beside(summary(ablated(last, 0.3, False), ablated((9, 9), 0.2, False), ablated(before, 0.1, False)))
    made = [(row.layer, row.feature_id) for row in section(analysis, ShownCauses(ablated=taken_out), {})["rows"]]
    assert made == [last, before, *usual[:-2]]


def effect(change: float) -> Effect:
    return Effect(
        questions=60,
        touched=50,
        mean_change=change,
        mean_change_interval=Interval(change - 0.1, change + 0.1),
        mean_magnitude=abs(change),
        right_to_wrong=4,
        wrong_to_right=1,
    )


def ablated(feature: tuple[int, int], change: float, beyond: bool) -> FeatureEffect:
    excess = Interval(0.1, 0.3) if beyond else Interval(-0.1, 0.3)
    control = ControlEffect(
        effect=effect(0.01),
        excess=0.2,
        excess_interval=excess,
        excess_p=0.001 if beyond else 0.3,
        feature_alone=3,
        control_alone=1,
        flips_p=0.3125,
    )
    controls = {"matched": control, "random": control}
    return FeatureEffect(
        layer=feature[0],
        feature_id=feature[1],
        matched=3,
        effect=effect(change),
        controls=controls,  # type: ignore[arg-type]
        q=0.002 if beyond else 0.3,
        flips_q=0.3125,
        beyond_controls=beyond,
        flips_beyond_controls=False,
    )


def summary(*features: FeatureEffect) -> AblationSummary:
    return AblationSummary(
        run="run.jsonl",
        chosen_by="attribution",
        steer=None,
        tested="validation",
        groups=58,
        features=list(features),
    )


AGREEMENT = [
    LayerAgreement(layer=1, pairs=40, rank_correlation=0.91),
    LayerAgreement(layer=2, pairs=2, rank_correlation=None),
]
CHECK = replace_struct(
    summary(ablated((1, 3), 0.1, False)), chosen_by="check", agreement=AGREEMENT, rule="relp", against_means=True
)
BESIDE = Beside(summary(ablated(MATTERS, -0.75, True), ablated(SEPARATES, 0.002, False)), CHECK)


def chosen(by_attribution: str, confirmed: str = "", separates: str = "", untested: bool = False) -> Chosen:
    """Features of which some, told by letters, are so."""
    names = "abcdef"
    flags = [np.array([name in told for name in names]) for told in (by_attribution, confirmed, separates)]
    nothing, q = np.zeros(6), np.full(6, np.nan if untested else 0.5)
    ids = np.arange(6)
    return Chosen(
        np.ones(6, np.int64), ids, flags[0], ~flags[0], *[nothing] * 4, ids, q, flags[1], nothing, flags[2], q, [()] * 6
    )


LARGEST = "Of the 4 features to which one half of the questions attributes most of the margin"
UNTRIED = "None of this was tried: an attribution is an estimate of the first order, and layerscope ablate"
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "too few goals": ({"why": "either half needs goals"}, ["Not known, because either half needs goals."]),
    "nothing attributed": (
        {"chosen": chosen("")},
        ["Nothing is attributed to any feature on the half of the questions that chooses."],
    ),
    "none tested": (
        {"chosen": chosen("abcd", untested=True)},
        [f"{LARGEST}, none has enough questions on the other half to be tested."],
    ),
    "no findings": (
        {"chosen": chosen("abcd")},
        [
            f"{LARGEST}, none is shown to move it one way on the other half. No feature is confirmed to separate right",
            UNTRIED,
        ],
    ),
    "one moves, one other separates": (
        {"chosen": chosen("abcd", "a", "e"), "separate": 1},
        [f"{LARGEST}, 1 moves it the same way", "The one feature that separates right from wrong is not shown to."],
    ),
    "the one that separates moves": (
        {"chosen": chosen("abcd", "ab", "a"), "separate": 1},
        [f"{LARGEST}, 2 move it the same way", "The one feature that separates right from wrong is shown to."],
    ),
    "none of those that separate": (
        {"chosen": chosen("abcd", "ab", "ef"), "separate": 42},
        ["Of 42 features that separate right from wrong, none is among these 2."],
    ),
    "some of those that separate": (
        {"chosen": chosen("abcd", "abc", "abe"), "separate": 42},
        ["Of 42 features that separate right from wrong, 2 are among these 3.", UNTRIED],
    ),
    "none moves and many separate": (
        {"chosen": chosen("abcd", "", "aef"), "separate": 42},
        ["none is shown to move it", "Of 42 features that separate right from wrong, none is shown to."],
    ),
    "the one that moves": (
        {"chosen": chosen("abcd", "a", "aef"), "separate": 42},
        ["1 moves it the same way", "Of 42 features that separate right from wrong, one is that one."],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_sentence_says_what_holds(analysis: Analysis, case: str) -> None:
    assert analysis.causes is not None
    changed, said = CASES[case]
    nothing = Causes("gradient", False, "", analysis.causes.depth)
    told = causes_verdict(replace(analysis, causes=replace(nothing, **changed)), Beside())
    for words in said:
        assert words in told
    assert (UNTRIED in told) == (LARGEST in told)
    assert told.endswith(".")


def test_nothing_asked_and_nothing_scored_are_told_apart(analysis: Analysis) -> None:
    assert causes_verdict(replace(analysis, causes=None), Beside()).startswith(
        "Not asked: this run has no attributions."
    )
    none = replace(analysis, header=replace(analysis.header, questions=0))
    assert causes_verdict(none, Beside()) == "Not known: no question is scored."


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ([], "Nothing was taken out."),
        (
            [ablated((1, 3), 0, False)],
            "Taken out exactly, the one feature is not shown to change the margin more than its",
        ),
        (
            [ablated(MATTERS, -0.5, True), ablated((1, 3), 0, False)],
            "Taken out exactly, of 2 features, one changes the margin more than its controls do; none of these is "
            "confirmed to separate right from wrong.",
        ),
        (
            [ablated(MATTERS, -0.5, True), ablated((1, 3), 0.4, True), ablated(SEPARATES, 0, False)],
            "Taken out exactly, of 3 features, 2 change the margin more than their controls do; the one that separates "
            "right from wrong is not shown to change the margin more than its controls do.",
        ),
        (
            [ablated(SEPARATES, -0.5, True)],
            "Taken out exactly, the one feature changes the margin more than its controls do; the one that separates "
            "right from wrong changes the margin more than its controls do.",
        ),
    ],
)
def test_the_sentence_says_what_taking_out_does(analysis: Analysis, features: list[FeatureEffect], said: str) -> None:
    told = causes_verdict(analysis, Beside(summary(*features)))
    assert said in told
    assert UNTRIED not in told
    if features:
        steered = causes_verdict(analysis, Beside(replace_struct(summary(*features), steer=2.0)))
        assert steered == told.replace("Taken out exactly", "Added")
        growing = causes_verdict(analysis, Beside(replace_struct(summary(*features), missing=12)))
        assert "Taken out exactly so far (12 lines of the file are missing), " in growing


def test_the_sentence_says_how_far_attributions_agree(analysis: Analysis) -> None:
    checked = [replace_struct(AGREEMENT[0], rank_correlation=of) for of in (0.91, 0.838)]
    for agreement, said in (
        (AGREEMENT, "Attributions agree with exact ablation by a rank correlation of 0.91."),
        (checked, "Attributions agree with exact ablation by a rank correlation between 0.84 and 0.91, by layer."),
        ([], "How far attributions agree with exact ablation is not known: too few features were tried."),
    ):
        told = causes_verdict(analysis, Beside(check=replace_struct(CHECK, agreement=agreement)))
        assert told.endswith(said)
        assert "Taken out exactly" not in told
        assert UNTRIED not in told


def most_of(run: Path, feature: tuple[int, int]) -> Record:
    """The question that has most of a feature."""

    def size(record: Record) -> float:
        groups = (record.attributions[name].lists[feature[0]] for name in ("positive", "negative", "common"))
        return abs(sum(of.attribution for group in groups for of in group if of.feature_id == feature[1]))

    return max((r for line in run.read_bytes().splitlines() if isinstance(r := parse(line), Record)), key=size)


def test_a_feature_leads_to_the_tokens_where_it_matters_most(chromium: Any, run: Path, page: Path) -> None:
    record = most_of(run, MATTERS)
    (share,) = [of for of in record.attributions["positive"].lists[MATTERS[0]] if of.feature_id == MATTERS[1]]
    with opened(chromium, page) as tab:
        first = tab.locator("#causes details.cases").first
        first.locator("summary").focus()
        tab.keyboard.press("Enter")
        expect(first).to_have_attribute("open", "")
        assert f"Layer {MATTERS[0]}, feature {MATTERS[1]}" in first.locator("summary").inner_text()
        case = first.locator("article").first
        assert f"question {record.example_id}" in case.inner_text()
        shaded = case.locator(".solution.right .token.for.of-4")
        assert shaded.count() == 1
        assert shaded.get_attribute("title") == (
            f"{share.attribution:.3f}, most at token {share.token + 1} of {record.positive.token_count}, where it is "
            f"{share.activation:.3g}."
        )
        before = shaded.evaluate(
            "token => [...token.parentElement.childNodes].slice(0, [...token.parentElement.childNodes].indexOf(token))"
            ".map(node => node.firstChild?.textContent ?? node.textContent).join('')"
        )
        assert record.positive.tokens is not None
        assert before == "".join(record.positive.tokens[: share.token])  # type: ignore[index]
        case.locator("a").click()
        expect(tab.locator("#browser article .eyebrow")).to_contain_text(f"question {record.example_id} ")


def rows(tab: Any, name: str) -> Iterator[dict[str, str]]:
    table = tab.locator(f'#causes table[data-name="{name}"]')
    names = table.locator("thead tr:last-child th").evaluate_all("all => all.map(each => each.dataset.csv)")
    for cells in table.locator("tbody tr").evaluate_all("all => all.map(row => [...row.cells].map(c => c.innerText))"):
        yield dict(zip(names, cells, strict=True))


def test_both_faces_stand_side_by_side(chromium: Any, page: Path, analysis: Analysis) -> None:
    with opened(chromium, page) as tab:
        expect(tab.locator("#causes .said")).to_have_text(causes_verdict(analysis, BESIDE))
        found = {(int(row["layer"]), int(row["feature_id"])): row for row in rows(tab, "causes")}
        assert next(iter(found)) == MATTERS, "the table does not begin with what matters most"
        matters, separates = found[MATTERS], found[SEPARATES]
        assert matters["chosen_by"] == "attribution"
        assert "contrast" in separates["chosen_by"]
        assert float(separates["auroc"]) > 0.8 > float(matters["auroc"])
        assert float(matters["attribution"]) == pytest.approx(0.65, abs=0.15)  # it is listed in four questions of five
        assert (matters["change"], matters["change_95"], matters["beyond"]) == ("−0.750", "−0.850 to −0.650", "yes")
        assert (separates["change"], separates["beyond"]) == ("0.002", "no")
        other = next(row for feature, row in found.items() if feature not in (MATTERS, SEPARATES))
        assert (other["change"], other["beyond"]) == ("–", "–")
        assert [row["separates"] for row in rows(tab, "ablations")] == ["no", "yes"]
        tab.locator('#causes table[data-name="ablations"] tbody th a').first.click()
        expect(tab.locator("#panel-title")).to_have_text("Feature {1} of layer {0}".format(*MATTERS))
        tab.go_back()
        depth = tab.locator("#causes svg.wide:has(.course)")
        assert depth.locator(".band:not([d=''])").count() == 4, "an interval of each term"
        assert depth.locator(".whisker").count() == 2, "of the size in each layer"
        by_rank = [(row["layer"], row["rank_correlation"], row["pairs"]) for row in rows(tab, "agreement")]
        assert by_rank == [("1", "0.91", "40"), ("2", "not known", "2")]
        said = tab.locator("#causes").inner_text()
        assert "its attribution (by RelP’s rules)" in said
        assert "they are no estimates of it" in said
        assert "but for what taking a feature out does, which is a mean over its questions" in said
        tab.locator('#causes table[data-name="causes"] th[data-csv="auroc"] button').click()
        assert float(next(rows(tab, "causes"))["auroc"]) == max(float(row["auroc"]) for row in found.values())
        assert tab.evaluate("location.hash") == "#sort.causes=down.auroc"
        tab.evaluate("navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }")
        scatter = tab.locator("#causes figure:has(svg.wide circle[data-row])")
        scatter.get_by_role("button", name="Copy data").click()
        copied = csv.DictReader(tab.evaluate("window.copied").splitlines())
        dots = {(int(row["layer"]), int(row["feature_id"])): row for row in copied}
        assert {key for key, row in dots.items() if row["chosen_by_the_other_half"] == "1"} == {*found} & {*dots}
        assert scatter.locator("svg.wide .whisker").count() == len({*found} & {*dots})
        assert float(dots[MATTERS]["auroc"]) == pytest.approx(float(matters["auroc"]), abs=0.006)
        assert float(dots[MATTERS]["attribution"]) == pytest.approx(float(matters["attribution"]), abs=0.006)
        for kind in ("SVG", "PNG"):
            with tab.expect_download() as coming:
                scatter.get_by_role("button", name=kind).click()
            assert coming.value.suggested_filename.endswith(kind.lower())
    with opened(chromium, page, "#sort.causes=up.auroc&sort.nothing=down.q&sort.right-wrong=sideways") as tab:
        assert float(next(rows(tab, "causes"))["auroc"]) == min(float(row["auroc"]) for row in found.values())
        tab.evaluate("location.hash = ''")
        expect(tab.locator("[aria-sort]")).to_have_count(0)
        assert next(rows(tab, "causes"))["feature_id"] == str(MATTERS[1]), "as it first was"


@pytest.mark.parametrize("width", [1400, 400])
def test_no_text_of_the_charts_lies_on_another(chromium: Any, page: Path, width: int) -> None:
    with opened(chromium, page, width=width) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert overlapping_texts(tab, "#causes ") == []


def test_without_scripts_all_of_it_is_there(chromium: Any, page: Path) -> None:
    with opened(chromium, page, scripts=False) as tab:
        tab.locator("#causes details.cases summary").first.click()
        assert tab.locator("#causes details.cases .token:visible").count() > 0
        assert tab.locator("#causes svg.wide:visible").count() == 2
        assert tab.locator('#causes table[data-name="causes"] tbody tr').count() > 50


def test_of_a_run_without_tokens_the_token_is_told(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write_attributions(path, SPEC, {MATTERS: 0.8}, tokens=False)
    analysis = analyse(path, Options(permutations=0))
    shown = shown_causes(Run.open(path), analysis, Beside(), lambda _: None)
    (right, _) = shown.cases[0][1][0].sides
    assert [piece.kind for piece in right.pieces] == [""]
    assert "most at token" in right.told
