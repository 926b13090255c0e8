"""A record as one of its dictionaries sees it, so that whoever reads the first one's lists reads any."""

from collections.abc import Sequence
from typing import TypeVar

from msgspec import UNSET
from msgspec.structs import replace

from layerscope.config import FIRST
from layerscope.records.line.record import OtherSolution, Record, SolutionDetails

__all__ = ["FIRST", "RANDOM", "names_of", "seen_by"]

RANDOM = "random"
"""The name by which a run's further dictionary is taken for one of random features, beside which findings are held."""

Solution = TypeVar("Solution", SolutionDetails, OtherSolution)


def names_of(details: SolutionDetails | OtherSolution) -> Sequence[str]:
    """The further dictionaries of a solution, in the order of the record."""
    return () if details.other_dictionaries is UNSET else tuple(details.other_dictionaries)


def seen_by(record: Record, name: str) -> Record:
    """The record as if it were of this dictionary alone: without the others, and of a further one without attributions.

    Args:
        name: of one that the record has; the first is `first`.
    """
    if name == FIRST:
        return record
    positive, negative = (_solution(details, name) for details in record.solutions)
    others = record.others
    if others is not UNSET:
        others = [_solution(other, name) if other.details is not None else other for other in others]
    return replace(
        record,
        positive=positive,
        negative=negative,
        others=others,
        common_attributions_by_layer=UNSET,
        common_attribution_terms_by_layer=UNSET,
        prompt_attributions_by_layer=UNSET,
        prompt_attribution_terms_by_layer=UNSET,
    )


def _solution(details: Solution, name: str) -> Solution:
    of = {} if details.other_dictionaries is UNSET else details.other_dictionaries
    seen = replace(
        details,
        active_features_by_layer=of[name].active_features_by_layer,
        active_feature_count_by_layer=of[name].active_feature_count_by_layer,
        other_readings=of[name].other_readings,
        other_dictionaries=UNSET,
    )
    if isinstance(seen, SolutionDetails):
        return replace(seen, attributions_by_layer=UNSET, attribution_terms_by_layer=UNSET)
    return seen
