"""The findings as a table of numbers: what the page's tables of features show, unrounded, and all rows."""

import numpy as np
import pyarrow as pa

from layerscope.analysis.result import Analysis, Contrast
from layerscope.report.sections.feature_tables import Descriptions, columns, neuronpedia_url, ranked


def findings(analysis: Analysis, contrast: Contrast, descriptions: Descriptions, every: bool = False) -> pa.Table:
    """A row for each confirmed feature, the surest first; numbers that are not known are null.

    Args:
        every: all that were tested, not the confirmed alone.
    """
    tests = firing, magnitude = contrast.firing, contrast.magnitude
    confirmed, selected = (
        np.logical_or(*(getattr(test, name) for test in tests)) for name in ("confirmed", "selected")
    )
    rows = ranked(contrast, np.arange(len(confirmed)) if every else np.flatnonzero(confirmed))
    layers, ids = (column[rows].tolist() for column in (analysis.features.layer, analysis.features.feature_id))
    of_features = list(zip(layers, ids, strict=True))
    pages = {sae.layer: sae.neuronpedia_id for sae in analysis.header.saes}
    described = [descriptions.get(layer, {}).get(feature_id) for layer, feature_id in of_features]
    numbers = [  # as `columns` names them
        contrast.first_fires,
        contrast.second_fires,
        firing.everything.first_only,
        firing.everything.second_only,
        firing.discovery.effect,
        firing.validation.effect,
        firing.discovery.q,
        firing.validation.q,
        magnitude.everything.mean_difference,
        magnitude.discovery.effect,
        magnitude.validation.effect,
        magnitude.discovery.q,
        magnitude.validation.q,
        analysis.features.density,
    ]
    named = zip((column.csv for column in columns(contrast)), numbers, strict=True)
    return pa.table(
        {
            "layer": pa.array(layers, pa.int16()),
            "feature_id": pa.array(ids, pa.int32()),
            "state": pa.array(
                ["confirmed" if confirmed[row] else "selected" if selected[row] else "" for row in rows], pa.string()
            ),
            **{name: pa.array(values[rows], from_pandas=True) for name, values in named},
            "description": pa.array([each and each.description for each in described], pa.string()),
            "url": pa.array([neuronpedia_url(pages[layer], id_) for layer, id_ in of_features], pa.string()),
        }
    )
