"""Features that a person names in a file: which, and whether the run has them."""

import csv
import errno
import json
from collections.abc import Collection, Sequence
from pathlib import Path

from layerscope.analysis.choosing import Key
from layerscope.errors import UsageError


def read_features(path: Path) -> list[Key]:
    """The features that a file names, each once.

    Raises:
        UsageError: it cannot be read, or a row has no layer and feature_id that are whole numbers.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise OSError(errno.EINVAL, "not a plain file")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--features: {path} cannot be read: {getattr(error, 'strerror', None) or error}.\n"
            "Name a plain file of UTF-8 text."
        ) from error
    rows: list[object]
    try:
        if path.suffix.lower() == ".csv":
            table = csv.DictReader(text.splitlines())
            _object([(name, None) for name in table.fieldnames or ()])
            rows = list(table)
        else:
            rows = [json.loads(line, object_pairs_hook=_object) for line in text.splitlines() if line.strip()]
        keys = [_key(row, number) for number, row in enumerate(rows, 1)]
    except (ValueError, RecursionError, csv.Error) as error:
        raise UsageError(
            f"--features: {path} is no list of features: {str(error)[:200]}.\n"
            'It is CSV with the columns layer and feature_id, or JSON lines such as {"layer": 8, "feature_id": 1234}.'
        ) from error
    if not keys:
        raise UsageError(f"--features: {path} names no feature.")
    return list(dict.fromkeys(keys))


def _object(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError(f"of {', '.join(name for name, _ in pairs)} one is there twice")
    return row


def _key(row: object, number: int) -> Key:
    return _number(row, "layer", number), _number(row, "feature_id", number)


def _number(row: object, name: str, number: int) -> int:
    if not isinstance(row, dict) or row.get(name) is None:
        there = f"; it has {', '.join(map(str, row))}" if isinstance(row, dict) else f": it is {str(row)[:40]}"
        raise ValueError(f"row {number} has no {name}{there}")
    value = row[name]
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if type(value) is not int or value < 0:
        raise ValueError(f"row {number} has {name} {value!r}")
    return value


def expect_features(keys: Sequence[Key], layers: Collection[int], d_sae: int) -> None:
    """
    Raises:
        UsageError: a feature is of no layer of the run, or not in the dictionary.
    """
    for layer, feature_id in keys:
        if layer not in layers:
            told = ", ".join(map(str, sorted(layers)))
            raise UsageError(
                f"Layer {layer}, feature {feature_id}: the run has no SAE of that layer, or --layers leaves it out.\n"
                f"It has {told}."
            )
        if feature_id >= d_sae:
            raise UsageError(
                f"Layer {layer}, feature {feature_id}: the dictionary has the features 0 to {d_sae - 1}.\n"
                "Features have other numbers in SAEs of another width; name those of this run."
            )
