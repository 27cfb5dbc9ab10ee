"""Rows of lanes, as LLVM IR: what pooling does to all neighbours at once, channels of a pixel or pixels of a row.

A row of sums or maxima lies in the accumulator's type; its elements in memory may lie any number of bytes apart, and
are read as vectors where they are neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from stridekit.backends.cpu.vector import VECTOR_BYTES, accumulator_type

_INT64, _INT32, _INT16 = (ir.IntType(bits) for bits in (64, 32, 16))
_FLOAT16, _BFLOAT16 = types.uint16, types.int16
_Builder = Any
_Value = Any


def _kind(element: Any, lanes: int) -> Any:
    return element if lanes == 1 else ir.VectorType(element, lanes)


def _constant(element: Any, lanes: int, value: Any) -> _Value:
    return ir.Constant(_kind(element, lanes), value if lanes == 1 else [value] * lanes)


def _splat(builder: _Builder, value: _Value, lanes: int) -> _Value:
    if lanes == 1:
        return value
    one = builder.insert_element(ir.Constant(_kind(value.type, lanes), ir.Undefined), value, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(one, one, ir.Constant(_kind(_INT32, lanes), [0] * lanes))


def _pointer(builder: _Builder, address: _Value, element: Any, lanes: int) -> _Value:
    return builder.inttoptr(address, _kind(element, lanes).as_pointer())


def _element(acc: Any) -> Any:
    return ir.DoubleType() if acc == types.float64 else ir.FloatType()


def _itemsize(tag: Any) -> int:
    return {types.float64: 8, types.float32: 4}.get(tag, 2)


def _read(builder: _Builder, element: Any, address: _Value, lanes: int) -> _Value:
    return builder.load(_pointer(builder, address, element, lanes), align=1)


def _write(builder: _Builder, value: _Value, address: _Value, element: Any, lanes: int) -> None:
    builder.store(value, _pointer(builder, address, element, lanes), align=1)


def _widened(builder: _Builder, tag: Any, address: _Value, lanes: int) -> _Value:
    """Read elements of `tag` as their accumulator's type."""
    if tag not in (_FLOAT16, _BFLOAT16):
        return _read(builder, _element(tag), address, lanes)
    bits, wide = _read(builder, _INT16, address, lanes), _kind(ir.FloatType(), lanes)
    if tag == _FLOAT16:
        return builder.fpext(builder.bitcast(bits, _kind(ir.HalfType(), lanes)), wide)
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


def _each_lane(
    builder: _Builder, acc: Any, count: _Value, neighbours: _Value, body: Callable[[_Value, int], None]
) -> None:
    """Emit ``body(first, lanes)`` for whole vectors where elements are `neighbours`, and for the lanes left over."""
    lanes = VECTOR_BYTES // _itemsize(acc)
    zero, one, width = (ir.Constant(_INT64, number) for number in (0, 1, lanes))
    whole = builder.select(neighbours, builder.sub(count, builder.srem(count, width)), zero)
    with cgutils.for_range_slice(builder, zero, whole, width, intp=_INT64) as (index, _):
        body(index, lanes)
    with cgutils.for_range_slice(builder, whole, count, one, intp=_INT64) as (index, _):
        body(index, 1)


def _is(builder: _Builder, step: _Value, nbytes: int) -> _Value:
    return builder.icmp_signed("==", step, ir.Constant(_INT64, nbytes))


def _declared(emit: Callable[..., None], words: int) -> Any:
    """Return a function of a tag and `words` int64 that emits ``emit(builder, tag, acc, *words)``."""

    def typed(typingctx: Any, tag: Any, *arguments: Any) -> Any:
        def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
            emit(builder, tag, accumulator_type(tag), *args[1:])
            return context.get_dummy_value()

        return types.void(tag, *(types.int64,) * words), codegen

    # Numba counts the parameters: one declaration for each number of them.
    declarations: dict[int, Any] = {
        3: lambda ctx, tag, a, b, c: typed(ctx, tag, a, b, c),
        4: lambda ctx, tag, a, b, c, d: typed(ctx, tag, a, b, c, d),
        5: lambda ctx, tag, a, b, c, d, e: typed(ctx, tag, a, b, c, d, e),
        6: lambda ctx, tag, a, b, c, d, e, f: typed(ctx, tag, a, b, c, d, e, f),
        7: lambda ctx, tag, a, b, c, d, e, f, g: typed(ctx, tag, a, b, c, d, e, f, g),
    }
    return intrinsic(declarations[words])


