"""The register tiles, as LLVM IR: the only place that knows how a multiply-add reaches the processor.

Numba cannot express a register tile, so an intrinsic emits it. P output pixels times Q vectors of output channels
are summed in registers; weights are read as vectors, an input element is broadcast from wherever it lies. Stride,
dilation and layout only move addresses.

Every tile is a function ``(acc, pixels, taps, tap_count, length, weights, start, step, targets, plane)``:

acc : tag of the sums
pixels : address of P int64 addresses, where each pixel's first input element lies
taps : address of `tap_count` pairs of int64: bytes from there to the tap's input, rows of Q vectors from `weights`
length : neighbouring elements of one tap
weights : address of vectors, Q for each element of each tap
start, step : address of the first pixel's initial sums, and bytes to the next pixel's; step 0 for a bias row
targets, plane : address of P int64 addresses, and bytes from each of them to where the pixel's Q vectors go
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from stridekit.backends.cpu.runtime.processor import host
from stridekit.backends.cpu.runtime.vector_memory import VECTOR_BYTES

_UNROLL = 4
"""Elements of a tap in one step of the inner loop: fewer address sums, no more registers."""
_HAS_FMA = host().fma
_INT64 = ir.IntType(64)
_INT32 = ir.IntType(32)
_Builder = Any
_Value = Any


def broadcast_tile(pixels: int, vectors: int) -> Any:
    """Return the convolution's tile of P x Q: each lane is a filter, all filters read the same input."""
    return intrinsic(_tile(pixels, vectors, _emit_broadcast))


def lanewise_tile(pixels: int, vectors: int) -> Any:
    """Return the depthwise tile of P x Q: each lane has its own input channel, so that a tap is Q vectors."""
    return intrinsic(_tile(pixels, vectors, _emit_lanewise))


def paired_tile(pixels: int, vectors: int) -> Any:
    """Return the tile of P x Q for two groups: the lower half of each vector is of one, the upper half of the other.

    The elements of the second group's tap lie behind those of the first.
    """
    return intrinsic(_tile(pixels, vectors, _emit_paired))


class _Tile:
    """Emits the parts that both tiles share: vector type, sums, loads, multiply-adds."""

    def __init__(self, context: Any, builder: _Builder, acc: Any, pixels: int, vectors: int):
        self.builder = builder
        self.element = ir.DoubleType() if acc == types.float64 else ir.FloatType()
        self.itemsize = 8 if acc == types.float64 else 4
        self.vectors = vectors
        self.lanes = VECTOR_BYTES // self.itemsize
        self.vector = ir.VectorType(self.element, self.lanes)
        suffix = f"v{self.lanes}f{8 * self.itemsize}"
        signature = ir.FunctionType(self.vector, [self.vector] * 3)
        self.fma = cgutils.get_or_insert_function(builder.module, signature, f"llvm.fma.{suffix}")
        self.sums = [[cgutils.alloca_once(builder, self.vector) for _ in range(vectors)] for _ in range(pixels)]

    def address(self, base: _Value, nbytes: int) -> _Value:
        return self.builder.add(base, ir.Constant(_INT64, nbytes)) if nbytes else base

    def pointer(self, address: _Value, element: Any) -> _Value:
        return self.builder.inttoptr(address, element.as_pointer())

    def integer(self, table: _Value, index: _Value) -> _Value:
        return self.builder.load(self.builder.gep(self.pointer(table, _INT64), [index]), align=8)

    def load_vector(self, address: _Value, number: int = 0) -> _Value:
        where = self.address(address, number * VECTOR_BYTES)
        return self.builder.load(self.pointer(where, self.vector), align=4)

    def load_vectors(self, address: _Value) -> list[_Value]:
        return [self.load_vector(address, number) for number in range(self.vectors)]

    def broadcast(self, address: _Value) -> _Value:
        builder = self.builder
        scalar = builder.load(self.pointer(address, self.element), align=4)
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = builder.insert_element(undefined, scalar, ir.Constant(_INT32, 0))
        mask = ir.Constant(ir.VectorType(_INT32, self.lanes), [0] * self.lanes)
        return builder.shuffle_vector(first, undefined, mask)

    def broadcast_halves(self, low: _Value, high: _Value) -> _Value:
        half = self.lanes // 2
        upper = ir.Constant(ir.VectorType(ir.IntType(1), self.lanes), [lane >= half for lane in range(self.lanes)])
        return self.builder.select(upper, self.broadcast(high), self.broadcast(low))

    def multiply_add(self, total: _Value, a: _Value, b: _Value) -> None:
        builder = self.builder
        if _HAS_FMA:
            builder.store(builder.call(self.fma, [a, b, builder.load(total)]), total)
        else:
            builder.store(builder.fadd(builder.fmul(a, b), builder.load(total)), total)

    def begin(self, start: _Value, step: _Value) -> None:
        for pixel, row in enumerate(self.sums):
            base = self.builder.add(start, self.builder.mul(step, ir.Constant(_INT64, pixel)))
            for number, total in enumerate(row):
                self.builder.store(self.load_vector(base, number), total)

    def end(self, targets: _Value, plane: _Value) -> None:
        for pixel, row in enumerate(self.sums):
            target = self.builder.add(self.integer(targets, ir.Constant(_INT64, pixel)), plane)
            for number, total in enumerate(row):
                where = self.address(target, number * VECTOR_BYTES)
                self.builder.store(self.builder.load(total), self.pointer(where, self.vector), align=4)


