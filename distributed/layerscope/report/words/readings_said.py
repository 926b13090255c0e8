"""What a page of several readings says of them: which it shows, what each finds, what came of the control."""

from collections.abc import Sequence

import numpy as np

from layerscope.analysis.header import Header
from layerscope.analysis.method import READ_AT
from layerscope.analysis.result import Analysis, Contrast
from layerscope.formatting import count_of
from layerscope.report.words.untested import confirmed_in, why_untested

Read = tuple[Analysis, Contrast]
"""One reading's analysis, with the contrast of it that is shown."""


def reading_shown(header: Header, reading: str, on_page: Sequence[str]) -> str:
    """Which of a file's readings this is, where the others are, and what came of the control."""
    told = f"Here features are read {READ_AT[reading]} ({reading})."
    if elsewhere := [name for name in on_page if name != reading]:
        told += f" The page has {' and '.join(elsewhere)} too."
    elif others := [name for name in header.readings if name != reading]:
        told += f" The file has {', '.join(others)} too (--reading)."
    control = control_passed(header)
    return f"{told} Check passed: {control}." if control else told


def control_passed(header: Header) -> str:
    """That the solutions do not differ where they cannot; a file in which they do is refused before it gets here."""
    if "prompt" not in header.readings or not header.questions:
        return ""
    return (
        f"at the last token before the solution, which both share, both have the same features in all of "
        f"{count_of(header.questions, 'question')}"
    )


def control_verdict(header: Header) -> str:
    """What there is to say of the control alone."""
    passed = control_passed(header)
    return f"The control: no finding, as it must be; {passed}." if passed else "Not known: no question is scored."


def readings_title(reads: Sequence[Read]) -> str:
    """What the chart of all readings comes to."""
    contrast = reads[0][1]
    if all(why_untested(*read) for read in reads):
        return "Not known what any of the readings finds, for too few pairs that tell"
    return f"Features that tell {contrast.first} from {contrast.second}: {by_reading(reads)}"


def beside_verdict(reads: Sequence[Read], reading: str) -> str:
    """That an answer is one reading's, and what the others found; empty of one alone, or where none is known."""
    if len(reads) == 1 or all(why_untested(*read) for read in reads):
        return ""
    contrast = reads[0][1]
    if not any(why_untested(*read) or _confirmed(read) for read in reads):
        others = " and ".join(name for read in reads if (name := read[0].options.reading) != reading)
        return f" That is by {reading}; by {others} no feature tells {contrast.first} from {contrast.second} either."
    found = by_reading(reads)
    return f" That is by {reading} alone; features that tell {contrast.first} from {contrast.second}: {found}."


def by_reading(reads: Sequence[Read]) -> str:
    """How many features each reading finds, the most first."""
    found = sorted(reads, key=lambda read: -_confirmed(read))
    counts = [
        f"not known by {read[0].options.reading}"
        if why_untested(*read)
        else f"{_confirmed(read):,} by {read[0].options.reading}"
        for read in found
    ]
    return ", ".join(counts)


def grown(reads: Sequence[Read]) -> str:
    """That a run went on while its readings were read one after the other; empty where it did not."""
    counts = {analysis.options.reading: analysis.header.questions for analysis, _ in reads}
    if len(set(counts.values())) == 1:
        return ""
    told = ", ".join(f"{name} of {count:,}" for name, count in counts.items())
    return f"The run went on meanwhile, so the readings are not of the same questions: {told}."


def lane_title(read: Read) -> str:
    """One reading in a line, over its bars."""
    analysis, contrast = read
    name = analysis.options.reading
    if why_untested(analysis, contrast):
        return f"{name}: not known, too few pairs"
    auroc = contrast.held_out.auroc
    best = "" if np.isnan(auroc).all() else f" · best AUROC {np.nanmax(auroc):.2f}"
    return f"{name}: {_confirmed(read):,} confirmed{best}"


def said_of_cell(read: Read, index: int) -> str:
    """One layer of one reading in a line."""
    analysis, contrast = read
    auroc = contrast.held_out.auroc[index]
    told = (
        f"{analysis.options.reading}, layer {analysis.layers.layer[index]}: "
        f"{confirmed_in(contrast.firing_by_layer, index)} confirmed to fire more often for one solution"
    )
    return told if np.isnan(auroc) else f"{told}, held-out AUROC {auroc:.2f}"


def _confirmed(read: Read) -> int:
    return int(read[1].firing_by_layer.confirmed.sum())
