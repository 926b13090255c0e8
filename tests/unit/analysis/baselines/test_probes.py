"""What is learnt on one half: closed forms against plain solutions, and nothing of the other half in it."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
import pytest
from scipy import sparse, stats

from halves import made_up_questions
from layerscope.analysis.baselines import ridge as ridges
from layerscope.analysis.baselines import texts
from layerscope.analysis.baselines.measuring import drawn
from layerscope.analysis.baselines.residuals import dense_probes
from layerscope.analysis.baselines.ridge import Probe, mean_difference, ridge
from layerscope.analysis.baselines.sparse_probes import SIZES, sparse_probes
from layerscope.analysis.baselines.split import FOLDS, Split
from layerscope.analysis.columns.arrays import Floats
from layerscope.analysis.columns.censoring import LayerPairs
from layerscope.analysis.columns.spilling import Column


def split_of(n: int, seed: int = 0) -> Split:
    split = Split.of(made_up_questions(n, seed, np.arange(n) * 3 // 4), seed)
    assert split is not None
    return split


def plainly(x: Floats, weight: Floats, penalty: float) -> Floats:
    """Coefficients of Σ w (1 - x·β)² + λ |β|² at its smallest."""
    coefficients: Floats = np.linalg.solve((x.T * weight) @ x + penalty * np.eye(x.shape[1]), weight @ x)
    return coefficients


@pytest.mark.parametrize("columns", [7, 160])
@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
def test_ridge_is_the_plain_solution_in_every_fold(
    columns: int, penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer columns than pairs, and more; the folds' predictions come from one fit and are those of five."""
    split, rng = split_of(150), np.random.default_rng(1)
    x = rng.standard_normal((150, columns)) + 0.1
    x[:, 0] = 0
    monkeypatch.setattr(ridges, "PENALTIES", np.array([penalty]))
    inside = split.discovery
    amount = penalty * (split.weight[inside, None] * x[inside] ** 2).sum() / min(inside.sum(), columns)
    expected = x @ plainly(x[inside], split.weight[inside], amount)
    for fold in range(FOLDS):
        rows, others = split.fold == fold, inside & (split.fold != fold)
        expected[rows] = x[rows] @ plainly(x[others], split.weight[others], amount)
    assert ridge(x, split).difference == pytest.approx(expected, abs=1e-9)


def test_the_difference_of_means_leaves_out_the_fold_that_it_scores() -> None:
    split, x = split_of(80), np.random.default_rng(2).standard_normal((80, 5))
    found = mean_difference(x, split).difference
    for fold in range(FOLDS):
        rows, others = split.fold == fold, split.discovery & (split.fold != fold)
        assert found[rows] == pytest.approx(x[rows] @ (split.weight[others] @ x[others]))
    held_out = split.held_out
    assert found[held_out] == pytest.approx(x[held_out] @ (split.weight[~held_out] @ x[~held_out]))


def test_a_probe_finds_a_direction_that_is_there() -> None:
    """Differences of N(δu, 1) in 30 directions: the best possible AUROC of differences is Φ(√2 δ)."""
    shift, n, columns = 0.8, 1600, 30
    direction = np.random.default_rng(4).standard_normal(columns)
    direction /= np.linalg.norm(direction)
    x = np.random.default_rng(5).standard_normal((n, columns)) + shift * direction
    for probe in (ridge(x, split := split_of(n)), mean_difference(x, split)):
        found = drawn(probe.difference, split).auroc
        low, high = np.quantile(found[1:], [0.025, 0.975])
        assert low <= stats.norm.cdf(np.sqrt(2) * shift) <= high + 0.01  # which a learnt direction does not quite reach
        assert probe.discovery == pytest.approx(found[0], abs=0.05)


def pairs_without_effect(rng: np.random.Generator, n: int, features: int) -> LayerPairs:
    fires = rng.random((features, n, 2)) < 0.2
    feature, pair = np.nonzero(fires.any(axis=2))
    strength = rng.gamma(3.0, 1.0, (len(feature), 2)) * fires[feature, pair]
    whole = np.ones(n, dtype=bool)
    return LayerPairs(np.arange(features), np.ones(features, dtype=int), feature, pair, *strength.T, whole)


