"""What a decoder does for one token, compiled for the processor at hand (numba), and some of it for many (`rows`).

A step of one token is a hundred small operations on a few thousand numbers, and reads every weight once: what PyTorch
adds to each operation is as much as the operation, and wide integers are read where 8 bits would do. Here a layer is
one compiled function. Weights are 8-bit integers or float32, the keys and values of a memory 8-bit integers, and all
that is computed is float32; rows of a prompt may come and go as bfloat16.

A row's result doesn't depend on the rows beside it, to the bit.
"""

from .attention import look_around, look_back
from .compiled import compiled, in_parallel, one_at_a_time
from .memory import Memory, StepCache
from .pointwise import Norm, add, layer_norm, rms_norm, rotate
from .product import Matrix, Weight, linear, linear_gelu, linear_swiglu
from .rows import rms_norm_rows, rotate_rows, swiglu_rows

__all__ = [
    "Matrix",
    "Memory",
    "Norm",
    "StepCache",
    "Weight",
    "add",
    "compiled",
    "in_parallel",
    "layer_norm",
    "linear",
    "linear_gelu",
    "linear_swiglu",
    "look_around",
    "look_back",
    "one_at_a_time",
    "rms_norm",
    "rms_norm_rows",
    "rotate",
    "rotate_rows",
    "swiglu_rows",
]
