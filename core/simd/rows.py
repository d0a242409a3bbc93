"""What is done to single rows of float32 between two products. Loops are plain; LLVM makes vectors of them."""

import math

import numpy as np
from numpy.polynomial import Polynomial

from .team import compiled

__all__ = ["EXACT", "LOG2_E", "TANH", "codes", "exact_power", "gelu", "largest", "power", "powers", "silu", "to_bf16"]

F32, I32 = np.float32, np.int32
LEAST = F32(-126)  # powers of two below are no normal numbers
MOST = F32(127)  # and greater ones are infinite
STEPS, ZERO = F32(127), I32(128)  # codes are unsigned, from 1 to 255
TINY = F32(1e-12)
LOG2_E = F32(math.log2(math.e))


def _fitted(values: np.ndarray, x: np.ndarray, weight: np.ndarray, degree: int) -> tuple[np.float32, ...]:
    """Coefficients of a polynomial, lowest first, fitted by weighted least squares."""
    fit = Polynomial.fit(x, values, degree, w=weight).convert()
    return tuple(F32(c) for c in fit.coef)


_fraction = np.cos(np.linspace(0, np.pi, 400)) / 2
P0, P1, P2, P3, P4 = _fitted(np.exp2(_fraction), _fraction, np.exp2(-_fraction), 4)
E0, E1, E2, E3, E4, E5, E6 = _fitted(np.exp2(_fraction), _fraction, np.exp2(-_fraction), 6)
END = F32(5.5)  # of the distributions behind GELU: beyond is less than 1e-7 of them
_size = (1 - np.cos(np.linspace(0, np.pi, 2000))) * float(END) / 2
_curve = math.sqrt(2 / math.pi) * (_size + 0.044715 * _size**3)
# of |x|, the logarithm to base 2 of what is left of the distribution beyond it: Gauss's, and the one made of tanh
EXACT, TANH = (
    _fitted(np.log2(tail), _size, tail * (_size + 0.1), 6)
    for tail in (np.array([math.erfc(a / math.sqrt(2)) / 2 for a in _size]), 1 / (1 + np.exp(2 * _curve)))
)


@compiled
def power(x):  # type: ignore[no-untyped-def]
    """2 ** x, with a relative error below 1e-5; below -126 as at -126."""
    x = LEAST if x < LEAST else x
    whole = np.rint(x)
    r = F32(x - whole)
    y = F32(P0 + r * (P1 + r * (P2 + r * (P3 + r * P4))))
    return y * I32((I32(whole) + I32(127)) << I32(23)).view(np.float32)


@compiled
def exact_power(x):  # type: ignore[no-untyped-def]
    """2 ** x as float32 has it; below -126 as at -126, above 127 as at 127."""
    x = LEAST if x < LEAST else x
    x = MOST if x > MOST else x
    whole = np.rint(x)
    r = F32(x - whole)
    y = F32(E0 + r * (E1 + r * (E2 + r * (E3 + r * (E4 + r * (E5 + r * E6))))))
    return y * I32((I32(whole) + I32(127)) << I32(23)).view(np.float32)


@compiled
def silu(x):  # type: ignore[no-untyped-def]
    """x / (1 + exp(-x)), as float32 has it."""
    return x / (F32(1) + exact_power(-x * LOG2_E))


@compiled
def to_bf16(x):  # type: ignore[no-untyped-def]
    """The bits of the nearest bfloat16, of ties the even one."""
    bits = F32(x).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@compiled
def largest(row):  # type: ignore[no-untyped-def]
    """The largest of a row; NaN if one is positive. As integers: NaN doesn't let comparisons of floats be vectors."""
    most = I32(-0x7FFFFFFF)
    for i in range(len(row)):
        bits = F32(row[i]).view(np.int32)
        most = max(most, I32(bits ^ ((bits >> I32(31)) & I32(0x7FFFFFFF))))
    return I32(most ^ ((most >> I32(31)) & I32(0x7FFFFFFF))).view(np.float32)


@compiled
def powers(row, top, out):  # type: ignore[no-untyped-def]
    """Write 2 ** (row - top) in bfloat16 and return the sum."""
    total = F32(0)
    for i in range(len(row)):
        y = power(row[i] - top)
        total += y
        out[i] = to_bf16(y)
    return total


@compiled
def codes(row, out):  # type: ignore[no-untyped-def]
    """Write a row as 8-bit integers, of which 128 means 0, and return what one step of them is worth."""
    most = F32(TINY).view(np.int32)
    for i in range(len(row)):
        most = max(most, I32(F32(row[i]).view(np.int32) & I32(0x7FFFFFFF)))
    step = F32(I32(most).view(np.float32) / STEPS)
    factor = F32(1) / step
    for i in range(len(row)):
        out[i] = np.uint8(I32(np.rint(row[i] * factor)) + ZERO)
    return step


@compiled
def gelu(row, tail):  # type: ignore[no-untyped-def]
    """GELU in place, to 1e-5: x+ - |x| P(beyond |x|).

    Args:
        row: float32.
        tail: coefficients of the logarithm of P, ``EXACT`` or ``TANH``.
    """
    c0, c1, c2, c3, c4, c5, c6 = tail
    for i in range(len(row)):
        x = row[i]
        size = abs(x)
        a = END if size > END else size
        beyond = power(F32(c0 + a * (c1 + a * (c2 + a * (c3 + a * (c4 + a * (c5 + a * c6)))))))
        row[i] = (F32(0) if x < F32(0) else x) - size * beyond
