"""Lanes side by side, as LLVM IR: what pooling does to as many channels or planes at once as a vector holds.

What is worked on lies in *rows* in the accumulator's type: for each pixel one vector or several, a *pitch* apart.
Arrays are brought there by `lanes_take` and come back by `lanes_put`, however they lie in memory: where a lane's pixels
are neighbours, a square at a time is transposed. So all arrays are computed in one way, in one order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from stridekit.backends.cpu.runtime.elements import (
    VECTOR_BYTES,
    accumulator_type,
    along,
    element_type,
    equals,
    int64,
    itemsize_of,
    lane_mask,
    lanes_of,
    loop_range,
    read,
    read_lanes,
    rounded,
    splat,
    stored_type,
    vector_of,
    widened,
    write,
    write_lanes,
)
from stridekit.backends.cpu.runtime.vector_memory import transposed

_INT64 = ir.IntType(64)
_Builder = Any
_Value = Any


def declared(emit: Callable[..., None], operands: int) -> Any:
    """Return a function of a tag and so many int64, or tuples of them, that emits ``emit(builder, tag, *operands)``."""

    def typed(typingctx: Any, tag: Any, *arguments: Any) -> Any:
        def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
            emit(builder, tag, *args[1:])
            return context.get_dummy_value()

        given = [kind if isinstance(kind, types.BaseTuple) else types.int64 for kind in arguments]
        return types.void(tag, *given), codegen

    # Numba counts the parameters: one declaration for each number of them.
    declarations: dict[int, Any] = {
        3: lambda ctx, tag, a, b, c: typed(ctx, tag, a, b, c),
        4: lambda ctx, tag, a, b, c, d: typed(ctx, tag, a, b, c, d),
        5: lambda ctx, tag, a, b, c, d, e: typed(ctx, tag, a, b, c, d, e),
        6: lambda ctx, tag, a, b, c, d, e, f: typed(ctx, tag, a, b, c, d, e, f),
        7: lambda ctx, tag, a, b, c, d, e, f, g: typed(ctx, tag, a, b, c, d, e, f, g),
    }
    return intrinsic(declarations[operands])


# Between memory and rows.


def _emit_take(
    builder: _Builder, tag: Any, target: _Value, pitch: _Value, source: _Value, lane_step: _Value, pixel_step: _Value,
    lanes: _Value, pixels: _Value,
) -> None:  # fmt: skip
    acc = accumulator_type(tag)
    width = lanes_of(acc)
    kind, wide = vector_of(stored_type(tag), width), vector_of(element_type(acc), width)

    def taken(come: _Value, whole: _Value, mask: _Value) -> _Value:
        with builder.if_else(whole) as (every, some):
            with every:
                all_of_it, here = read(builder, kind, come), builder.block
            with some:
                part, there = read_lanes(builder, kind, come, mask), builder.block
        value = builder.phi(kind)
        value.add_incoming(all_of_it, here)
        value.add_incoming(part, there)
        return widened(builder, tag, value, width)

    def neighbours() -> None:
        mask, whole = lane_mask(builder, lanes, width), equals(builder, lanes, width)
        with loop_range(builder, int64(0), pixels, 1) as (pixel, _):
            value = taken(along(builder, source, pixel_step, pixel), whole, mask)
            write(builder, value, along(builder, target, pitch, pixel))

    def squares() -> None:
        square = cgutils.alloca_once(builder, wide, size=width)
        # Lanes that are not in use are computed too: what lay there may be slow to compute with.
        for i in range(width):
            builder.store(ir.Constant(wide, None), builder.gep(square, [int64(i)]), align=VECTOR_BYTES)
        with loop_range(builder, int64(0), pixels, width) as (first, _):
            count = builder.sub(pixels, first)
            mask, whole = lane_mask(builder, count, width), builder.icmp_signed(">=", count, int64(width))
            come, to = along(builder, source, pixel_step, first), along(builder, target, pitch, first)
            with loop_range(builder, int64(0), lanes, 1) as (lane, _):
                value = taken(along(builder, come, lane_step, lane), whole, mask)
                builder.store(value, builder.gep(square, [lane]), align=VECTOR_BYTES)
            rows = [builder.load(builder.gep(square, [int64(i)]), align=VECTOR_BYTES) for i in range(width)]
            # All of the square is written: rows have room for it.
            for j, column in enumerate(transposed(builder, rows)):
                write(builder, column, along(builder, to, pitch, int64(j)))

    def one_by_one() -> None:
        with (
            loop_range(builder, int64(0), pixels, 1) as (pixel, _),
            loop_range(builder, int64(0), lanes, 1) as (lane, _),
        ):
            come = along(builder, along(builder, source, pixel_step, pixel), lane_step, lane)
            value = widened(builder, tag, read(builder, stored_type(tag), come), 1)
            to = along(builder, target, pitch, pixel)
            write(builder, value, along(builder, to, int64(itemsize_of(acc)), lane))

    _as_it_lies(builder, tag, lane_step, pixel_step, pixels, neighbours, squares, one_by_one)


def _emit_put(
    builder: _Builder, tag: Any, target: _Value, lane_step: _Value, pixel_step: _Value, source: _Value, pitch: _Value,
    lanes: _Value, pixels: _Value,
) -> None:  # fmt: skip
    acc = accumulator_type(tag)
    width = lanes_of(acc)
    wide = vector_of(element_type(acc), width)

    def put(value: _Value, to: _Value, whole: _Value, mask: _Value) -> None:
        value = rounded(builder, tag, value, width)
        with builder.if_else(whole) as (every, some):
            with every:
                write(builder, value, to)
            with some:
                write_lanes(builder, value, to, mask)

    def neighbours() -> None:
        mask, whole = lane_mask(builder, lanes, width), equals(builder, lanes, width)
        with loop_range(builder, int64(0), pixels, 1) as (pixel, _):
            value = read(builder, wide, along(builder, source, pitch, pixel))
            put(value, along(builder, target, pixel_step, pixel), whole, mask)

    def squares() -> None:
        square = cgutils.alloca_once(builder, wide, size=width)
        with loop_range(builder, int64(0), pixels, width) as (first, _):
            count = builder.sub(pixels, first)
            mask, whole = lane_mask(builder, count, width), builder.icmp_signed(">=", count, int64(width))
            come, to = along(builder, source, pitch, first), along(builder, target, pixel_step, first)
            rows = [read(builder, wide, along(builder, come, pitch, int64(j))) for j in range(width)]
            for i, row in enumerate(transposed(builder, rows)):
                builder.store(row, builder.gep(square, [int64(i)]), align=VECTOR_BYTES)
            with loop_range(builder, int64(0), lanes, 1) as (lane, _):
                value = builder.load(builder.gep(square, [lane]), align=VECTOR_BYTES)
                put(value, along(builder, to, lane_step, lane), whole, mask)

    def one_by_one() -> None:
        with (
            loop_range(builder, int64(0), pixels, 1) as (pixel, _),
            loop_range(builder, int64(0), lanes, 1) as (lane, _),
        ):
            come = along(builder, along(builder, source, pitch, pixel), int64(itemsize_of(acc)), lane)
            value = rounded(builder, tag, read(builder, element_type(acc), come), 1)
            write(builder, value, along(builder, along(builder, target, pixel_step, pixel), lane_step, lane))

    _as_it_lies(builder, tag, lane_step, pixel_step, pixels, neighbours, squares, one_by_one)


def _as_it_lies(
    builder: _Builder, tag: Any, lane_step: _Value, pixel_step: _Value, pixels: _Value, neighbours: Callable[[], None],
    squares: Callable[[], None], one_by_one: Callable[[], None],
) -> None:  # fmt: skip
    """Emit the three ways, for lanes that are neighbours, pixels that are, and neither."""
    with builder.if_else(equals(builder, lane_step, itemsize_of(tag))) as (are, are_not):
        with are:
            neighbours()
        with are_not, builder.if_else(equals(builder, pixel_step, itemsize_of(tag))) as (these_are, none_are):
            with these_are:
                squares()
            with none_are:
                one_by_one()


# Within rows.


@contextmanager
def _each_vector(builder: _Builder, count: _Value, *addresses: _Value) -> Iterator[list[_Value]]:
    """Emit a loop over `count` vectors; yield the addresses of each."""
    with loop_range(builder, int64(0), count, 1) as (index, _):
        yield [along(builder, address, int64(VECTOR_BYTES), index) for address in addresses]


def _emit_fill(builder: _Builder, tag: Any, row: _Value, vectors: _Value, word: _Value) -> None:
    value = splat(builder, word, VECTOR_BYTES // 8)
    with _each_vector(builder, vectors, row) as (here,):
        write(builder, value, here)


class Windows(NamedTuple):
    """Windows of a row: how many, vectors of each, bytes from where one begins in the source to where the next does."""

    number: int
    vectors: int
    step: int


class Taps(NamedTuple):
    """Taps of each window: how many, and bytes from one to the next."""

    number: int
    step: int


class Indices(NamedTuple):
    """The index of the first window's first tap, and how much more is that of the next window, of the next tap."""

    first: int
    window_step: int
    tap_step: int


