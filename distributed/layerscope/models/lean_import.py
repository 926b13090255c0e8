"""transformers, imported without what a forward pass never uses: the process of a model starts 2 to 3 s sooner.

Half of what the import takes is torch's compiler, sharding over processes, and the losses of other models. Nobody loses
them: they are imported as ever by whoever asks for them.
"""

import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_ASKED = ("is_scipy_available", "is_torch_distributed_available")  # what transformers imports where they are true


def import_transformers() -> None:
    """Imports torch and what of transformers a model takes. For a process of its own; a second call does nothing."""
    if "transformers.modeling_utils" in sys.modules:
        return
    with _collecting_later():
        torch = importlib.import_module("torch")
        sys.modules.setdefault(_COMPILER, Compiler(_COMPILER, f"{torch.__path__[0]}/_dynamo"))
        transformers = importlib.import_module("transformers")
        with _without(_ASKED, transformers.utils, transformers.utils.import_utils):
            importlib.import_module("transformers.modeling_utils")


@contextmanager
def _collecting_later() -> Iterator[None]:
    """Without Python's collector, which would walk again and again through modules that all stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _without(questions: tuple[str, ...], *modules: ModuleType) -> Iterator[None]:
    """Modules that are imported inside hear that what they ask for is not installed."""
    answers = [(module, name, getattr(module, name)) for module in modules for name in questions]
    for module, name, _ in answers:
        setattr(module, name, lambda: False)
    try:
        yield
    finally:
        for module, name, answer in answers:
            setattr(module, name, answer)


class Compiler(ModuleType):
    """In place of torch's compiler until somebody wants more of it than that it lets a function be."""

    def __init__(self, name: str, folder: str) -> None:
        super().__init__(name)
        self.__path__ = [folder]  # of modules below it, which do without it

    def disable(self, function: Any = None, recursive: bool = True, **_: Any) -> Any:  # noqa: ARG002
        return function or _itself

    def allow_in_graph(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    assume_constant_result = allow_in_graph

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        own = self.__name__
        if sys.modules.get(own) is self:
            del sys.modules[own]
        real = importlib.import_module(own)
        for below in [one for one in vars(self) if f"{own}.{one}" in sys.modules]:
            setattr(real, below, sys.modules[f"{own}.{below}"])
        return getattr(real, name)


def _itself(function: Callable[..., Any]) -> Callable[..., Any]:
    return function
