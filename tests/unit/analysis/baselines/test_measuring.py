"""What is said of a score: the AUROC of differences, its interval by goal group, and who judges."""

import numpy as np
import pytest

from halves import made_up_questions
from layerscope.analysis.baselines.measuring import discovery_auroc, drawn
from layerscope.analysis.baselines.split import FOLDS, Split
from layerscope.analysis.columns.arrays import Floats
from layerscope.analysis.testing import draws, statistics
from layerscope.analysis.testing.draws import DRAWS, Draws


def split_of(n: int, seed: int = 0, groups: int | None = None) -> Split:
    group = (
        None if groups is None else np.unique(np.random.default_rng(seed).integers(0, groups, n), return_inverse=1)[1]
    )
    split = Split.of(made_up_questions(n, seed, group), seed)
    assert split is not None
    return split


def pairs_of_pairs(d: Floats, weight: Floats) -> float:
    """P(d_i + d_j > 0) + P(= 0) / 2, written down as it is meant."""
    return float((np.outer(weight, weight) * (np.sign(d[:, None] + d) + 1) / 2).sum() / weight.sum() ** 2)


def test_every_draw_is_measured_as_the_half_itself_is() -> None:
    """With ties, with groups of several questions, and in whole draws: by the same function as the other scores."""
    split = split_of(120, groups=70)
    d = np.round(np.random.default_rng(1).standard_normal(120) + 0.3, 1)
    held_out, weight = d[split.held_out], split.weight[split.held_out]
    found = drawn(d, split)
    assert found.auroc[0] == pytest.approx(pairs_of_pairs(held_out, weight))
    assert found.auroc[0] == pytest.approx(statistics.auroc(held_out, -held_out, weight))
    assert found.ranked[0] == pytest.approx(statistics.paired_superiority(held_out, 0 * held_out, split.group)[0])
    for number in (1, 2, DRAWS):
        of_draw = weight * split.draws.some(number - 1, number)[0, split.group]
        assert found.auroc[number] == pytest.approx(pairs_of_pairs(held_out, of_draw))
        assert found.ranked[number] == pytest.approx(np.average((np.sign(held_out) + 1) / 2, weights=of_draw))


def test_draws_on_disk_are_those_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Draws(37, np.random.default_rng(5))
    monkeypatch.setattr(draws, "_HELD_BYTES", 0)
    on_disk = Draws(37, np.random.default_rng(5))
    group = np.array([3, 3, 36, 0])
    for of in (held, on_disk):
        np.testing.assert_array_equal(of.of_pairs(group, 990, 1200), held.some()[990:, group].T)
        np.testing.assert_array_equal(np.concatenate(list(of.blocks()), axis=1), held.some().T)


def test_a_goal_group_is_in_one_half_and_one_fold() -> None:
    questions = made_up_questions(300, group=np.arange(300) % 90)
    split = Split.of(questions, 0)
    assert split is not None
    assert ((split.fold >= 0) == questions.discovery).all()
    for group in range(90):
        assert len(set(split.fold[questions.group == group].tolist())) == 1
    assert np.ptp(np.bincount(split.fold[split.discovery])) <= 8
    assert set(split.fold.tolist()) == {-1, *range(FOLDS)}
    assert (split.draws.some().sum(axis=1) == len(split.draws)).all()


def test_copies_of_a_question_count_once() -> None:
    """Ninety copies of a pair that is ranked right make neither a good score nor a narrow interval."""
    group = np.concatenate([np.arange(60), np.zeros(90, dtype=np.int64)])
    questions = made_up_questions(150, group=group)
    questions.discovery[:] = group % 2 == 1
    split = Split.of(questions, 0)
    assert split is not None
    d = np.random.default_rng(3).standard_normal(150)
    d[group == 0] = 5
    found = drawn(d, split)
    first = np.append(5, d[1:60])[np.arange(60) % 2 == 0]
    assert found.auroc[0] == pytest.approx(pairs_of_pairs(first, np.ones(30)))
    low, high = np.quantile(found.auroc[1:], [0.025, 0.975])
    assert high - low > 0.25


def test_intervals_of_a_score_that_knows_nothing_contain_one_half_as_often_as_they_say() -> None:
    seeds, covered = 200, 0
    group = np.arange(160) * 3 // 4
    split = Split.of(made_up_questions(160, group=group), 0)
    assert split is not None
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        by_group = rng.standard_normal(120)[group] + 0.1 * rng.standard_normal(160)
        low, high = np.quantile(drawn(by_group, split).auroc[1:], [0.025, 0.975])
        covered += low <= 0.5 <= high
    assert 0.90 <= covered / seeds <= 0.99


def test_the_last_digits_of_a_sum_decide_no_tie() -> None:
    split = split_of(60)
    d = np.zeros(60)
    d[::3] = 1.0
    noise = d + 1e-15 * np.random.default_rng(0).standard_normal(60)
    assert drawn(noise, split).auroc[0] == drawn(d, split).auroc[0]
    assert discovery_auroc(noise, split) == discovery_auroc(d, split)


def test_halves_of_too_few_goals_are_told_apart() -> None:
    assert Split.of(made_up_questions(16), 0) is None
    assert Split.of(made_up_questions(200, group=np.arange(200) % 12), 0) is None
