"""Every feature that was tested, in a file beside the page, whose tables hold the surest alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from layerscope.analysis.result import Analysis
from layerscope.errors import LayerscopeError
from layerscope.files import replacing
from layerscope.records.writing.targets import begins_with, check_target
from layerscope.report.findings import findings
from layerscope.report.sections.feature_tables import Descriptions

_BEGINNING = b'"reading","contrast",'


def features_beside(page: Path) -> Path:
    """The file that goes with a page; one that is there is replaced, anything else is not.

    Raises:
        UsageError: something else is there.
    """
    return check_target("--all-features", page.with_suffix(".features.csv"), own=begins_with(_BEGINNING))


def write_all_features(to: Path, analyses: Sequence[Analysis], descriptions: Descriptions) -> None:
    """A row for each feature of each reading and contrast, the surest first; `first` and `second` are as the contrast
    names them: right and wrong, or chosen and rejected.

    Raises:
        LayerscopeError: it cannot be written.
    """
    try:
        with replacing(to) as temporary:
            csv.write_csv(pa.concat_tables(_tables(analyses, descriptions)), temporary)
    except OSError as error:
        raise LayerscopeError(f"{to} cannot be written: {error.strerror or error}.") from error


def _tables(analyses: Sequence[Analysis], descriptions: Descriptions) -> Iterator[pa.Table]:
    for analysis in analyses:
        for contrast in (analysis.right_wrong, analysis.chosen_rejected):
            table = findings(analysis, contrast, descriptions, every=True)
            names = [
                name.replace(f"{contrast.first}_", "first_").replace(f"{contrast.second}_", "second_")
                for name in table.column_names
            ]
            table = table.rename_columns(names)
            for column, value in (("contrast", contrast.name), ("reading", analysis.options.reading)):
                table = table.add_column(0, column, pa.array([value] * len(table), pa.string()))
            yield table