@contextmanager
def _each_window(builder: _Builder, windows: _Value, source: _Value) -> Iterator[tuple[_Value, _Value, _Value]]:
    """Emit a loop over windows and their vectors; yield the number of the row's vector, the window's, the source."""
    number, vectors, window_step = cgutils.unpack_tuple(builder, windows)
    with (
        loop_range(builder, int64(0), number, 1) as (window, _),
        loop_range(builder, int64(0), vectors, 1) as (vector, _),
    ):
        come = along(builder, along(builder, source, window_step, window), int64(VECTOR_BYTES), vector)
        yield along(builder, vector, vectors, window), window, come


def _emit_add(builder: _Builder, acc: Any, *operands: _Value) -> None:
    _reduce(builder, acc, builder.fadd, *operands)


def _emit_max(builder: _Builder, acc: Any, *operands: _Value) -> None:
    def larger(best: _Value, value: _Value) -> _Value:
        nan = builder.fcmp_unordered("uno", value, value)
        return builder.select(builder.or_(builder.fcmp_ordered(">", value, best), nan), value, best)

    _reduce(builder, acc, larger, *operands)


def _reduce(
    builder: _Builder, acc: Any, combine: Callable[[_Value, _Value], _Value], row: _Value, source: _Value,
    windows: _Value, taps: _Value,
) -> None:  # fmt: skip
    kind, (number, step) = vector_of(element_type(acc), lanes_of(acc)), cgutils.unpack_tuple(builder, taps)
    total = cgutils.alloca_once(builder, kind)
    with _each_window(builder, windows, source) as (vector, _, come):
        here = along(builder, row, int64(VECTOR_BYTES), vector)
        builder.store(read(builder, kind, here), total)
        with loop_range(builder, int64(0), number, 1) as (tap, _):
            value = read(builder, kind, along(builder, come, step, tap))
            builder.store(combine(builder.load(total), value), total)
        write(builder, builder.load(total), here)


