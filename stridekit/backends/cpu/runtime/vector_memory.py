"""Memory and vectors, as LLVM IR: what Numba cannot express. Memory is named by int64 addresses throughout."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, get_type_hints

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from stridekit.backends.cpu.runtime.elements import (
    VECTOR_BYTES,
    accumulator_type,
    element_type,
    lanes_of,
    read,
    rounded,
    splat,
    stored_type,
    widened,
    write,
)
from stridekit.memory.dtypes import DTYPES

TAGS: dict[str, Any] = {dtype.name: np.dtype(dtype.stand_in).type(0) for dtype in DTYPES.values()}
"""The tag of each dtype."""


def tags(dtype: str) -> tuple[Any, Any]:
    """Return the tag of a dtype's elements and that of their sums."""
    return TAGS[dtype], TAGS[DTYPES[dtype].sums]


_INT64 = ir.IntType(64)
_INT32 = ir.IntType(32)
_Builder = Any
_Value = Any


def _pointer(builder: _Builder, address: _Value, element: Any) -> _Value:
    return builder.inttoptr(address, element.as_pointer())


def _add(builder: _Builder, address: _Value, nbytes: int) -> _Value:
    return builder.add(address, ir.Constant(_INT64, nbytes)) if nbytes else address


@intrinsic
def load(typingctx: Any, tag: Any, address: Any) -> Any:
    """Read one element of the tag's type at `address`, as its accumulator type; any alignment."""

    def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
        return widened(builder, tag, read(builder, stored_type(tag), args[1]), 1)

    return accumulator_type(tag)(tag, types.int64), codegen


@intrinsic
def store(typingctx: Any, tag: Any, address: Any, value: Any) -> Any:
    """Write `value`, of the accumulator type, as one element of the tag's type; rounded to nearest even."""

    def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
        write(builder, rounded(builder, tag, args[2], 1), args[1])
        return context.get_dummy_value()

    return types.void(tag, types.int64, accumulator_type(tag)), codegen


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


def reader(kind: type[tuple[Any, ...]]) -> Any:
    """Return a function of an address that reads the record of `kind` there: far cheaper to pass than fifty fields."""

    def made(context: Any, builder: _Builder, words: Iterator[_Value], record: Any) -> _Value:
        if not isinstance(record, types.BaseTuple):
            return builder.load(next(words), align=8)
        return context.make_tuple(builder, record, [made(context, builder, words, field) for field in record])

    def declare(typingctx: Any, address: Any) -> Any:
        record = _record_type(kind)

        def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
            table = _pointer(builder, args[0], _INT64)
            words = (builder.gep(table, [ir.Constant(_INT64, number)]) for number in count())
            return made(context, builder, words, record)

        return record(types.int64), codegen

    return intrinsic(declare)


def _record_type(kind: type[tuple[Any, ...]]) -> Any:
    fields = get_type_hints(kind).values()
    return types.BaseTuple.from_types(
        [_record_type(field) if issubclass(field, tuple) else types.int64 for field in fields], kind
    )


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
        lanes = lanes_of(acc)
        every = splat(builder, scalar, lanes)
        place = _pointer(builder, where, every.type)
        with cgutils.for_range(builder, number, intp=_INT64) as loop:
            builder.store(every, builder.gep(place, [loop.index]), align=1)
        return context.get_dummy_value()

    return types.void(acc, types.int64, types.int64, acc), codegen


@intrinsic
def zero_products(typingctx: Any, acc: Any, address: Any, step: Any, count: Any) -> Any:
    """Add up zero times each element of `count` vectors `step` bytes apart: 0, or NaN if one is infinite or NaN."""

    def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
        lanes = lanes_of(acc)
        vector = ir.VectorType(element_type(acc), lanes)
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
        lanes = lanes_of(acc)
        room = cgutils.alloca_once(builder, ir.VectorType(element_type(acc), lanes), size=lanes)
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
        element = element_type(acc)
        lanes = lanes_of(acc)
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
        lanes = lanes_of(acc)
        vector = ir.VectorType(element_type(acc), lanes)
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
