"""Questions by their metadata: what one can filter by, and the accuracy of each group."""

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from playwright.sync_api import expect

from browsing import opened
from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Analysis, Options
from layerscope.records.reading.run import Run
from layerscope.report.page import report
from layerscope.report.sections.groups import MISSING, Column, groups_of, groups_title, read_columns
from made_up import edit_manifest
from synthetic_run import Spec, write_run

LEVELS = ("easy", "hard", 'so "so" <b>')


def metadata_of(number: int) -> dict[str, Any]:
    more = {} if number % 7 == 0 else {"year": 2000 + number % 12}
    return {"level": LEVELS[number % 3], "id": f"row {number}", "same": "x", **more}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("groups") / "run.jsonl"
    write_run(path, Spec(questions=90, layers=(0,), active=8, seed=2, errors=(4,)))
    records = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    for record in records:
        record["metadata"] = metadata_of(record["example_id"])
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    edit_manifest(path, lambda manifest: manifest["identity"]["settings"].update(metadata="all"))
    edit_manifest(path, lambda manifest: manifest.pop("progress", None))
    return path


@pytest.fixture(scope="module")
def analysis(run: Path) -> Analysis:
    return analyse(run, Options(permutations=0))


def test_columns_with_few_values_are_known_and_no_others(run: Path, analysis: Analysis) -> None:
    columns = {column.name: column for column in read_columns(Run.open(run), analysis, lambda _: None)}
    assert set(columns) == {"level", "year"}
    assert columns["level"].values == tuple(sorted(LEVELS))
    assert columns["year"].values[:2] == ("2000", "2001")
    assert columns["year"].values[-1] == MISSING
    for index, example_id in enumerate(analysis.questions.example_id.tolist()):
        assert columns["level"].values[columns["level"].of[index]] == LEVELS[example_id % 3]


def test_the_accuracy_of_a_group_is_that_of_its_records(run: Path, analysis: Analysis) -> None:
    level = next(column for column in read_columns(Run.open(run), analysis, lambda _: None) if column.name == "level")
    scored = [record for record in map(orjson.loads, run.read_bytes().splitlines()) if not record["error"]]
    for group in groups_of(analysis, level):
        inside = [record["model_is_correct"] for record in scored if record["metadata"]["level"] == group.value]
        assert (group.accuracy.count, group.accuracy.total) == (sum(inside), len(inside))
        assert group.accuracy.low < group.accuracy.share < group.accuracy.high


@pytest.mark.parametrize(
    ("right", "said"),
    [
        ((5, 95), "accuracy is 5 % where it is a (100 questions), 95 % where it is b (100 questions)"),
        ((50, 55), "their intervals overlap, so it is not shown to matter"),
        ((50, 50), "accuracy is the same, 50.0 %, in all of 2 groups"),
    ],
)
def test_what_overlaps_is_not_told_as_a_difference(analysis: Analysis, right: tuple[int, int], said: str) -> None:
    correct = np.concatenate([np.arange(100) < count for count in right])
    questions = type("Questions", (), {"group": np.arange(200), "correct": correct})()
    stub: Any = type("Some", (), {"questions": questions, "header": analysis.header})()
    column = Column("kind", ("a", "b"), np.repeat([0, 1], 100))
    told = groups_title(column, groups_of(stub, column))
    assert said in told
    assert ("overlap" in told) == (right == (50, 55))


def test_groups_that_lie_apart_are_told_where_the_extremes_do_not(analysis: Analysis) -> None:
    """Two questions of a hall have an interval that overlaps with everything."""
    correct = np.concatenate([np.arange(5) < 0, np.arange(2) < 2, np.arange(12) < 10])
    questions = type("Questions", (), {"group": np.arange(19), "correct": correct})()
    stub: Any = type("Some", (), {"questions": questions, "header": analysis.header})()
    column = Column("room", ("bedroom", "hall", "kitchen"), np.repeat([0, 1, 2], [5, 2, 12]))
    told = "room: accuracy is 0 % where it is bedroom (5 questions), 83 % where it is kitchen (12 questions)"
    assert groups_title(column, groups_of(stub, column)) == told


def test_one_filters_by_a_group_and_the_address_has_it(chromium: Any, run: Path) -> None:
    report(run)
    hard = [example_id for example_id in range(90) if example_id % 3 == 1 and example_id != 4]
    with opened(chromium, run.with_suffix(".html")) as tab:
        counted = tab.locator("#browser .found").first
        tab.locator('select[name="by.level"]').select_option("hard")
        expect(counted).to_have_text(f"{len(hard)} of 89 questions")
        assert "by.level=hard" in tab.evaluate("location.hash")
        tab.locator(".list a").first.click()
        expect(tab.locator("#browser article")).to_contain_text("level: hard")
        table = tab.get_by_role("region", name="Accuracy by level")
        table.get_by_role("link", name="easy").click()
        expect(tab.locator('select[name="by.level"]')).to_have_value("easy")
        expect(tab.locator("#browser")).to_be_in_viewport()
        tab.go_back()
        expect(tab.locator('select[name="by.level"]')).to_have_value("hard")
        expect(counted).to_have_text(f"{len(hard)} of 89 questions")
    address = "#by.level=so%20%22so%22%20%3Cb%3E"
    with opened(chromium, run.with_suffix(".html"), address) as tab:
        expect(tab.locator("#browser .found").first).to_have_text("30 of 89 questions")
