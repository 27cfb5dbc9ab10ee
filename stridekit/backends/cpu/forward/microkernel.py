"""The register tiles, as LLVM IR: the only place that knows how a multiply-add reaches the processor.

Numba cannot express a register tile, so an intrinsic emits it. P output pixels times Q vectors of output channels
are summed in registers; weights are read as vectors, an input element is broadcast from wherever it lies. Stride,
dilation and layout only move addresses.

Every tile of the convolution is a function ``(acc, pixels, taps, weights, sums, out)``:

acc : tag of the sums
pixels : address of P int64 addresses, where each pixel's first input element lies
taps, sums, out : `Taps`, `Sums` and `Out`
weights : address of vectors, Q for each element of each tap
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from stridekit.backends.cpu.runtime.compiler import inlined, named
from stridekit.backends.cpu.runtime.elements import VECTOR_BYTES, element_type, itemsize_of, lanes_of, splat
from stridekit.backends.cpu.runtime.processor import host

_UNROLL = 4
"""Elements of a tap in one step of the inner loop: fewer address sums, no more registers."""
_HAS_FMA = host().fma
_INT64 = ir.IntType(64)
_INT32 = ir.IntType(32)
_Builder = Any
_Value = Any


class Taps(NamedTuple):
    """What a pixel's products are of.

    Attributes
    ----------
    table, number : address of `number` pairs of int64: bytes to the tap's input, rows of Q vectors to its weights
    length : neighbouring elements of one tap
    room : address of room for a selection of the taps; tiles need none
    """

    table: int
    number: int
    length: int
    room: int


class Sums(NamedTuple):
    """Address of the first pixel's initial sums, and bytes to the next pixel's; `step` is 0 for a bias row."""

    start: int
    step: int


class Out(NamedTuple):
    """Where sums go.

    Attributes
    ----------
    targets : address of an int64 address for each pixel
    plane : bytes from each of them to where the first filter goes
    step : bytes from filter to filter; tiles write whole vectors
    """

    targets: int
    plane: int
    step: int


class Rows(NamedTuple):
    """Rows of a tile: address of `number` int64; added to `start`, each is the address of the row's first element."""

    table: int
    number: int
    start: int


class Run(NamedTuple):
    """What is summed of each row: `lines` of `length` elements, the bytes from line to line, from one to the next."""

    lines: int
    line_step: int
    length: int
    step: int


class Weights(NamedTuple):
    """Address of the first Q vectors that a `Run` is multiplied by, and bytes from line to line and one to the next."""

    start: int
    line_step: int
    step: int


def by_vectors(name: str, loops: list[tuple[int, Any]]) -> Any:
    """Return the choice among loops ``(vectors, acc, operands)`` by their number of vectors."""
    (number, loop), *others = loops
    if not others:
        return loop
    rest = by_vectors(name, others)

    def choose(vectors: int, acc: Any, operands: Any) -> None:
        if vectors == number:
            loop(vectors, acc, operands)
        else:
            rest(vectors, acc, operands)

    return named(inlined, choose, f"{name}_from_{number}")


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
    """Emits the parts that all tiles share: vector type, sums, loads, multiply-adds."""

    def __init__(self, context: Any, builder: _Builder, acc: Any, pixels: int, vectors: int):
        self.builder = builder
        self.element, self.itemsize = element_type(acc), itemsize_of(acc)
        self.vectors = vectors
        self.lanes = lanes_of(acc)
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
        return splat(self.builder, self.builder.load(self.pointer(address, self.element), align=4), self.lanes)

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
        for base, row in zip(self._rows(start, step), self.sums, strict=True):
            for number, total in enumerate(row):
                self.builder.store(self.load_vector(base, number), total)

    def store(self, start: _Value, step: _Value) -> None:
        self._store(self._rows(start, step))

    def end(self, targets: _Value, plane: _Value) -> None:
        places = [self.integer(targets, ir.Constant(_INT64, pixel)) for pixel in range(len(self.sums))]
        self._store([self.builder.add(place, plane) for place in places])

    def _rows(self, start: _Value, step: _Value) -> list[_Value]:
        builder = self.builder
        return [builder.add(start, builder.mul(step, ir.Constant(_INT64, row))) for row in range(len(self.sums))]

    def _store(self, rows: list[_Value]) -> None:
        for base, totals in zip(rows, self.sums, strict=True):
            for number, total in enumerate(totals):
                where = self.address(base, number * VECTOR_BYTES)
                self.builder.store(self.builder.load(total), self.pointer(where, self.vector), align=4)


