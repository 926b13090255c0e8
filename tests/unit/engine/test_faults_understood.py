"""What becomes of an exception on its way from an actor, through Ray, to the driver."""

import pickle

import pytest
import torch
from ray.exceptions import RayTaskError

from layerscope.engine.faults import device_faults, understood
from layerscope.engine.interface import ActorLost
from layerscope.errors import LayerscopeError


@device_faults
def raises(error: BaseException) -> None:
    raise error


def through_ray(error: Exception) -> Exception:
    """As the driver gets what an actor's method raised, in Ray's wrapper."""
    try:
        raises(error)
    except Exception as raised:
        wrapped = RayTaskError("score", "the traceback", pickle.loads(pickle.dumps(raised)))
        return understood(wrapped.as_instanceof_cause())
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("cuBLAS error: CUBLAS_STATUS_EXECUTION_FAILED"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
    ],
    ids=["access", "ECC", "cuBLAS", "GPU memory", "memory"],
)
def test_what_a_device_or_its_memory_did_costs_the_actor(error: Exception) -> None:
    fault = through_ray(error)
    assert isinstance(fault, ActorLost)
    assert type(error).__name__ in str(fault)


@pytest.mark.parametrize("error", [LayerscopeError("two lines"), RuntimeError("a bug"), KeyError("a bug")])
def test_everything_else_stays_what_it_is(error: Exception) -> None:
    assert isinstance(through_ray(error), type(error))
