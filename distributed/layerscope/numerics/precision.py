"""How products are rounded: one setting for every process that computes, whatever its environment says.

The model multiplies in its own number format and adds in float32; scores are float32; encoders with weights in float32
multiply exactly in it. What a library may do faster and coarser (TF32 on a GPU, sums in bfloat16) is off.
"""

import os
from typing import Any

_SETTINGS = {"float32_products": "highest", "bfloat16_sums": "float32"}


def settings() -> dict[str, str]:
    """What `apply` sets, for the manifest; without torch."""
    return dict(_SETTINGS)


def apply() -> None:
    """Sets this process; an environment that asks for TF32 (TORCH_ALLOW_TF32_CUBLAS_OVERRIDE) is overruled."""
    import torch

    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # cuBLAS reads it when it is first used
    torch.set_float32_matmul_precision(_SETTINGS["float32_products"])
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def observed() -> dict[str, Any]:
    """What holds in this process now, in the words of `settings`."""
    import torch

    reduced = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    return {
        "float32_products": "tf32" if torch.backends.cuda.matmul.allow_tf32 else torch.get_float32_matmul_precision(),
        "bfloat16_sums": "bfloat16" if reduced else "float32",
    }
