"""The box: a block of input with its padding resolved, channels innermost, in the type of the sums.

So a tile needs to know nothing of padding modes, layouts or 16-bit types. Rows and pixels are written in ascending
order of their addresses: a transpose may write past a pixel's channels, into pixels that are written after it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from stridekit.backends.cpu.forward.address_tables import Steps
from stridekit.backends.cpu.forward.partition import box_length as _box_length
from stridekit.backends.cpu.runtime.compiler import helper
from stridekit.backends.cpu.runtime.vector_memory import (
    copy_bytes,
    copy_vectors,
    get_int,
    interleave,
    load,
    set_int,
    store,
    transpose,
)
from stridekit.problems.padding import source_index as _source_index

box_length = helper(_box_length)
source_index = helper(_source_index)

NOWHERE = -(1 << 62)
"""Stands in a table of byte offsets for "padding, holds zeros"."""


class Columns(NamedTuple):
    """Address of a pair of int64 for each box column: bytes to it in an input row, and how many lie in sequence."""

    table: int
    number: int


@helper
def box_steps(b: Any) -> Steps:
    """Return the bytes from one box position to the next on each axis."""
    w = b.pixel_channels * b.itemsize
    h = box_length(b.w, b.w.block) * w
    return Steps(box_length(b.h, b.h.block) * h, h, w)


@helper
def block_origin(b: Any, place: int) -> Any:
    """Decode a task's place: first output pixel per axis, and what remains (sample and group)."""
    w0 = place % b.w.blocks * b.w.block
    place //= b.w.blocks
    h0 = place % b.h.blocks * b.h.block
    place //= b.h.blocks
    return place % b.d.blocks * b.d.block, h0, w0, place // b.d.blocks


@helper
def _source(axis: Any, start: int, position: int, mode: int) -> int:
    """Input coordinate of a box position, or -1 for a zero."""
    if axis.compact:
        output, tap = start + position // axis.kernel, position % axis.kernel
        return source_index(output * axis.stride + tap * axis.dilation - axis.pad, axis.size, mode)
    return source_index(start * axis.stride + position - axis.pad, axis.size, mode)


@helper
def _fill_columns(columns: Any, b: Any, start: int, step: int) -> None:
    """Write `Columns`, from the right to the left."""
    run, following = 0, NOWHERE
    for j in range(columns.number - 1, -1, -1):
        source = _source(b.w, start, j, b.padding_mode)
        offset = NOWHERE if source < 0 else source * step
        run = run + 1 if following == offset + step else 1
        following = offset
        set_int(columns.table, 2 * j, offset)
        set_int(columns.table, 2 * j + 1, run)


@helper
def _fill_zeros(acc: Any, address: int, count: int, itemsize: int) -> None:
    for i in range(count):
        store(acc, address + i * itemsize, acc)


