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

from stridekit.backends.cpu.runtime.vector_memory import VECTOR_BYTES, accumulator_type, transposed

_INT64, _INT32, _INT16, _BIT = (ir.IntType(bits) for bits in (64, 32, 16, 1))
_FLOAT16, _BFLOAT16 = types.uint16, types.int16
_Builder = Any
_Value = Any


def _constant(element: Any, lanes: int, value: Any) -> _Value:
    return ir.Constant(_kind(element, lanes), value if lanes == 1 else [value] * lanes)


def _kind(element: Any, lanes: int) -> Any:
    return element if lanes == 1 else ir.VectorType(element, lanes)


def _splat(builder: _Builder, value: _Value, lanes: int) -> _Value:
    one = builder.insert_element(ir.Constant(_kind(value.type, lanes), ir.Undefined), value, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(one, one, ir.Constant(_kind(_INT32, lanes), [0] * lanes))


def _element(acc: Any) -> Any:
    return ir.DoubleType() if acc == types.float64 else ir.FloatType()


def _stored(tag: Any) -> Any:
    return _INT16 if tag in (_FLOAT16, _BFLOAT16) else _element(tag)


def _itemsize(tag: Any) -> int:
    return {types.float64: 8, types.float32: 4}.get(tag, 2)


def _width(acc: Any) -> int:
    return VECTOR_BYTES // _itemsize(acc)


def _read(builder: _Builder, kind: Any, address: _Value) -> _Value:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def _write(builder: _Builder, value: _Value, address: _Value) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=1)


def _widened(builder: _Builder, tag: Any, bits: _Value, lanes: int) -> _Value:
    """Return elements of `tag`, as they are stored, in their accumulator's type."""
    wide = _kind(ir.FloatType(), lanes)
    if tag == _FLOAT16:
        return builder.fpext(builder.bitcast(bits, _kind(ir.HalfType(), lanes)), wide)
    if tag != _BFLOAT16:
        return bits
    shifted = builder.shl(builder.zext(bits, _kind(_INT32, lanes)), _constant(_INT32, lanes, 16))
    return builder.bitcast(shifted, wide)


def _rounded(builder: _Builder, tag: Any, value: _Value, lanes: int) -> _Value:
    """Return the value as an element of `tag`, to nearest even; a NaN stays one."""
    if tag == _FLOAT16:
        return builder.bitcast(builder.fptrunc(value, _kind(ir.HalfType(), lanes)), _kind(_INT16, lanes))
    if tag != _BFLOAT16:
        return value

    def constant(number: int) -> _Value:
        return _constant(_INT32, lanes, number)

    wide = builder.bitcast(value, _kind(_INT32, lanes))
    odd = builder.and_(builder.lshr(wide, constant(16)), constant(1))
    rounded = builder.add(wide, builder.add(odd, constant(0x7FFF)))
    quiet = builder.or_(wide, constant(0x400000))
    chosen = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
    return builder.trunc(builder.lshr(chosen, constant(16)), _kind(_INT16, lanes))


def _at(builder: _Builder, address: _Value, step: _Value, index: _Value) -> _Value:
    return builder.add(address, builder.mul(index, step))


def _number(value: int) -> _Value:
    return ir.Constant(_INT64, value)


def _is(builder: _Builder, value: _Value, wanted: int) -> _Value:
    return builder.icmp_signed("==", value, _number(wanted))


def _range(builder: _Builder, start: _Value, stop: _Value, step: int) -> Any:
    return cgutils.for_range_slice(builder, start, stop, _number(step), intp=_INT64)


def _mask(builder: _Builder, count: _Value, lanes: int) -> _Value:
    """Return the first `count` lanes."""
    ramp = ir.Constant(_kind(_INT64, lanes), list(range(lanes)))
    return builder.icmp_signed("<", ramp, _splat(builder, count, lanes))


def _suffix(kind: Any) -> str:
    return f"v{kind.count}{'i' if isinstance(kind.element, ir.IntType) else 'f'}{_bits(kind.element)}.p0"


def _bits(element: Any) -> int:
    return {"float": 32, "double": 64}.get(str(element)) or int(element.width)


def _read_some(builder: _Builder, kind: Any, address: _Value, mask: _Value) -> _Value:
    """Read those lanes of a vector that `mask` has, and zeros; the memory of the others is not touched."""
    signature = ir.FunctionType(kind, [kind.as_pointer(), _INT32, mask.type, kind])
    call = cgutils.get_or_insert_function(builder.module, signature, f"llvm.masked.load.{_suffix(kind)}")
    place = builder.inttoptr(address, kind.as_pointer())
    return builder.call(call, [place, ir.Constant(_INT32, 1), mask, ir.Constant(kind, None)])


