"""The settings of a run, and what their texts mean."""

from layerscope.config.dictionaries import DICTIONARY_NAME, FIRST, DictionaryAsked, parse_dictionaries
from layerscope.config.options import option
from layerscope.config.settings import (
    MAX_BATCH_TOKENS,
    AttributionRule,
    AutoCount,
    Config,
    Count,
    ResidualFormat,
    Site,
)
from layerscope.config.values import (
    CHAT,
    READINGS,
    STANDARD_INPUT,
    parse_baseline,
    parse_columns,
    parse_layers,
    parse_metadata,
    parse_prompt,
    parse_readings,
    parse_shard,
)

__all__ = [
    "CHAT",
    "DICTIONARY_NAME",
    "FIRST",
    "MAX_BATCH_TOKENS",
    "READINGS",
    "STANDARD_INPUT",
    "AttributionRule",
    "AutoCount",
    "Config",
    "Count",
    "DictionaryAsked",
    "ResidualFormat",
    "Site",
    "option",
    "parse_baseline",
    "parse_columns",
    "parse_dictionaries",
    "parse_layers",
    "parse_metadata",
    "parse_prompt",
    "parse_readings",
    "parse_shard",
]
