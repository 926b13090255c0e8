"""Probes on the dense residuals that a file may have beside it: a direction learnt on all of a layer's numbers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerscope.analysis.baselines.ridge import Probe, Scores, mean_difference, ridge
from layerscope.analysis.baselines.split import Split
from layerscope.analysis.columns.arrays import Bools
from layerscope.analysis.columns.spilling import Aside
from layerscope.errors import LayerscopeError
from layerscope.records.reading.residuals import expect_residuals, read_residuals, residual_readings, residuals_path
from layerscope.records.reading.shards import Files, read_run

Differences = Callable[[int], NDArray[np.float32]]
"""Of a layer, right solution less wrong one, [Q, D]."""


class Scored(NamedTuple):
    """Of the lines of a file, as they were read, which have no error: theirs are the residuals that are compared."""

    path: Path
    has: Bools  # [lines]


def lacking(files: Files, reading: str, dictionary: str) -> str:
    """What is needed to have residuals of a reading beside a file, or those of the shards of one job; or nothing.

    Raises:
        UsageError: there is no such file, it has no manifest, or several are not shards of one job.
        LayerscopeError: there are residuals, but not all that belong there.
    """
    run, own = read_run(files, dictionary), read_run(files)
    if own.manifest.identity.settings.site != run.manifest.identity.settings.site:
        return f"needs residuals of what {dictionary} reads; a run keeps those of its first SAEs"
    if run.manifest.identity.settings.residuals is None:
        return "needs a run with --residuals"
    if not residual_readings((reading,)):
        return f"{reading} is of many tokens, and has no residual of its own"
    if not all(residuals_path(part.path).is_dir() for part in run.parts):
        return "needs the folder of residuals beside the file"
    with _or_without():
        expect_residuals([part.path for part in run.parts], reading)
    return ""


@contextmanager
def _or_without() -> Iterator[None]:
    """Adds what can be done where residuals that are damaged are damaged for good."""
    try:
        yield
    except LayerscopeError as error:
        raise LayerscopeError(f"{error}\nOr move its folder away: what needs residuals is then left out.") from error


def residual_differences(scored: Sequence[Scored], reading: str) -> Differences:
    """Of the questions that are analysed."""

    def differences(layer: int) -> NDArray[np.float32]:
        right, wrong = scored_residuals(scored, layer, reading).swapaxes(0, 1)
        found: NDArray[np.float32] = right - wrong
        return found

    return differences


def scored_residuals(scored: Sequence[Scored], layer: int, reading: str) -> NDArray[np.float32]:
    """The residuals of the questions that are analysed, without those of error lines and of lines that came since.

    Returns:
        [Q, 2, D]

    Raises:
        LayerscopeError: residuals are missing, or are not those that were written, or lines were computed once more
            since they were read.
    """
    found = []
    for path, has in scored:
        with _or_without():
            rows = read_residuals(path, layer, reading)[: len(has)]
        if len(rows) < len(has) or (np.isnan(rows[:, 0, 0]) == has).any():
            raise LayerscopeError(
                f"{path} was written anew while it was read, so that its residuals are not those of the lines.\n"
                "Run the same command again."
            )
        found.append(rows[has].astype(np.float32))
    return np.concatenate(found)


def dense_probes(differences: Differences, layers: Sequence[int], split: Split) -> Scores:
    """By layer the difference of means, and a ridge probe, for which every column has the same spread."""
    means, dense, aside = list[Probe | None](), list[Probe | None](), Aside(np.float64)
    for layer in layers:
        columns = differences(layer)
        means.append(mean_difference(columns, split).put(aside))
        spread = np.sqrt(np.square(columns[split.discovery], dtype=np.float64).mean(axis=0))
        dense.append(ridge(columns / np.where(spread > 0, spread, 1), split).put(aside))
    return {"means": means, "dense": dense}
