"""What goes wrong with machines, told apart: what is replaced, what is run again, and what ends the run.

| fault | what becomes of it |
|---|---|
| a process, its node or its memory is gone | the actor is replaced, its batch run again |
| the device is out of order (ECC, an illegal access, off the bus), or no memory is left | the same |
| an answer is lost with the node that held it | its batch is run again |
| the disk or the store of Ray is full | the run ends, and says so |
| Ray's own processes on this machine are gone | the run ends, and says so |
| anything else | a known error or a bug: the run ends with it |
"""

import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from ray.exceptions import (
    ActorUnschedulableError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RaySystemError,
    WorkerCrashedError,
)

from layerscope.engine.interface import ActorLost, AnswerLost, EngineLost, MachineFault
from layerscope.errors import LayerscopeError, first_line

_P = ParamSpec("_P")
_R = TypeVar("_R")
_ACTOR_LOST = (
    RayActorError,
    ActorUnschedulableError,
    WorkerCrashedError,
    NodeDiedError,
    OutOfMemoryError,
    RaySystemError,
)
_FULL = (ObjectStoreFullError, OutOfDiskError)
_DEVICE = re.compile(
    r"CUDA error|CUDA driver|CUDA out of memory|CUBLAS_STATUS|cuBLAS|CUDNN_STATUS|cuDNN error|NVML"
    r"|out of memory|can't allocate memory|not enough memory|No CUDA GPUs are available",
)


def understood(error: Exception) -> Exception:
    """What an exception of Ray's means here; itself, if it is none that Ray raises for a machine's sake."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, LayerscopeError | MachineFault):
        return cause  # Ray's wrapper adds the actor's traceback to the message
    if isinstance(error, LocalRayletDiedError):
        return EngineLost(
            f"Ray's own processes on this machine have died: {first_line(error)}\n"
            "What is in the file is whole; run again to go on."
        )
    if isinstance(error, _FULL):
        return LayerscopeError(
            f"Ray has no room left for what actors return: {first_line(error)}\n"
            "Free the disk that holds its temporary folder (/tmp, or RAY_TMPDIR), and run again to go on."
        )
    if isinstance(error, ObjectLostError):
        return AnswerLost(first_line(error))
    if isinstance(error, _ACTOR_LOST):
        return ActorLost(first_line(error))
    return error


def device_faults(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Of an actor's method: what its device or its memory did is no bug of ours, and the process is used no more.

    Halving a batch comes before: what arrives here is what that did not mend.
    """

    @wraps(method)
    def guarded(*arguments: _P.args, **named: _P.kwargs) -> _R:
        try:
            return method(*arguments, **named)
        except LayerscopeError:
            raise
        except (RuntimeError, MemoryError) as error:  # torch's own errors of devices are RuntimeErrors
            if isinstance(error, MemoryError) or _DEVICE.search(str(error)):
                raise ActorLost(f"{type(error).__name__}: {first_line(error)}") from None
            raise

    return guarded
