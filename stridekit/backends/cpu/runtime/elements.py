"""Elements and vectors of them, as LLVM IR: their types, read and written at an address, widened and rounded.

A *tag* is a scalar whose Numba type stands for a type of element in memory: float32 and float64 for themselves,
uint16 for float16 and int16 for bfloat16, which Numba does not know. 16-bit elements become float32 when loaded.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from stridekit.backends.cpu.runtime.processor import host

VECTOR_BYTES = host().vector_bytes
FLOAT16, BFLOAT16 = types.uint16, types.int16
_INT64, _INT32, _INT16 = (ir.IntType(bits) for bits in (64, 32, 16))
_Builder = Any
_Value = Any


def accumulator_type(tag: Any) -> Any:
    """Return the Numba type in which elements of `tag` are summed."""
    return types.float64 if tag == types.float64 else types.float32


def constant(element: Any, lanes: int, value: Any) -> _Value:
    """Return a constant, the same in every lane."""
    return ir.Constant(vector_of(element, lanes), value if lanes == 1 else [value] * lanes)


def vector_of(element: Any, lanes: int) -> Any:
    """Return the type of so many lanes; of one, the element's own."""
    return element if lanes == 1 else ir.VectorType(element, lanes)


def splat(builder: _Builder, value: _Value, lanes: int) -> _Value:
    """Return a vector of a value in every lane."""
    one = builder.insert_element(ir.Constant(vector_of(value.type, lanes), ir.Undefined), value, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(one, one, ir.Constant(vector_of(_INT32, lanes), [0] * lanes))


def element_type(acc: Any) -> Any:
    """Return the LLVM type of sums."""
    return ir.DoubleType() if acc == types.float64 else ir.FloatType()


def stored_type(tag: Any) -> Any:
    """Return the LLVM type of elements in memory."""
    return _INT16 if tag in (FLOAT16, BFLOAT16) else element_type(tag)


def itemsize_of(tag: Any) -> int:
    """Return the bytes of an element."""
    return {types.float64: 8, types.float32: 4}.get(tag, 2)


def lanes_of(acc: Any) -> int:
    """Return how many sums a vector holds."""
    return VECTOR_BYTES // itemsize_of(acc)


def read(builder: _Builder, kind: Any, address: _Value) -> _Value:
    """Return what lies at an address of any alignment."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def write(builder: _Builder, value: _Value, address: _Value) -> None:
    """Write a value at an address of any alignment."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=1)


def widened(builder: _Builder, tag: Any, bits: _Value, lanes: int) -> _Value:
    """Return elements of `tag`, as they are stored, in their accumulator's type."""
    wide = vector_of(ir.FloatType(), lanes)
    if tag == FLOAT16:
        return builder.fpext(builder.bitcast(bits, vector_of(ir.HalfType(), lanes)), wide)
    if tag != BFLOAT16:
        return bits
    shifted = builder.shl(builder.zext(bits, vector_of(_INT32, lanes)), constant(_INT32, lanes, 16))
    return builder.bitcast(shifted, wide)


def rounded(builder: _Builder, tag: Any, value: _Value, lanes: int) -> _Value:
    """Return the value as an element of `tag`, to nearest even; a NaN stays one."""
    if tag == FLOAT16:
        return builder.bitcast(builder.fptrunc(value, vector_of(ir.HalfType(), lanes)), vector_of(_INT16, lanes))
    if tag != BFLOAT16:
        return value

    def each(number: int) -> _Value:
        return constant(_INT32, lanes, number)

    wide = builder.bitcast(value, vector_of(_INT32, lanes))
    odd = builder.and_(builder.lshr(wide, each(16)), each(1))
    nearest = builder.add(wide, builder.add(odd, each(0x7FFF)))
    quiet = builder.or_(wide, each(0x400000))
    chosen = builder.select(builder.fcmp_unordered("uno", value, value), quiet, nearest)
    return builder.trunc(builder.lshr(chosen, each(16)), vector_of(_INT16, lanes))


def along(builder: _Builder, address: _Value, step: _Value, index: _Value) -> _Value:
    """Return the address so many steps further on."""
    return builder.add(address, builder.mul(index, step))


def int64(value: int) -> _Value:
    """Return a constant integer."""
    return ir.Constant(_INT64, value)


def equals(builder: _Builder, value: _Value, wanted: int) -> _Value:
    """Return whether an integer is `wanted`."""
    return builder.icmp_signed("==", value, int64(wanted))


def loop_range(builder: _Builder, start: _Value, stop: _Value, step: int) -> Any:
    """Emit a loop from `start` to `stop`."""
    return cgutils.for_range_slice(builder, start, stop, int64(step), intp=_INT64)


def lane_mask(builder: _Builder, count: _Value, lanes: int) -> _Value:
    """Return the first `count` lanes."""
    ramp = ir.Constant(vector_of(_INT64, lanes), list(range(lanes)))
    return builder.icmp_signed("<", ramp, splat(builder, count, lanes))


def _suffix(kind: Any) -> str:
    return f"v{kind.count}{'i' if isinstance(kind.element, ir.IntType) else 'f'}{_bits(kind.element)}.p0"


def _bits(element: Any) -> int:
    return {"float": 32, "double": 64}.get(str(element)) or int(element.width)


def read_lanes(builder: _Builder, kind: Any, address: _Value, mask: _Value) -> _Value:
    """Read those lanes of a vector that `mask` has, and zeros; the memory of the others is not touched."""
    signature = ir.FunctionType(kind, [kind.as_pointer(), _INT32, mask.type, kind])
    call = cgutils.get_or_insert_function(builder.module, signature, f"llvm.masked.load.{_suffix(kind)}")
    place = builder.inttoptr(address, kind.as_pointer())
    return builder.call(call, [place, ir.Constant(_INT32, 1), mask, ir.Constant(kind, None)])


def write_lanes(builder: _Builder, value: _Value, address: _Value, mask: _Value) -> None:
    """Write those lanes of a vector that `mask` has."""
    signature = ir.FunctionType(ir.VoidType(), [value.type, value.type.as_pointer(), _INT32, mask.type])
    call = cgutils.get_or_insert_function(builder.module, signature, f"llvm.masked.store.{_suffix(value.type)}")
    place = builder.inttoptr(address, value.type.as_pointer())
    builder.call(call, [value, place, ir.Constant(_INT32, 1), mask])