def _write_some(builder: _Builder, value: _Value, address: _Value, mask: _Value) -> None:
    signature = ir.FunctionType(ir.VoidType(), [value.type, value.type.as_pointer(), _INT32, mask.type])
    call = cgutils.get_or_insert_function(builder.module, signature, f"llvm.masked.store.{_suffix(value.type)}")
    place = builder.inttoptr(address, value.type.as_pointer())
    builder.call(call, [value, place, ir.Constant(_INT32, 1), mask])


def _declared(emit: Callable[..., None], operands: int) -> Any:
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
    width = _width(acc)
    kind, wide = _kind(_stored(tag), width), _kind(_element(acc), width)

    def read(come: _Value, whole: _Value, mask: _Value) -> _Value:
        with builder.if_else(whole) as (every, some):
            with every:
                all_of_it, here = _read(builder, kind, come), builder.block
            with some:
                part, there = _read_some(builder, kind, come, mask), builder.block
        value = builder.phi(kind)
        value.add_incoming(all_of_it, here)
        value.add_incoming(part, there)
        return _widened(builder, tag, value, width)

    def neighbours() -> None:
        mask, whole = _mask(builder, lanes, width), _is(builder, lanes, width)
        with _range(builder, _number(0), pixels, 1) as (pixel, _):
            value = read(_at(builder, source, pixel_step, pixel), whole, mask)
            _write(builder, value, _at(builder, target, pitch, pixel))

    def squares() -> None:
        square = cgutils.alloca_once(builder, wide, size=width)
        # Lanes that are not in use are computed too: what lay there may be slow to compute with.
        for i in range(width):
            builder.store(ir.Constant(wide, None), builder.gep(square, [_number(i)]), align=VECTOR_BYTES)
        with _range(builder, _number(0), pixels, width) as (first, _):
            count = builder.sub(pixels, first)
            mask, whole = _mask(builder, count, width), builder.icmp_signed(">=", count, _number(width))
            come, to = _at(builder, source, pixel_step, first), _at(builder, target, pitch, first)
            with _range(builder, _number(0), lanes, 1) as (lane, _):
                value = read(_at(builder, come, lane_step, lane), whole, mask)
                builder.store(value, builder.gep(square, [lane]), align=VECTOR_BYTES)
            rows = [builder.load(builder.gep(square, [_number(i)]), align=VECTOR_BYTES) for i in range(width)]
            # All of the square is written: rows have room for it.
            for j, column in enumerate(transposed(builder, rows)):
                _write(builder, column, _at(builder, to, pitch, _number(j)))

    def one_by_one() -> None:
        with (
            _range(builder, _number(0), pixels, 1) as (pixel, _),
            _range(builder, _number(0), lanes, 1) as (lane, _),
        ):
            come = _at(builder, _at(builder, source, pixel_step, pixel), lane_step, lane)
            value = _widened(builder, tag, _read(builder, _stored(tag), come), 1)
            to = _at(builder, target, pitch, pixel)
            _write(builder, value, _at(builder, to, _number(_itemsize(acc)), lane))

    _as_it_lies(builder, tag, lane_step, pixel_step, pixels, neighbours, squares, one_by_one)


