"""What this machine has, without torch: processors, memory, GPUs and the packages that compute."""

import ast
import os
import platform
import re
import socket
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from layerscope import __version__
from layerscope.planning.cards import usable_cards
from layerscope.planning.limits import limits
from layerscope.planning.node import Gpu, Node

_SOFTWARE = ("torch", "transformers", "tokenizers", "numpy")  # whose versions may change numbers, beside our own


def probe(all_cards: bool = False) -> Node:
    """This machine, as far as this process may use it.

    Args:
        all_cards: those too that are hidden from this process, because Ray hides all from what asks for none.
    """
    # layerscope's own by its source: a job that travels as a folder is not installed under a name.
    software = (("layerscope", __version__), *((name, version(name)) for name in _SOFTWARE))
    cpus, memory = limits()
    gpus, trouble = _gpus(all_cards)
    processor, bfloat16 = _processor()
    return Node(
        socket.gethostname(), cpus, memory, gpus, processor, software=software, bfloat16=bfloat16, trouble=trouble
    )


def _gpus(all_cards: bool) -> tuple[tuple[Gpu, ...], str]:
    """The GPUs that torch can use here, or why it cannot use those that there are."""
    hidden = {"CUDA_VISIBLE_DEVICES"} if all_cards else set[str]()
    found = usable_cards({name: value for name, value in os.environ.items() if name not in hidden})
    gpus = tuple(
        Gpu(card["name"], card["memory"], card["free"], card["uuid"], tuple(card["capability"])) for card in found.cards
    )
    if gpus and not _torch_has_cuda():
        return (), f"there is a {gpus[0].name}, but torch {version('torch')} is built for CPUs alone"
    return gpus, found.trouble


def _torch_has_cuda() -> bool:
    """Whether torch is built for CUDA, as its file of versions says; importing torch takes seconds."""
    spec = find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else Path()
    for statement in ast.parse(file.read_text(encoding="utf-8") if file.is_file() else "").body:
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "cuda" and statement.value:
            return ast.literal_eval(statement.value) is not None
    return True


def _processor() -> tuple[str, bool]:
    """Its name, and whether it multiplies bfloat16 numbers itself."""
    information = Path("/proc/cpuinfo")
    told = information.read_text() if information.is_file() else ""
    match = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    name = match[1].strip() if match else platform.processor() or platform.machine()
    return name, re.search(r"^flags\s*:.*\bavx512_bf16\b", told, re.MULTILINE) is not None
