"""Where a run begins with its output file: at nothing, or behind what is known to be there."""

from bisect import bisect_left
from pathlib import Path

from msgspec import UnsetType

from layerscope.files import sync_folder
from layerscope.records.extent import MARK_BYTES, Extent
from layerscope.records.identity import Identity
from layerscope.records.manifest import FORMAT, FORMAT_OF_MANY, About, Manifest, write_manifest
from layerscope.records.marks import read_marks
from layerscope.records.order import write_order
from layerscope.records.run import Run
from layerscope.records.totals import Totals


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
    marks, extent = of_manifest[: MARK_BYTES * stretches], Extent(noted)
    whole = len(marks) == MARK_BYTES * stretches and extent.pass_over(run.path, noted, marks)
    return (extent, totals) if whole else at_the_beginning
