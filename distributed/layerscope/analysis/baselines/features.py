"""What the features of a dictionary say of every pair, collected layer by layer in the two passes of the analysis."""

from dataclasses import dataclass, field

import numpy as np

from layerscope.analysis.baselines.measuring import discovery_auroc
from layerscope.analysis.baselines.ridge import Probe, Scores
from layerscope.analysis.baselines.sparse_probes import SIZES, sparse_probes
from layerscope.analysis.baselines.split import Split
from layerscope.analysis.columns.arrays import Floats
from layerscope.analysis.columns.censoring import Paired
from layerscope.analysis.columns.spilling import Aside


@dataclass
class FeatureScores:
    """The SAEs', or a random dictionary's; nothing is kept where there are too few goal groups."""

    split: Split | None
    _sparse: list[list[Probe]] = field(default_factory=list)
    _selected: list[Probe | None] = field(default_factory=list)
    _aside: Aside = field(default_factory=lambda: Aside(np.float64))

    def add_layer(self, pairs: Paired) -> None:
        """What few features of the next layer say."""
        if self.split is not None:
            self._sparse.append([probe.put(self._aside) for probe in sparse_probes(pairs, self.split)])

    def add_selected(self, difference: Floats | None) -> None:
        """What the selected features of the next layer say, [Q]; None where there is none.

        They were selected on all of the discovery half, so how well they do there serves to choose a layer alone.
        """
        if self.split is not None:
            known = None if difference is None else Probe(difference, discovery_auroc(difference, self.split))
            self._selected.append(known and known.put(self._aside))

    def of_saes(self) -> Scores:
        """By the names of `result.NAMES`."""
        of_sizes = {f"sparse-{size}": [probes[n] for probes in self._sparse] for n, size in enumerate(SIZES)}
        return {"selected": self._selected, **of_sizes}

    def of_random(self) -> Scores:
        """The same of a random dictionary."""
        largest = max(SIZES)
        return {
            "random": self._selected,
            f"random-{largest}": [probes[SIZES.index(largest)] for probes in self._sparse],
        }
