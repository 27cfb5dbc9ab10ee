"""The register tiles of matrix products whose operands are read where they lie, in their own type, nothing packed.

Both take rows by tables of addresses. Of a product of A and B, `outer_tile` runs its lanes along the rows of B, an
element of A broadcast to each; `inner_tile` runs them along the rows of both, and adds the lanes up at the end.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from stridekit.backends.cpu.forward.microkernel import _Tile
from stridekit.backends.cpu.runtime.vector_memory import BFLOAT16, FLOAT16, VECTOR_BYTES, added_up, shuffle

_INT64, _INT32, _INT16 = ir.IntType(64), ir.IntType(32), ir.IntType(16)
_Builder = Any
_Value = Any


class Scalars(NamedTuple):
    """Address of the addresses of rows of A, and of an int64 for each element: bytes to it from where a row begins."""

    table: int
    steps: int


class Vectors(NamedTuple):
    """Rows of B: address of `depth` addresses, bytes from there to the first column; columns, if a tile is partial."""

    table: int
    depth: int
    shift: int
    columns: int


class _Reader:
    """Reads elements of a tag as vectors of sums; beyond the first `count` lanes they are zeros, and not read."""

    def __init__(self, tile: _Tile, tag: Any, count: _Value | None = None):
        self.tile, self.tag = tile, tag
        self.element = _INT16 if tag in (FLOAT16, BFLOAT16) else tile.element
        self.itemsize = 2 if self.element is _INT16 else tile.itemsize
        self.mask = None if count is None else self._mask(count)

    def _mask(self, count: _Value) -> _Value:
        builder, lanes = self.tile.builder, self.tile.lanes
        first = builder.insert_element(ir.Constant(ir.VectorType(_INT64, lanes), ir.Undefined), count, _INT32(0))
        every = shuffle(builder, first, first, [0] * lanes)
        return builder.icmp_signed("<", ir.Constant(every.type, list(range(lanes))), every)

    def vector(self, address: _Value, number: int = 0) -> _Value:
        """Read the vector that lies `number` vectors behind `address`."""
        builder, lanes = self.tile.builder, self.tile.lanes
        stored = ir.VectorType(self.element, lanes)
        where = self.tile.pointer(self.tile.address(address, number * lanes * self.itemsize), stored)
        if self.mask is None:
            return self._widened(builder.load(where, align=self.itemsize), ir.VectorType(_INT32, lanes))
        kind = {_INT16: "i16"}.get(self.element, f"f{8 * self.itemsize}")
        signature = ir.FunctionType(stored, [where.type, _INT32, self.mask.type, stored])
        load = cgutils.get_or_insert_function(builder.module, signature, f"llvm.masked.load.v{lanes}{kind}.p0")
        nothing = ir.Constant(stored, None)
        loaded = builder.call(load, [where, _INT32(self.itemsize), self.mask, nothing])
        return self._widened(loaded, ir.VectorType(_INT32, lanes))

    def everywhere(self, address: _Value) -> _Value:
        """Read one element into every lane."""
        builder = self.tile.builder
        loaded = builder.load(self.tile.pointer(address, self.element), align=self.itemsize)
        scalar = self._widened(loaded, _INT32)
        first = builder.insert_element(ir.Constant(self.tile.vector, ir.Undefined), scalar, _INT32(0))
        return shuffle(builder, first, first, [0] * self.tile.lanes)

    def _widened(self, loaded: _Value, integers: Any) -> _Value:
        builder, vector = self.tile.builder, isinstance(loaded.type, ir.VectorType)
        if self.tag == FLOAT16:
            half, single = ir.HalfType(), ir.FloatType()
            if vector:
                half, single = (ir.VectorType(kind, self.tile.lanes) for kind in (half, single))
            return builder.fpext(builder.bitcast(loaded, half), single)
        if self.tag == BFLOAT16:
            sixteen = ir.Constant(integers, [16] * self.tile.lanes if vector else 16)
            return builder.bitcast(
                builder.shl(builder.zext(loaded, integers), sixteen), self.tile.vector if vector else self.tile.element
            )
        return loaded


def outer_tile(rows: int, vectors: int, *, partial: bool = False) -> Any:
    """Return the tile of P rows x Q vectors of a product whose lanes are columns.

    A function ``(tag, acc, a, b, sums)``: tags of the operands' elements and of the sums, `Scalars` of P rows,
    `Vectors`, and the `Sums` that are added to. If the tile is `partial` Q is 1, and columns beyond the last are not
    read.
    """

    def declare(typingctx: Any, tag: Any, acc: Any, a: Any, b: Any, sums: Any) -> Any:
        def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
            a_rows, steps = cgutils.unpack_tuple(builder, args[2])
            b_rows, count, first, width = cgutils.unpack_tuple(builder, args[3])
            target, step = cgutils.unpack_tuple(builder, args[4])
            tile = _Tile(context, builder, acc, rows, vectors)
            tile.begin(target, step)
            scalars, reader = _Reader(tile, tag), _Reader(tile, tag, width if partial else None)
            bases = [tile.integer(a_rows, ir.Constant(_INT64, row)) for row in range(rows)]
            with cgutils.for_range(builder, count, intp=_INT64) as loop:
                where = builder.add(tile.integer(b_rows, loop.index), first)
                loaded = [reader.vector(where, number) for number in range(vectors)]
                apart = tile.integer(steps, loop.index)
                for base, totals in zip(bases, tile.sums, strict=True):
                    value = scalars.everywhere(builder.add(base, apart))
                    for vector, total in zip(loaded, totals, strict=True):
                        tile.multiply_add(total, value, vector)
            for row, totals in enumerate(tile.sums):
                base = builder.add(target, builder.mul(step, ir.Constant(_INT64, row)))
                for number, total in enumerate(totals):
                    where = tile.address(base, number * VECTOR_BYTES)
                    builder.store(builder.load(total), tile.pointer(where, tile.vector), align=4)
            return context.get_dummy_value()

        return types.void(tag, acc, a, b, sums), codegen

    return intrinsic(declare)


def inner_tile(rows: int, columns: int) -> Any:
    """Return the tile of P rows of A x Q rows of B: sums of products of their elements, lane by lane.

    A function ``(tag, acc, a, b, depth, sums, row_step, column_step)``:

    tag, acc : of the operands' elements, and of the sums
    a, b, depth : addresses of P and of Q addresses of rows, and how many elements of them are multiplied
    sums, row_step, column_step : address of the sums, which are added to, and bytes between those of rows and columns
    """

    def declare(
        typingctx: Any, tag: Any, acc: Any, a: Any, b: Any, depth: Any, sums: Any, row_step: Any, column_step: Any
    ) -> Any:
        def codegen(context: Any, builder: _Builder, signature: Any, args: Any) -> _Value:
            _, _, a_rows, b_rows, count, target, down, across = args
            tile = _Tile(context, builder, acc, rows, columns)
            zeros = ir.Constant(tile.vector, [0.0] * tile.lanes)
            for totals in tile.sums:
                for total in totals:
                    builder.store(zeros, total)
            firsts = [tile.integer(a_rows, ir.Constant(_INT64, row)) for row in range(rows)]
            seconds = [tile.integer(b_rows, ir.Constant(_INT64, column)) for column in range(columns)]

            def multiply(reader: _Reader, shift: _Value) -> None:
                loaded = [reader.vector(builder.add(base, shift)) for base in firsts]
                for column, base in enumerate(seconds):
                    other = reader.vector(builder.add(base, shift))
                    for vector, totals in zip(loaded, tile.sums, strict=True):
                        tile.multiply_add(totals[column], vector, other)

            whole = _Reader(tile, tag)
            lanes = ir.Constant(_INT64, tile.lanes)
            vectors = builder.udiv(count, lanes)
            step = ir.Constant(_INT64, tile.lanes * whole.itemsize)
            with cgutils.for_range(builder, vectors, intp=_INT64) as loop:
                multiply(whole, builder.mul(loop.index, step))
            left = builder.sub(count, builder.mul(vectors, lanes))
            with builder.if_then(builder.icmp_signed(">", left, ir.Constant(_INT64, 0))):
                multiply(_Reader(tile, tag, left), builder.mul(vectors, step))
            for row, totals in enumerate(tile.sums):
                for column, total in enumerate(totals):
                    where = builder.add(target, builder.mul(down, ir.Constant(_INT64, row)))
                    where = builder.add(where, builder.mul(across, ir.Constant(_INT64, column)))
                    place = tile.pointer(where, tile.element)
                    found = added_up(builder, builder.load(total))
                    builder.store(builder.fadd(builder.load(place), found), place)
            return context.get_dummy_value()

        return types.void(tag, acc, *(types.int64,) * 6), codegen

    return intrinsic(declare)
