"""Which of a file's readings an analysis is about, and the control that must find nothing."""

import shutil
from pathlib import Path

import numpy as np
import orjson
import pytest

from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Options
from layerscope.cli import main
from layerscope.errors import LayerscopeError, UsageError
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.verify import verify
from layerscope.tables.compare import as_text, compare
from synthetic_readings import PLANTED, SIDES, write_lines, write_readings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readings") / "run.jsonl"
    write_readings(path)
    return path


def test_each_reading_has_its_own_findings_and_the_control_has_none(run: Path) -> None:
    assert "300 of 300 lines" in verify(run)
    found = {}
    for reading in ("final", "max", "prompt"):
        analysis = analyse(run, Options(permutations=50, reading=reading))
        found[reading] = analysis.features.feature_id[analysis.right_wrong.firing.confirmed].tolist()
    assert PLANTED in found["max"]
    assert found["final"] == found["prompt"] == []
    control = analyse(run, Options(permutations=50, reading="prompt"))
    assert len(control.features.layer) == 0, "no pair of equal lists can tell anything"
    assert np.all(control.layers.jaccard == 1)


def test_a_file_whose_control_differs_is_refused(run: Path, tmp_path: Path) -> None:
    """Else a fault in what was read passes for a finding at the other tokens."""
    path = tmp_path / "run.jsonl"
    shutil.copy(run, path)
    shutil.copy(manifest_path(run), manifest_path(path))
    records = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    records[7][SIDES[1]]["other_readings"]["prompt"]["active_feature_count_by_layer"]["1"] += 1
    write_lines(path, records)
    for reading in ("final", "max", "prompt"):
        with pytest.raises(LayerscopeError, match="example_id 7: the solutions have different features at the prompt"):
            analyse(path, Options(reading=reading))


def test_a_reading_that_a_file_lacks_is_told_with_those_it_has(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["report", str(run)], ["compare", str(run), str(run)]):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--reading", "last-word"])
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert "has final, max, prompt" in error
        assert len(error.splitlines()) == 2
    with pytest.raises(UsageError):
        compare(run, run, "first")


def test_runs_are_compared_by_the_reading_that_is_named(run: Path) -> None:
    found = compare(run, run, "max")
    assert found["reading"] == "max"
    assert found["layers"]["1"]["mean_jaccard"] == 1
    assert found["layers"]["1"]["largest_activation_difference"] == 0
    assert "same features of reading max" in as_text(found)
    assert compare(run, run)["layers"]["1"]["mean_jaccard"] is None, "the final token's lists are empty"
