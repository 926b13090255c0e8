"""The statistics: against scipy one feature at a time, against enumeration, and level under shuffled labels."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from layerscope.analysis.result import Magnitude
from layerscope.analysis.testing import label_flips, statistics
from layerscope.analysis.testing.draws import Draws
from layerscope.analysis.testing.label_flips import LabelFlips, LargestFlipped
from layerscope.analysis.testing.layer_tests import layer_tests
from synthetic_pairs import parts_of, random_pairs

# Differences with many ties and zeros, and differences with few.
DIFFERENCES = st.lists(st.integers(-4, 4).map(float) | st.floats(-50, 50, width=32), min_size=1, max_size=40)


def test_the_sign_test_is_the_exact_binomial_test() -> None:
    first, second = (counts.ravel() for counts in np.mgrid[0:26, 0:26])
    first, second = np.append(first, [900, 40]), np.append(second, [700, 400])
    found = statistics.sign_test(first, second, 1)
    for b, c, effect, z, p in zip(first, second, found.effect, found.z, found.p, strict=True):
        if b + c:
            assert p == pytest.approx(stats.binomtest(int(b), int(b + c)).pvalue, rel=1e-9)
            assert z == pytest.approx((b - c) / math.sqrt(b + c))
            assert effect == pytest.approx(math.log((b + 0.5) / (c + 0.5)))
    assert np.isnan(found.p[0])
    assert np.isnan(found.effect[0]), "no pair is no effect of 1:1"
    assert found.z[0] == 0


def test_too_few_discordant_pairs_are_not_tested() -> None:
    found = statistics.sign_test(np.array([5, 6]), np.array([4, 4]), 10)
    assert np.isnan(found.p).tolist() == [True, False]


def magnitude_of(columns: list[list[float]], sign: float = 1.0, min_pairs: int = 1) -> Magnitude:
    """The test of several features, a column of differences each."""
    feature = np.repeat(np.arange(len(columns)), [len(column) for column in columns])
    difference = np.array([value for column in columns for value in column])
    order = np.lexsort((np.abs(difference), feature))
    feature, difference = feature[order], difference[order]
    differs = difference != 0
    rank = np.zeros(len(difference))
    rank[differs] = statistics.midranks(feature[differs], np.abs(difference[differs]))
    return statistics.signed_rank_test(feature, sign * difference, rank, len(columns), min_pairs)


@settings(max_examples=50, deadline=None)
@given(st.lists(DIFFERENCES, min_size=1, max_size=4))
def test_the_signed_rank_test_is_scipys(columns: list[list[float]]) -> None:
    found = magnitude_of(columns)
    for row, column in enumerate(columns):
        values = np.array(column)
        assert found.known[row] == len(column)
        assert found.pairs[row] == np.count_nonzero(values)
        assert found.mean_difference[row] == pytest.approx(values.mean())
        if values.any():
            expected = stats.wilcoxon(values, method="asymptotic")
            assert found.p[row] == pytest.approx(expected.pvalue, rel=1e-9)
            one_sided = stats.wilcoxon(values, method="asymptotic", alternative="greater")
            assert found.z[row] == pytest.approx(one_sided.zstatistic, abs=1e-9)
        if len(column) > 1 and values.std() > 1e-6 * np.abs(values).max():
            assert found.effect[row] == pytest.approx(values.mean() / values.std(ddof=1), rel=1e-6, abs=1e-9)


def test_d_z_of_equal_differences_is_not_defined() -> None:
    """The rounding of their mean would else pass for a spread, and the effect for the largest there is."""
    found = magnitude_of([[0.1] * 12, [0.3], [0.0, 0.0]])
    assert np.isnan(found.effect).all()
    assert found.z[0] > 3
    assert not np.isnan(found.p[0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=12), min_size=1, max_size=5))
def test_midranks_are_those_of_rankdata(groups: list[list[int]]) -> None:
    feature = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    value = np.array([value for group in groups for value in sorted(group)], dtype=np.float64)
    expected = np.concatenate([stats.rankdata(sorted(group)) for group in groups])
    assert statistics.midranks(feature, value).tolist() == expected.tolist()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.none() | st.floats(0, 1), max_size=30))
def test_false_discovery_rates_pass_over_what_was_not_tested(values: list[float | None]) -> None:
    p = np.array([np.nan if value is None else value for value in values])
    q = statistics.false_discovery_rates(p)
    tested = ~np.isnan(p)
    assert (np.isnan(q) == ~tested).all()
    if tested.any():
        assert q[tested].tolist() == stats.false_discovery_control(p[tested]).tolist()
        ordered = np.sort(p[tested])
        rejected = np.flatnonzero(ordered <= 0.05 * np.arange(1, len(ordered) + 1) / len(ordered))
        assert (q[tested] <= 0.05).sum() == (rejected[-1] + 1 if len(rejected) else 0)  # the step-up rule itself


@settings(max_examples=50, deadline=None)
@given(DIFFERENCES, DIFFERENCES)
def test_shares_of_pairs_and_auroc_count_ties_as_half(first: list[float], second: list[float]) -> None:
    first, second = first[: len(second)], second[: len(first)]
    wins = [(a > b) + (a == b) / 2 for a, b in itertools.product(first, second)]
    assert statistics.auroc(np.array(first), np.array(second), np.ones(len(first))) == pytest.approx(np.mean(wins))
    differences = np.array(first)
    wins = [(value > 0) + (value == 0) / 2 for value in first]
    zeros = np.zeros(len(first))
    assert statistics.paired_superiority(differences, zeros, np.arange(len(zeros)))[0] == pytest.approx(np.mean(wins))


def test_wilsons_interval() -> None:
    """8 of 10 by hand: (0.8 + z²/20 ± z sqrt(0.016 + z²/400)) / (1 + z²/10)."""
    interval = statistics.proportion(np.arange(10) < 8, np.arange(10))
    assert (interval.low, interval.high) == pytest.approx((0.490162, 0.943318), abs=1e-6)
    for count, total in ((0, 7), (7, 7), (61, 326), (1, 1)):  # to the last bit
        expected = stats.binomtest(count, total).proportion_ci(0.95, method="wilson")
        found = statistics.proportion(np.arange(total) < count, np.arange(total))
        assert (found.low, found.high) == (expected.low, expected.high)
    assert math.isnan(statistics.proportion(np.zeros(0, bool), np.zeros(0, np.int64)).share)


def test_permutations_against_every_flip_there_is() -> None:
    """Three features on seven pairs, all 128 flips: a tenth of them at most goes beyond the threshold."""
    rng = np.random.default_rng(3)
    values = rng.integers(-3, 4, (3, 7)).astype(np.float64)  # [F, Q]
    feature, pair = np.nonzero(values)
    flips = np.array(list(itertools.product([1, -1], repeat=7)), dtype=np.float32).T
    as_bits = LabelFlips(np.packbits(flips > 0, axis=1), flips.shape[1])
    flipped = LargestFlipped(as_bits)
    for of, n_features in (([0, 1], 2), ([2], 1)):  # features come a few at a time
        some = np.isin(feature, of)
        flipped.add(feature[some] - of[0], pair[some], values[feature[some], pair[some]], n_features)
    largest = flipped.result()
    norms = np.sqrt((values**2).sum(axis=1))
    expected = [max(abs(sum(values[f] * flip)) / norms[f] for f in range(3)) for flip in flips.T]
    assert largest == pytest.approx(expected, rel=1e-5)

    threshold = statistics.family_wise_threshold(np.ones(3, bool), largest, 0.1)
    reach = [sum(value >= amount for value in largest) for amount in (threshold * 1.001, threshold * 0.999)]
    assert (1 + reach[0]) / 129 <= 0.1 < (1 + reach[1]) / 129  # Westfall and Young's adjusted p
    assert math.isnan(statistics.family_wise_threshold(np.zeros(3, bool), largest, 0.1))


@pytest.mark.parametrize("held", [1, 4 * 37 * 64, 1 << 20])
def test_label_flips_are_the_same_however_many_are_held_at_once(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bit each; a million groups' signs as numbers would take 4 GB."""
    monkeypatch.setattr(label_flips, "_HELD_BYTES", held)
    monkeypatch.setattr(label_flips, "_GROUPS_DRAWN", 8)
    for permutations in (0, 1, 99, 1000):
        flips = LabelFlips.random(37, permutations, seed=3)
        expected = 2 * np.random.default_rng(3).integers(0, 2, (37, permutations), dtype=np.int8) - 1
        blocks = list(flips.blocks())
        assert np.concatenate(blocks, axis=1).tolist() == expected.tolist()
        assert max(block.nbytes for block in blocks) <= max(held, 4 * 37 * 8)
        assert flips.bits.nbytes == 37 * ((permutations + 7) // 8)


def test_a_finding_is_selected_on_one_half_and_confirmed_on_the_other() -> None:
    n = 20
    first = np.array([20, 20, 20, 10])
    discovery = statistics.sign_test(first, n - first, 10)
    validation = statistics.sign_test(np.array([18, 2, 10, 20]), np.array([2, 18, 10, 0]), 10)
    found = statistics.select_and_confirm(discovery, validation, 0.05)
    assert found.selected.tolist() == [True, True, True, False]
    assert found.confirmed.tolist() == [True, False, False, False]  # the second has the other sign, the third nothing
    assert np.isnan(found.validation_q).tolist() == [False, False, False, True]  # not to be picked from
    assert found.validation_q[0] == pytest.approx(stats.binomtest(18, 20).pvalue * 3 / 2)  # among three, two as small


def test_shuffled_labels_keep_the_levels_that_are_promised() -> None:
    """Of 400 shufflings 20 or so may have any finding at level 0.05; the permutation's threshold uses its level up."""
    shufflings, level = 400, 0.05
    pairs = random_pairs(seed=1)
    signs = list(np.random.default_rng(2).choice([-1.0, 1.0], (shufflings, len(pairs.whole))))
    flips = LabelFlips.random(len(pairs.whole), 999, seed=3)
    discovery = parts_of(len(pairs.whole))["discovery"]
    layer = layer_tests(pairs, np.arange(len(pairs.whole)), discovery, {}, signs, flips, min_pairs=10)
    most = stats.binom.isf(1e-4, shufflings, level)  # a right procedure goes beyond this once in 10,000
    least = stats.binom.ppf(1e-4, shufflings, level)
    for name, largest in (("firing", layer.largest_firing[0]), ("magnitude", layer.largest_magnitude[0])):
        tests = [getattr(contrast, name) for contrast in layer.contrasts]
        assert (~np.isnan(tests[0]["everything"].p)).sum() > 50
        significant = selected = confirmed = family_wise = 0
        for found in tests:
            significant += (statistics.false_discovery_rates(found["everything"].p) <= level).any()
            selection = statistics.select_and_confirm(found["discovery"], found["validation"], level)
            selected += selection.selected.any()
            confirmed += selection.confirmed.any()
            tested = ~np.isnan(found["everything"].p)
            threshold = statistics.family_wise_threshold(tested, largest, level)
            family_wise += (np.abs(found["everything"].z[tested]) > threshold).any()
        assert significant <= most
        assert selected <= most
        assert confirmed <= stats.binom.isf(1e-4, shufflings, level**2)
        assert least <= family_wise <= most


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_swapped_labels_flip_every_sign_and_keep_every_p(seed: int) -> None:
    pairs = random_pairs(seed, n_pairs=40, n_features=12)
    sign = np.random.default_rng(seed).choice([-1.0, 1.0], 40)
    layer = layer_tests(
        pairs,
        np.arange(40),
        parts_of(40)["discovery"],
        {},
        [sign, -sign],
        LabelFlips.random(40, 10, 0),
        min_pairs=5,
    )
    one, other = layer.contrasts
    for part in one.firing:
        for name in ("firing", "magnitude"):
            here, there = getattr(one, name)[part], getattr(other, name)[part]
            np.testing.assert_allclose(here.z, -there.z)
            np.testing.assert_allclose(here.effect, -there.effect)
            np.testing.assert_array_equal(here.pairs, there.pairs)
            np.testing.assert_allclose(here.p, there.p)
        np.testing.assert_array_equal(one.firing[part].first_only, other.firing[part].second_only)
    np.testing.assert_array_equal(one.comparison.first_fires, other.comparison.second_fires)


def test_a_layer_is_tested_as_each_feature_alone() -> None:
    """The vectorised path against plain loops, scipy's tests and the definitions, on each part."""
    pairs = random_pairs(seed=7, n_pairs=80, n_features=16)
    sign = np.random.default_rng(7).choice([-1.0, 1.0], 80)
    parts = parts_of(80)
    layer = layer_tests(pairs, np.arange(80), parts["discovery"], {}, [sign], LabelFlips.random(80, 10, 0), min_pairs=4)
    (found,) = layer.contrasts
    assert len(layer.feature_id) == 16
    for row, feature in enumerate(layer.feature_id):
        mine = pairs.feature == feature
        right = np.where(sign[pairs.pair] > 0, pairs.positive, pairs.negative)[mine]
        wrong = np.where(sign[pairs.pair] > 0, pairs.negative, pairs.positive)[mine]
        assert found.comparison.first_fires[row] == (right > 0).sum()
        assert found.comparison.second_fires[row] == (wrong > 0).sum()
        for part, members in parts.items():
            inside = members[pairs.pair[mine]]
            b, c = ((right > 0) & (wrong == 0) & inside).sum(), ((wrong > 0) & (right == 0) & inside).sum()
            firing, magnitude = found.firing[part], found.magnitude[part]
            assert (firing.first_only[row], firing.second_only[row]) == (b, c)
            difference = (right - wrong)[(right > 0) & (wrong > 0) & inside]
            assert magnitude.known[row] == len(difference)
            if len(difference) >= 4:
                assert magnitude.p[row] == pytest.approx(stats.wilcoxon(difference, method="asymptotic").pvalue)
            else:
                assert np.isnan(magnitude.p[row])


def test_the_interval_of_an_auroc_is_that_of_plain_draws_of_goal_groups() -> None:
    """With ties, groups of several pairs, and weights that let each group count once."""
    rng = np.random.default_rng(1)
    group = np.array([0, 0, 0, 1, 1, *range(2, 30)])
    first, second = rng.integers(0, 5, (2, len(group))).astype(float)
    weight = statistics.group_weights(group)
    draws = Draws(30, rng)
    plain = []
    for draw in draws.some():
        pairs = [pair for goal, times in enumerate(draw) for pair in np.flatnonzero(group == goal).tolist() * times]
        plain.append(statistics.auroc(first[pairs], second[pairs], weight[pairs]))
    found = statistics.auroc_interval(first, second, weight, group, draws)
    assert found == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=1e-12)
    assert found[0] < statistics.auroc(first, second, weight) < found[1]


