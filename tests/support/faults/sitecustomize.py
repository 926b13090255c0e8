"""Faults for the processes of a run under test: Python imports this at every start while its folder is on PYTHONPATH.

`LAYERSCOPE_FAULT` says what the model's forward pass shall do, in every process that loads one: `slow:SECONDS` sleeps
before it, also before one that goes back or is run again, so that a test can catch it at work; `oom:TOKENS` raises
`torch.OutOfMemoryError`, as CUDA does, for a batch of more tokens; `flaky:N` finds a residual not finite in every Nth
pair of a batch; `device:0` raises what torch does for a GPU that is out of order, `device:1` does so once; `terminate`
and `interrupt` send this process SIGTERM and SIGINT. A path names a file that says it at the moment of each pass:
empty, nothing is wrong.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def told() -> tuple[str, float]:
    """What shall happen now."""
    text = os.environ["LAYERSCOPE_FAULT"]
    kind, _, value = (Path(text).read_text() if text.startswith("/") else text).partition(":")
    return kind, float(value or 0)


def sleep() -> None:
    """As long as is told, which may change meanwhile."""
    start = time.monotonic()
    while told()[0] == "slow" and time.monotonic() - start < told()[1]:
        time.sleep(0.03)


def send_signal() -> None:
    """To this process, twice, as Ctrl-C is pressed; the batch is waited for all the same."""
    number = {"terminate": signal.SIGTERM, "interrupt": signal.SIGINT}.get(told()[0])
    if number is not None:
        os.environ["LAYERSCOPE_FAULT"] = ""
        os.kill(os.getpid(), number)
        time.sleep(0.1)  # two at once would be one
        os.kill(os.getpid(), number)


def spoil(module: ModuleType) -> None:
    forward = module.LanguageModel.forward

    def faulty(self: Any, pairs: Any, layers: Any, *more: Any) -> Any:
        sleep()
        kind, value = told()
        if kind == "oom" and sum(len(pair.tokens) for pair in pairs) > value:
            raise module.torch.OutOfMemoryError("CUDA out of memory (simulated)")
        send_signal()
        if kind == "device":
            os.environ["LAYERSCOPE_FAULT"] = "" if value else os.environ["LAYERSCOPE_FAULT"]
            raise RuntimeError("CUDA error: an illegal memory access was encountered (simulated)")
        result = forward(self, pairs, layers, *more)
        if kind == "flaky":
            for index in range(0, len(pairs), int(value)):
                result.scores[index] = result.scores[index]._replace(failed_layer=layers[1])
        return result

    module.LanguageModel.forward = faulty


def slowing(name: str) -> Callable[[ModuleType], None]:
    """Another pass of the model, a module's function, can be slow or bring a signal, and no more."""

    def slow_down(module: ModuleType) -> None:
        passing = getattr(module, name)

        def slow(*given: Any) -> Any:
            sleep()
            send_signal()
            return passing(*given)

        setattr(module, name, slow)

    return slow_down


class Finder(importlib.abc.MetaPathFinder):
    """Lets the model's modules load as ever, and spoils them afterwards."""

    def __init__(self) -> None:
        self._left = {
            "layerscope.models.language_model": spoil,
            "layerscope.models.attribution": slowing("differentiate"),
            "layerscope.models.ablation": slowing("run_again"),
        }

    def find_spec(self, name: str, _path: Any, _target: Any = None) -> importlib.machinery.ModuleSpec | None:
        spoiling = self._left.pop(name, None)
        if spoiling is None:
            return None
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_spoil(module: ModuleType) -> None:
            load(module)
            spoiling(module)

        spec.loader.exec_module = load_and_spoil  # type: ignore[method-assign]
        return spec


if "LAYERSCOPE_FAULT" in os.environ:
    sys.meta_path.insert(0, Finder())
