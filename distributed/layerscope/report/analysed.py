"""The readings of a run, each analysed when it is asked for and once: its findings, its charts, its report."""

from functools import cached_property

import pyarrow as pa

from layerscope.analysis.dictionaries import Dictionary, dictionaries_by_depth
from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Analysis, Options
from layerscope.neuronpedia.explanations import load_explanations
from layerscope.records.reading.run import Run
from layerscope.report.charts.figures import Figure, contrast_of, figure
from layerscope.report.findings import findings
from layerscope.report.run_report import RunReport
from layerscope.report.sections.feature_tables import Descriptions
from layerscope.report.sections.mean_section import mean_findings


class Analysed:
    """What the report says of a run, for notebooks."""

    def __init__(self, run: Run, dictionary: str) -> None:
        """
        Args:
            run: as this dictionary of it sees it.
        """
        self._run, self._dictionary = run, dictionary
        self._files = [part.path for part in run.parts]
        self._found: dict[str, Analysis] = {}
        self._several: dict[str, tuple[Dictionary, ...]] = {}

    def findings(self, contrast: str, reading: str, every: bool) -> pa.Table:
        analysis = self._of(reading)
        if contrast == "mean":
            return mean_findings(analysis, self._descriptions, every)
        return findings(analysis, contrast_of(analysis, contrast), self._descriptions, every)

    def figure(self, name: str, contrast: str, reading: str) -> Figure:
        others = [each for each in self._run.readings if each not in (reading, "prompt")] if name == "readings" else []
        analyses = [self._of(each) for each in (reading, *others)]
        return figure(name, analyses, contrast, self._beside(reading) if name == "dictionaries" else ())

    def report(self, contrast: str, reading: str) -> RunReport:
        analysis = self._of(reading)
        return RunReport(self._files, analysis, contrast_of(analysis, contrast).first, self._descriptions)

    def _of(self, reading: str) -> Analysis:
        self._run.check_reading(reading)
        if reading not in self._found:
            self._found[reading] = analyse(self._files, Options(reading=reading, dictionary=self._dictionary))
        return self._found[reading]

    def _beside(self, reading: str) -> tuple[Dictionary, ...]:
        if reading not in self._several:
            self._several[reading] = dictionaries_by_depth(self._run, self._of(reading), lambda _stage, _share: None)
        return self._several[reading]

    @cached_property
    def _descriptions(self) -> Descriptions:
        return load_explanations(self._run.manifest).by_layer