def _emit_max(builder: _Builder, tag: Any, acc: Any, row: _Value, source: _Value, step: _Value, count: _Value) -> None:
    def body(index: _Value, lanes: int) -> None:
        here = _at(builder, row, ir.Constant(_INT64, _itemsize(acc)), index)
        value = _widened(builder, tag, _at(builder, source, step, index), lanes)
        best = _read(builder, _element(acc), here, lanes)
        nan = builder.fcmp_unordered("uno", value, value)
        better = builder.or_(builder.fcmp_ordered(">", value, best), nan)
        _write(builder, builder.select(better, value, best), here, _element(acc), lanes)

    _each_lane(builder, acc, count, _is(builder, step, _itemsize(tag)), body)


def _emit_max_indexed(
    builder: _Builder, tag: Any, acc: Any, row: _Value, found: _Value, source: _Value, step: _Value, count: _Value,
    index_of_first: _Value, index_step: _Value,
) -> None:  # fmt: skip
    def body(index: _Value, lanes: int) -> None:
        here = _at(builder, row, ir.Constant(_INT64, _itemsize(acc)), index)
        at = _at(builder, found, ir.Constant(_INT64, 8), index)
        value = _widened(builder, tag, _at(builder, source, step, index), lanes)
        best, known = _read(builder, _element(acc), here, lanes), _read(builder, _INT64, at, lanes)
        greater = builder.fcmp_ordered(">", value, best)
        nan = builder.and_(builder.fcmp_unordered("uno", value, value), builder.fcmp_ordered("ord", best, best))
        none = builder.icmp_signed("<", known, _constant(_INT64, lanes, 0))
        better = builder.or_(none, builder.or_(greater, nan))
        number = _splat(builder, _at(builder, index_of_first, index_step, index), lanes)
        if lanes > 1:
            ramp = ir.Constant(_kind(_INT64, lanes), list(range(lanes)))
            number = builder.add(number, builder.mul(_splat(builder, index_step, lanes), ramp))
        _write(builder, builder.select(better, value, best), here, _element(acc), lanes)
        _write(builder, builder.select(better, number, known), at, _INT64, lanes)

    _each_lane(builder, acc, count, _is(builder, step, _itemsize(tag)), body)


def _emit_add(
    builder: _Builder, tag: Any, acc: Any, row: _Value, row_step: _Value, source: _Value, step: _Value, count: _Value
) -> None:
    def body(index: _Value, lanes: int) -> None:
        here = _at(builder, row, row_step, index)
        value = _widened(builder, tag, _at(builder, source, step, index), lanes)
        _write(builder, builder.fadd(_read(builder, _element(acc), here, lanes), value), here, _element(acc), lanes)

    both = builder.and_(_is(builder, step, _itemsize(tag)), _is(builder, row_step, _itemsize(acc)))
    _each_lane(builder, acc, count, both, body)


def _emit_add_divided(
    builder: _Builder, tag: Any, acc: Any, row: _Value, source: _Value, step: _Value, count: _Value, divisor: _Value
) -> None:
    by = builder.sitofp(divisor, _element(acc))

    def body(index: _Value, lanes: int) -> None:
        here = _at(builder, row, ir.Constant(_INT64, _itemsize(acc)), index)
        value = _widened(builder, tag, _at(builder, source, step, index), lanes)
        share = builder.fdiv(value, _splat(builder, by, lanes))
        _write(builder, builder.fadd(_read(builder, _element(acc), here, lanes), share), here, _element(acc), lanes)

    _each_lane(builder, acc, count, _is(builder, step, _itemsize(tag)), body)


