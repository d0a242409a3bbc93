"""Wide products for inference on processors with AVX512-VNNI and AVX512-BF16: a whole layer in one compiled function.

PyTorch hands each product to another library, with passes over memory in between: to find scales, to convert, to
subtract the largest score. Here a few rows go through all of it while they lie in the caches, and a thread that is late
leaves rows to those that aren't.

It uses nothing of ours. :mod:`core.nn.tiled` and :mod:`core.nn.blocked` make layers of it.
"""

import importlib.util
import sys
from functools import cache

import torch

__all__ = ["available", "has_vnni"]


@cache
def available() -> bool:
    """Whether all that is needed is here. With AMX, PyTorch's own products are faster: then it is not."""
    return (
        sys.platform == "linux"
        and importlib.util.find_spec("numba") is not None
        and torch.cpu._is_avx512_bf16_supported()
        and torch.cpu._is_vnni_supported()
        and not torch.cpu._is_amx_tile_supported()
        and "USE_OPENMP=ON" in torch.__config__.show()
    )


@cache
def has_vnni() -> bool:
    """Whether the processor adds up products of small integers in one instruction, AMX or not."""
    return sys.platform == "linux" and importlib.util.find_spec("numba") is not None and torch.cpu._is_vnni_supported()