def _emit_max_indexed(
    builder: _Builder, acc: Any, row: _Value, found: _Value, source: _Value, windows: _Value, taps: _Value,
    indices: _Value,
) -> None:  # fmt: skip
    width, (number, step) = lanes_of(acc), cgutils.unpack_tuple(builder, taps)
    index, window_step, tap_step = cgutils.unpack_tuple(builder, indices)
    kind, numbers = vector_of(element_type(acc), width), vector_of(_INT64, width)
    best, known = cgutils.alloca_once(builder, kind), cgutils.alloca_once(builder, numbers)
    with _each_window(builder, windows, source) as (vector, window, come):
        here, there = (
            along(builder, row, int64(VECTOR_BYTES), vector),
            along(builder, found, int64(8 * width), vector),
        )
        builder.store(read(builder, kind, here), best)
        builder.store(read(builder, numbers, there), known)
        first = along(builder, index, window_step, window)
        with loop_range(builder, int64(0), number, 1) as (tap, _):
            value = read(builder, kind, along(builder, come, step, tap))
            _keep_larger(builder, best, known, value, splat(builder, along(builder, first, tap_step, tap), width))
        write(builder, builder.load(best), here)
        write(builder, builder.load(known), there)


def _emit_merge_indexed(
    builder: _Builder, acc: Any, row: _Value, found: _Value, vectors: _Value, source: _Value, source_found: _Value
) -> None:
    width = lanes_of(acc)
    kind, numbers = vector_of(element_type(acc), width), vector_of(_INT64, width)
    best, known = cgutils.alloca_once(builder, kind), cgutils.alloca_once(builder, numbers)
    with loop_range(builder, int64(0), vectors, 1) as (vector, _):
        here, come = (along(builder, address, int64(VECTOR_BYTES), vector) for address in (row, source))
        there, number = (along(builder, address, int64(8 * width), vector) for address in (found, source_found))
        builder.store(read(builder, kind, here), best)
        builder.store(read(builder, numbers, there), known)
        _keep_larger(builder, best, known, read(builder, kind, come), read(builder, numbers, number))
        write(builder, builder.load(best), here)
        write(builder, builder.load(known), there)


