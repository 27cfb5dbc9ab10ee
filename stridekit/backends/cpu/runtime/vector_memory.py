"""Memory and vectors, as LLVM IR: what Numba cannot express. Memory is named by int64 addresses throughout.

A *tag* is a scalar whose Numba type stands for a type of element in memory: float32 and float64 for themselves,
uint16 for float16 and int16 for bfloat16, which Numba does not know. 16-bit elements become float32 when loaded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from stridekit.backends.cpu.runtime.processor import host
from stridekit.memory.dtypes import DTYPES

TAGS: dict[str, Any] = {dtype.name: np.dtype(dtype.stand_in).type(0) for dtype in DTYPES.values()}
"""The tag of each dtype."""


def tags(dtype: str) -> tuple[Any, Any]:
    """Return the tag of a dtype's elements and that of their sums."""
    return TAGS[dtype], TAGS[DTYPES[dtype].sums]


VECTOR_BYTES = host().vector_bytes

FLOAT16, BFLOAT16 = types.uint16, types.int16
_INT64 = ir.IntType(64)
_INT32 = ir.IntType(32)
_INT16 = ir.IntType(16)
_Builder = Any
_Value = Any


def accumulator_type(tag: Any) -> Any:
    """Return the Numba type in which elements of `tag` are summed."""
    return types.float64 if tag == types.float64 else types.float32


def _scalar(tag: Any) -> Any:
    return ir.DoubleType() if tag == types.float64 else ir.FloatType()


def _pointer(builder: _Builder, address: _Value, element: Any) -> _Value:
    return builder.inttoptr(address, element.as_pointer())


def _add(builder: _Builder, address: _Value, nbytes: int) -> _Value:
    return builder.add(address, ir.Constant(_INT64, nbytes)) if nbytes else address


@intrinsic
def load(typingctx: Any, tag: Any, address: Any) -> Any:
    """Read one element of the tag's type at `address`, as its accumulator type; any alignment."""

    def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
        if tag not in (FLOAT16, BFLOAT16):
            return builder.load(_pointer(builder, args[1], _scalar(tag)), align=1)
        bits = builder.load(_pointer(builder, args[1], _INT16), align=1)
        if tag == FLOAT16:
            return builder.fpext(builder.bitcast(bits, ir.HalfType()), ir.FloatType())
        return builder.bitcast(builder.shl(builder.zext(bits, _INT32), ir.Constant(_INT32, 16)), ir.FloatType())

    return accumulator_type(tag)(tag, types.int64), codegen


@intrinsic
def store(typingctx: Any, tag: Any, address: Any, value: Any) -> Any:
    """Write `value`, of the accumulator type, as one element of the tag's type; rounded to nearest even."""

    def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
        _, where, number = args
        if tag == FLOAT16:
            bits = builder.bitcast(builder.fptrunc(number, ir.HalfType()), _INT16)
        elif tag == BFLOAT16:
            bits = _bfloat16_bits(builder, number)
        else:
            bits = number
        builder.store(bits, _pointer(builder, where, bits.type), align=1)
        return context.get_dummy_value()

    return types.void(tag, types.int64, accumulator_type(tag)), codegen


def _bfloat16_bits(builder: _Builder, number: _Value) -> _Value:
    wide = builder.bitcast(number, _INT32)
    odd = builder.and_(builder.lshr(wide, ir.Constant(_INT32, 16)), ir.Constant(_INT32, 1))
    rounded = builder.add(wide, builder.add(odd, ir.Constant(_INT32, 0x7FFF)))
    # A NaN must not be rounded up to infinity: set its quiet bit instead.
    quiet = builder.or_(wide, ir.Constant(_INT32, 0x400000))
    chosen = builder.select(builder.fcmp_unordered("uno", number, number), quiet, rounded)
    return builder.trunc(builder.lshr(chosen, ir.Constant(_INT32, 16)), _INT16)


@intrinsic
def next_task(typingctx: Any, counter: Any) -> Any:
    """Return the int64 at address `counter` and add one to it, atomically: each task is drawn once."""

    def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
        return builder.atomic_rmw("add", _pointer(builder, args[0], _INT64), ir.Constant(_INT64, 1), "monotonic")

    return types.int64(types.int64), codegen


