"""Dot products of a few rows with a few weights, each of which is read and widened once."""

from typing import Any

from llvmlite import ir
from numba import types

from .tile import FLOAT, INT, LONG, at, dot_product, function_of_llvm, long

__all__ = ["FLOAT_OUTPUTS", "NUMBERS", "OUTPUTS", "ROWS", "WIDTH", "dots_float32", "dots_int16", "dots_of_one"]

ROWS, OUTPUTS = 4, 2  # eight sums hide how long an instruction takes
NUMBERS = 32  # that are multiplied in one step
FLOAT_OUTPUTS = 4
WIDTH = 16  # sums in a register
LINE = 64  # bytes that come from memory at a time
BYTE, SHORT = ir.IntType(8), ir.IntType(16)


def _fetch(builder: Any, address: Any) -> None:
    """Ask for the cache line at an address, which need not be anybody's, while something else is computed."""
    byte = BYTE.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, INT, INT, INT])
    prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
    read, second_level, data = (ir.Constant(INT, number) for number in (0, 2, 1))
    builder.call(prefetch, [builder.inttoptr(address, byte), read, second_level, data])


@function_of_llvm
def dots_int16(typing, x, x_stride, weight, weight_stride, sums, steps, ahead):  # type: ignore[no-untyped-def]
    """sums (4, 2) int32 = x (4, 32 * steps) int16 @ weight (2, 32 * steps) int8 transposed, exactly.

    All are addresses and strides between rows, in bytes. From `ahead` on, 64 * steps bytes are asked for meanwhile.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, x_stride, weight, weight_stride, sums, steps, ahead = arguments
        vector, wide = ir.VectorType(INT, WIDTH), ir.VectorType(SHORT, NUMBERS)
        before, body, done = builder.block, builder.append_basic_block("step"), builder.append_basic_block("done")
        builder.branch(body)
        builder.position_at_end(body)
        step = builder.phi(LONG)
        step.add_incoming(long(0), before)
        totals = [builder.phi(vector) for _ in range(ROWS * OUTPUTS)]
        for total in totals:
            total.add_incoming(ir.Constant(vector, [0] * WIDTH), before)
        _fetch(builder, builder.add(ahead, builder.mul(step, long(LINE))))
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

    return types.void(*[types.int64] * 7), generate


def _floats(rows: int) -> Any:
    """Products whose order is spelled out, so that a row has the same result alone and among others, to the bit."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, x_stride, weight, weight_stride, sums, steps, ahead = arguments
        vector = ir.VectorType(FLOAT, WIDTH)
        kind = ir.FunctionType(vector, [vector] * 3)
        multiply = builder.module.globals.get(f"llvm.fma.v{WIDTH}f32") or ir.Function(
            builder.module, kind, f"llvm.fma.v{WIDTH}f32"
        )
        before, body, done = builder.block, builder.append_basic_block("step"), builder.append_basic_block("done")
        builder.branch(body)
        builder.position_at_end(body)
        step = builder.phi(LONG)
        step.add_incoming(long(0), before)
        totals = [builder.phi(vector) for _ in range(rows * FLOAT_OUTPUTS)]
        for total in totals:
            total.add_incoming(ir.Constant(vector, [0.0] * WIDTH), before)
        far = builder.mul(step, long(4 * WIDTH))
        _fetch(builder, builder.add(ahead, builder.mul(step, long(LINE))))

        def loaded(base: Any, stride: Any, line: int) -> Any:
            return builder.load(at(builder, vector, base, builder.mul(stride, long(line)), far), align=4)

        weights = [loaded(weight, weight_stride, j) for j in range(FLOAT_OUTPUTS)]
        more = []
        for i in range(rows):
            row = loaded(x, x_stride, i)
            for j in range(FLOAT_OUTPUTS):
                more.append(builder.call(multiply, [row, weights[j], totals[FLOAT_OUTPUTS * i + j]]))
        following = builder.add(step, long(1))
        step.add_incoming(following, body)
        for total, new in zip(totals, more, strict=True):
            total.add_incoming(new, body)
        builder.cbranch(builder.icmp_signed("<", following, steps), body, done)
        builder.position_at_end(done)
        for number, total in enumerate(more):
            half = WIDTH // 2
            while half:
                low, high = (
                    builder.shuffle_vector(
                        total, ir.Constant(total.type, ir.Undefined), ir.Constant(ir.VectorType(INT, half), part)
                    )
                    for part in (list(range(half)), list(range(half, 2 * half)))
                )
                total, half = builder.fadd(low, high), half // 2
            first = builder.extract_element(total, ir.Constant(INT, 0))
            builder.store(first, at(builder, FLOAT, sums, long(4 * number)), align=4)
        return context.get_dummy_value()

    return generate


@function_of_llvm
def dots_float32(typing, x, x_stride, weight, weight_stride, sums, steps, ahead):  # type: ignore[no-untyped-def]
    """sums (4, 4) float32 = x (4, 16 * steps) float32 @ weight (4, 16 * steps) float32 transposed, steps >= 1.

    All are addresses and strides between rows, in bytes. From `ahead` on, 64 * steps bytes are asked for meanwhile.
    """
    return types.void(*[types.int64] * 7), _floats(ROWS)


@function_of_llvm
def dots_of_one(typing, x, x_stride, weight, weight_stride, sums, steps, ahead):  # type: ignore[no-untyped-def]
    """As :func:`dots_float32`, of one row: sums (1, 4)."""
    return types.void(*[types.int64] * 7), _floats(1)