def _emit_put(
    builder: _Builder, tag: Any, target: _Value, lane_step: _Value, pixel_step: _Value, source: _Value, pitch: _Value,
    lanes: _Value, pixels: _Value,
) -> None:  # fmt: skip
    acc = accumulator_type(tag)
    width = _width(acc)
    wide = _kind(_element(acc), width)

    def put(value: _Value, to: _Value, whole: _Value, mask: _Value) -> None:
        value = _rounded(builder, tag, value, width)
        with builder.if_else(whole) as (every, some):
            with every:
                _write(builder, value, to)
            with some:
                _write_some(builder, value, to, mask)

    def neighbours() -> None:
        mask, whole = _mask(builder, lanes, width), _is(builder, lanes, width)
        with _range(builder, _number(0), pixels, 1) as (pixel, _):
            value = _read(builder, wide, _at(builder, source, pitch, pixel))
            put(value, _at(builder, target, pixel_step, pixel), whole, mask)

    def squares() -> None:
        square = cgutils.alloca_once(builder, wide, size=width)
        with _range(builder, _number(0), pixels, width) as (first, _):
            count = builder.sub(pixels, first)
            mask, whole = _mask(builder, count, width), builder.icmp_signed(">=", count, _number(width))
            come, to = _at(builder, source, pitch, first), _at(builder, target, pixel_step, first)
            rows = [_read(builder, wide, _at(builder, come, pitch, _number(j))) for j in range(width)]
            for i, row in enumerate(transposed(builder, rows)):
                builder.store(row, builder.gep(square, [_number(i)]), align=VECTOR_BYTES)
            with _range(builder, _number(0), lanes, 1) as (lane, _):
                value = builder.load(builder.gep(square, [lane]), align=VECTOR_BYTES)
                put(value, _at(builder, to, lane_step, lane), whole, mask)

    def one_by_one() -> None:
        with (
            _range(builder, _number(0), pixels, 1) as (pixel, _),
            _range(builder, _number(0), lanes, 1) as (lane, _),
        ):
            come = _at(builder, _at(builder, source, pitch, pixel), _number(_itemsize(acc)), lane)
            value = _rounded(builder, tag, _read(builder, _element(acc), come), 1)
            _write(builder, value, _at(builder, _at(builder, target, pixel_step, pixel), lane_step, lane))

    _as_it_lies(builder, tag, lane_step, pixel_step, pixels, neighbours, squares, one_by_one)


def _as_it_lies(
    builder: _Builder, tag: Any, lane_step: _Value, pixel_step: _Value, pixels: _Value, neighbours: Callable[[], None],
    squares: Callable[[], None], one_by_one: Callable[[], None],
) -> None:  # fmt: skip
    """Emit the three ways, for lanes that are neighbours, pixels that are, and neither."""
    with builder.if_else(_is(builder, lane_step, _itemsize(tag))) as (are, are_not):
        with are:
            neighbours()
        with are_not, builder.if_else(_is(builder, pixel_step, _itemsize(tag))) as (these_are, none_are):
            with these_are:
                squares()
            with none_are:
                one_by_one()


# Within rows.


@contextmanager
def _each_vector(builder: _Builder, count: _Value, *addresses: _Value) -> Iterator[list[_Value]]:
    """Emit a loop over `count` vectors; yield the addresses of each."""
    with _range(builder, _number(0), count, 1) as (index, _):
        yield [_at(builder, address, _number(VECTOR_BYTES), index) for address in addresses]


def _emit_fill(builder: _Builder, tag: Any, row: _Value, vectors: _Value, word: _Value) -> None:
    value = _splat(builder, word, VECTOR_BYTES // 8)
    with _each_vector(builder, vectors, row) as (here,):
        _write(builder, value, here)


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
        _range(builder, _number(0), number, 1) as (window, _),
        _range(builder, _number(0), vectors, 1) as (vector, _),
    ):
        come = _at(builder, _at(builder, source, window_step, window), _number(VECTOR_BYTES), vector)
        yield _at(builder, vector, vectors, window), window, come


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
    kind, (number, step) = _kind(_element(acc), _width(acc)), cgutils.unpack_tuple(builder, taps)
    total = cgutils.alloca_once(builder, kind)
    with _each_window(builder, windows, source) as (vector, _, come):
        here = _at(builder, row, _number(VECTOR_BYTES), vector)
        builder.store(_read(builder, kind, here), total)
        with _range(builder, _number(0), number, 1) as (tap, _):
            value = _read(builder, kind, _at(builder, come, step, tap))
            builder.store(combine(builder.load(total), value), total)
        _write(builder, builder.load(total), here)


def _emit_max_indexed(
    builder: _Builder, acc: Any, row: _Value, found: _Value, source: _Value, windows: _Value, taps: _Value,
    indices: _Value,
) -> None:  # fmt: skip
    width, (number, step) = _width(acc), cgutils.unpack_tuple(builder, taps)
    index, window_step, tap_step = cgutils.unpack_tuple(builder, indices)
    kind, numbers = _kind(_element(acc), width), _kind(_INT64, width)
    best, known = cgutils.alloca_once(builder, kind), cgutils.alloca_once(builder, numbers)
    with _each_window(builder, windows, source) as (vector, window, come):
        here, there = _at(builder, row, _number(VECTOR_BYTES), vector), _at(builder, found, _number(8 * width), vector)
        builder.store(_read(builder, kind, here), best)
        builder.store(_read(builder, numbers, there), known)
        first = _at(builder, index, window_step, window)
        with _range(builder, _number(0), number, 1) as (tap, _):
            value = _read(builder, kind, _at(builder, come, step, tap))
            _keep_larger(builder, best, known, value, _splat(builder, _at(builder, first, tap_step, tap), width))
        _write(builder, builder.load(best), here)
        _write(builder, builder.load(known), there)


