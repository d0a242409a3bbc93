"""Dot products of a few rows with a few weights, each of which is read and widened once."""

from typing import Any

from llvmlite import ir
from numba import types

from .tile import INT, LONG, at, dot_product, function_of_llvm, long

__all__ = ["NUMBERS", "OUTPUTS", "ROWS", "dots_int16"]

ROWS, OUTPUTS = 4, 2  # eight sums hide how long an instruction takes
NUMBERS = 32  # that are multiplied in one step
WIDTH = 16  # sums in a register
BYTE, SHORT = ir.IntType(8), ir.IntType(16)


@function_of_llvm
def dots_int16(typing, x, x_stride, weight, weight_stride, sums, steps):  # type: ignore[no-untyped-def]
    """sums (4, 2) int32 = x (4, 32 * steps) int16 @ weight (2, 32 * steps) int8 transposed, exactly.

    All are addresses and strides between rows, in bytes.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, x_stride, weight, weight_stride, sums, steps = arguments
        vector, wide = ir.VectorType(INT, WIDTH), ir.VectorType(SHORT, NUMBERS)
        before, body, done = builder.block, builder.append_basic_block("step"), builder.append_basic_block("done")
        builder.branch(body)
        builder.position_at_end(body)
        step = builder.phi(LONG)
        step.add_incoming(long(0), before)
        totals = [builder.phi(vector) for _ in range(ROWS * OUTPUTS)]
        for total in totals:
            total.add_incoming(ir.Constant(vector, [0] * WIDTH), before)
        weights, more = [], []
        for j in range(OUTPUTS):
            line = builder.mul(weight_stride, long(j))
            place = at(builder, ir.VectorType(BYTE, NUMBERS), weight, line, builder.mul(step, long(NUMBERS)))
            weights.append(builder.bitcast(builder.sext(builder.load(place, align=1), wide), vector))
        for i in range(ROWS):
            line = builder.mul(x_stride, long(i))
            place = at(builder, vector, x, line, builder.mul(step, long(2 * NUMBERS)))
            row = builder.load(place, align=2)
            for j in range(OUTPUTS):
                more.append(dot_product(builder, "vpdpwssd", row, weights[j], totals[OUTPUTS * i + j]))
        following = builder.add(step, long(1))
        step.add_incoming(following, body)
        for total, new in zip(totals, more, strict=True):
            total.add_incoming(new, body)
        builder.cbranch(builder.icmp_signed("<", following, steps), body, done)
        builder.position_at_end(done)
        name = f"llvm.vector.reduce.add.v{WIDTH}i32"
        add = builder.module.globals.get(name) or ir.Function(builder.module, ir.FunctionType(INT, [vector]), name)
        for number, total in enumerate(more):
            builder.store(builder.call(add, [total]), at(builder, INT, sums, long(4 * number)), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate
