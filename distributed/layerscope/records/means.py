"""Files with what each feature is on average: what margins are attributed against where it is not nothing.

An `.npz` with an array for every layer, `layer_8`, of as many float32 as the layer's SAE has features.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from layerscope.errors import LayerscopeError, UsageError
from layerscope.files import replacing, user_path
from layerscope.questions.reading import Means

Floats = NDArray[np.float32]


def find_means(path: str, layers: Sequence[int], d_sae: int) -> Means:
    """The file of means of a run, which it fits.

    Raises:
        UsageError: there is none, or it is of other layers or SAEs.
    """
    file = user_path(path).absolute()
    if not file.is_file():
        raise UsageError(
            f"There is no file {file}, which --attribution-baseline names.\nlayerscope.write_means makes one."
        )
    means = Means(str(file), hashlib.sha256(file.read_bytes()).hexdigest())
    found = read_means(means, layers)
    if wrong := next((layer for layer in layers if found[layer].shape != (d_sae,)), None):
        raise UsageError(
            f"{file} has means of {found[wrong].size} features in layer {wrong}; the SAEs have {d_sae}.\n"
            "Take the means of a run with these SAEs."
        )
    return means


def read_means(means: Means, layers: Sequence[int]) -> dict[int, Floats]:
    """By layer what every feature is on average: [F], none below 0.

    Raises:
        LayerscopeError: the file is not the one that was found, or it is broken or lacks a layer.
    """
    try:
        content = Path(means.path).read_bytes()
    except OSError as error:
        raise LayerscopeError(
            f"{means.path} cannot be read: {error.strerror}.\n"
            "The means of --attribution-baseline must be on every node."
        ) from error
    if hashlib.sha256(content).hexdigest() != means.sha256:
        raise LayerscopeError(f"{means.path} was changed since the run began. Put it back as it was, and run again.")
    try:
        with np.load(means.path, allow_pickle=False) as arrays:
            found = {layer: np.asarray(arrays[f"layer_{layer}"], dtype=np.float32) for layer in layers}
    except (OSError, ValueError, KeyError, BadZipFile, EOFError) as error:
        raise UsageError(
            f"{means.path} has no means of layers {', '.join(map(str, layers))}: {str(error)[:100]}.\n"
            "layerscope.write_means makes a file of means from a run with the same layers."
        ) from error
    if not all(np.isfinite(of).all() and (of >= 0).all() for of in found.values()):
        raise UsageError(
            f"{means.path} has a mean that is below 0 or no number, which no activation is. Make it again."
        )
    return found


def save_means(path: Path, means: Mapping[int, Floats]) -> None:
    """Writes the means of every layer, in one atomic step."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **{f"layer_{layer}": of for layer, of in means.items()})  # type: ignore[arg-type]