def _keep_larger(builder: _Builder, best: _Value, known: _Value, value: _Value, number: _Value) -> None:
    """Take a value and its number where it is larger, the first NaN, or the first of all; none has number -1."""
    largest, own = builder.load(best), builder.load(known)
    greater = builder.fcmp_ordered(">", value, largest)
    nan = builder.and_(builder.fcmp_unordered("uno", value, value), builder.fcmp_ordered("ord", largest, largest))
    first = builder.icmp_signed("<", own, ir.Constant(own.type, [0] * own.type.count))
    better = builder.or_(first, builder.or_(greater, nan))
    builder.store(builder.select(better, value, largest), best)
    builder.store(builder.select(better, number, own), known)


def _emit_spread(builder: _Builder, acc: Any, row: _Value, source: _Value, windows: _Value, taps: _Value) -> None:
    kind, (number, step) = vector_of(element_type(acc), lanes_of(acc)), cgutils.unpack_tuple(builder, taps)
    with _each_window(builder, windows, row) as (vector, _, to):
        value = read(builder, kind, along(builder, source, int64(VECTOR_BYTES), vector))
        with loop_range(builder, int64(0), number, 1) as (tap, _):
            there = along(builder, to, step, tap)
            write(builder, builder.fadd(read(builder, kind, there), value), there)


def _emit_divide(builder: _Builder, acc: Any, row: _Value, vectors: _Value, divisor: _Value) -> None:
    by = splat(builder, builder.sitofp(divisor, element_type(acc)), lanes_of(acc))
    with _each_vector(builder, vectors, row) as (here,):
        write(builder, builder.fdiv(read(builder, by.type, here), by), here)


def _emit_number(builder: _Builder, acc: Any, found: _Value, vectors: _Value, step: _Value) -> None:
    width = lanes_of(acc)
    numbers = vector_of(_INT64, width)
    zeros, ramp = ir.Constant(numbers, None), ir.Constant(numbers, list(range(width)))
    more = builder.mul(splat(builder, step, width), ramp)
    with loop_range(builder, int64(0), vectors, 1) as (vector, _):
        there = along(builder, found, int64(8 * width), vector)
        own = read(builder, numbers, there)
        some = builder.icmp_signed(">=", own, zeros)
        write(builder, builder.add(own, builder.select(some, more, zeros)), there)


lanes_take = declared(_emit_take, 7)
"""``(tag, row, pitch, source, lane_step, pixel_step, lanes, pixels)``: bring up to a vector of lanes into a row.

Up to a vector's length of pixels more are written.
"""
lanes_put = declared(_emit_put, 7)
"""``(tag, target, lane_step, pixel_step, row, pitch, lanes, pixels)``: write a row as elements.

Up to a vector's length of pixels more are read.
"""
lanes_fill = declared(_emit_fill, 3)
"""``(tag, row, vectors, word)``: fill a row with eight bytes, again and again."""
lanes_add = declared(_emit_add, 4)
"""``(acc, row, source, windows, taps)``: add to each of a row's `Windows` its `Taps`, one after the other."""
lanes_max = declared(_emit_max, 4)
"""The same: take the larger of all; a NaN stays."""
lanes_max_indexed = declared(_emit_max_indexed, 6)
"""``(acc, row, found, source, windows, taps, indices)``: and write which of the `Indices` it has; the first stays."""
lanes_merge_indexed = declared(_emit_merge_indexed, 5)
"""``(acc, row, found, vectors, source, source_found)``: the same, of one row with its own indices, -1 for none."""
lanes_number = declared(_emit_number, 3)
"""``(acc, found, vectors, step)``: add to each lane's index, where there is one, its number times `step`."""
lanes_spread = declared(_emit_spread, 4)
"""``(acc, row, source, windows, taps)``: add each of a row's windows to taps."""
lanes_divide = declared(_emit_divide, 3)
"""``(acc, row, vectors, divisor)``: divide a row."""


def room(nbytes: int) -> Any:
    """Return an intrinsic without arguments: it reserves `nbytes` on its caller's stack and returns their address."""

    def declare(typingctx: Any) -> Any:
        def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
            place = cgutils.alloca_once(builder, ir.ArrayType(_INT64, nbytes // 8))
            place.align = 64
            return builder.ptrtoint(place, _INT64)

        return types.int64(), codegen

    return intrinsic(declare)
