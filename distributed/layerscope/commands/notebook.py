"""A run in a notebook: its tables, its findings, its charts, each read when it is asked for and kept.

Wraps what the commands use and adds no number of its own.
"""

from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

import pyarrow as pa

from layerscope.config import FIRST
from layerscope.errors import LayerscopeError, UsageError, did_you_mean
from layerscope.records.reading.residuals import read_residuals
from layerscope.records.reading.run import Run
from layerscope.records.reading.seen import check_dictionary
from layerscope.records.reading.shards import as_seen_by, read_run, user_paths
from layerscope.tables.ablations import read_ablations
from layerscope.tables.means import write_means
from layerscope.tables.random_dictionary import write_random_dictionary
from layerscope.tables.reading import (
    read_attribution_terms,
    read_attributions,
    read_features,
    read_questions,
)

if TYPE_CHECKING:
    import pandas
    import polars

    from layerscope.records.manifest.manifest import Manifest
    from layerscope.report.analysed import Analysed
    from layerscope.report.charts.figures import Figure
    from layerscope.report.run_report import RunReport
    from layerscope.report.summary import Summary

__all__ = [
    "LoadedRun",
    "load",
    "read_ablations",
    "read_attribution_terms",
    "read_attributions",
    "read_features",
    "read_questions",
    "read_residuals",
    "write_means",
    "write_random_dictionary",
]

T = TypeVar("T")
"""A table, as `frames` asks for it."""
Name = str | PathLike[str]


class LoadedRun(Generic[T]):
    """The records of a run, finished or growing. What was once read is kept; `load` anew to see what came since."""

    def __init__(self, run: Run, frame: Callable[[pa.Table], T]) -> None:
        """
        Args:
            frame: makes what is asked for of a table.
        """
        self._run, self._frame = run, frame
        self._of: dict[str, Analysed] = {}

    @property
    def files(self) -> list[Path]:
        """One, or those of the shards of one job."""
        return [part.path for part in self._run.parts]

    @property
    def manifest(self) -> "Manifest":
        """What decided the numbers: `manifest.identity.settings`, `.model`, `.saes`, `.software`; `manifest.about`."""
        return self._run.manifest

    @property
    def layers(self) -> list[int]:
        return self.manifest.about.layers

    @property
    def readings(self) -> tuple[str, ...]:
        """Which of a solution's tokens were read."""
        return self._run.readings

    @property
    def dictionaries(self) -> tuple[str, ...]:
        """The names of its sets of SAEs; `first` are those of `--sae-repo`."""
        return FIRST, *self.manifest.dictionaries

    @cached_property
    def summary(self) -> "Summary":
        """What was run, how far it is, and how often the model is right."""
        from layerscope.report.summary import summarise

        return summarise(self._run, self._questions)

    def questions(self) -> T:
        """A row for every question: texts, scores, margin, whether the model is right. See `read_questions`."""
        return self._frame(self._questions)

    def features(self, layers: Collection[int] | None = None, top_k: int | None = None, dictionary: str = FIRST) -> T:
        """A row for every feature that a solution's lists name, about 22 bytes each. See `read_features`.

        Args:
            layers: only these.
            top_k: only so many of the strongest of each solution and layer.
            dictionary: whose, of a run with several.
        """
        return self._frame(read_features(self._run, layers, top_k, dictionary))

    def findings(
        self, contrast: str = "right", reading: str = "final", every: bool = False, dictionary: str = FIRST
    ) -> T:
        """A row for every feature that tells the solutions apart and was confirmed, the surest first.

        Args:
            contrast: `right` (the right solution against the wrong one) or `chosen` (the one that the model chooses
                against the other); of questions with more than two solutions `mean` too, the right one against the
                mean of the wrong ones, where the run has the features of all (`--all-solutions`).
            reading: whose features.
            every: all features that were tested.
            dictionary: of which SAEs.
        """
        return self._frame(self._analysed(dictionary).findings(contrast, reading, every))

    def attributions(self, layers: Collection[int] | None = None, top_k: int | None = None) -> T:
        """How far each feature moves each question's margin, where the run attributed it. See `read_attributions`."""
        return self._frame(read_attributions(self._run, layers, top_k))

    def residuals(self, layer: int, reading: str = "final") -> Any:
        """The residual stream at a layer, [questions, 2, d_model], where the run kept it. See `read_residuals`."""
        return read_residuals(self.files, layer, reading)

    def figure(self, name: str, contrast: str = "right", reading: str = "final", dictionary: str = FIRST) -> "Figure":
        """A chart of the report as an SVG: shown by a notebook, written by `.save("x.svg")`.

        Args:
            name: `depth` (layer by layer: what fires, how surely), `features` (each layer's surest), `margins`,
                `lengths` (accuracy by difference in length), `baselines` (features beside simpler explanations) or,
                of a run with several of them, `readings` or `dictionaries` (what each finds).
            contrast: `right` or `chosen`, as in `findings`.
        """
        return self._analysed(dictionary).figure(name, contrast, reading)

    def report(self, contrast: str = "right", reading: str = "final", dictionary: str = FIRST) -> "RunReport":
        """The report: its beginning is shown by a notebook, `.save()` writes the whole page."""
        return self._analysed(dictionary).report(contrast, reading)

    def __repr__(self) -> str:
        return f"layerscope.load({', '.join(repr(str(path)) for path in self.files)})"

    def _repr_html_(self) -> str:
        return self.summary._repr_html_()

    @cached_property
    def _questions(self) -> pa.Table:
        return read_questions(self._run)

    def _analysed(self, dictionary: str) -> "Analysed":
        """Takes seconds at its first use, of a large file minutes."""
        from layerscope.report.analysed import Analysed

        check_dictionary(self._run, dictionary)
        if dictionary not in self._of:
            self._of[dictionary] = Analysed(as_seen_by(self._run, dictionary), dictionary)
        return self._of[dictionary]


@overload
def load(files: Name | Sequence[Name], frames: Literal["pandas"] = "pandas") -> "LoadedRun[pandas.DataFrame]": ...
@overload
def load(files: Name | Sequence[Name], frames: Literal["polars"]) -> "LoadedRun[polars.DataFrame]": ...
@overload
def load(files: Name | Sequence[Name], frames: Literal["arrow"]) -> LoadedRun[pa.Table]: ...
def load(files: Name | Sequence[Name], frames: str = "pandas") -> LoadedRun[Any]:
    """Opens a run for a notebook; reads nothing of it yet but its manifest.

    Args:
        files: the output file of a run, finished or growing, those of the shards of one job, or a folder with either.
        frames: what tables are given as: `pandas`, `polars` or `arrow`.

    Raises:
        UsageError: there is no such file, several are not shards of one job, or there are no such
            frames.
    """
    if frames not in list(_FRAMES):
        raise UsageError(
            f"There are no frames {frames!r}. There are {', '.join(_FRAMES)}.{did_you_mean(frames, _FRAMES)}"
        )
    return LoadedRun(read_run(user_paths(files)), _FRAMES[frames])


def _pandas(table: pa.Table) -> Any:
    return table.to_pandas()


def _polars(table: pa.Table) -> Any:
    try:
        import polars
    except ModuleNotFoundError as error:
        raise LayerscopeError(
            "polars is not installed, and frames='polars' needs it.\nInstall it, or leave frames out."
        ) from error
    return polars.from_arrow(table)


def _arrow(table: pa.Table) -> pa.Table:
    return table


_FRAMES: dict[str, Callable[[pa.Table], Any]] = {"pandas": _pandas, "polars": _polars, "arrow": _arrow}