def _tile(pixels: int, vectors: int, emit: Callable[..., None]) -> Any:
    def declare(
        typingctx: Any,
        acc: Any,
        pixel_table: Any,
        taps: Any,
        tap_count: Any,
        length: Any,
        weights: Any,
        start: Any,
        step: Any,
        targets: Any,
        plane: Any,
    ) -> Any:
        def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
            _, table, tap_table, count, run, weight, start_row, start_step, target_table, offset = args
            tile = _Tile(context, builder, acc, pixels, vectors)
            tile.begin(start_row, start_step)
            inputs = [tile.integer(table, ir.Constant(_INT64, pixel)) for pixel in range(pixels)]
            row = ir.Constant(_INT64, vectors * VECTOR_BYTES)
            with cgutils.for_range(builder, count, intp=_INT64) as tap:
                pair = builder.shl(tap.index, ir.Constant(_INT64, 1))
                shift = tile.integer(tap_table, pair)
                where = builder.add(
                    weight, builder.mul(tile.integer(tap_table, builder.or_(pair, ir.Constant(_INT64, 1))), row)
                )
                emit(tile, [builder.add(base, shift) for base in inputs], run, where)
            tile.end(target_table, offset)
            return context.get_dummy_value()

        return types.void(acc, *(types.int64,) * 9), codegen

    return declare


def _emit_broadcast(tile: _Tile, bases: list[_Value], length: _Value, weights: _Value) -> None:
    builder = tile.builder
    row = tile.vectors * VECTOR_BYTES

    def elements(first: _Value, count: int) -> None:
        weight = builder.add(weights, builder.mul(first, ir.Constant(_INT64, row)))
        shift = builder.mul(first, ir.Constant(_INT64, tile.itemsize))
        inputs = [builder.add(base, shift) for base in bases]
        for number in range(count):
            vectors = tile.load_vectors(tile.address(weight, number * row))
            for base, sums in zip(inputs, tile.sums, strict=True):
                value = tile.broadcast(tile.address(base, number * tile.itemsize))
                for vector, total in zip(vectors, sums, strict=True):
                    tile.multiply_add(total, value, vector)

    unroll = ir.Constant(_INT64, _UNROLL)
    whole = builder.udiv(length, unroll)
    with cgutils.for_range(builder, whole, intp=_INT64) as loop:
        elements(builder.mul(loop.index, unroll), _UNROLL)
    done = builder.mul(whole, unroll)
    with cgutils.for_range(builder, builder.sub(length, done), intp=_INT64) as loop:
        elements(builder.add(done, loop.index), 1)


