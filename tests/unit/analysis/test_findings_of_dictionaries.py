"""What stands beside the first dictionary: what a run of each alone would find; an overlap counted from the lines."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from layerscope.analysis.dictionaries import Dictionary, dictionaries_by_depth, overlap
from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Analysis, Options
from layerscope.analysis.testing.statistics import mean_interval
from layerscope.records.reading.shards import read_run
from several import write_several
from synthetic_run import Effect

NAMES = ("first", "wide", "heads")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    planted = {"wide": Effect(1, 501, 0.2, 0.7), "heads": Effect(2, 502, 0.7, 0.2)}
    return write_several(tmp_path_factory.mktemp("several"), planted)


@pytest.fixture(scope="module")
def first(files: dict[str, Path]) -> Analysis:
    return analyse(files["whole"])


@pytest.fixture(scope="module")
def found(files: dict[str, Path], first: Analysis) -> tuple[Dictionary, ...]:
    return dictionaries_by_depth(read_run(files["whole"]), first, lambda *_: None)


@pytest.mark.parametrize("name", NAMES)
def test_each_finds_what_a_run_of_it_alone_would(
    files: dict[str, Path], found: tuple[Dictionary, ...], name: str
) -> None:
    alone = analyse(files[name], Options(permutations=0)).right_wrong
    (one,) = (each for each in found if each.name == name)
    assert [each.name for each in found] == list(NAMES)
    assert int(one.found.firing_by_layer.confirmed.sum()) == 1
    for part in ("selected", "confirmed", "tested"):
        np.testing.assert_array_equal(getattr(one.found.firing_by_layer, part), getattr(alone.firing_by_layer, part))
    np.testing.assert_array_equal(one.found.held_out.auroc, alone.held_out.auroc)
    assert (one.site, one.width, one.l0) == (
        ("resid_post", "16k", "canonical") if name == "first" else ("mlp_out", "2k", "30")
    )


def counted(files: dict[str, Path], analysis: Analysis, of: Dictionary, layer: int) -> dict[int, bool]:
    """By hand: of every held-out question, whether the selected features of a layer rank its right solution higher."""
    tested = analyse(files[of.name], Options(permutations=0))
    chosen = tested.right_wrong.firing.selected & (tested.features.layer == layer)
    effects = tested.right_wrong.firing.discovery.effect[chosen]
    weights = dict(zip(tested.features.feature_id[chosen].tolist(), effects.tolist(), strict=True))
    held_out = dict(zip(analysis.questions.example_id.tolist(), (~analysis.questions.discovery).tolist(), strict=True))
    limits = {}
    for line in files[of.name].read_bytes().splitlines():
        record = orjson.loads(line)
        if held_out[record["example_id"]]:
            scores = [_score(record[f"{side}_solution_details"], layer, weights) for side in ("positive", "negative")]
            limits[record["example_id"]] = scores[0] > scores[1]
    return limits


def _score(details: dict[str, Any], layer: int, weights: dict[int, float]) -> float:
    lists = details["active_features_by_layer"][str(layer)]
    assert details["active_feature_count_by_layer"][str(layer)] == len(lists)  # none is cut, so a limit hides nothing
    return sum(weights.get(feature["feature_id"], 0.0) for feature in lists)


def test_overlap_is_counted_right(files: dict[str, Path], first: Analysis, found: tuple[Dictionary, ...]) -> None:
    assert found[0].overlap is None
    beside = found[1].overlap
    assert beside is not None
    one, other = (counted(files, first, each, 1) for each in found[:2])
    both = sum(one[number] and other[number] for number in one)
    either = sum(one[number] or other[number] for number in one)
    assert 5 < both < either < len(one)
    assert beside.jaccard[1] == pytest.approx(both / either)
    shares = sum(one.values()) / len(one), sum(other.values()) / len(one)
    together = shares[0] * shares[1]
    assert beside.by_chance[1] == pytest.approx(together / (sum(shares) - together))
    of_either = [number for number in one if one[number] or other[number]]  # here each goal has one question
    values = np.array([one[number] and other[number] for number in of_either], dtype=float)
    assert beside.interval[1] == pytest.approx(mean_interval(values, np.arange(len(values))))
    assert np.isnan(beside.interval[[0, 2]]).all()
    assert np.isnan(beside.jaccard[[0, 2]]).all(), "nothing is selected by both there"


def test_one_and_itself_overlap_wholly_whatever_the_order_and_over_what_both_have(
    files: dict[str, Path], first: Analysis
) -> None:
    """A run may have grown between two looks; shards come in another order."""
    shards = analyse([files["part2"], files["part1"]])
    assert overlap([(first.questions, first.right_wrong), (shards.questions, shards.right_wrong)]).jaccard[1] == 1
    held_out = first.right_wrong.held_out
    order = np.random.default_rng(0).permutation(len(first.questions.group))[: len(first.questions.group) // 2]
    some = {name: values[order] for name, values in vars(first.questions).items()}
    fewer = replace(first.right_wrong, held_out=replace(held_out, first_higher=held_out.first_higher[:, order]))
    again = overlap([(first.questions, first.right_wrong), (replace(first.questions, **some), fewer)])
    assert again.jaccard[1] == 1
    assert 0 < again.by_chance[1] < 1


def test_goal_groups_count_once(first: Analysis) -> None:
    """Nine questions of one goal say as much as one of another."""
    questions, held_out = first.questions, first.right_wrong.held_out
    rows = np.flatnonzero(~questions.discovery)[:10]
    group = np.zeros(len(questions.group), dtype=np.int64)
    group[rows[-1]] = 1
    ten = {name: values[rows] for name, values in vars(replace(questions, group=group)).items()}
    of_one, of_other = np.ones((3, 10), dtype=bool), np.ones((3, 10), dtype=bool)
    of_other[:, -1] = False
    pair = [
        (replace(questions, **ten), replace(first.right_wrong, held_out=replace(held_out, first_higher=higher)))
        for higher in (of_one, of_other)
    ]
    assert overlap(pair).jaccard[1] == pytest.approx(0.5)


def test_nothing_stands_beside_one_alone(files: dict[str, Path]) -> None:
    assert dictionaries_by_depth(read_run(files["wide"]), analyse(files["wide"]), lambda *_: None) == ()
