"""How products are rounded is the run's to say, whatever the process that an actor is in was set to."""

from collections.abc import Callable, Iterator
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from layerscope.numerics import precision

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "linear", "matmul", "scaled_mm", "_mkl_linear", "linear_pointwise")


class AtEveryProduct(TorchDispatchMode):
    """Notes what holds in the process while each product is made."""

    def __init__(self) -> None:
        super().__init__()
        self.observed: list[dict[str, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket._qualified_op_name.split("::")[1] in PRODUCTS:
            self.observed.append(precision.observed())
        return func(*args, **kwargs or {})


@pytest.fixture
def coarse_process() -> Iterator[None]:
    """As an image leaves it that exports TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1, or a program that wants speed."""
    matmul = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision(), matmul.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("medium")
    matmul.allow_bf16_reduced_precision_reduction = True
    assert precision.observed() != precision.settings()
    yield
    torch.set_float32_matmul_precision(before[0])
    matmul.allow_bf16_reduced_precision_reduction = before[1]


@pytest.mark.usefixtures("coarse_process")
def test_every_product_of_a_run_is_made_as_the_settings_say(
    run_here: Callable[..., CompletedProcess[str]],
) -> None:
    with AtEveryProduct() as seen:
        done = run_here("--num-samples", "6")
    assert done.returncode == 0, done.stderr
    assert len(seen.observed) > 20
    assert all(observed == precision.settings() for observed in seen.observed)
