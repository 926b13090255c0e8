"""A file of ablations is held against its plan, line by line, like one of records."""

from pathlib import Path

import pytest

from layerscope.errors import LayerscopeError, UsageError
from layerscope.records.ablations import AblationFile, AblationPlan, Place, ablation_line, parse_ablation
from layerscope.records.line.record import NotARecordError
from layerscope.records.manifest.identity import ChosenFeature
from layerscope.records.reading.run import Run
from layerscope.records.writing.journal import open_journal
from synthetic_ablations import ABOUT, IDENTITY, lines, write_ablations
from synthetic_run import Spec, write_run


def test_a_plan_goes_batch_by_batch_portion_by_portion_question_by_question() -> None:
    features = [ChosenFeature(1, 7, None), ChosenFeature(1, 8, 9), ChosenFeature(2, 3, None)]
    plan = AblationPlan([5, 4, 6], [0, 2, 3], features, ["random"], 2)
    told = [f"{place.example_id}:{place.feature_id}{'r' if place.control else ''}" for place in plan.places()]
    first = ["5:7", "5:7r", "5:8", "5:8r", "4:7", "4:7r", "4:8", "4:8r", "5:3", "5:3r", "4:3", "4:3r"]
    assert told == [*first, *["6:7", "6:7r", "6:8", "6:8r", "6:3", "6:3r"]]
    assert plan.part_starts() == [0, 8, 12, 16, 18]
    assert plan.lines == 18


def test_what_is_written_is_read_back_and_ends_where_the_plan_does(tmp_path: Path) -> None:
    path = write_ablations(tmp_path / "a.jsonl")
    file = AblationFile.open(path)
    found = [ablation for _, ablation in file.entries()]
    assert len(found) == file.planned == len(lines())
    assert [one.control for one in found[:3]] == [None, "matched", "random"]
    assert found[0].margin == 0.1  # of the float32, the shortest decimal
    assert found[-1].error == "sol1 is empty"
    assert found[-1].margin is None


@pytest.mark.parametrize("change", [(b'"layer":1', b'"layer":2'), (b'"control":null', b'"control":"random"')])
def test_a_line_of_something_else_than_the_plan_has_is_refused(tmp_path: Path, change: tuple[bytes, bytes]) -> None:
    path = write_ablations(tmp_path / "a.jsonl")
    path.write_bytes(path.read_bytes().replace(*change, 1))
    with pytest.raises(LayerscopeError, match="line 1: it is of question"):
        list(AblationFile.open(path).entries())


def test_a_changed_number_is_seen(tmp_path: Path) -> None:
    path = write_ablations(tmp_path / "a.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"margin":0.1', b'"margin":0.2', 1))
    with pytest.raises(LayerscopeError, match="line 1: it is not the line that was written there"):
        list(AblationFile.open(path).entries())


def test_a_margin_that_changed_though_no_token_was_touched_is_no_ablation() -> None:
    place = Place(1, 2, 3, None)
    assert parse_ablation(ablation_line(place, 1.5, 1.5, 0)).tokens == 0
    with pytest.raises(NotARecordError, match="no token was touched"):
        parse_ablation(ablation_line(place, 1.5, 1.25, 0))
    with pytest.raises(NotARecordError, match="an error and margins, or neither"):
        parse_ablation(ablation_line(place, 1.5, 1.25, 3, "no"))


def test_records_and_ablations_are_not_taken_for_one_another(tmp_path: Path) -> None:
    of_ablations = write_ablations(tmp_path / "a.jsonl")
    with pytest.raises(UsageError, match="holds ablations and not records") as told:
        Run.open(of_ablations)
    assert f"its report shows them: layerscope report run.jsonl --ablations {of_ablations}" in str(told.value)
    of_records = tmp_path / "run.jsonl"
    write_run(of_records, Spec(questions=2))
    with pytest.raises(UsageError, match="holds records and not ablations"):
        AblationFile.open(of_records)
    with pytest.raises(UsageError, match="holds records and not ablations"):
        open_journal(of_records, IDENTITY, ABOUT, overwrite=False)


def test_a_torn_line_goes_and_the_next_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = write_ablations(tmp_path / "a.jsonl").read_bytes()
    torn = write_ablations(tmp_path / "b.jsonl", 3)
    with torn.open("ab") as stream:
        stream.write(lines()[3][:20])
    with open_journal(torn, IDENTITY, ABOUT, overwrite=False) as file:
        seen = list[object]()
        assert file.recover(seen.append) == 0
        assert len(seen) == file.lines == 3
        file.append(lines()[3:])
    assert torn.read_bytes() == whole
