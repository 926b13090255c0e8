"""Where a run begins with its output file: at nothing, or behind what is known to be there."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import UnsetType
from msgspec.structs import replace

from layerscope.files import sync_folder
from layerscope.records.manifest.fingerprints import Fingerprint
from layerscope.records.manifest.identity import Identity
from layerscope.records.manifest.manifest import FORMAT, FORMAT_OF_MANY, About, Manifest, write_manifest
from layerscope.records.manifest.order import write_order
from layerscope.records.reading.run import Run
from layerscope.records.storage.addresses import is_address
from layerscope.records.totals import Totals
from layerscope.records.writing.extent import MARK_BYTES, Extent
from layerscope.records.writing.marks import read_marks


def begun(path: Path, identity: Identity, about: About) -> Manifest:
    """The manifest of a file without a line, which is on the disk, as the order of its lines is.

    Raises:
        LayerscopeError: it cannot be written.
        OSError: the folder cannot be synced.
    """
    many = bool(about.order_xxh3)
    if many:
        write_order(path, about.example_ids)
    manifest = Manifest(format=FORMAT_OF_MANY if many else FORMAT, identity=identity, about=about)
    write_manifest(path, manifest)
    if not is_address(path):
        sync_folder(path.parent)
    return manifest


def passed_over(run: Run) -> tuple[Extent, Totals]:
    """The extent of what a file's manifest notes and what its lines come to: their bytes are held against the digest
    there, and none is parsed. The beginning of the file where something is off, or must be looked for line by line.

    Raises:
        LayerscopeError: the marks beside the file cannot be read.
        OSError: the file cannot be read.
    """
    known, noted = run.manifest, run.manifest.progress
    at_the_beginning = Extent(noted), Totals()
    if isinstance(noted, UnsetType) or (totals := Totals.noted(noted)) is None:
        return at_the_beginning
    if totals.errors and known.identity.settings.residuals:
        return at_the_beginning  # the rows of errors are mended
    stretches = bisect_left([0, *known.about.batch_ends], noted.lines) if known.packed else noted.lines
    of_manifest = bytes.fromhex(noted.running) if known.lists_lines else read_marks(run.path, noted)
    if is_address(run.path) and not known.lists_lines:
        of_manifest = bytes(MARK_BYTES * stretches)  # which nothing keeps: of parts that never change
    marks, extent = of_manifest[: MARK_BYTES * stretches], Extent(noted)
    whole = len(marks) == MARK_BYTES * stretches and extent.pass_over(run.path, noted, marks)
    return (extent, totals) if whole else at_the_beginning


def joined(totals: Totals | None, more: Totals | None) -> Totals | None:
    """What lines come to with those behind them, which is not known any more where that of these is not."""
    if totals is None or more is None:
        return None
    totals.join(more)
    return totals


def with_computed(
    known: Manifest, halved: Iterable[int], fingerprints: Mapping[str, Fingerprint], clamped: Iterable[int]
) -> Manifest:
    """A manifest that notes how lines were computed as well: see `Journal.note_computed`."""
    return replace(
        known,
        halved_batches=list(dict.fromkeys([*known.halved_batches, *halved])),
        clamped_batches=list(dict.fromkeys([*known.clamped_batches, *clamped])),
        fingerprints=dict(fingerprints),
    )
