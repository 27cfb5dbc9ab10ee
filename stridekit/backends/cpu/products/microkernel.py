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
from stridekit.backends.cpu.runtime.elements import (
    itemsize_of,
    lane_mask,
    read,
    read_lanes,
    splat,
    stored_type,
    vector_of,
    widened,
)
from stridekit.backends.cpu.runtime.vector_memory import added_up

_INT64 = ir.IntType(64)
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
        self.mask = None if count is None else lane_mask(tile.builder, count, tile.lanes)

    def vector(self, address: _Value, number: int = 0) -> _Value:
        """Read the vector that lies `number` vectors behind `address`."""
        builder, lanes = self.tile.builder, self.tile.lanes
        where, kind = self.tile.address(address, number * lanes * itemsize_of(self.tag)), stored_type(self.tag)
        if self.mask is None:
            loaded = read(builder, vector_of(kind, lanes), where)
        else:
            loaded = read_lanes(builder, vector_of(kind, lanes), where, self.mask)
        return widened(builder, self.tag, loaded, lanes)

    def everywhere(self, address: _Value) -> _Value:
        """Read one element into every lane."""
        builder = self.tile.builder
        scalar = widened(builder, self.tag, read(builder, stored_type(self.tag), address), 1)
        return splat(builder, scalar, self.tile.lanes)


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
            tile.store(target, step)
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
            step = ir.Constant(_INT64, tile.lanes * itemsize_of(tag))
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
