"""JSON of other makers whose objects have each key once: of two values under one key nobody can say which counts."""

import json
import re
from typing import Any

import orjson

_KEY_END = re.compile(rb'"\s*:')


class RepeatedKeyError(ValueError):
    """An object has a key twice."""


def parse_object(content: bytes) -> object:
    """The value of a JSON text.

    Raises:
        RepeatedKeyError: an object in it has a key twice; which.
        ValueError: it is not JSON.
    """
    value = orjson.loads(content)
    # Every key is followed by a colon, so that as many colons as keys leave no room for one more.
    if not isinstance(value, dict) or len(_KEY_END.findall(content)) > len(value):
        json.loads(content, object_pairs_hook=_unrepeated)
    return value


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, each in pairs:
        if key in value:
            raise RepeatedKeyError(f"it has the key {key[:80]!r} twice")
        value[key] = each
    return value