def _emit_add_where(
    builder: _Builder, tag: Any, acc: Any, row: _Value, source: _Value, step: _Value, found: _Value, count: _Value,
    number: _Value,
) -> None:  # fmt: skip
    def body(index: _Value, lanes: int) -> None:
        here = _at(builder, row, ir.Constant(_INT64, _itemsize(acc)), index)
        value = _widened(builder, tag, _at(builder, source, step, index), lanes)
        own = _read(builder, _INT64, _at(builder, found, ir.Constant(_INT64, 8), index), lanes)
        mine = builder.icmp_signed("==", own, _splat(builder, number, lanes))
        share = builder.select(mine, value, _constant(_element(acc), lanes, 0.0))
        _write(builder, builder.fadd(_read(builder, _element(acc), here, lanes), share), here, _element(acc), lanes)

    _each_lane(builder, acc, count, _is(builder, step, _itemsize(tag)), body)


def _emit_divide(builder: _Builder, tag: Any, acc: Any, row: _Value, count: _Value, divisor: _Value) -> None:
    by = builder.sitofp(divisor, _element(acc))

    def body(index: _Value, lanes: int) -> None:
        here = _at(builder, row, ir.Constant(_INT64, _itemsize(acc)), index)
        quotient = builder.fdiv(_read(builder, _element(acc), here, lanes), _splat(builder, by, lanes))
        _write(builder, quotient, here, _element(acc), lanes)

    _each_lane(builder, acc, count, ir.Constant(ir.IntType(1), 1), body)


def _emit_store(
    builder: _Builder, tag: Any, acc: Any, target: _Value, step: _Value, row: _Value, count: _Value
) -> None:
    element = _INT16 if tag in (_FLOAT16, _BFLOAT16) else _element(acc)

    def body(index: _Value, lanes: int) -> None:
        value = _read(builder, _element(acc), _at(builder, row, ir.Constant(_INT64, _itemsize(acc)), index), lanes)
        _write(builder, _rounded(builder, tag, value, lanes), _at(builder, target, step, index), element, lanes)

    _each_lane(builder, acc, count, _is(builder, step, _itemsize(tag)), body)


def _emit_fill(builder: _Builder, tag: Any, acc: Any, row: _Value, step: _Value, source: _Value, count: _Value) -> None:
    value = _read(builder, _element(acc), source, 1)

    def body(index: _Value, lanes: int) -> None:
        _write(builder, _splat(builder, value, lanes), _at(builder, row, step, index), _element(acc), lanes)

    _each_lane(builder, acc, count, _is(builder, step, _itemsize(acc)), body)


lanes_max = _declared(_emit_max, 4)
"""``(tag, row, source, step, count)``: take the larger; a NaN stays."""
lanes_max_indexed = _declared(_emit_max_indexed, 7)
"""``(tag, row, found, source, step, count, index, index_step)``: the same, and write where it was; the first stays."""
lanes_add = _declared(_emit_add, 5)
"""``(tag, row, row_step, source, step, count)``: add."""
lanes_add_divided = _declared(_emit_add_divided, 5)
"""``(tag, row, source, step, count, divisor)``: add quotients."""
lanes_add_where = _declared(_emit_add_where, 6)
"""``(tag, row, source, step, found, count, index)``: add where `found` is `index`."""
lanes_divide = _declared(_emit_divide, 3)
"""``(tag, row, count, divisor)``: divide the row."""
lanes_fill = _declared(_emit_fill, 4)
"""``(tag, row, step, source, count)``: write the one sum at `source` everywhere."""
lanes_store = _declared(_emit_store, 4)
"""``(tag, target, step, row, count)``: write the row as elements."""


def room(nbytes: int) -> Any:
    """Return a function of nothing that returns the address of so many bytes on its caller's stack."""

    def declare(typingctx: Any) -> Any:
        def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
            place = cgutils.alloca_once(builder, ir.ArrayType(_INT64, nbytes // 8))
            return builder.ptrtoint(place, _INT64)

        return types.int64(), codegen

    return intrinsic(declare)
