"""The built-in stand-in: a small Gemma 2, its tokeniser and its SAEs, in the layouts of the real ones.

It was trained on generated text about everyday things by `scripts/train_standin.py`, and says nothing about Gemma. It
lies here as the hub would have it, and is loaded by exactly the code that loads the real weights. The questions that
lie here were written for this project and are not in that text.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerscope.hub.repository import Repository

STANDIN_WIDTH = "512"
"""Of its SAEs, as their folders name it."""


def standin_folder() -> Path:
    """The folder with `model/` and `saes/`."""
    return Path(__file__).parent


def on_this_node(repository: "Repository") -> "Repository":
    """The stand-in's folder of another node as this node's own; any other repository as it is."""
    folder = Path(repository.name)
    if repository.commit is not None or folder.parts[-3:-1] != standin_folder().parts[-2:]:
        return repository
    return replace(repository, name=str(standin_folder() / folder.name))