@helper
def _copy_row(
    acc: Any, b: Any, base: int, step: int, count: int, columns: Any, first: int, last: int, row: int
) -> None:
    """Copy one row of pixels whose channels lie end to end."""
    pitch, nbytes = b.pixel_channels * b.itemsize, count * b.itemsize
    vector = b.lanes * b.itemsize
    j = first
    while j < last:
        column, run = get_int(columns.table, 2 * j), min(get_int(columns.table, 2 * j + 1), last - j)
        at = row + j * pitch
        if column == NOWHERE:
            _fill_zeros(acc, at, b.pixel_channels, b.itemsize)
            j += 1
        elif step == pitch and nbytes == pitch and run > 1:
            copy_bytes(at, base + column, run * pitch)
            j += run
        else:
            if nbytes % vector == 0:
                copy_vectors(at, base + column, nbytes // vector)
            else:
                copy_bytes(at, base + column, nbytes)
            _fill_zeros(acc, at + nbytes, b.pixel_channels - count, b.itemsize)
            j += 1


@helper
def _transpose_row(acc: Any, b: Any, base: int, channel_step: int, count: int, columns: Any, row: int) -> None:
    """Transpose one row of pixels, each channel of which is a plane."""
    pitch = b.pixel_channels * b.itemsize
    last = (count - 1) // b.lanes * b.lanes
    j = 0
    while j < columns.number:
        column, run = get_int(columns.table, 2 * j), get_int(columns.table, 2 * j + 1)
        at = row + j * pitch
        if column == NOWHERE:
            _fill_zeros(acc, at, b.pixel_channels, b.itemsize)
            j += 1
        elif run >= b.lanes:
            if count <= 4:
                interleave(acc, at, pitch, base + column, channel_step, count)
            else:
                # Backwards, since the last channels' vectors may reach into the next pixel.
                for i in range(last, -1, -b.lanes):
                    source = base + column + i * channel_step
                    transpose(acc, at + i * b.itemsize, pitch, source, channel_step, count - i, b.lanes)
            if count < b.pixel_channels:
                for p in range(b.lanes):
                    _fill_zeros(acc, at + p * pitch + count * b.itemsize, b.pixel_channels - count, b.itemsize)
            j += b.lanes
        else:
            for i in range(count):
                store(acc, at + i * b.itemsize, load(acc, base + column + i * channel_step))
            _fill_zeros(acc, at + count * b.itemsize, b.pixel_channels - count, b.itemsize)
            j += 1


@helper
def _convert_row(
    tag: Any, acc: Any, b: Any, base: int, channel_step: int, first: int, count: int, columns: Any, row: int
) -> None:
    """Gather one row element by element: 16-bit types, several filters of one channel, odd strides."""
    for j in range(columns.number):
        column, at = get_int(columns.table, 2 * j), row + j * b.pixel_channels * b.itemsize
        if column == NOWHERE:
            _fill_zeros(acc, at, b.pixel_channels, b.itemsize)
            continue
        for i in range(count):
            channel = (first + i) // b.multiplier
            store(acc, at + i * b.itemsize, load(tag, base + column + channel * channel_step))
        _fill_zeros(acc, at + count * b.itemsize, b.pixel_channels - count, b.itemsize)


@helper
def _only_inner(axis: Any, start: int, low: int, high: int, stop: int) -> Any:
    """Return the range of box positions that no output of start..stop-1 but low..high-1 reads."""
    if low >= high:
        return 0, 0
    first = box_length(axis, low - start) if low > start else 0
    last = (high - start) * axis.pixel_step if high < stop else box_length(axis, stop - start)
    return first, max(first, last)


@helper
def gather(tag: Any, acc: Any, b: Any, x: Any, sample: int, first: int, count: int, block: Any, scratch: int) -> None:
    """Gather into the box what outer pixels of a block read of `count` filters' or channels' input of a sample."""
    origin, low, high, stop = block
    box, steps, width = scratch + b.box, box_steps(b), box_length(b.w, stop[2] - origin[2])
    columns = Columns(scratch + b.columns, width)
    _fill_columns(columns, b, origin[2], x.w)
    d_first, d_last = _only_inner(b.d, origin[0], low[0], high[0], stop[0])
    h_first, h_last = _only_inner(b.h, origin[1], low[1], high[1], stop[1])
    w_first, w_last = _only_inner(b.w, origin[2], low[2], high[2], stop[2])
    plain = b.copies and b.multiplier == 1
    shift = first * x.c
    for d in range(box_length(b.d, stop[0] - origin[0])):
        d_source = _source(b.d, origin[0], d, b.padding_mode)
        for h in range(box_length(b.h, stop[1] - origin[1])):
            h_source = _source(b.h, origin[1], h, b.padding_mode)
            row = box + d * steps.d + h * steps.h
            base = sample + d_source * x.d + h_source * x.h
            if d_source < 0 or h_source < 0:
                _fill_zeros(acc, row, width * b.pixel_channels, b.itemsize)
            elif plain and x.c == b.itemsize:
                if d_first <= d < d_last and h_first <= h < h_last:
                    _copy_row(acc, b, base + shift, x.w, count, columns, 0, w_first, row)
                    _copy_row(acc, b, base + shift, x.w, count, columns, w_last, width, row)
                else:
                    _copy_row(acc, b, base + shift, x.w, count, columns, 0, width, row)
            elif plain and x.w == b.itemsize:
                _transpose_row(acc, b, base + shift, x.c, count, columns, row)
            else:
                _convert_row(tag, acc, b, base, x.c, first, count, columns, row)
