"""What becomes of confirmed features where all is done again on less, in words."""

from layerscope.analysis.result import Contrast
from layerscope.analysis.testing.stratum import Survival
from layerscope.formatting import count_of
from layerscope.report.words.untested import is_untested


def strata_title(contrast: Contrast) -> str:
    """What becomes of the features confirmed to fire more often; where there is none, of those that are stronger."""
    name = contrast.name.capitalize()
    firing, strength = int(contrast.firing.confirmed.sum()), int(contrast.magnitude.confirmed.sum())
    if firing or strength:
        told = ", ".join(
            f"{_survive(stratum.firing if firing else stratum.magnitude, firing or strength)} {_WHERE[stratum.name]}"
            for stratum in contrast.strata
            if stratum.name in _WHERE
        )
        how = "fire more often" if firing else "be stronger on one side"
        return f"{name}: of {count_of(firing or strength, 'feature')} confirmed to {how}, {told}"
    if is_untested(contrast):
        return f"{name}: nothing could be confirmed for want of pairs, so nothing is tried again"
    return f"{name}: nothing is confirmed, so there is nothing to try again"


def _survive(survival: Survival, confirmed: int) -> str:
    tested = confirmed - survival.untested
    if not tested:
        return "none could be tested"
    kept = survival.kept
    return f"{kept:,}{'' if tested == confirmed else f' of {tested:,} tested'} {'survives' if kept == 1 else 'survive'}"


_WHERE = {
    "same final token": "where both solutions end in the same token",
    "full stop": "where both end in a full stop",
    "without dense features": "without dense features",
}
"""The strata of the title, as it goes on."""
STRATA = {
    "same final token": "both solutions end in the same token",
    "full stop": "both solutions end in a full stop",
    "lists not cut": "neither list is cut at k",
    "without dense features": "features in more than 10 % of lists left out",
}
"""What a stratum is, by its name."""
