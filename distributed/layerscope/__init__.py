"""Which Gemma Scope features fire while Gemma-2 weighs two solutions to a question, at data-set scale, on Ray."""

__version__ = "0.1.0"

import os
import sys

from layerscope.process import leave_working_folder

if sys.argv[:1] == ["-m"]:  # `python -m layerscope…` has not come to the module itself: what follows is imported first
    leave_working_folder()

from typing import TYPE_CHECKING, Any

# Set to nothing means not set. The hub's client, which reads them when it is imported, takes "" for the working folder,
# or for an address.
for _name in (
    *("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN_PATH", "HF_ENDPOINT", "XDG_CACHE_HOME"),
    *("HF_XET_CACHE", "HF_ASSETS_CACHE", "HUGGINGFACE_ASSETS_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE"),
):
    if os.environ.get(_name) == "":
        del os.environ[_name]

if TYPE_CHECKING:
    from layerscope.records.residuals import read_residuals
    from layerscope.tables.reading import read_attribution_terms, read_attributions, read_features, read_questions

_TABLES = ("read_attribution_terms", "read_attributions", "read_features", "read_questions")
__all__ = [
    "__version__",
    "read_attribution_terms",
    "read_attributions",
    "read_features",
    "read_questions",
    "read_residuals",
]


def __getattr__(name: str) -> Any:
    """The functions for notebooks, imported when they are asked for: pyarrow takes longer than `layerscope --help`."""
    if name in _TABLES:
        from layerscope.tables import reading as tables

        return getattr(tables, name)
    if name == "read_residuals":
        from layerscope.records.residuals import read_residuals

        return read_residuals
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