@intrinsic
def get_int(typingctx: Any, address: Any, index: Any) -> Any:
    """Read element `index` of the int64 array at `address`."""

    def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
        return builder.load(builder.gep(_pointer(builder, args[0], _INT64), [args[1]]), align=8)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def set_int(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
    """Write element `index` of the int64 array at `address`."""

    def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
        builder.store(args[2], builder.gep(_pointer(builder, args[0], _INT64), [args[1]]), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


def read_ints(count: int) -> Any:
    """Return a function of an address that reads `count` int64 there, as a tuple."""

    def declare(typingctx: Any, address: Any) -> Any:
        kind = types.UniTuple(types.int64, count)

        def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
            table = _pointer(builder, args[0], _INT64)
            values = [builder.load(builder.gep(table, [ir.Constant(_INT64, i)]), align=8) for i in range(count)]
            return context.make_tuple(builder, kind, values)

        return kind(types.int64), codegen

    return intrinsic(declare)


@intrinsic
def copy_bytes(typingctx: Any, target: Any, source: Any, nbytes: Any) -> Any:
    """Copy `nbytes` bytes between addresses that do not overlap."""

    def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
        byte = ir.IntType(8)
        cgutils.raw_memcpy(builder, _pointer(builder, args[0], byte), _pointer(builder, args[1], byte), args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def copy_vectors(typingctx: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy `count` whole vectors between addresses of any alignment that do not overlap."""

    def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
        vector = ir.VectorType(ir.IntType(8), VECTOR_BYTES)
        to, come = (builder.inttoptr(address, vector.as_pointer()) for address in args[:2])
        with cgutils.for_range(builder, args[2], intp=_INT64) as loop:
            value = builder.load(builder.gep(come, [loop.index]), align=1)
            builder.store(value, builder.gep(to, [loop.index]), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def fill_vectors(typingctx: Any, acc: Any, target: Any, count: Any, value: Any) -> Any:
    """Write `count` whole vectors of `value`."""

    def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
        _, where, number, scalar = args
        lanes = VECTOR_BYTES // (8 if acc == types.float64 else 4)
        vector = ir.VectorType(_scalar(acc), lanes)
        first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(_INT32, 0))
        every = shuffle(builder, first, first, [0] * lanes)
        place = _pointer(builder, where, vector)
        with cgutils.for_range(builder, number, intp=_INT64) as loop:
            builder.store(every, builder.gep(place, [loop.index]), align=1)
        return context.get_dummy_value()

    return types.void(acc, types.int64, types.int64, acc), codegen


@intrinsic
def zero_products(typingctx: Any, acc: Any, address: Any, step: Any, count: Any) -> Any:
    """Add up zero times each element of `count` vectors `step` bytes apart: 0, or NaN if one is infinite or NaN."""

    def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
        lanes = VECTOR_BYTES // (8 if acc == types.float64 else 4)
        vector = ir.VectorType(_scalar(acc), lanes)
        zeros = ir.Constant(vector, [0.0] * lanes)
        total = cgutils.alloca_once_value(builder, zeros)
        with cgutils.for_range(builder, args[3], intp=_INT64) as loop:
            where = builder.add(args[1], builder.mul(loop.index, args[2]))
            values = builder.load(_pointer(builder, where, vector), align=1)
            builder.store(builder.fadd(builder.load(total), builder.fmul(values, zeros)), total)
        return added_up(builder, builder.load(total))

    return acc(acc, types.int64, types.int64, types.int64), codegen


@intrinsic
def square(typingctx: Any, acc: Any) -> Any:
    """Return the address of room on the stack for a square of one vector's length, to be used in this function."""

    def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
        lanes = VECTOR_BYTES // (8 if acc == types.float64 else 4)
        room = cgutils.alloca_once(builder, ir.VectorType(_scalar(acc), lanes), size=lanes)
        return builder.ptrtoint(room, _INT64)

    return types.int64(acc), codegen


@intrinsic
def transpose(
    typingctx: Any, acc: Any, target: Any, target_step: Any, source: Any, source_step: Any, rows: Any, columns: Any
) -> Any:
    """Transpose a square of one vector's length: source row i, element j goes to target row j, element i.

    Only the first `rows` source rows are read (the last of them again for those beyond) and only the first
    `columns` target rows are written, but each of those in full. Steps are bytes from row to row.
    """

    def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
        _, to, to_step, come, come_step, row_count, column_count = args
        element = _scalar(acc)
        lanes = VECTOR_BYTES // (8 if acc == types.float64 else 4)
        vector = ir.VectorType(element, lanes)
        last = builder.sub(row_count, ir.Constant(_INT64, 1))
        square = []
        for i in range(lanes):
            number = ir.Constant(_INT64, i)
            row = builder.select(builder.icmp_signed("<", number, last), number, last)
            where = builder.add(come, builder.mul(row, come_step))
            square.append(builder.load(_pointer(builder, where, vector), align=1))
        square = transposed(builder, square)
        for j in range(lanes):
            number = ir.Constant(_INT64, j)
            with builder.if_then(builder.icmp_signed("<", number, column_count)):
                where = builder.add(to, builder.mul(number, to_step))
                builder.store(square[j], _pointer(builder, where, vector), align=1)
        return context.get_dummy_value()

    return types.void(acc, *(types.int64,) * 6), codegen


@intrinsic
def interleave(typingctx: Any, acc: Any, target: Any, pitch: Any, source: Any, source_step: Any, rows: Any) -> Any:
    """Interleave up to four rows of one vector's length: element j of all rows goes to ``target + j * pitch``.

    Always four elements are written there, the last row's again for those beyond `rows`, in ascending order of j.
    """

    def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
        _, to, to_step, come, come_step, row_count = args
        lanes = VECTOR_BYTES // (8 if acc == types.float64 else 4)
        vector = ir.VectorType(_scalar(acc), lanes)
        loaded = []
        for i in range(4):
            number = ir.Constant(_INT64, i)
            last = builder.sub(row_count, ir.Constant(_INT64, 1))
            row = builder.select(builder.icmp_signed("<", number, last), number, last)
            where = builder.add(come, builder.mul(row, come_step))
            loaded.append(builder.load(_pointer(builder, where, vector), align=1))
        for j in range(lanes):
            first, second = (shuffle(builder, a, b, [j, lanes + j]) for a, b in (loaded[:2], loaded[2:]))
            quad = shuffle(builder, first, second, [0, 1, 2, 3])
            where = builder.add(to, builder.mul(ir.Constant(_INT64, j), to_step))
            builder.store(quad, _pointer(builder, where, quad.type), align=1)
        return context.get_dummy_value()

    return types.void(acc, *(types.int64,) * 5), codegen


def shuffle(builder: _Builder, a: _Value, b: _Value, lanes: list[int]) -> _Value:
    """Take the elements of a vector numbered `lanes` from `a` and, counted on, from `b`."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT32, len(lanes)), lanes))


def added_up(builder: _Builder, vector: _Value) -> _Value:
    """Add the lanes of a vector up, half to half."""
    lanes = vector.type.count
    while lanes > 1:
        lanes //= 2
        low, high = list(range(lanes)), list(range(lanes, 2 * lanes))
        vector = builder.fadd(*(shuffle(builder, vector, vector, half) for half in (low, high)))
    return builder.extract_element(vector, ir.Constant(_INT32, 0))


def transposed(builder: _Builder, square: list[_Value]) -> list[_Value]:
    """Return the columns of as many vectors as one has lanes."""
    step = 1
    while step < len(square):
        square = _swap_bit(builder, square, step)
        step *= 2
    return square


def _swap_bit(builder: _Builder, square: list[_Value], step: int) -> list[_Value]:
    """Exchange one bit of the row's number with the same bit of the lane's: all bits make a transpose."""
    lanes = len(square)
    low = [lane if not lane & step else lanes + lane - step for lane in range(lanes)]
    high = [lane + step if not lane & step else lanes + lane for lane in range(lanes)]
    swapped = list(square)
    for row in range(lanes):
        if not row & step:
            pair = square[row], square[row + step]
            swapped[row], swapped[row + step] = (shuffle(builder, *pair, mask) for mask in (low, high))
    return swapped
