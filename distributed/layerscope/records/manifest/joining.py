"""What the file of a run without parts would say of itself, from the manifests of its parts."""

from collections.abc import Sequence
from itertools import accumulate, chain

import numpy as np
from msgspec import UNSET
from msgspec.structs import replace

from layerscope.records.manifest.manifest import FORMAT, FORMAT_OF_MANY, Manifest
from layerscope.records.manifest.order import digest_of_many, listed
from layerscope.records.reading.run import Run


def whole_manifest(parts: Sequence[Run]) -> Manifest:
    """The manifest of the file that all parts of a run make, in their order; it notes no line. That of one file is its
    own."""
    manifests = [part.manifest for part in parts]
    first, identity = manifests[0], manifests[0].identity
    if len(parts) == 1:
        return first
    plans = [each.identity.plan for each in manifests]
    begun = [0, *accumulate(plan.batches for plan in plans)]
    example_ids = np.concatenate([np.asarray(each.about.example_ids, dtype=np.int64) for each in manifests])
    about = replace(
        first.about,
        order=listed(example_ids),
        order_xxh3=digest_of_many(example_ids),
        batches=" ".join(each.about.batches for each in manifests if each.about.batches),
    ).with_order(example_ids)

    def numbered(batches: Sequence[Sequence[int]]) -> list[int]:
        return [before + batch for before, of_part in zip(begun, batches, strict=False) for batch in of_part]

    return replace(
        first,
        format=FORMAT_OF_MANY if about.order_xxh3 else min(first.format, FORMAT),
        identity=replace(
            identity,
            settings=replace(identity.settings, shard=None),
            plan=replace(identity.plan, questions=len(example_ids), batches=begun[-1]),
        ),
        about=about,
        progress=UNSET,
        halved_batches=numbered([each.halved_batches for each in manifests]),
        clamped_batches=numbered([each.clamped_batches for each in manifests]),
        fingerprints=dict(chain.from_iterable(each.fingerprints.items() for each in reversed(manifests))),
    )
