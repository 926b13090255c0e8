"""Whether a record is the one that the manifest expects: of this question, and with the parts that were asked for."""

from layerscope.formatting import count_of
from layerscope.records.line.checking import check_alike, check_parts
from layerscope.records.line.record import NotARecordError, Record, Unscored
from layerscope.records.manifest.manifest import Manifest


def hold_against_plan(record: Record | Unscored, number: int, known: Manifest | None) -> None:
    """
    Args:
        number: of its line, from 1.
        known: None for a file without a manifest, of whose records each is held against itself.

    Raises:
        NotARecordError: it is another.
    """
    if known is not None:
        order = known.about.example_ids
        if number > len(order):
            raise NotARecordError(f"the plan ends after {count_of(len(order), 'line')}")
        if record.example_id != order[number - 1]:
            raise NotARecordError(f"example_id is {record.example_id}; the plan has {order[number - 1]} there")
    if isinstance(record, Record):
        _hold_against_settings(record, known)


def _hold_against_settings(record: Record, known: Manifest | None) -> None:
    if known is None:
        check_alike(record)
    else:
        settings = known.identity.settings
        check_parts(
            record,
            known.about.layers,
            known.readings,
            settings.tokens,
            settings.all_solutions,
            settings.token_activations,
            settings.attribution is not None,
            known.dictionaries,
        )
