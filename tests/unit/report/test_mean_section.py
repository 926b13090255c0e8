"""Right against the mean of the wrong ones, from a file to the page, the notebook and the comparison."""

from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest

import layerscope
from browsing import opened
from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Analysis
from layerscope.errors import UsageError
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.writing.extent import Extent
from layerscope.report.page import report
from layerscope.report.sections.mean_section import section
from layerscope.report.words.many_said import mean_title
from layerscope.tables.compare import as_text, compare
from made_up import Json, edit_manifest
from synthetic_run import Effect, Spec, write_run

EFFECTS = [Effect(1, 500, 0.6, 0.2), Effect(2, 501, 0.7, 0.7, factor=2.0)]
FEATURES = ("active_features_by_layer", "active_feature_count_by_layer", "final_token")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("four") / "four.jsonl"
    write_run(path, Spec(questions=400, solutions=4, effects=EFFECTS, errors=(3,), distinct=True))
    return path


@pytest.fixture(scope="module")
def analysis(run: Path) -> Analysis:
    return analyse([run])


@pytest.fixture(scope="module")
def of_two(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without the features of the other solutions."""
    path = tmp_path_factory.mktemp("two") / "two.jsonl"
    lines = []
    for line in run.read_bytes().splitlines():
        record = orjson.loads(line)
        for other in record["others"] or []:
            for name in FEATURES:
                del other[name]
        lines.append(orjson.dumps(record) + b"\n")
    path.write_bytes(b"".join(lines))
    manifest_path(path).write_bytes(manifest_path(run).read_bytes())
    extent = Extent()
    for line in lines:
        extent.add(line)

    def noted(manifest: Json) -> None:
        manifest["identity"]["settings"]["all_solutions"] = False
        manifest["progress"] = msgspec.to_builtins(extent.note())

    edit_manifest(path, noted)
    return path


def test_what_is_planted_is_found_and_nothing_else(analysis: Analysis) -> None:
    mean = analysis.against_mean
    assert mean is not None
    found = {
        name: {(int(mean.features.layer[row]), int(mean.features.feature_id[row])) for row in np.flatnonzero(marked)}
        for name, marked in (("firing", mean.firing.confirmed), ("strength", mean.strength.confirmed))
    }
    assert found == {"firing": {(1, 500)}, "strength": {(2, 501)}}
    row = int(np.flatnonzero(mean.firing.confirmed)[0])
    assert (mean.right_fires[row], mean.wrong_fires[row]) == (
        pytest.approx(0.6, abs=0.06),
        pytest.approx(0.2, abs=0.04),
    )
    assert mean.firing.validation.effect[row] == pytest.approx(np.log(0.6 / 0.4 / (0.2 / 0.8)), abs=0.5)
    assert mean.held_out.auroc[1] == pytest.approx(0.7, abs=0.06)
    assert np.isnan(mean.held_out.auroc[0])
    assert mean.firing_by_layer.confirmed.tolist() == [0, 1, 0]
    assert "1 feature in 1 of 3 layers tells the right solution from the mean of the wrong ones" in mean_title(mean)


def test_neither_contrast_has_anything_of_the_other(analysis: Analysis, of_two: Path) -> None:
    """With or without the others' features, what is said of the right one against the strongest is the same."""
    alone = analyse([of_two])
    assert alone.against_mean is None
    for name in ("right_wrong", "chosen_rejected", "features", "layers", "questions"):
        np.testing.assert_equal(*(asdict(getattr(each, name)) for each in (alone, analysis)))


def test_the_page_has_the_section_or_says_what_is_missing(run: Path, of_two: Path, tmp_path: Path) -> None:
    report([run], tmp_path / "four.html")
    page = (tmp_path / "four.html").read_text("utf-8")
    assert '<section id="mean"' in page
    assert '<a href="#mean">' in page
    table = page[page.index('data-name="mean"') :]
    assert "neuronpedia.org/gemma-2-2b/1-gemmascope-res-16k/500" in table[: table.index("</table>")]
    report([of_two], tmp_path / "two.html")
    page = (tmp_path / "two.html").read_text("utf-8")
    assert "A run with --all-solutions records all." in page
    assert 'data-name="mean"' not in page


def test_the_browser_of_questions_has_every_solution(run: Path, tmp_path: Path, chromium: Any) -> None:
    report([run], tmp_path / "four.html")
    record = layerscope.read_questions(run).to_pandas().dropna(subset="question").iloc[0]
    with opened(chromium, tmp_path / "four.html", f"#q={record.example_id}") as tab:
        tab.wait_for_selector(".others li")
        told = tab.locator(".others li").all_inner_texts()
        assert sorted(other["text"] in text for other, text in product(orjson.loads(record.others), told)) == [
            0,
            0,
            1,
            1,
        ]
        assert "strongest wrong solution" in tab.locator(".solution.wrong").inner_text()


def test_pairs_have_no_such_section(tmp_path: Path) -> None:
    write_run(tmp_path / "pairs.jsonl", Spec(questions=20))
    analysis = analyse([tmp_path / "pairs.jsonl"])
    assert section(analysis, {}) is None
    report([tmp_path / "pairs.jsonl"], tmp_path / "pairs.html")
    assert "#mean" not in (tmp_path / "pairs.html").read_text("utf-8")


def test_notebooks_get_the_table_and_the_summary_names_both(run: Path, of_two: Path) -> None:
    loaded = layerscope.load(run)
    table = loaded.findings("mean")
    assert table[["layer", "feature_id"]].to_numpy().tolist() == [[2, 501], [1, 500]]
    assert (table.state == "confirmed").all()
    every = loaded.findings("mean", every=True)
    assert len(every) > 50
    assert every.q_firing_discovery.notna().any()
    assert {"right − strongest wrong", "right − mean of wrong"} <= loaded.summary.lines().keys()
    with pytest.raises(UsageError, match="A run with --all-solutions records all"):
        layerscope.load(of_two).findings("mean")
    with pytest.raises(UsageError, match=r"findings\('mean'\)"):
        loaded.figure("depth", "mean")


def test_compare_tells_both_margins(run: Path) -> None:
    found = compare([run], [run])
    questions = layerscope.read_questions(run).to_pandas().dropna(subset="question")
    for name, column in (("strongest_wrong", "margin"), ("mean_of_wrong", "margin_to_mean")):
        assert found["margins"][name]["a"] == pytest.approx(questions[column].mean(), rel=1e-5)
    text = as_text(found)
    assert "right − strongest wrong: " in text
    assert "right − mean of wrong: " in text


def test_nothing_to_test_is_told_as_that(analysis: Analysis) -> None:
    mean = analysis.against_mean
    assert mean is not None
    nothing = np.zeros_like(mean.firing_by_layer.confirmed)
    bare = replace(mean, firing_by_layer=replace(mean.firing_by_layer, selectable=nothing, confirmed=nothing))
    assert "not known: no feature has enough questions that tell. 1 feature differs in strength." in mean_title(bare)
    none = replace(mean, firing_by_layer=replace(mean.firing_by_layer, confirmed=nothing))
    assert "none is confirmed to fire more often" in mean_title(none)
