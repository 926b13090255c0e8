"""Lists cut at k: what is shown above the limit is the truth, and a cut makes no difference between the sides."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerscope.analysis.columns import censoring
from layerscope.analysis.columns.censoring import LayerPairs, PairedLists, jaccards, list_limits, pair_up
from layerscope.analysis.columns.lists import FeatureLists
from layerscope.analysis.testing import statistics
from layerscope.analysis.testing.label_flips import LabelFlips
from layerscope.analysis.testing.layer_tests import layer_tests

Cell = dict[int, float]  # every active feature of a solution, and its activation

CELL = st.dictionaries(st.integers(0, 8), st.integers(1, 6).map(lambda value: value / 2), max_size=8)


def cut(cells: list[tuple[Cell, Cell]], k: int) -> FeatureLists:
    """What a file lists of pairs of solutions."""
    lists = [sorted(cell.items(), key=lambda item: (-item[1], item[0]))[:k] for pair in cells for cell in pair]
    return FeatureLists(
        np.array([feature for listed in lists for feature, _ in listed], dtype=np.int64),
        np.array([activation for listed in lists for _, activation in listed], dtype=np.float32),
        np.array([len(listed) for listed in lists], dtype=np.int64).reshape(-1, 2),
        np.array([len(cell) for pair in cells for cell in pair], dtype=np.int64).reshape(-1, 2),
    )


def shown(pairs: LayerPairs) -> dict[tuple[int, int], tuple[float, float]]:
    entries = zip(pairs.pair, pairs.feature_id[pairs.feature], pairs.positive, pairs.negative, strict=True)
    return {(int(pair), int(feature)): (float(first), float(second)) for pair, feature, first, second in entries}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(CELL, CELL), max_size=6), st.integers(1, 9))
def test_above_its_limit_a_pair_is_shown_as_it_is(cells: list[tuple[Cell, Cell]], k: int) -> None:
    """Against the truth before the cut: whatever is above the limit, all of it, and nothing else."""
    lists = cut(cells, k)
    pairs = pair_up(lists)
    expected = {}
    for number, (sides, limits) in enumerate(zip(cells, list_limits(lists), strict=True)):
        limit = max(limits)
        assert pairs.whole[number] == (max(map(len, sides)) <= k) == (limit == 0)
        for feature in {*sides[0], *sides[1]}:
            above = tuple(side.get(feature, 0.0) if side.get(feature, 0.0) > limit else 0.0 for side in sides)
            if any(above):
                expected[number, feature] = above
    assert shown(pairs) == expected
    order = list(zip(pairs.feature.tolist(), pairs.pair.tolist(), strict=True))
    assert order == sorted(order)
    listed = np.bincount(lists.feature_id, minlength=9)
    assert pairs.listed.tolist() == listed[pairs.feature_id].tolist()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(CELL, CELL), max_size=6), st.integers(1, 9))
def test_swapped_sides_are_shown_swapped(cells: list[tuple[Cell, Cell]], k: int) -> None:
    here = shown(pair_up(cut(cells, k)))
    there = shown(pair_up(cut([(second, first) for first, second in cells], k)))
    assert here == {key: (second, first) for key, (first, second) in there.items()}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6), st.lists(st.booleans(), min_size=9, max_size=9))
def test_restricting_keeps_some_features_as_they_are(cells: list[tuple[Cell, Cell]], keep: list[bool]) -> None:
    pairs = pair_up(cut(cells, 9))
    kept = np.array(keep)[pairs.feature_id]
    restricted = pairs.restricted(kept)
    assert shown(restricted) == {key: value for key, value in shown(pairs).items() if keep[key[1]]}
    assert restricted.feature_id.tolist() == pairs.feature_id[kept].tolist()
    assert restricted.listed.tolist() == pairs.listed[kept].tolist()


@dataclass(frozen=True)
class Read(FeatureLists):
    """Lists that note when they are read."""

    times: list[int] = field(default_factory=list)

    def stretches(self) -> Iterator[tuple[int, FeatureLists]]:
        self.times.append(0)
        return super().stretches()


def test_parts_are_the_whole_and_no_part_takes_a_look_at_all_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)

    def side() -> Cell:
        return {int(feature): float(rng.random()) for feature in rng.integers(0, 40, 9)}

    cells = [(side(), side()) for _ in range(60)]
    lists = Read(**vars(cut(cells, 6)))
    whole = shown(pair_up(lists))
    monkeypatch.setattr(censoring, "PART", 50)
    pairs = PairedLists(lists)
    wanted = np.array([0, 3, 4, 17, 39, 77])
    few_unsorted = {key: value for part in pairs.parts(wanted) for key, value in shown(part).items()}
    before = len(lists.times)
    parts = [shown(part) for part in pairs.parts()]
    assert len(parts) > 10
    assert len(lists.times) == before + 1
    few = {key: value for part in pairs.parts(wanted) for key, value in shown(part).items()}
    assert len(lists.times) == before + 1
    assert {key: value for part in parts for key, value in part.items()} == whole
    assert few == few_unsorted == {key: value for key, value in whole.items() if key[1] in wanted}


def test_jaccard_is_of_what_both_lists_can_show() -> None:
    """The first pair shares 1 of 2; in the second both show the same above its limit of 2.0; the third is silent."""
    cells = [({1: 1.0, 2: 2.0}, {1: 3.0}), ({1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0}, {1: 5.0, 2: 2.5, 9: 0.5}), ({}, {})]
    pairs = pair_up(cut(cells, 3))
    assert pairs.whole.tolist() == [True, False, True]
    known = jaccards(pairs)
    assert known[~np.isnan(known)].tolist() == [1 / 2, 2 / 2]
    assert np.isnan(jaccards(pair_up(cut([({}, {})], 3)))).all()


def test_a_list_that_shows_nothing_of_what_is_active_hides_everything() -> None:
    lists = FeatureLists(np.array([7]), np.array([2.0], dtype=np.float32), np.array([[1, 0]]), np.array([[1, 5]]))
    pairs = pair_up(lists)
    assert not len(pairs.feature)
    assert not pairs.whole[0]


def test_a_side_that_is_cut_more_often_gets_no_features_of_its_own() -> None:
    """The right solutions carry strong clutter that cuts their lists; the features themselves know no side."""
    rng = np.random.default_rng(0)

    def common() -> Cell:
        return {feature: float(rng.gamma(3)) for feature in range(200) if rng.random() < 0.5}

    def clutter() -> Cell:
        return {int(feature): 50.0 + rng.random() for feature in rng.integers(1000, 10**9, 60)}

    cells = [({**common(), **clutter()}, common()) for _ in range(300)]
    lists = cut(cells, 100)
    n_pairs = len(cells)
    layer = layer_tests(
        pair_up(lists),
        np.arange(n_pairs),
        np.arange(n_pairs) % 2 == 0,
        {},
        [np.ones(n_pairs)],
        LabelFlips.random(n_pairs, 1, 0),
        min_pairs=10,
    )
    tests = layer.contrasts[0].firing["everything"]
    assert set(layer.feature_id) == set(range(200))
    assert (statistics.false_discovery_rates(tests.p) > 0.05).all()
    # What is guarded against: with "not listed" taken for "silent", each of them is a feature of the wrong solution.
    fires = np.zeros((2, n_pairs, 200), dtype=bool)
    cell = np.repeat(np.arange(2 * n_pairs), lists.listed.ravel())
    known = lists.feature_id < 200
    fires[cell[known] % 2, cell[known] // 2, lists.feature_id[known]] = True
    first_only, second_only = (fires[0] & ~fires[1]).sum(axis=0), (fires[1] & ~fires[0]).sum(axis=0)
    assert (statistics.false_discovery_rates(statistics.sign_test(first_only, second_only, 10).p) < 0.05).all()
