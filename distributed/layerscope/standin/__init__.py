"""The built-in stand-in: a small random Gemma 2, its tokeniser and its SAEs, in the layouts of the real ones.

Its numbers mean nothing about Gemma. It is made by code from a seed, once per machine, and then loaded by exactly the
code that loads the real weights. The questions that lie here were written for this project.
"""

import hashlib
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from layerscope import hub
from layerscope.errors import LayerscopeError
from layerscope.hub import Repository

_FOLDER = Path(__file__).parent


def standin_folder() -> Path:
    """The folder with `model/` and `saes/`, made in a process of its own if this machine has none yet.

    Raises:
        LayerscopeError: it cannot be made.
    """
    recipe = b"".join((_FOLDER / name).read_bytes() for name in ("build.py", "questions.jsonl"))
    software = "".join(version(name) for name in ("torch", "transformers", "tokenizers"))
    key = hashlib.sha256(recipe + software.encode()).hexdigest()[:16]
    folder = hub.cache_folder() / "standin" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            command = [sys.executable, "-m", "layerscope.standin.build", str(folder)]
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode:
                reason = (made.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise LayerscopeError(f"The stand-in cannot be made in {folder.parent}: {reason[:300]}")
    return folder


def on_this_node(repository: Repository) -> Repository:
    """The stand-in's folder of another node as this node's own, made if need be; any other repository as it is."""
    folder = Path(repository.name)
    if repository.commit is not None or folder.parent.parent.parts[-2:] != (hub.cache_folder().name, "standin"):
        return repository
    return replace(repository, name=str(standin_folder() / folder.name))
