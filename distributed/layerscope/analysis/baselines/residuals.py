"""Probes on the dense residuals that a file may have beside it: a direction learnt on all of a layer's numbers."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerscope.analysis.baselines.ridge import Probe, Scores, mean_difference, ridge
from layerscope.analysis.baselines.split import Split
from layerscope.records.manifest import Manifest
from layerscope.records.residuals import read_residuals, residual_readings, residuals_path
from layerscope.records.shards import Files

Differences = Callable[[int], NDArray[np.float32]]
"""Of a layer, right solution less wrong one, [Q, D]."""


def residual_differences(files: Files, manifest: Manifest, reading: str, n_questions: int) -> Differences | str:
    """Those of a file, or of the shards of one job; or what is needed to have them."""
    paths = [files] if isinstance(files, Path) else list(files)
    if manifest.identity.settings.residuals is None:
        return "needs a run with --residuals"
    if not residual_readings((reading,)):
        return f"{reading} is of many tokens, and has no residual of its own"
    if not all(residuals_path(path).is_dir() for path in paths):
        return "needs the folder of residuals beside the file"

    def differences(layer: int) -> NDArray[np.float32]:
        right, wrong = scored_residuals(paths, layer, reading, n_questions).swapaxes(0, 1)
        found: NDArray[np.float32] = right - wrong
        return found

    return differences


def scored_residuals(files: Files, layer: int, reading: str, n_questions: int) -> NDArray[np.float32]:
    """The residuals of the questions that are analysed, without those of error lines and of lines that came since.

    Returns:
        [Q, 2, D]
    """
    rows = read_residuals(files, layer, reading)
    return rows[np.flatnonzero(~np.isnan(rows[:, 0, 0]))[:n_questions]].astype(np.float32)


def dense_probes(differences: Differences, layers: Sequence[int], split: Split) -> Scores:
    """By layer the difference of means, and a ridge probe, for which every column has the same spread."""
    means, dense = list[Probe | None](), list[Probe | None]()
    for layer in layers:
        columns = differences(layer)
        means.append(mean_difference(columns, split))
        spread = np.sqrt(np.square(columns[split.discovery], dtype=np.float64).mean(axis=0))
        dense.append(ridge(columns / np.where(spread > 0, spread, 1), split))
    return {"means": means, "dense": dense}
