"""The innermost product: six rows by 64 columns, whose sums stay in 24 of the processor's 32 wide registers.

Numba has no vectors: these few functions are written in LLVM's language, the two instructions that matter by name.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["COLUMNS", "ROWS", "address_of", "fetch_add", "pointer", "tile_bf16", "tile_int8"]

ROWS, COLUMNS = 6, 64
WIDTH = 16  # 32-bit numbers in a register
VECTORS = COLUMNS // WIDTH
function_of_llvm: Any = intrinsic  # what it makes takes no context
INT, LONG, FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()


def long(value: int) -> Any:
    return ir.Constant(LONG, value)


def at(builder: Any, kind: Any, *offsets: Any) -> Any:
    """A pointer to a kind of value at the sum of integers."""
    total = offsets[0]
    for offset in offsets[1:]:
        total = builder.add(total, offset)
    return builder.inttoptr(total, kind.as_pointer())


def dot_product(builder: Any, instruction: str, a: Any, b: Any, total: Any) -> Any:
    """16 sums, and the products of a and b that an instruction adds to each: registers of the type of the sums."""
    kind = ir.FunctionType(total.type, [total.type] * 3)
    return builder.asm(kind, f"{instruction} $2, $1, $0", "=v,v,v,0", [a, b, total], False)


def _tile(instruction: str, number: Any) -> Any:
    """c = a @ b, where each step multiplies 32 bits of a row of a with 32 bits of each column of b.

    An instruction adds to each of 16 sums the products of 16 groups (two bfloat16 or four integers of 8 bits).
    """
    vector = ir.VectorType(number, WIDTH)
    spread = ir.Constant(ir.VectorType(INT, WIDTH), [0] * WIDTH)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, a_stride, b, c, c_stride, steps = arguments
        before, body, done = builder.block, builder.append_basic_block("step"), builder.append_basic_block("done")
        builder.branch(body)
        builder.position_at_end(body)
        step = builder.phi(LONG)
        step.add_incoming(long(0), before)
        sums = [builder.phi(vector) for _ in range(ROWS * VECTORS)]
        for total in sums:
            total.add_incoming(ir.Constant(vector, [0] * WIDTH), before)
        columns = []
        for j in range(VECTORS):
            place = at(builder, vector, b, builder.mul(step, long(4 * COLUMNS)), long(4 * WIDTH * j))
            columns.append(builder.load(place, align=4))
        more = []
        for i in range(ROWS):
            place = at(builder, number, a, builder.mul(a_stride, long(i)), builder.mul(step, long(4)))
            first = builder.insert_element(
                ir.Constant(vector, ir.Undefined), builder.load(place, align=4), ir.Constant(INT, 0)
            )
            x = builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), spread)
            more += [dot_product(builder, instruction, x, columns[j], sums[VECTORS * i + j]) for j in range(VECTORS)]
        following = builder.add(step, long(1))
        step.add_incoming(following, body)
        for total, new in zip(sums, more, strict=True):
            total.add_incoming(new, body)
        builder.cbranch(builder.icmp_signed("<", following, steps), body, done)
        builder.position_at_end(done)
        for i in range(ROWS):
            for j in range(VECTORS):
                place = at(builder, vector, c, builder.mul(c_stride, long(i)), long(4 * WIDTH * j))
                builder.store(more[VECTORS * i + j], place, align=4)
        return context.get_dummy_value()

    return generate


@function_of_llvm
def tile_bf16(typing, a, a_stride, b, c, c_stride, steps):  # type: ignore[no-untyped-def]
    """c (6, 64) float32 = a (6, 2 * steps) @ b, of bfloat16.

    All are addresses and strides between rows, in bytes. b is (steps, 64, 2): pairs of each column side by side.
    """
    return types.void(*[types.int64] * 6), _tile("vdpbf16ps", FLOAT)


@function_of_llvm
def tile_int8(typing, a, a_stride, b, c, c_stride, steps):  # type: ignore[no-untyped-def]
    """c (6, 64) int32 = a (6, 4 * steps) uint8 @ b int8, exactly.

    All are addresses and strides between rows, in bytes. b is (steps, 64, 4): fours of each column side by side.
    """
    return types.void(*[types.int64] * 6), _tile("vpdpbusd", INT)


@function_of_llvm
def fetch_add(typing, address):  # type: ignore[no-untyped-def]
    """The integer at an address, which the next to ask finds larger by one: no two threads get the same."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", at(builder, LONG, arguments[0]), long(1), "monotonic")

    return types.int64(types.int64), generate


@function_of_llvm
def address_of(typing, given):  # type: ignore[no-untyped-def]
    """A pointer as an integer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(arguments[0], LONG)

    return types.int64(given), generate


@function_of_llvm
def pointer(typing, address, kind):  # type: ignore[no-untyped-def]
    """An integer as a pointer to numbers of a NumPy type."""
    to = types.CPointer(kind.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(to))

    return to(types.int64, kind), generate
