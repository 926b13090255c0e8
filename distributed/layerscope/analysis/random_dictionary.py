"""A random dictionary beside the SAEs': as many features, each of which fires as often, and none of them learnt.

A random feature is a direction drawn from a Gaussian, the same in every axis, whose activation is relu(w · x - t), x
being the residual that the SAE read. Its threshold t is where it fires at exactly as many of the solutions as its
counterpart among the SAE's features does above the limits of the lists. It is found on the very residuals of the file,
without the labels, so that no calibration stands in for them. How long w is changes neither which solutions it fires at
nor the order of its activations, which is all that the tests look at.

A run may have encoded a random dictionary itself (`tables/random_dictionary.py` makes one): then that is the one.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from tempfile import TemporaryFile
from typing import IO

import numpy as np
from numpy.typing import NDArray

from layerscope.analysis.baselines.residuals import scored_residuals
from layerscope.analysis.columns.arrays import Ints
from layerscope.analysis.columns.censoring import LayerPairs, pair_up
from layerscope.analysis.columns.lists import FeatureLists, Lists, StoredLists
from layerscope.analysis.columns.reading import Columns, reading
from layerscope.errors import LayerscopeError
from layerscope.records.line.dictionaries import RANDOM
from layerscope.records.reading.shards import Files

_FEATURES = 512  # multiplied at once; a direction depends on where its block of so many begins, so never change it


@contextmanager
def random_features(run: Columns, name: str, seed: int) -> Iterator[Columns]:
    """What the files would hold if their features were random ones.

    Raises:
        UsageError: there are no residuals of this reading beside them.
        LayerscopeError: residuals are missing, or are not those that were written.
    """
    with ExitStack() as stack:
        found: dict[int, IO[bytes]] = {}  # is asked for twice, and takes seconds a layer

        def lists(index: int) -> FeatureLists:
            if index not in found:
                residuals = scored_residuals(run.scored, run.layers[index], name)
                made = random_lists(residuals, pair_up(run.feature_lists(index).read()), (seed, run.layers[index]))
                found[index] = stack.enter_context(TemporaryFile())
                for column in vars(made).values():
                    np.save(found[index], column)
            found[index].seek(0)
            return FeatureLists(*(np.load(found[index]) for _ in range(4)))

        yield replace(run, feature_lists=lists)


@contextmanager
def recorded_features(files: Files, name: str, run: Columns) -> Iterator[Columns]:
    """What the run's own random dictionary has, of the questions that were read.

    Args:
        name: of the reading.

    Raises:
        LayerscopeError: the file was written anew since it was read.
    """
    n = len(run.questions.example_id)
    with reading(files, name, lambda _: None, RANDOM) as random:
        if not np.array_equal(random.questions.example_id[:n], run.questions.example_id):
            raise LayerscopeError(f"{run.file} was written anew while it was read.\nRun the same command again.")

        def lists(index: int) -> Lists:
            of = random.feature_lists(index)  # of more questions, where the file grew meanwhile
            return of.of_first(n) if isinstance(of, StoredLists) else of

        yield replace(random, questions=run.questions, feature_lists=lists)


def random_lists(residuals: NDArray[np.float32], pairs: LayerPairs, seed: tuple[int, ...]) -> FeatureLists:
    """The lists of random features that fire as often as those of some pairs, none of them cut.

    Args:
        residuals: [Q, 2, D], of these pairs.
        seed: of the directions.
    """
    rows = residuals.reshape(-1, residuals.shape[2])
    firing = np.bincount(pairs.feature[pairs.positive > 0], minlength=len(pairs.feature_id))
    firing += np.bincount(pairs.feature[pairs.negative > 0], minlength=len(pairs.feature_id))
    solution, feature, activation = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for block in np.unique(pairs.feature_id[firing > 0] // _FEATURES).tolist():
        mine = np.flatnonzero((firing > 0) & (pairs.feature_id // _FEATURES == block))
        directions = np.random.default_rng((*seed, block)).standard_normal((_FEATURES, rows.shape[1]), np.float32)
        found = directions[pairs.feature_id[mine] % _FEATURES] @ rows.T  # [F, 2 Q]
        above = found - _thresholds(found, firing[mine])
        number, row = np.nonzero(above > 0)
        solution.append(row)
        feature.append(pairs.feature_id[mine][number])
        activation.append(above[number, row])
    return _lists(np.concatenate(solution), np.concatenate(feature), np.concatenate(activation), len(rows))


def _thresholds(found: NDArray[np.float32], firing: Ints) -> NDArray[np.float32]:
    """Above which so many of a row's numbers are, [F, 1]; fewer where equal ones lie at the border.

    Args:
        found: [F, N].
        firing: [F] from 1 to N.
    """
    below = found.shape[1] - firing - 1
    ascending = np.sort(found, axis=1)
    lowest = np.nextafter(ascending[:, 0], np.float32(-np.inf))
    return np.where(below >= 0, ascending[np.arange(len(found)), np.maximum(below, 0)], lowest)[:, None]


def _lists(solution: Ints, feature: Ints, activation: NDArray[np.float32], n_solutions: int) -> FeatureLists:
    order = np.lexsort((feature, -activation, solution))
    listed = np.bincount(solution, minlength=n_solutions).reshape(-1, 2)
    return FeatureLists(feature[order], activation[order], listed, listed)
