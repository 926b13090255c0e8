"""The arrays of a file of weights, whatever its format: what the formats' readers give, and by which names."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerscope.errors import LayerscopeError


class Stored(NamedTuple):
    """The arrays of an open file that are wanted, by our names."""

    shapes: Mapping[str, tuple[int, ...]]
    """As they stand in the file."""
    read: Callable[[str], NDArray[np.float32]]
    """An array as float32 in C order, with its shape in the file.

    Raises:
        LayerscopeError: the file is broken.
    """


def named(stored: Iterable[str], wanted: Collection[str], name: str) -> dict[str, str]:
    """By our names the names in a file of the arrays that are wanted, whichever of their letters are capitals.

    Raises:
        LayerscopeError: one is there twice.
    """
    ours, found = {key.lower(): key for key in wanted}, dict[str, str]()
    for stored_as in stored:
        key = ours.get(stored_as.lower())
        if key is None:
            continue
        if key in found:
            raise LayerscopeError(
                f"{name} holds {key} twice, and nobody can say which one counts. Save it with each array once."
            )
        found[key] = stored_as
    return found
