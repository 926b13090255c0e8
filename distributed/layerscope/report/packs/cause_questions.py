"""The questions in which a feature has most of the margin, with the tokens that it has it at.

Of each group of tokens a record has the one with the largest share of a feature's attribution; that one is shaded.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import UNSET

from layerscope.analysis.result import Analysis
from layerscope.formatting import visible
from layerscope.records.line.attributions import AttributedFeature
from layerscope.records.line.record import SOLUTIONS, Record, SolutionDetails
from layerscope.records.reading.run import Run
from layerscope.report.packs.question_pack import records_of
from layerscope.report.words.sentences import number

_LONGEST = 700  # characters of a solution
_SIDES = ("right", "wrong")


class Piece(NamedTuple):
    """A piece of a solution's text."""

    text: str
    kind: str = ""
    """Its class, where it is shaded."""
    told: str = ""


class Side(NamedTuple):
    """One solution."""

    name: str
    pieces: list[Piece]
    told: str
    """What there is to say of tokens that cannot be shown."""


class Case(NamedTuple):
    """A question, by what a feature does in it."""

    example_id: int
    margin: float
    effect: float
    goal: str
    sides: list[Side]
    prompt: str
    """What of it lies before the solutions."""


class WantedCase(NamedTuple):
    """A feature and the questions that have most of it, by index."""

    layer: int
    feature_id: int
    questions: Sequence[int]


def read_cases(
    run: Run, analysis: Analysis, wanted: Sequence[WantedCase], progress: Callable[[float], None]
) -> list[list[Case]]:
    """Of every feature its questions, those that have most of it first. Reads the file once more, up to the last.

    Raises:
        LayerscopeError: the file is no longer the one that was analysed.
    """
    places = np.unique(np.array([question for each in wanted for question in each.questions], dtype=np.int64))
    found: list[dict[int, Case]] = [{} for _ in wanted]
    for index, record in records_of(run, analysis, places, progress):
        for cases, feature in zip(found, wanted, strict=True):
            if index in feature.questions:
                cases[index] = _case(record, feature)
    return [[cases[question] for question in each.questions] for cases, each in zip(found, wanted, strict=True)]


def _case(record: Record, feature: WantedCase) -> Case:
    shares = {
        name: _share(group.lists[feature.layer], feature.feature_id) for name, group in record.attributions.items()
    }
    of_solutions = [share for name, share in shares.items() if share is not None and name != "prompt"]
    largest = max((abs(share.attribution) for share in of_solutions), default=1.0)
    prompt = shares["prompt"]
    return Case(
        record.example_id,
        record.margin,
        sum(share.attribution for share in of_solutions),
        _cut(visible(record.question)),
        [
            _side(side, details, [shares[name], shares["common"]], largest)
            for side, name, details in zip(_SIDES, SOLUTIONS, record.solutions, strict=True)
        ],
        "" if prompt is None else f"in the prompt {number(prompt.attribution, 3)}, most at its token {prompt.token}",
    )


def _share(features: Sequence[AttributedFeature], feature_id: int) -> AttributedFeature | None:
    return next((each for each in features if each.feature_id == feature_id), None)


def _side(name: str, details: SolutionDetails, shares: Sequence[AttributedFeature | None], largest: float) -> Side:
    """A solution, with the token of its own and the common one at which the feature has most of its attribution."""
    there = [share for share in shares if share is not None]
    if details.tokens is UNSET:
        return Side(name, [Piece(_cut(visible(details.text)))], " ".join(_told(share, details) for share in there))
    tokens, pieces, length = [visible(text) for text in details.tokens], list[Piece](), 0
    at = {_seen_at(tokens, share.token): share for share in reversed(there)}  # an own one before the common one
    for token, text in enumerate(tokens):
        length += len(text)
        if length > _LONGEST:
            cut = [share for place, share in at.items() if place >= token]
            return Side(name, [*pieces, Piece("…")], " ".join(_told(share, details) for share in cut))
        pieces.append(_piece(text, at[token], details, largest) if token in at else Piece(text))
    return Side(name, pieces, "")


def _seen_at(tokens: Sequence[str], token: int) -> int:
    """Where a token is seen: of several that make one character, the one that has it."""
    return next((place for place in range(token, len(tokens)) if tokens[place]), token)


def _piece(text: str, share: AttributedFeature, details: SolutionDetails, largest: float) -> Piece:
    level = max(int(np.ceil(4 * abs(share.attribution) / largest)), 1)
    return Piece(text, f"token {'for' if share.attribution > 0 else 'against'} of-{level}", _told(share, details))


def _told(share: AttributedFeature, details: SolutionDetails) -> str:
    return (
        f"{number(share.attribution, 3)}, most at token {share.token + 1} of {details.token_count}, where it is "
        f"{share.activation:.3g}."
    )


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
