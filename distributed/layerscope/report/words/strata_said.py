"""What becomes of confirmed features where all is done again on less, in words."""

from layerscope.analysis.result import Contrast
from layerscope.analysis.testing.stratum import Stratum
from layerscope.formatting import count_of
from layerscope.report.words.untested import is_untested


def strata_title(contrast: Contrast) -> str:
    confirmed = int(contrast.firing.confirmed.sum())
    if is_untested(contrast):
        return f"{contrast.name.capitalize()}: nothing could be confirmed for want of pairs, so nothing is tried again"
    if not confirmed:
        return f"{contrast.name.capitalize()}: nothing is confirmed, so there is nothing to try again"
    survive = {stratum.name: _survive(stratum, confirmed) for stratum in contrast.strata}
    return (
        f"{contrast.name.capitalize()}: of {count_of(confirmed, 'feature')} confirmed to fire more often, "
        f"{survive['same final token']} where both solutions end in the same token, "
        f"{survive['full stop']} where both end in a full stop, "
        f"{survive['without dense features']} without dense features"
    )


def _survive(stratum: Stratum, confirmed: int) -> str:
    tested = confirmed - stratum.firing.untested
    if not tested:
        return "none could be tested"
    kept = stratum.firing.kept
    return f"{kept:,}{'' if tested == confirmed else f' of {tested:,} tested'} {'survives' if kept == 1 else 'survive'}"


STRATA = {
    "same final token": "both solutions end in the same token",
    "full stop": "both solutions end in a full stop",
    "lists not cut": "neither list is cut at k",
    "without dense features": "features in more than 10 % of lists left out",
}
"""What a stratum is, by its name."""
