"""What a decoder does for one token, compiled for the processor at hand (numba).

A step of one token is a hundred small operations on a few thousand numbers, and reads every weight once: what PyTorch
adds to each operation is as much as the operation, and wide integers are read where 8 bits would do. Here a layer is
one compiled function. Weights and the keys and values of a memory are 8-bit integers, all that is computed is float32.

A row's result doesn't depend on the rows beside it, to the bit.
"""

from .attention import look_around, look_back
from .compiled import compiled, in_parallel, one_at_a_time
from .memory import Memory, StepCache
from .pointwise import Norm, add, layer_norm
from .product import Weight, linear, linear_gelu

__all__ = [
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
    "look_around",
    "look_back",
    "one_at_a_time",
]