def _emit_paired(tile: _Tile, bases: list[_Value], length: _Value, weights: _Value) -> None:
    builder = tile.builder
    row = ir.Constant(_INT64, tile.vectors * VECTOR_BYTES)
    itemsize = ir.Constant(_INT64, tile.itemsize)
    to_second = builder.mul(length, itemsize)
    with cgutils.for_range(builder, length, intp=_INT64) as loop:
        vectors = tile.load_vectors(builder.add(weights, builder.mul(loop.index, row)))
        shift = builder.mul(loop.index, itemsize)
        for base, sums in zip(bases, tile.sums, strict=True):
            first = builder.add(base, shift)
            value = tile.broadcast_halves(first, builder.add(first, to_second))
            for vector, total in zip(vectors, sums, strict=True):
                tile.multiply_add(total, value, vector)


def _emit_lanewise(tile: _Tile, bases: list[_Value], length: _Value, weights: _Value) -> None:
    vectors = tile.load_vectors(weights)
    for base, sums in zip(bases, tile.sums, strict=True):
        for number, (vector, total) in enumerate(zip(vectors, sums, strict=True)):
            tile.multiply_add(total, tile.load_vector(base, number), vector)


def run_tile(pixels: int, vectors: int) -> Any:
    """Return the weight gradient's tile of P x Q: lanes are filters, pixels are channels and taps, pixels are summed.

    A function ``(acc, pixels, start, rows, row_step, length, step, weights, weight_row, weight_step, sums)``:

    pixels, start : address of P int64, and what to add to each for the address of its first input element
    rows, row_step : how many rows are summed, and bytes from row to row of the input
    length, step : elements of a row, and bytes from element to element
    weights, weight_row, weight_step : address of the first Q vectors, and bytes from row to row and element to element
    sums : address of P rows of Q vectors, which are added to
    """

    def declare(
        typingctx: Any,
        acc: Any,
        table: Any,
        start: Any,
        rows: Any,
        row_step: Any,
        length: Any,
        step: Any,
        weights: Any,
        weight_row: Any,
        weight_step: Any,
        sums: Any,
    ) -> Any:
        def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
            _, pixel_table, first, row_count, x_row, count, x_step, weight, w_row, w_step, rows_of_sums = args
            tile = _Tile(context, builder, acc, pixels, vectors)
            tile.begin(rows_of_sums, ir.Constant(_INT64, vectors * VECTOR_BYTES))
            bases = [tile.integer(pixel_table, ir.Constant(_INT64, pixel)) for pixel in range(pixels)]
            with cgutils.for_range(builder, row_count, intp=_INT64) as row:
                at, here = cgutils.alloca_once(builder, _INT64), cgutils.alloca_once(builder, _INT64)
                builder.store(builder.add(first, builder.mul(row.index, x_row)), at)
                builder.store(builder.add(weight, builder.mul(row.index, w_row)), here)
                with cgutils.for_range(builder, count, intp=_INT64):
                    shift, where = builder.load(at), builder.load(here)
                    loaded = tile.load_vectors(where)
                    for base, totals in zip(bases, tile.sums, strict=True):
                        value = tile.broadcast(builder.add(base, shift))
                        for vector, total in zip(loaded, totals, strict=True):
                            tile.multiply_add(total, value, vector)
                    builder.store(builder.add(shift, x_step), at)
                    builder.store(builder.add(where, w_step), here)
            for pixel, totals in enumerate(tile.sums):
                target = tile.address(rows_of_sums, pixel * vectors * VECTOR_BYTES)
                for number, total in enumerate(totals):
                    where = tile.address(target, number * VECTOR_BYTES)
                    builder.store(builder.load(total), tile.pointer(where, tile.vector), align=4)
            return context.get_dummy_value()

        return types.void(acc, *(types.int64,) * 10), codegen

    return intrinsic(declare)
