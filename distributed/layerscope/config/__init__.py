"""The settings of a run, and what their texts mean."""

from layerscope.config.settings import (
    MAX_BATCH_TOKENS,
    AttributionRule,
    AutoCount,
    Config,
    Count,
    ResidualFormat,
    Site,
    option,
)
from layerscope.config.values import (
    CHAT,
    READINGS,
    parse_columns,
    parse_layers,
    parse_metadata,
    parse_prompt,
    parse_readings,
    parse_shard,
)

__all__ = [
    "CHAT",
    "MAX_BATCH_TOKENS",
    "READINGS",
    "AttributionRule",
    "AutoCount",
    "Config",
    "Count",
    "ResidualFormat",
    "Site",
    "option",
    "parse_columns",
    "parse_layers",
    "parse_metadata",
    "parse_prompt",
    "parse_readings",
    "parse_shard",
]
