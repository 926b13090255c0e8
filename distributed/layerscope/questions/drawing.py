"""In which order a seed draws rows; apart, so that readers of records need not know where questions lie."""

import hashlib

import numpy as np
from numpy.typing import NDArray


def ranked(population: int, seed: int) -> NDArray[np.int64]:
    """All row indices, in the order in which a larger and larger sample would take them."""
    keys = np.empty(population, dtype=np.uint64)
    for index in range(population):
        digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
        keys[index] = int.from_bytes(digest, "big")
    return np.argsort(keys, kind="stable").astype(np.int64)
