"""Random features that fire as often as the SAEs' do: exactly so, and held to the same statistics."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import Command
from layerscope.analysis.columns.censoring import LayerPairs, pair_up
from layerscope.analysis.columns.lists import FeatureLists
from layerscope.analysis.findings import analyse
from layerscope.analysis.random_dictionary import random_lists
from layerscope.analysis.result import Options
from layerscope.errors import LayerscopeError
from layerscope.records.reading.residuals import Layout, residuals_path
from layerscope.records.reading.run import Run
from layerscope.records.writing.residual_files import ResidualFiles, ResidualRows
from made_up import edit_manifest
from synthetic_run import Spec, write_run

Q, D = 40, 16
RNG = np.random.default_rng(3)
RESIDUALS = RNG.normal(size=(Q, 2, D)).astype(np.float32)


def pairs_of(features: dict[int, int]) -> LayerPairs:
    """Pairs in which each feature fires at so many solutions."""
    lists: list[list[int]] = [[] for _ in range(2 * Q)]
    for number, (feature, count) in enumerate(features.items()):
        for place in range(count):
            lists[(7 * number + place) % (2 * Q)].append(feature)
    listed = np.array([len(each) for each in lists]).reshape(Q, 2)
    flat = np.array([feature for each in lists for feature in sorted(each)])
    return pair_up(FeatureLists(flat, np.ones(len(flat), np.float32), listed, listed))


def counts(lists: FeatureLists) -> dict[int, int]:
    ids, found = np.unique(lists.feature_id, return_counts=True)
    return dict(zip(ids.tolist(), found.tolist(), strict=True))


FEATURES = {3: 1, 511: 5, 512: 37, 900: 2 * Q, 16000: 12}


def test_each_fires_at_as_many_solutions_as_its_counterpart_and_where_its_direction_points() -> None:
    found = random_lists(RESIDUALS, pairs_of(FEATURES), (0, 7))
    assert counts(found) == FEATURES
    assert (found.activation > 0).all()
    np.testing.assert_array_equal(found.listed, found.active)
    direction = np.random.default_rng((0, 7, 1)).standard_normal((512, D), np.float32)[0]  # of feature 512
    strength = RESIDUALS.reshape(-1, D) @ direction
    cell = np.repeat(np.arange(2 * Q), found.listed.ravel())
    assert set(cell[found.feature_id == 512]) == set(np.argsort(strength)[-37:])
    for solution in range(2 * Q):
        assert (np.diff(found.activation[cell == solution]) <= 0).all(), "strongest first"


def test_a_direction_is_its_features_whatever_others_there_are_and_another_with_another_seed() -> None:
    whole, alone = (random_lists(RESIDUALS, pairs_of(of), (0, 7)) for of in (FEATURES, {512: 37}))
    cells = [np.repeat(np.arange(2 * Q), each.listed.ravel())[each.feature_id == 512] for each in (whole, alone)]
    np.testing.assert_array_equal(*cells)
    for seed in ((1, 7), (0, 8)):
        other = random_lists(RESIDUALS, pairs_of({512: 37}), seed)
        assert not np.array_equal(other.listed, alone.listed)


def test_solutions_with_the_same_residual_never_differ() -> None:
    """Else two equal texts would be told apart at a threshold that lies between nothing."""
    same = np.repeat(RESIDUALS[:, :1], 2, axis=1)
    pairs = pair_up(random_lists(same, pairs_of({3: 41, 5: 2}), (0, 7)))
    assert (pairs.firing == 0).all()
    assert len(pairs.feature)


@pytest.fixture(params=[0.0, 3.0], ids=["nothing", "a direction"])
def run(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, float]:
    """Noise in the features; in the residuals of one of two layers right and wrong differ along a direction, or not."""
    path = tmp_path / "run.jsonl"
    write_run(path, Spec(questions=240, layers=(0, 1), distinct=True, errors=(3, 100)))
    edit_manifest(path, lambda manifest: manifest["identity"]["settings"].update(residuals="float32"))
    edit_manifest(path, lambda manifest: manifest["about"].update(d_model=D))
    edit_manifest(path, lambda manifest: manifest["progress"].update(residuals=None))
    numbers = np.random.default_rng(0).normal(size=(2, 480, D)).astype(np.float32)
    numbers[1, ::2] += request.param * np.eye(D, dtype=np.float32)[5]
    files = ResidualFiles(Layout.of(path, Run.open(path).manifest))
    files.begin()
    files.append(ResidualRows(list(numbers), [None if n in (3, 100) else (2 * n, 2 * n + 1) for n in range(240)]))
    files.close()
    return path, request.param


def test_random_features_are_held_to_the_same_statistics(run: tuple[Path, float]) -> None:
    """They tell apart whatever any direction of the residuals does, and nothing where there is nothing."""
    path, effect = run
    options = Options(permutations=50, min_pairs=5, baseline_dictionary=True)
    analysis = analyse(path, options)
    selected, probe = (analysis.comparison.of(key) for key in ("random", "random-20"))
    assert selected
    assert probe
    assert np.isnan(selected.measured.auroc[0])
    if effect:
        assert (selected.chosen, probe.chosen) == (1, 1)
        assert min(selected.measured.auroc_low[1], probe.measured.auroc_low[1]) > 0.8
        assert np.isnan(analysis.right_wrong.held_out.auroc).all()
    else:
        assert np.isnan(selected.measured.auroc[1])
        assert (probe.measured.auroc_low < 0.5).all()
    without = analyse(path, replace(options, baseline_dictionary=False))
    assert dict(without.comparison.missing)["random"] == "needs --baseline-dictionary, of the report or of the run"
    firing, same = (each.right_wrong.firing.everything for each in (analysis, without))
    np.testing.assert_array_equal(firing.p, same.p)


def test_residuals_that_are_not_whole_end_a_report_before_its_work_however_few_questions_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With too few goals nothing is compared, and nobody would hear of the damage; with many, only after minutes."""
    monkeypatch.setattr("layerscope.analysis.findings.reading", None)
    for questions in (6, 60):
        path = tmp_path / f"{questions}.jsonl"
        write_run(path, Spec(questions=questions, layers=(0, 1)))
        edit_manifest(path, lambda manifest: manifest["identity"]["settings"].update(residuals="float32"))
        files = ResidualFiles(Layout.of(path, Run.open(path).manifest))
        files.begin()
        files.append(ResidualRows([np.zeros((2, 2304), np.float32)] * 2, [(0, 1)] * (questions - 1)))
        files.close()
        for damaged, told in ((False, f"has {questions - 1} rows"), (True, "is not there")):
            if damaged:
                (residuals_path(path) / "layer_00.npy").unlink()
            with pytest.raises(LayerscopeError, match=told) as refusal:
                analyse(path)
            assert "move its folder away" in str(refusal.value)
            assert len(str(refusal.value).splitlines()) == 3


def test_what_they_would_be_made_of_is_looked_for_first(
    run: tuple[Path, float], tmp_path: Path, command: Command
) -> None:
    (residuals_path(run[0]) / "layer_01.npy").unlink()
    edit_manifest(run[0], lambda manifest: manifest["progress"].update(lines=240))
    for path, told in ((run[0], "layer_01.npy is not there"), (tmp_path / "none.jsonl", "was made without residuals")):
        if not path.exists():
            write_run(path, Spec(questions=20, layers=(0,)))
        done = command("report", str(path), "--baseline-dictionary")
        assert done.returncode
        assert told in done.stderr
        assert len(done.stderr.strip().splitlines()) == 2
