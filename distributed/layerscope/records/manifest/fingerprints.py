"""The bits that a small fixed computation gives where a run computes: what names of hardware and versions do not tell.

One processor's name stands for several instruction sets, a variable changes a library's algorithm: no list of names is
whole. So each actor computes the same small thing when it has loaded, with its own weights, and numbers of one file
come only from actors that get the same bits.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct


class Fingerprint(Struct, frozen=True, kw_only=True):
    """Of one kind of processor or GPU."""

    digests: dict[str, str]
    """By what was computed: `model`, or `sae 12` for the SAE of a layer, `sae 12 of wide` of a further dictionary."""
    circumstances: dict[str, str]
    """What is known to change such bits, where they were first taken; for people."""


class Fingerprints:
    """All that a file's numbers were computed under, by kind of processor or GPU; grows as actors load.

    Args:
        noted: what the manifest has; empty for a new file, and for those of 0.1.0.
    """

    def __init__(self, noted: Mapping[str, Fingerprint] = {}) -> None:
        self.noted = dict(noted)

    def admit(self, kind: str, taken: Fingerprint) -> bool:
        """Whether what an actor computed agrees with all that was noted of its kind; what is new is noted then."""
        known = self.noted.get(kind, Fingerprint(digests={}, circumstances=taken.circumstances))
        if any(known.digests.get(name, digest) != digest for name, digest in taken.digests.items()):
            return False
        if not taken.digests.keys() <= known.digests.keys():
            digests = {**known.digests, **taken.digests}
            self.noted[kind] = Fingerprint(digests=digests, circumstances=known.circumstances)
        return True

    def differences(self, kind: str, taken: Fingerprint) -> str:
        """What is known to differ between an actor that was not admitted and those before it, for people."""
        before, now = self.noted[kind].circumstances, taken.circumstances
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        told = [f"{name} was {before.get(name, 'not set')}, is {now.get(name, 'not set')}" for name in names]
        return "; ".join(told) or f"none of {', '.join(now)} differs"


def computed_otherwise(several: Iterable[Mapping[str, Fingerprint]]) -> list[str]:
    """What says that numbers of several files have other last digits on one kind of processor or GPU, for people."""
    together, told = Fingerprints(), []
    for of_file in several:
        for kind, taken in of_file.items():
            if not together.admit(kind, taken):
                told.append(f"last digits on {kind} are others: {together.differences(kind, taken)}")
    return list(dict.fromkeys(told))