def test_the_interval_of_a_mean_is_about_that_of_plain_draws_of_goal_groups() -> None:
    """Groups of unlike sizes whose questions resemble one another, and values that are not known."""
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(150), rng.integers(1, 6, 150))
    values = rng.normal(size=150)[group] + 0.3 * rng.normal(size=len(group))
    values[::7] = np.nan
    members = [np.flatnonzero((group == goal) & ~np.isnan(values)) for goal in range(150)]
    draws = [np.concatenate([members[goal] for goal in rng.integers(0, 150, 150)]) for _ in range(2000)]
    plain = np.quantile([values[draw].mean() for draw in draws], [0.025, 0.975])
    found = statistics.mean_interval(values, group)
    assert found == pytest.approx(plain, abs=0.06 * (plain[1] - plain[0]))
    assert sum(found) / 2 == pytest.approx(np.nanmean(values))
    alone = statistics.mean_interval(values, np.arange(len(values)))
    assert alone[1] - alone[0] < 0.75 * (found[1] - found[0]), "as if questions of a group were independent"


def test_a_question_of_weight_two_counts_as_two_in_the_interval_of_a_mean() -> None:
    rng = np.random.default_rng(1)
    values, group, weight = rng.normal(size=30), rng.integers(0, 12, 30), rng.integers(1, 4, 30)
    values[3] = np.nan
    expected = statistics.mean_interval(np.repeat(values, weight), np.repeat(group, weight))
    assert statistics.mean_interval(values, group, weight.astype(float)) == pytest.approx(expected)


def test_the_interval_of_a_mean_of_one_group_is_not_known() -> None:
    for values in ([], [1.0, 2.0], [math.nan, 1.0]):
        assert np.isnan(statistics.mean_interval(np.array(values), np.zeros(len(values), dtype=int))).all()
    assert statistics.mean_interval(np.array([2, 2, 2]), np.arange(3)) == (2, 2)