def test_nothing_is_learnt_where_there_is_nothing() -> None:
    """Labels that go by goal group: were features or weights chosen on what is scored, 500 features would tell."""
    split, found, folds = split_of(160), [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        flip = rng.choice([-1.0, 1.0], 120)[np.arange(160) * 3 // 4]
        pairs = pairs_without_effect(rng, 160, 500)
        dense = rng.standard_normal((160, 300)) * flip[:, None]
        probes = [*sparse_probes(pairs, split), ridge(dense, split), mean_difference(dense, split)]
        found.append([drawn(probe.difference, split).auroc[0] for probe in probes])
        folds.append([probe.discovery for probe in probes])
    error = np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
    assert (np.abs(np.mean(found, axis=0) - 0.5) < 3.5 * error).all()
    assert (np.mean(folds, axis=0) < 0.6).all()  # the best of six penalties is a little above


def on_residuals(x: Floats, split: Split) -> list[Probe | None]:
    return [probe for probes in dense_probes(lambda _: x.astype(np.float32), [0], split).values() for probe in probes]


def on_words(x: Floats, split: Split) -> list[Probe]:
    with ExitStack() as stack:
        rows = Column("i", stack)
        for pair, word in np.argwhere(x):
            rows.extend((pair, word, int(x[pair, word])))
        return [ridge(texts.Differences(rows, x.shape[1]).columns(split), split)]


def on_features(x: Floats, split: Split) -> list[Probe]:
    feature, pair = np.nonzero(x.T)
    found = x[pair, feature]
    ids, whole = np.arange(x.shape[1]), np.ones(len(x), dtype=bool)
    return sparse_probes(LayerPairs(ids, ids, feature, pair, found.clip(min=0), -found.clip(max=0), whole), split)


@pytest.mark.parametrize(
    "learn",
    [
        on_residuals,
        on_words,
        on_features,
        lambda x, split: [ridge(x, split)],
        lambda x, split: [ridge(sparse.csr_array(x), split)],
        lambda x, split: [ridge(np.tile(x, 8), split)],
    ],
    ids=["residuals", "words", "features", "dense columns", "sparse columns", "more columns than pairs"],
)
def test_what_is_said_of_a_pair_depends_on_itself_and_on_the_half_that_chooses(
    learn: Callable[[Floats, Split], Sequence[Probe]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other pair that judges has a part in which words, features, spreads, weights or penalty there are."""
    monkeypatch.setattr(texts, "COLUMNS", 6)
    split, rng = split_of(150), np.random.default_rng(3)
    x = rng.integers(-2, 3, (150, 24)).astype(float)
    x[:, :6] *= rng.random((150, 6)) < 0.2  # what few pairs of the half that chooses differ in
    others = split.held_out & (np.arange(150) % 3 > 0)
    found = learn(x, split)
    for seed in range(4):
        changed = x.copy()
        changed[others] = np.random.default_rng(seed).choice([-60.0, -1.0, 1.0, 60.0], (int(others.sum()), 24))
        for one, other in zip(found, learn(changed, split), strict=True):
            assert other.discovery == one.discovery
            assert other.difference[~others] == pytest.approx(one.difference[~others], abs=1e-9)


def test_few_features_that_tell_are_found_and_weighted() -> None:
    rng, n = np.random.default_rng(7), 600
    split, pairs = split_of(n), pairs_without_effect(rng, n, 200)
    helped = np.isin(pairs.feature, (3, 50, 120)) & (rng.random(len(pairs.feature)) < 0.6)
    pairs.negative[helped] = 0
    pairs.positive[helped] = 2.0
    found = {
        size: drawn(probe.difference, split).auroc[0]
        for size, probe in zip(SIZES, sparse_probes(pairs, split), strict=True)
    }
    assert 0.55 < found[1] < found[5]
    assert found[5] > 0.65
    best = np.zeros(n)
    for feature in (3, 50, 120):
        rows = pairs.feature == feature
        best[pairs.pair[rows]] += pairs.positive[rows] - pairs.negative[rows]
    assert found[5] == pytest.approx(drawn(best, split).auroc[0], abs=0.05)


def test_a_layer_in_which_nothing_fires_says_nothing() -> None:
    split, none = split_of(60), np.empty(0, dtype=np.int64)
    empty = LayerPairs(none, none, none, none, none.astype(float), none.astype(float), np.ones(60, dtype=bool))
    for probe in [*sparse_probes(empty, split), ridge(np.zeros((60, 3)), split), ridge(np.zeros((60, 0)), split)]:
        assert not probe.difference.any()
        assert drawn(probe.difference, split).auroc[0] == 0.5
