"""Which Gemma Scope features fire while Gemma-2 weighs two solutions to a question, at data-set scale, on Ray."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerscope.tables.rows import read_features, read_questions

__all__ = ["__version__", "read_features", "read_questions"]


def __getattr__(name: str) -> Any:
    """The functions for notebooks, imported when they are asked for: pyarrow takes longer than `layerscope --help`."""
    if name in ("read_features", "read_questions"):
        from layerscope.tables import rows as tables

        return getattr(tables, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
