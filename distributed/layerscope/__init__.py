"""Which Gemma Scope features fire while Gemma-2 weighs two solutions to a question, at data-set scale, on Ray."""

__version__ = "0.1.0"

import os
import sys

from layerscope.process import leave_working_folder

if sys.argv[:1] == ["-m"]:  # `python -m layerscope…` has not come to the module itself: what follows is imported first
    leave_working_folder()

TYPE_CHECKING = False  # typing would be imported for it, in a hundredth of a second that Ctrl-C may fall into
# Set to nothing means not set. The hub's client, which reads them when it is imported, takes "" for the working folder,
# or for an address.
for _name in (
    *("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN_PATH", "HF_ENDPOINT", "XDG_CACHE_HOME"),
    *("HF_XET_CACHE", "HF_ASSETS_CACHE", "HUGGINGFACE_ASSETS_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE"),
):
    if os.environ.get(_name) == "":
        del os.environ[_name]

if TYPE_CHECKING:
    from typing import Any

    from layerscope.commands.notebook import (
        LoadedRun,
        load,
        read_ablations,
        read_attribution_terms,
        read_attributions,
        read_features,
        read_questions,
        read_residuals,
        write_means,
        write_random_dictionary,
    )
    from layerscope.commands.scoring import Scored, score

_OF_SCORING = ("Scored", "score")
__all__ = [
    "LoadedRun",
    "Scored",
    "__version__",
    "load",
    "read_ablations",
    "read_attribution_terms",
    "read_attributions",
    "read_features",
    "read_questions",
    "read_residuals",
    "score",
    "write_means",
    "write_random_dictionary",
]


def __getattr__(name: str) -> "Any":
    """What is for notebooks, imported when it is asked for: pyarrow takes longer than `layerscope --help`."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _OF_SCORING:
        from layerscope.commands import scoring

        return getattr(scoring, name)
    from layerscope.commands import notebook

    return getattr(notebook, name)


def __dir__() -> list[str]:
    """What is for people, imported or not yet."""
    return list(__all__)
