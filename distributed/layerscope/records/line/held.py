"""A record as an earlier version or `jq` left it: read where what is missing follows from the rest, or is not needed.

Only of files without a manifest: where there is one, a line is what a run wrote, or damaged.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from layerscope.records.line.record import NEGATIVE, OTHERS, POSITIVE, NotARecordError, Record, Unscored, parse
from layerscope.records.reading.stretches import object_of

_DETAILS = (
    "text",
    "log_likelihood",
    "active_features_by_layer",
    "active_feature_count_by_layer",
    "token_count",
    "final_token",
)
_SIDES = (POSITIVE, NEGATIVE)
_NO_REASON = "why is not in the file"


class Unlabelled(Record, frozen=True):
    """A record that does not say which of its two solutions stood first in the question file; `label` is a stand-in."""


def parse_held(line: bytes) -> Record | Unscored:
    """The record that a line holds; a question of two solutions may lack `label` and `model_is_correct`.

    What is null is missing: `jq '{…, label}'` makes that of a name that it does not find.

    Raises:
        NotARecordError: it holds none, and what it lacks.
    """
    try:
        return parse(line)
    except NotARecordError:
        found = object_of(line)
        if found is None or found.get("error"):
            raise
        if _has_nothing(found):
            return Unscored(parse(_with(found, error=_NO_REASON)).example_id, _NO_REASON)
        there = _without_nulls(found)
        if missing := [*_missing(there)]:
            raise NotARecordError(f"it has no {', '.join(missing)}") from None
        if "label" in there and "model_is_correct" in there:
            return parse(_with(there))
        return _completed(there)


def lacks(line: bytes) -> str:
    """What a line has to have and has not, for people; empty where it is a record, or nothing like one."""
    found = object_of(line)
    if found is None or found.keys().isdisjoint(("example_id", *_SIDES)) or found.get("error"):
        return ""
    return "" if _has_nothing(found) else ", ".join(_missing(_without_nulls(found)))


def misfit(line: bytes) -> str:
    """What of a line with a record's names is none of its values, for people; empty where it is a record, or has not
    those names."""
    found = object_of(line)
    try:
        if found is not None and POSITIVE in found:
            parse_held(line)
    except NotARecordError as error:
        return str(error)
    return ""


def _without_nulls(found: dict[str, Any]) -> dict[str, Any]:
    """A record's object, and those of its solutions, without the names whose value is null."""
    return {
        name: {inner: each for inner, each in value.items() if each is not None} if name in _SIDES else value
        for name, value in found.items()
        if value is not None and (name not in _SIDES or isinstance(value, dict))
    }


def _has_nothing(found: dict[str, Any]) -> bool:
    """Whether it is an error line of which `jq '{example_id, question, …}'` left the nulls alone."""
    parts = ("question", *_SIDES)
    return "example_id" in found and found.get("error") is None and all(found.get(part, 0) is None for part in parts)


def _missing(found: dict[str, Any]) -> Iterator[str]:
    yield from (name for name in ("example_id", "question", *_SIDES) if name not in found)
    solutions = [details for side in _SIDES if isinstance(details := found.get(side), dict)]
    for name in _DETAILS:
        if any(name not in details for details in solutions):
            yield f"{name} of its solutions"
    if OTHERS in found:  # which of three stood where decides ties, and nothing else tells
        yield from (name for name in ("label", "model_is_correct") if name not in found)


def _completed(found: dict[str, Any]) -> Record:
    try:
        margin = found[POSITIVE]["log_likelihood"] - found[NEGATIVE]["log_likelihood"]
    except TypeError:
        raise NotARecordError("its solutions have no log_likelihood") from None
    if not margin and {"label", "model_is_correct"}.isdisjoint(found):
        raise NotARecordError("it has no label, and both solutions are as likely: the model's choice is the first one")
    correct = found.get("model_is_correct", margin > 0 or (not margin and found.get("label") == 0))
    label = found.get("label", 0 if correct else 1)  # the first is taken where both are as likely
    record = parse(_with(found, model_is_correct=correct, label=label))
    if "label" in found or not isinstance(record, Record):
        return record  # type: ignore[return-value]  # both solutions are there, so it is one
    return Unlabelled(*(getattr(record, name) for name in record.__struct_fields__))


def _with(found: dict[str, Any], **more: Any) -> bytes:
    return msgspec.json.encode({**found, **more})
