"""What is known to change the last digits of what a process computes: for people, where fingerprints differ."""

import os
import re
from pathlib import Path

import torch

from layerscope.numerics import precision

_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUBLASLT_WORKSPACE_SIZE",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
_LIBRARY = re.compile(r"(Math Kernel Library|MKL-DNN|CuDNN|CUDA Runtime) (?:Version )?v?([\w.-]+)")
_LIBRARY_NAMES = {"Math Kernel Library": "MKL", "MKL-DNN": "oneDNN", "CuDNN": "cuDNN", "CUDA Runtime": "CUDA"}
_INSTRUCTIONS = re.compile(r"\b(?:avx|amx|fma|sve|asimd|i8mm|bf16)\w*")


def circumstances() -> dict[str, str]:
    """By name; variables only where they are set."""
    libraries = {_LIBRARY_NAMES[name]: version for name, version in _LIBRARY.findall(torch.__config__.show())}
    variables = {name: os.environ[name][:80] for name in _VARIABLES if name in os.environ}
    return {
        "torch's instruction set": torch.backends.cpu.get_cpu_capability(),
        "the processor's instructions": _processor_instructions(),
        **{f"version of {name}": version for name, version in libraries.items()},
        **precision.observed(),
        **variables,
    }


def _processor_instructions() -> str:
    information = Path("/proc/cpuinfo")
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", information.read_text() if information.is_file() else "", re.M)
    return " ".join(sorted(set(_INSTRUCTIONS.findall(flags[1])))) if flags else "unknown"
