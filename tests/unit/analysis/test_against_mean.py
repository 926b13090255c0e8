"""The right solution against the mean of the wrong ones: what is tested, against what it must be."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from layerscope.analysis.columns.lists import FeatureLists
from layerscope.analysis.columns.solution_sets import LayerSets, gather
from layerscope.analysis.result import SetTest
from layerscope.analysis.testing.label_flips import LabelFlips
from layerscope.analysis.testing.layer_tests import EVERYTHING, layer_tests
from layerscope.analysis.testing.set_tests import firing_test, ranges_of, strength_test
from synthetic_pairs import random_pairs

Cells = list[list[float]]  # of a question: the right solution's activation, then those of the wrong ones


def sets_of(questions: list[Cells]) -> LayerSets:
    """Of features 0, 1, …: of each the activations in every question, none of them cut off."""
    counts = [len(question[0]) for question in questions]

    def lists(cells: list[tuple[int, int]], width: int) -> FeatureLists:
        found = [
            sorted((-values[place], feature) for feature, values in enumerate(questions[number]) if values[place] > 0)
            for number, place in cells
        ]
        listed = np.array([len(cell) for cell in found], dtype=np.int64).reshape(-1, width)
        ids = np.array([feature for cell in found for _, feature in cell], dtype=np.int64)
        return FeatureLists(ids, np.array([-value for cell in found for value, _ in cell], "f"), listed, listed)

    pairs = [(number, place) for number in range(len(questions)) for place in (0, 1)]
    others = [(number, place) for number, k in enumerate(counts) for place in range(2, k)]
    return gather(lists(pairs, 2), lists(others, 1), np.array([number for number, _ in others], dtype=np.int64))


def both_tests(questions: list[Cells], least: int = 1) -> tuple[SetTest, SetTest]:
    sets, counts = sets_of(questions), np.array([len(question[0]) for question in questions])
    group, everyone = np.arange(len(questions)), np.ones(len(questions), dtype=bool)
    firing = firing_test(sets, counts, group, everyone, least)
    return firing, strength_test(ranges_of(sets), len(sets.feature_id), group, everyone, least)


def drawn(rng: np.random.Generator, k: int, share: float = 0.5) -> list[float]:
    return list(np.where(rng.random(k) < share, rng.gamma(3.0, 1.0, k), 0))


def test_of_two_solutions_it_is_the_test_of_pairs() -> None:
    pairs = random_pairs(1)
    n_questions = len(pairs.whole)
    dense = np.zeros((n_questions, len(pairs.feature_id), 2))
    dense[pairs.pair, pairs.feature] = np.stack([pairs.positive, pairs.negative], axis=1).astype(np.float32)
    everyone, group = np.ones(n_questions, dtype=bool), np.arange(n_questions)
    sets = sets_of(dense.tolist())
    firing = firing_test(sets, np.full(n_questions, 2), group, everyone, 10)
    strength = strength_test(ranges_of(sets), len(sets.feature_id), group, everyone, 10)
    flips = LabelFlips.random(n_questions, 1, 0)
    of_pairs = layer_tests(pairs, group, group % 2 == 0, {}, [np.ones(n_questions)], flips, 10).contrasts[0]
    expected = of_pairs.firing[EVERYTHING], of_pairs.magnitude[EVERYTHING]
    for found, test in zip((firing, strength), expected, strict=True):
        np.testing.assert_allclose(found.z, test.z, rtol=1e-6)
        np.testing.assert_allclose(found.effect, test.effect, rtol=1e-4)
        np.testing.assert_allclose(found.p, test.p, rtol=1e-6, atol=1e-14)
        np.testing.assert_array_equal(found.questions, test.pairs)


def test_firing_has_its_exact_distribution() -> None:
    """Against every way in which the right solutions could lie, of questions of two to five solutions."""
    fires = [(1, 2), (1, 4), (3, 4), (2, 5), (1, 3), (1, 4), (4, 4), (2, 4)]  # of how many, and of how many solutions
    right = [True, True, True, False, True, False, True, True]
    questions = [
        [[1.0] * is_right + [0.0] * (not is_right) + [1.0] * (m - is_right) + [0.0] * (k - m - (not is_right))]
        for (m, k), is_right in zip(fires, right, strict=True)
    ]
    assert [len(question[0]) for question in questions] == [k for _, k in fires]
    firing, _ = both_tests(questions)
    telling = [(m / k, is_right) for (m, k), is_right in zip(fires, right, strict=True) if m < k]
    hits = sum(is_right for _, is_right in telling)
    mass = np.zeros(len(telling) + 1)
    for outcome in product((0, 1), repeat=len(telling)):
        mass[sum(outcome)] += np.prod([p if hit else 1 - p for hit, (p, _) in zip(outcome, telling, strict=True)])
    assert firing.questions[0] == 7  # where it fires for all of them nothing is told
    assert firing.p[0] == pytest.approx(min(1, 2 * min(mass[: hits + 1].sum(), mass[hits:].sum())), rel=1e-9)
    variance = sum(p * (1 - p) for p, _ in telling)
    assert firing.z[0] == pytest.approx((hits - sum(p for p, _ in telling)) / variance**0.5)
    alone = sum((k - m) / (k - 1) for (m, k), is_right in zip(fires, right, strict=True) if is_right)
    missing = sum(m / (k - 1) for (m, k), is_right in zip(fires, right, strict=True) if not is_right)
    assert firing.effect[0] == pytest.approx(np.log((alone + 0.5) / (missing + 0.5)))


def test_of_many_questions_of_one_kind_it_is_the_binomial_test() -> None:
    questions = [[[float(number < 400), float(number >= 400), 0.0, 0.0]] for number in range(1000)]
    firing, _ = both_tests(questions)
    expected = 2 * stats.binom.sf(399, 1000, 1 / 4)
    assert firing.p[0] == pytest.approx(max(expected, 1e-15), rel=1e-3)
    weaker, _ = both_tests([[[float(number < 290), float(number >= 290), 0.0, 0.0]] for number in range(1000)])
    assert weaker.p[0] == pytest.approx(2 * stats.binom.sf(289, 1000, 1 / 4), rel=1e-9)


def test_a_feature_that_fires_for_any_one_of_four_is_no_finding() -> None:
    """Three times in four it is a wrong one: by the sign of right less the mean each would speak for wrong."""
    rng = np.random.default_rng(0)
    which, amounts = rng.integers(0, 4, (200, 300)), rng.gamma(3.0, 1.0, (200, 300, 4))
    second = rng.random((200, 300, 4)) < 0.5  # of half of the features, so that strength has its questions
    cells = np.where((np.arange(4) == which[..., None]) | (second & (np.arange(300) % 2 == 0)[:, None]), amounts, 0)
    firing, strength = both_tests(cells.tolist(), 10)
    assert ((which != 0).mean(axis=0) > 0.6).all()
    for test in (firing, strength):
        p = test.p[~np.isnan(test.p)]
        assert len(p) >= 150
        assert (p < 0.05).mean() < 0.08
        assert p.min() > 1e-5


def test_strength_is_quades_statistic() -> None:
    rng = np.random.default_rng(3)
    questions = [[drawn(rng, k, 0.8)] for k in [2, 3, 4, 5] * 10]
    _, strength = both_tests(questions)
    telling = [[value for value in [*question[0]] if value > 0] for question in questions if question[0][0] > 0]
    telling = [values for values in telling if len(values) > 1]
    weights = stats.rankdata([np.float32(max(values)) - np.float32(min(values)) for values in telling])
    ranks = [stats.rankdata(values)[0] - (len(values) + 1) / 2 for values in telling]
    variances = [(len(values) ** 2 - 1) / 12 for values in telling]
    assert strength.questions[0] == len(telling)
    assert strength.z[0] == pytest.approx((weights @ ranks) / np.sqrt(weights**2 @ variances))
    differences = np.array([values[0] - np.mean(values[1:]) for values in telling])
    assert strength.effect[0] == pytest.approx(differences.mean() / differences.std(ddof=1), rel=1e-4)


def test_all_solutions_are_compared_above_one_limit() -> None:
    """A list that is cut hides what is below its smallest activation: nothing below that counts for any solution."""
    pairs = FeatureLists(np.array([7, 8, 7]), np.array([5, 2, 3], "f"), np.array([[2, 1]]), np.array([[2, 1]]))
    whole = FeatureLists(np.array([8]), np.array([4], "f"), np.array([[1]]), np.array([[1]]))
    cut = FeatureLists(np.array([9]), np.array([4], "f"), np.array([[1]]), np.array([[6]]))
    sets = gather(pairs, whole, np.array([0]))
    assert [sets.feature_id[sets.feature].tolist(), sets.firing.tolist()] == [[7, 8], [2, 2]]
    sets = gather(pairs, cut, np.array([0]))
    assert [sets.feature_id[sets.feature].tolist(), sets.activation.tolist()] == [[7], [5]]


def test_of_a_goal_group_the_first_question_that_tells_counts() -> None:
    questions = [[[1.0, 1.0, 1.0]], [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]], [[0.0, 1.0, 1.0]]]
    sets, solutions = sets_of(questions), np.full(4, 3)
    everyone = np.ones(4, dtype=bool)
    alone = firing_test(sets, solutions, np.arange(4), everyone, 1)
    grouped = firing_test(sets, solutions, np.array([0, 0, 0, 1]), everyone, 1)
    assert (alone.questions[0], grouped.questions[0]) == (3, 2)
    assert grouped.z[0] == pytest.approx((1 - 1 / 3 - 2 / 3) / (4 / 9) ** 0.5)
