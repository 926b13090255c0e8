"""A random dictionary for a run: as many features as its SAEs have, each of which fires as often, and none learnt.

A random feature is a direction drawn from a Gaussian, the same in every axis, whose activation is relu(w · x - t), x
being what the SAE reads. Its t is where it fires at exactly as many of a sample's solutions as its counterpart of the
same id does, half way to the next (two that lie nearer than float32 rounds may change sides). All w of a layer are
multiplied by one number, with which its features are as active there on average as the SAE's. Labels are not looked at.

Shapes: R rows (solutions), D d_model, F d_sae.
"""

import re
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerscope.errors import UsageError
from layerscope.files import replacing, user_path
from layerscope.records.line.record import Record
from layerscope.records.reading.residuals import read_residuals
from layerscope.records.reading.run import Run
from layerscope.records.reading.shards import open_run
from layerscope.tables.reading import read_records

_FEATURES = 512  # drawn at once; a direction depends on where its block of so many begins, so never change it

Floats = NDArray[np.float32]


class _Fired(NamedTuple):
    """How the features of a layer fired over the sample."""

    times: NDArray[np.int64]  # [F]
    activations: list[float]
    """The sum of those of every solution."""


def write_random_dictionary(
    path: str | PathLike[str], to: str | PathLike[str], seed: int = 0, reading: str = "final"
) -> Path:
    """Writes random SAEs that fire as often as a run's, for `--dictionary random=FOLDER`; gives the folder.

    A run with that dictionary encodes it in the same pass, and its report says what random features reach beside what
    the SAEs' do.

    Args:
        path: of the output file of a run with every active feature and the residuals: `--top-k all --residuals
            float32`. A sample of some hundred questions is enough.
        to: a folder, that is empty or not there. A layer's file is as large as the encoder half of its SAE.
        seed: of the directions.
        reading: at which features fire as often, one of the run's but `max`.

    Raises:
        UsageError: there is no such file, it has not every active feature or no residuals of the reading, its SAEs read
            another site than the residual stream after a layer, it holds no scored question, or `to` holds something.
        LayerscopeError: a line is not a record, or residuals are missing or not those that were written.
    """
    run = open_run(user_path(str(path)))
    folder = user_path(str(to))
    settings, about = run.manifest.identity.settings, run.manifest.about
    if settings.top_k != "all" or settings.residuals is None or settings.site != "resid_post":
        raise UsageError(
            f"{run.path} has not every feature that fires and the residual stream after its layers beside it.\n"
            "Run with --top-k all --residuals float32 (and SAEs of resid_post), over a sample of the questions."
        )
    run.check_reading(reading)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"to: {folder} is there already, and holds something.\nName another folder.")
    read_residuals(run.path, about.layers[0], reading)  # before the time that reading takes
    fired, scored = _fired(run, reading)
    if not any(scored):
        raise UsageError(f"{run.path} holds no scored question yet, so nothing is known of how often features fire.")
    width = settings.sae_width if re.fullmatch(r"\d+[km]?", settings.sae_width) else str(about.d_sae)
    for layer, of_layer in zip(about.layers, fired, strict=True):
        rows = read_residuals(run.path, layer, reading)[: len(scored)][np.array(scored)].astype(np.float32)
        arrays = random_sae(rows.reshape(-1, rows.shape[2]), of_layer.times, sum(of_layer.activations), (seed, layer))
        l0 = round(of_layer.times.sum() / (2 * sum(scored)))
        target = folder / f"layer_{layer}" / f"width_{width}" / f"average_l0_{l0}" / "params.npz"
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **arrays)
    return folder


def _fired(run: Run, reading: str) -> tuple[list[_Fired], list[bool]]:
    """By layer how features fired, and of every line whether it is of a scored question."""
    d_sae = run.manifest.about.d_sae
    fired = {layer: _Fired(np.zeros(d_sae, np.int64), []) for layer in run.manifest.about.layers}
    scored = list[bool]()
    for _, record in read_records(run):
        scored.append(isinstance(record, Record))
        for details in record.solutions if isinstance(record, Record) else ():
            for layer, features in details.reading(reading).active_features_by_layer.items():
                fired[layer].times[[feature.feature_id for feature in features]] += 1
                fired[layer].activations.append(sum(feature.activation for feature in features))
    return list(fired.values()), scored


def random_sae(rows: Floats, times: NDArray[np.int64], total: float, seed: tuple[int, ...]) -> dict[str, Any]:
    """The arrays of a JumpReLU SAE's encoder whose features are random.

    Args:
        rows: [R, D]
        times: [F]; at how many of the rows each feature is to fire.
        total: what all activations together are to come to there.
    """
    d_sae = len(times)
    w_enc, b_enc = np.empty((rows.shape[1], d_sae), np.float32), np.empty(d_sae, np.float32)
    above = 0.0
    for first in range(0, d_sae, _FEATURES):
        block = np.random.default_rng((*seed, first // _FEATURES)).standard_normal(
            (_FEATURES, rows.shape[1]), np.float32
        )
        mine = slice(first, min(first + _FEATURES, d_sae))
        directions = block[: mine.stop - first]
        found = directions @ rows.T  # [f, R]
        borders = _borders(found, times[mine])
        above += float(np.maximum(found - borders[:, None], 0).sum(dtype=np.float64))
        w_enc[:, mine], b_enc[mine] = directions.T, -borders
    length = np.float32(total / above if above else 1.0)
    return {"W_enc": w_enc * length, "b_enc": b_enc * length, "threshold": np.zeros(d_sae, np.float32)}


def _borders(found: Floats, times: NDArray[np.int64]) -> Floats:
    """Above which so many of a feature's numbers are, [f]: half way between two; of equal ones both are below.

    Args:
        found: [f, R]
        times: [f], from 0 to R.
    """
    descending = -np.sort(-found, axis=1)
    beyond = (descending[:, :1] - descending[:, -1:]) / 2 + 1
    fenced = np.concatenate([descending[:, :1] + beyond, descending, descending[:, -1:] - beyond], axis=1)
    at = np.arange(len(found))
    borders: Floats = (fenced[at, times] + fenced[at, times + 1]) / 2
    return borders
