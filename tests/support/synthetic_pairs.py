"""Pairs of feature lists without a file: random ones, which know no side."""

import numpy as np

from layerscope.analysis.columns.censoring import LayerPairs


def random_pairs(seed: int, n_pairs: int = 300, n_features: int = 60) -> LayerPairs:
    """Features that fire and differ without regard to the side, in correlated families."""
    rng = np.random.default_rng(seed)
    family = rng.random((n_pairs, n_features // 4)).repeat(4, axis=1)
    sides = [
        np.where((family + 0.6 * rng.random((n_pairs, n_features)) < 0.7), rng.gamma(3.0, 1.0, family.shape), 0)
        for _ in range(2)
    ]
    pair, feature = np.nonzero((sides[0] > 0) | (sides[1] > 0))
    order = np.lexsort((pair, feature))
    pair, feature = pair[order], feature[order]
    return LayerPairs(
        np.arange(n_features),
        np.bincount(feature, minlength=n_features),
        feature,
        pair,
        sides[0][pair, feature],
        sides[1][pair, feature],
        np.ones(n_pairs, dtype=bool),
    )


def parts_of(n_pairs: int) -> dict[str, np.ndarray]:
    discovery = np.arange(n_pairs) % 2 == 0
    return {"everything": np.ones(n_pairs, dtype=bool), "discovery": discovery, "validation": ~discovery}
