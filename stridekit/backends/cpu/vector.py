"""The vector tile, as LLVM IR: the only place that knows how a multiply-add reaches the processor.

Numba cannot express a register tile, so an intrinsic emits it. P output pixels times Q vectors of output channels
are summed in registers; weights are read as vectors, an input element is broadcast from wherever it lies. Stride,
dilation and layout only move addresses. Memory is named by int64 addresses throughout.

A *tag* is a scalar whose Numba type stands for a type of element in memory: float32 and float64 for themselves,
uint16 for float16 and int16 for bfloat16, which Numba does not know. 16-bit elements become float32 when loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from stridekit.backends.cpu.device import host

TAGS: dict[str, Any] = {
    "float32": np.float32(0),
    "float64": np.float64(0),
    "float16": np.uint16(0),
    "bfloat16": np.int16(0),
}
"""The tag of each dtype."""

_HOST = host()
TILE_PIXELS = _HOST.tile_pixels
TILE_VECTORS = _HOST.tile_vectors
VECTOR_BYTES = _HOST.vector_bytes

_FLOAT16, _BFLOAT16 = types.uint16, types.int16
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
        if tag not in (_FLOAT16, _BFLOAT16):
            return builder.load(_pointer(builder, args[1], _scalar(tag)), align=1)
        bits = builder.load(_pointer(builder, args[1], _INT16), align=1)
        if tag == _FLOAT16:
            return builder.fpext(builder.bitcast(bits, ir.HalfType()), ir.FloatType())
        return builder.bitcast(builder.shl(builder.zext(bits, _INT32), ir.Constant(_INT32, 16)), ir.FloatType())

    return accumulator_type(tag)(tag, types.int64), codegen


@intrinsic
def store(typingctx: Any, tag: Any, address: Any, value: Any) -> Any:
    """Write `value`, of the accumulator type, as one element of the tag's type; rounded to nearest even."""

    def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
        _, where, number = args
        if tag == _FLOAT16:
            bits = builder.bitcast(builder.fptrunc(number, ir.HalfType()), _INT16)
        elif tag == _BFLOAT16:
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


