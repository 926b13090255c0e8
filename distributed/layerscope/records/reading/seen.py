"""A run as one of its dictionaries sees it: every reader of the first one's lists then reads any.

Lines and marks are the file's own, whoever looks; what is another one's are the records' lists and what the manifest
says of the SAEs.
"""

from collections.abc import Callable, Iterator
from functools import cached_property

from msgspec.structs import asdict, replace

from layerscope.config import FIRST
from layerscope.errors import UsageError, did_you_mean
from layerscope.records.line.dictionaries import seen_by
from layerscope.records.line.record import Record, Unscored
from layerscope.records.manifest.identity import SaeFiles
from layerscope.records.manifest.manifest import Manifest
from layerscope.records.reading.run import Run
from layerscope.records.writing.extent import Extent


class Seen(Run):
    """One file, with the lists, the SAEs and the pages of a further dictionary in place of the first one's."""

    def __init__(self, run: Run, dictionary: str) -> None:
        super().__init__(run.path, run.manifest)
        self.manifest = _manifest_of(run.manifest, dictionary)
        self.unnoted = run.unnoted
        self._run, self._dictionary = run, dictionary

    @property
    def notes(self) -> tuple[str, ...]:
        return self._run.notes

    @cached_property
    def first(self) -> Record | None:
        return None if self._run.first is None else seen_by(self._run.first, self._dictionary)

    def records(
        self,
        check: Callable[[Record], None] = lambda _: None,
        to_go_on: bool = False,
        extent: Extent | None = None,
    ) -> Iterator[tuple[bytes, Record | Unscored]]:
        for line, record in self._run.records(check, to_go_on, extent):
            self.bytes_read, self.stretch_begins = self._run.bytes_read, self._run.stretch_begins
            yield line, seen_by(record, self._dictionary) if isinstance(record, Record) else record


def check_dictionary(run: Run, name: str) -> None:
    """
    Raises:
        UsageError: the records have no such dictionary.
    """
    there = (FIRST, *run.manifest.dictionaries)
    if name not in there:
        raise UsageError(
            f"--dictionary {name}: {run.path} has {', '.join(there)}.{did_you_mean(name, there)}\n"
            f"Name one of these, or run again with --dictionary {name}=… and another --output-file."
        )


def _manifest_of(manifest: Manifest, name: str) -> Manifest:
    """What it would be if the run had this dictionary alone, for readers: nothing is held against it."""
    identity, about = manifest.identity, manifest.about
    saes = identity.other_dictionaries[name]
    same_rows = saes.site == identity.settings.site
    settings = replace(
        identity.settings,
        sae_width=saes.width,
        sae_l0=saes.l0,
        site=saes.site,
        residuals=identity.settings.residuals if same_rows else None,
        attribution=None,
    )
    own = SaeFiles(repository=saes.repository, commit=saes.commit, layers=saes.layers)
    as_read = dict(manifest.as_read)
    if "identity" in as_read:
        left_out = ("saes", "settings", "other_dictionaries")
        as_read["identity"] = {part: of for part, of in as_read["identity"].items() if part not in left_out}
    return replace(
        manifest,
        identity=replace(identity, settings=settings, saes=own, other_dictionaries={}),
        about=replace(about, **asdict(about.other_dictionaries[name]), other_dictionaries={}),
        as_read=as_read,
    )
