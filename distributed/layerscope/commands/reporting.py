"""`layerscope report`: the page of one run, of two side by side, or of the runs in a folder, by what is named."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from layerscope.config import FIRST
from layerscope.errors import UsageError
from layerscope.formatting import listed
from layerscope.records.reading.folders import jobs_of, runs_in
from layerscope.records.reading.shards import Files, as_seen_by, read_run, user_paths, whose_lists


@dataclass(frozen=True)
class PageOptions:
    """As `layerscope report` takes them."""

    to: Path | None = None
    show: bool = False
    reading: str | None = None
    baseline_dictionary: bool = False
    dictionary: str = FIRST
    title: str = ""
    ablations: Sequence[Path] = ()
    all_features: bool = False

    def of_one_run(self) -> list[str]:
        """Those given that only the page of one run has a place for."""
        given = {
            "--baseline-dictionary": self.baseline_dictionary,
            "--ablations": self.ablations,
            "--all-features": self.all_features,
        }
        return [name for name, value in given.items() if value]

    def of_features(self) -> list[str]:
        """Those given that say whose features a page shows."""
        given = {"--reading": self.reading is not None, "--dictionary": self.dictionary != FIRST}
        return [name for name, value in given.items() if value]


def write_report(files: Sequence[Path], options: PageOptions) -> str:
    """Writes the page and says where it is.

    Raises:
        UsageError: what is named makes no page, or options are given that this page has no place for.
        LayerscopeError: a line is not a record, or the page cannot be written.
    """
    files = user_paths(files)
    if len(files) == 1 and files[0].is_dir() and len(runs := runs_in(files[0])) > 1:
        from layerscope.report.folder_page import folder_page

        _refuse([*options.of_one_run(), *options.of_features()], "a folder’s runs")
        return folder_page(files[0], runs, options.to, options.title, options.show)
    jobs = jobs_of(files)
    if len(jobs) == 1:
        from layerscope.report.page import report

        return report(jobs[0], **vars(options))
    if len(jobs) > 2:
        raise UsageError(
            f"A page is of one run or of two side by side; these files are of {len(jobs)} "
            f"({listed(str(job[0]) for job in jobs)}).\n"
            "Name one run's file, the shards of one job, two runs, or a folder, whose page lists its runs."
        )
    _refuse(options.of_one_run(), "two runs")
    return _side_by_side(jobs[0], jobs[1], options)


def _side_by_side(a: Files, b: Files, options: PageOptions) -> str:
    from layerscope.report.side_by_side import side_by_side
    from layerscope.tables.compare import compare

    found = compare(a, b, options.reading or "final", options.dictionary)
    runs = read_run(a), read_run(b)
    one, other = whose_lists(runs, options.dictionary)
    seen = as_seen_by(runs[0], one), as_seen_by(runs[1], other)
    return side_by_side(found, seen, (one, other), options.to, options.title, options.show)


def _refuse(given: list[str], what: str) -> None:
    if given:
        raise UsageError(f"{', '.join(given)}: only for the page of one run, and this is of {what}.\nLeave it out.")