@intrinsic
def copy_bytes(typingctx: Any, target: Any, source: Any, nbytes: Any) -> Any:
    """Copy `nbytes` bytes between addresses that do not overlap."""

    def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
        byte = ir.IntType(8)
        cgutils.raw_memcpy(builder, _pointer(builder, args[0], byte), _pointer(builder, args[1], byte), args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def copy_row(typingctx: Any, target: Any, source: Any) -> Any:
    """Copy the Q vectors of one pixel between addresses of any alignment."""

    def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
        vector = ir.VectorType(ir.IntType(8), VECTOR_BYTES)
        for number in range(TILE_VECTORS):
            target, source = (_pointer(builder, _add(builder, a, number * VECTOR_BYTES), vector) for a in args)
            builder.store(builder.load(source, align=1), target, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


class _Tile:
    """Emits the parts that both tiles share: vector type, sums, loads, multiply-adds."""

    def __init__(self, context: Any, builder: _Builder, tag: Any):
        self.builder = builder
        self.element = _scalar(tag)
        self.itemsize = 8 if tag == types.float64 else 4
        self.lanes = VECTOR_BYTES // self.itemsize
        self.vector = ir.VectorType(self.element, self.lanes)
        suffix = f"v{self.lanes}f{8 * self.itemsize}"
        signature = ir.FunctionType(self.vector, [self.vector] * 3)
        self.fma = cgutils.get_or_insert_function(builder.module, signature, f"llvm.fma.{suffix}")
        self.sums = [
            [cgutils.alloca_once(builder, self.vector) for _ in range(TILE_VECTORS)] for _ in range(TILE_PIXELS)
        ]

    def load_vector(self, address: _Value, number: int = 0) -> _Value:
        where = _add(self.builder, address, number * VECTOR_BYTES)
        return self.builder.load(_pointer(self.builder, where, self.vector), align=4)

    def broadcast(self, address: _Value) -> _Value:
        builder = self.builder
        scalar = builder.load(_pointer(builder, address, self.element), align=4)
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = builder.insert_element(undefined, scalar, ir.Constant(_INT32, 0))
        mask = ir.Constant(ir.VectorType(_INT32, self.lanes), [0] * self.lanes)
        return builder.shuffle_vector(first, undefined, mask)

    def multiply_add(self, pixel: int, number: int, a: _Value, b: _Value) -> None:
        builder, total = self.builder, self.sums[pixel][number]
        if _HOST.fma:
            builder.store(builder.call(self.fma, [a, b, builder.load(total)]), total)
        else:
            builder.store(builder.fadd(builder.fmul(a, b), builder.load(total)), total)

    def pixel_addresses(self, table: _Value) -> list[_Value]:
        pointer = _pointer(self.builder, table, _INT64)
        return [
            self.builder.load(self.builder.gep(pointer, [ir.Constant(_INT64, pixel)]), align=8)
            for pixel in range(TILE_PIXELS)
        ]

    def begin(self, start: _Value, step: _Value) -> None:
        """Load the sums: pixel p begins at ``start + p * step``; step 0 starts all from one row, the bias."""
        for pixel, row in enumerate(self.sums):
            base = self.builder.add(start, self.builder.mul(step, ir.Constant(_INT64, pixel)))
            for number, total in enumerate(row):
                self.builder.store(self.load_vector(base, number), total)

    def end(self, sums: _Value) -> None:
        """Store the sums, one row of vectors a pixel."""
        for pixel, row in enumerate(self.sums):
            for number, total in enumerate(row):
                offset = (pixel * TILE_VECTORS + number) * VECTOR_BYTES
                pointer = _pointer(self.builder, _add(self.builder, sums, offset), self.vector)
                self.builder.store(self.builder.load(total), pointer, align=4)


def _tile_intrinsic(emit: Callable[..., None]) -> Any:
    def declare(
        typingctx: Any,
        tag: Any,
        pixels: Any,
        taps: Any,
        tap_count: Any,
        length: Any,
        weights: Any,
        start: Any,
        step: Any,
        sums: Any,
    ) -> Any:
        def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
            _, pixel_table, tap_table, count, run, weight, start_row, start_step, total = args
            tile = _Tile(context, builder, tag)
            tile.begin(start_row, start_step)
            emit(tile, tile.pixel_addresses(pixel_table), tap_table, count, run, weight)
            tile.end(total)
            return context.get_dummy_value()

        return types.void(tag, *(types.int64,) * 8), codegen

    return declare


def _emit_broadcast(
    tile: _Tile, pixels: list[_Value], taps: _Value, count: _Value, length: _Value, weights: _Value
) -> None:
    builder = tile.builder
    weight = cgutils.alloca_once_value(builder, weights)
    with cgutils.for_range(builder, count, intp=_INT64) as tap:
        offset = builder.load(builder.gep(_pointer(builder, taps, _INT64), [tap.index]), align=8)
        bases = [builder.add(pixel, offset) for pixel in pixels]
        with cgutils.for_range(builder, length, intp=_INT64) as element:
            here = builder.load(weight)
            vectors = [tile.load_vector(here, number) for number in range(TILE_VECTORS)]
            builder.store(_add(builder, here, TILE_VECTORS * VECTOR_BYTES), weight)
            shift = builder.mul(element.index, ir.Constant(_INT64, tile.itemsize))
            for pixel, base in enumerate(bases):
                value = tile.broadcast(builder.add(base, shift))
                for number, vector in enumerate(vectors):
                    tile.multiply_add(pixel, number, value, vector)


def _emit_lanewise(
    tile: _Tile, pixels: list[_Value], taps: _Value, count: _Value, length: _Value, weights: _Value
) -> None:
    builder = tile.builder
    weight = cgutils.alloca_once_value(builder, weights)
    with cgutils.for_range(builder, count, intp=_INT64) as tap:
        offset = builder.load(builder.gep(_pointer(builder, taps, _INT64), [tap.index]), align=8)
        here = builder.load(weight)
        vectors = [tile.load_vector(here, number) for number in range(TILE_VECTORS)]
        builder.store(_add(builder, here, TILE_VECTORS * VECTOR_BYTES), weight)
        for pixel, base in enumerate(pixels):
            where = builder.add(base, offset)
            for number, vector in enumerate(vectors):
                tile.multiply_add(pixel, number, tile.load_vector(where, number), vector)


broadcast_tile = intrinsic(_tile_intrinsic(_emit_broadcast))
"""``broadcast_tile(tag, pixels, taps, tap_count, length, weights, start, step, sums)``: the convolution's tile.

pixels : address of P int64 addresses, where each pixel's first input element lies
taps : address of `tap_count` int64 byte offsets from there, each the start of `length` neighbouring elements
weights : address of ``[tap_count][length][Q][V]`` elements
start, step : address of the first pixel's initial sums and bytes to the next pixel's; step 0 for a bias row
sums : address of ``[P][Q][V]`` elements, written
"""

lanewise_tile = intrinsic(_tile_intrinsic(_emit_lanewise))
"""The depthwise tile: as `broadcast_tile`, but each lane has its own input channel, read as a vector.

Each tap is one vector row of Q vectors; `length` is not used. weights : ``[tap_count][Q][V]``.
"""