def _tile(pixels: int, vectors: int, emit: Callable[..., None]) -> Any:
    def declare(typingctx: Any, acc: Any, table: Any, taps: Any, weights: Any, sums: Any, out: Any) -> Any:
        def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
            _, pixel_table, of_taps, weight, of_sums, of_out = args
            tap_table, count, length, _ = cgutils.unpack_tuple(builder, of_taps)
            targets, plane, _ = cgutils.unpack_tuple(builder, of_out)
            tile = _Tile(context, builder, acc, pixels, vectors)
            tile.begin(*cgutils.unpack_tuple(builder, of_sums))
            inputs = [tile.integer(pixel_table, ir.Constant(_INT64, pixel)) for pixel in range(pixels)]
            row = ir.Constant(_INT64, vectors * VECTOR_BYTES)
            with cgutils.for_range(builder, count, intp=_INT64) as tap:
                pair = builder.shl(tap.index, ir.Constant(_INT64, 1))
                shift = tile.integer(tap_table, pair)
                where = builder.add(
                    weight, builder.mul(tile.integer(tap_table, builder.or_(pair, ir.Constant(_INT64, 1))), row)
                )
                emit(tile, [builder.add(base, shift) for base in inputs], length, where)
            tile.end(targets, plane)
            return context.get_dummy_value()

        return types.void(acc, types.int64, taps, types.int64, sums, out), codegen

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


def run_tile(height: int, vectors: int) -> Any:
    """Return the weight gradient's tile of P x Q: lanes are filters, rows are channels and taps, pixels are summed.

    A function ``(acc, rows, run, weights, sums)`` of P `Rows`, a `Run`, `Weights`, and the address of P rows of Q
    vectors, which are added to.
    """

    def declare(typingctx: Any, acc: Any, rows: Any, run: Any, weights: Any, sums: Any) -> Any:
        def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
            _, of_rows, of_run, of_weights, rows_of_sums = args
            table, _, first = cgutils.unpack_tuple(builder, of_rows)
            lines, x_line, length, x_step = cgutils.unpack_tuple(builder, of_run)
            weight, w_line, w_step = cgutils.unpack_tuple(builder, of_weights)
            tile = _Tile(context, builder, acc, height, vectors)
            pitch = ir.Constant(_INT64, vectors * VECTOR_BYTES)
            tile.begin(rows_of_sums, pitch)
            bases = [tile.integer(table, ir.Constant(_INT64, row)) for row in range(height)]
            with cgutils.for_range(builder, lines, intp=_INT64) as line:
                at, here = cgutils.alloca_once(builder, _INT64), cgutils.alloca_once(builder, _INT64)
                builder.store(builder.add(first, builder.mul(line.index, x_line)), at)
                builder.store(builder.add(weight, builder.mul(line.index, w_line)), here)
                with cgutils.for_range(builder, length, intp=_INT64):
                    shift, where = builder.load(at), builder.load(here)
                    loaded = tile.load_vectors(where)
                    for base, totals in zip(bases, tile.sums, strict=True):
                        value = tile.broadcast(builder.add(base, shift))
                        for vector, total in zip(loaded, totals, strict=True):
                            tile.multiply_add(total, value, vector)
                    builder.store(builder.add(shift, x_step), at)
                    builder.store(builder.add(where, w_step), here)
            tile.store(rows_of_sums, pitch)
            return context.get_dummy_value()

        return types.void(acc, rows, run, weights, types.int64), codegen

    return intrinsic(declare)
