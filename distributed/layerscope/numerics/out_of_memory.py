"""Telling a memory that is too small for a batch from other failures, and giving back what the failed try took."""

import re

import torch

# A library that takes memory past torch's allocator says so in words of its own: cuBLAS's workspaces, CUDA's modules.
_WORDS = re.compile(r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|CUSOLVER_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether half as much might have fitted."""
    return isinstance(error, torch.OutOfMemoryError) or _WORDS.search(str(error)) is not None


def give_back() -> None:
    """Gives a GPU's memory that nothing uses back to it, for others on the GPU and for pieces of another size."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
