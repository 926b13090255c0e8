"""Two runs, A and B, and what each one's features say of right and wrong, laid out on the layers of both."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from layerscope.analysis.columns.arrays import Ints
from layerscope.analysis.findings import FoundFiring
from layerscope.records.line.dictionaries import FIRST
from layerscope.records.reading.run import Run


@dataclass(frozen=True)
class Side:
    """One of the two."""

    letter: str
    run: Run
    found: FoundFiring
    page: str = ""
    """The address of its own report, where there is one."""
    dictionary: str = FIRST
    """Whose lists are looked at; the run is as it sees it."""

    @property
    def saes(self) -> str:
        """Where they are from, where they read, and which of the run's dictionaries they are, for people."""
        site = self.run.manifest.identity.settings.site
        at = "" if site == "resid_post" else f", read at {site}"
        return f"{self.run.manifest.saes}{at}{'' if self.dictionary == FIRST else f' ({self.dictionary})'}"

    def index(self, layer: int) -> int | None:
        """The place of a layer among its own; None where it has none."""
        places = np.flatnonzero(self.found.layers.layer == layer)
        return int(places[0]) if len(places) else None

    @property
    def confirmed(self) -> int:
        """Features that fire more often for one solution, selected on one half and confirmed on the other."""
        return int(self.found.contrast.firing_by_layer.confirmed.sum())

    def confirmed_in(self, layer: int) -> dict[int, bool]:
        """Those of a layer, and whether each fires more often for the right solution."""
        firing, features = self.found.contrast.firing, self.found.features
        rows = np.flatnonzero(firing.confirmed & (features.layer == layer))
        return {int(features.feature_id[row]): bool(firing.validation.z[row] > 0) for row in rows}

    def counts(self, layers: Sequence[int]) -> tuple[Ints, Ints]:
        """[L] confirmed features for the right solution and for the wrong one."""
        ways = [list(self.confirmed_in(layer).values()) for layer in layers]
        return np.array([sum(way) for way in ways]), np.array([len(way) - sum(way) for way in ways])


@dataclass(frozen=True)
class Sides:
    a: Side
    b: Side
    same: dict[int, float | None]
    """The layers with the same SAE in both: mean Jaccard index of a solution's two lists, None where all are empty."""
    same_interval: dict[int, list[float] | None] = field(default_factory=dict)
    """Of these the 95 % interval, by goal group."""

    @property
    def both(self) -> tuple[Side, Side]:
        return self.a, self.b

    @cached_property
    def layers(self) -> list[int]:
        """Of either."""
        return sorted({int(layer) for side in self.both for layer in side.found.layers.layer})

    def shared(self, layer: int) -> int | None:
        """Features confirmed in both, for the same solution; None where the SAEs are others."""
        if layer not in self.same:
            return None
        a, b = (side.confirmed_in(layer) for side in self.both)
        return sum(b.get(feature) is way for feature, way in a.items())
