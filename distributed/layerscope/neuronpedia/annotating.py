"""Writes a run's records with descriptions in their features, and not another byte changed."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import orjson
from msgspec import UNSET, UnsetType

from layerscope.errors import LayerscopeError
from layerscope.files import replacing
from layerscope.formatting import count_of
from layerscope.records.line.attributions import AttributedFeature
from layerscope.records.line.dictionaries import FIRST
from layerscope.records.line.readings import Feature
from layerscope.records.line.record import Record
from layerscope.records.reading.run import Run

# A feature, as `records/line/feature_lists.py` and `records/line/attributions.py` write it, up to its brace. No text
# looks like one: JSON escapes its quotes.
_FEATURE = re.compile(
    rb'\{"feature_id":(\d+)(?:,"[a-z_]+":[^,{}"\[\]]+)*?,"layer":(\d+)'
    rb'(?:,"[a-z_]+":(?:[^,{}"\[\]]+|\[[^{}"\[\]]*\]))*(?=\})'
)


class Described(Protocol):
    """What is known of a feature."""

    @property
    def description(self) -> str: ...


class _Listed(NamedTuple):
    """A feature of a line, with the dictionary whose it is."""

    dictionary: str
    layer: int
    feature_id: int


def annotate(run: Run, explanations: Mapping[int, Mapping[int, Described]], to: Path, dictionary: str = FIRST) -> str:
    """Writes the records with a `description` in each feature that has one, and says how many have.

    The descriptions go between the bytes of the records. Parsing a record and writing it anew would change numbers: the
    shortest decimal of a float32 is spelled otherwise as a double's (0.000003 becomes 3e-6).

    Args:
        explanations: by layer and feature id.
        dictionary: whose features they are; another's of the same number are other features.

    Raises:
        LayerscopeError: `to` cannot be written, or a line is not as layerscope writes it.
    """
    lines = features = described = 0
    try:
        with replacing(to) as temporary, temporary.open("wb") as stream:
            for line, record in run.records():
                listed = list(_listed(record)) if isinstance(record, Record) else []
                written = [_Listed("", int(found[2]), int(found[1])) for found in _FEATURE.finditer(line)]
                lines, features = lines + 1, features + sum(each.dictionary == dictionary for each in listed)
                if [each[1:] for each in written] != [each[1:] for each in listed]:
                    raise LayerscopeError(
                        f"{run.path}, line {lines}: the features are not written as layerscope writes them.\n"
                        f"{to} was not written. `layerscope verify` tells whether the file was changed."
                    )
                annotated, count = _with_descriptions(line, listed, explanations, dictionary)
                described += count
                stream.write(annotated)
    except OSError as error:
        raise LayerscopeError(f"{to} cannot be written: {error.strerror or error}.") from error
    found = f"{described:,} of {count_of(features, 'feature')} with a description"
    return f"annotated   {to}: {count_of(lines, 'line')}, {found}"


def _with_descriptions(
    line: bytes, listed: Iterable[_Listed], explanations: Mapping[int, Mapping[int, Described]], dictionary: str
) -> tuple[bytes, int]:
    """The line with them, and how many there are."""
    described, in_order = 0, iter(listed)

    def with_description(match: re.Match[bytes]) -> bytes:
        nonlocal described
        of, layer, feature_id = next(in_order)
        found = explanations.get(layer, {}).get(feature_id) if of == dictionary else None
        if found is None:
            return match[0]
        described += 1
        return match[0] + b',"description":' + orjson.dumps(found.description)

    return _FEATURE.sub(with_description, line), described


def _listed(record: Record) -> Iterator[_Listed]:
    """Every feature of a line, in its order."""
    for details in record.recorded:
        yield from _features(FIRST, *(reading.active_features_by_layer for reading in details.readings.values()))
        if details.other_dictionaries is not UNSET:
            for name, of in details.other_dictionaries.items():
                yield from _features(name, *(reading.active_features_by_layer for reading in of.readings.values()))
        yield from _features(FIRST, details.attributions_by_layer)
    yield from _features(FIRST, record.common_attributions_by_layer, record.prompt_attributions_by_layer)


def _features(
    dictionary: str, *lists: Mapping[int, Sequence[Feature | AttributedFeature]] | UnsetType
) -> Iterator[_Listed]:
    for by_layer in lists:
        if not isinstance(by_layer, UnsetType):
            for features in by_layer.values():
                yield from (_Listed(dictionary, each.layer, each.feature_id) for each in features)