def _emit_merge_indexed(
    builder: _Builder, acc: Any, row: _Value, found: _Value, vectors: _Value, source: _Value, source_found: _Value
) -> None:
    width = _width(acc)
    kind, numbers = _kind(_element(acc), width), _kind(_INT64, width)
    best, known = cgutils.alloca_once(builder, kind), cgutils.alloca_once(builder, numbers)
    with _range(builder, _number(0), vectors, 1) as (vector, _):
        here, come = (_at(builder, address, _number(VECTOR_BYTES), vector) for address in (row, source))
        there, number = (_at(builder, address, _number(8 * width), vector) for address in (found, source_found))
        builder.store(_read(builder, kind, here), best)
        builder.store(_read(builder, numbers, there), known)
        _keep_larger(builder, best, known, _read(builder, kind, come), _read(builder, numbers, number))
        _write(builder, builder.load(best), here)
        _write(builder, builder.load(known), there)


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
    kind, (number, step) = _kind(_element(acc), _width(acc)), cgutils.unpack_tuple(builder, taps)
    with _each_window(builder, windows, row) as (vector, _, to):
        value = _read(builder, kind, _at(builder, source, _number(VECTOR_BYTES), vector))
        with _range(builder, _number(0), number, 1) as (tap, _):
            there = _at(builder, to, step, tap)
            _write(builder, builder.fadd(_read(builder, kind, there), value), there)


def _emit_divide(builder: _Builder, acc: Any, row: _Value, vectors: _Value, divisor: _Value) -> None:
    by = _splat(builder, builder.sitofp(divisor, _element(acc)), _width(acc))
    with _each_vector(builder, vectors, row) as (here,):
        _write(builder, builder.fdiv(_read(builder, by.type, here), by), here)


def _emit_number(builder: _Builder, acc: Any, found: _Value, vectors: _Value, step: _Value) -> None:
    width = _width(acc)
    numbers = _kind(_INT64, width)
    zeros, ramp = ir.Constant(numbers, None), ir.Constant(numbers, list(range(width)))
    more = builder.mul(_splat(builder, step, width), ramp)
    with _range(builder, _number(0), vectors, 1) as (vector, _):
        there = _at(builder, found, _number(8 * width), vector)
        own = _read(builder, numbers, there)
        some = builder.icmp_signed(">=", own, zeros)
        _write(builder, builder.add(own, builder.select(some, more, zeros)), there)


lanes_take = _declared(_emit_take, 7)
"""``(tag, row, pitch, source, lane_step, pixel_step, lanes, pixels)``: bring up to a vector of lanes into a row.

Up to a vector's length of pixels more are written.
"""
lanes_put = _declared(_emit_put, 7)
"""``(tag, target, lane_step, pixel_step, row, pitch, lanes, pixels)``: write a row as elements.

Up to a vector's length of pixels more are read.
"""
lanes_fill = _declared(_emit_fill, 3)
"""``(tag, row, vectors, word)``: fill a row with eight bytes, again and again."""
lanes_add = _declared(_emit_add, 4)
"""``(acc, row, source, windows, taps)``: add to each of a row's `Windows` its `Taps`, one after the other."""
lanes_max = _declared(_emit_max, 4)
"""The same: take the larger of all; a NaN stays."""
lanes_max_indexed = _declared(_emit_max_indexed, 6)
"""``(acc, row, found, source, windows, taps, indices)``: and write which of the `Indices` it has; the first stays."""
lanes_merge_indexed = _declared(_emit_merge_indexed, 5)
"""``(acc, row, found, vectors, source, source_found)``: the same, of one row with its own indices, -1 for none."""
lanes_number = _declared(_emit_number, 3)
"""``(acc, found, vectors, step)``: add to each lane's index, where there is one, its number times `step`."""
lanes_spread = _declared(_emit_spread, 4)
"""``(acc, row, source, windows, taps)``: add each of a row's windows to taps."""
lanes_divide = _declared(_emit_divide, 3)
"""``(acc, row, vectors, divisor)``: divide a row."""


def room(nbytes: int) -> Any:
    """Return a function of nothing that returns the address of so many bytes on its caller's stack, on a cache line."""

    def declare(typingctx: Any) -> Any:
        def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
            place = cgutils.alloca_once(builder, ir.ArrayType(_INT64, nbytes // 8))
            place.align = 64
            return builder.ptrtoint(place, _INT64)

        return types.int64(), codegen

    return intrinsic(declare)
