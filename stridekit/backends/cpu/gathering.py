"""Where the tile reads: address tables of pixels and taps, and the box into which a block of input is gathered.

A box holds the input of one output block with its padding resolved, channels innermost, in the type of the sums;
so a tile needs to know nothing of padding modes, layouts or 16-bit types.
"""

from __future__ import annotations

from typing import Any

from stridekit.backends.cpu.blocking import box_length as _box_length
from stridekit.backends.cpu.compiling import helper
from stridekit.backends.cpu.vector import TILE_PIXELS, copy_bytes, get_int, load, set_int, store
from stridekit.padding import source_index as _source_index

box_length = helper(_box_length)
source_index = helper(_source_index)

NOWHERE = -(1 << 62)
"""Stands in a table of byte offsets for "padding, holds zeros"."""
CHANNEL_RUN = 16
"""Channels gathered at once from channels-first memory: that many read streams, whole cache lines written."""


@helper
def block_origin(b: Any, place: int) -> Any:
    """Decode a task's place: first output pixel per axis, and what remains (sample and group)."""
    w0 = place % b.w.blocks * b.w.block
    place //= b.w.blocks
    h0 = place % b.h.blocks * b.h.block
    place //= b.h.blocks
    return place % b.d.blocks * b.d.block, h0, w0, place // b.d.blocks


@helper
def inside(axis: Any, start: int, stop: int) -> bool:
    """Say whether the windows of outputs start..stop-1 touch no padding on this axis."""
    first = start * axis.stride - axis.pad
    last = (stop - 1) * axis.stride - axis.pad + axis.dilation * (axis.kernel - 1)
    return first >= 0 and last < axis.size


@helper
def fill_tap_table(table: int, b: Any, whole_rows: bool, d_step: int, h_step: int, w_step: int) -> None:
    """Write the byte offset of every tap, for every channel block; of whole kernel rows only if those are runs."""
    at = 0
    for block in range(b.channel_blocks):
        for t in range(b.d.kernel):
            for r in range(b.h.kernel):
                for s in range(1 if whole_rows else b.w.kernel):
                    offset = t * d_step + r * h_step + s * w_step
                    set_int(table, at, offset + block * b.channel_block * b.itemsize)
                    at += 1


@helper
def fill_pixel_table(
    table: int, corner: int, depth: int, height: int, width: int, d_step: int, h_step: int, w_step: int
) -> None:
    """Write the address of every pixel of a block; the last one again until the last tile is full."""
    at, address = 0, corner
    for d in range(depth):
        for h in range(height):
            for w in range(width):
                address = corner + d * d_step + h * h_step + w * w_step
                set_int(table, at, address)
                at += 1
    while at % TILE_PIXELS:
        set_int(table, at, address)
        at += 1


@helper
def _source(axis: Any, start: int, position: int, mode: int) -> int:
    """Input coordinate of a box position, or -1 for a zero."""
    if axis.compact:
        output, tap = start + position // axis.kernel, position % axis.kernel
        return source_index(output * axis.stride + tap * axis.dilation - axis.pad, axis.size, mode)
    return source_index(start * axis.stride + position - axis.pad, axis.size, mode)


@helper
def _fill_zeros(acc: Any, address: int, count: int, itemsize: int) -> None:
    for i in range(count):
        store(acc, address + i * itemsize, acc)


@helper
def _gather_row(
    tag: Any, acc: Any, b: Any, base: int, strides: Any, first: int, count: int, columns: int, width: int, row: int
) -> None:
    pitch = b.pixel_channels * b.itemsize
    pixel_outside = abs(strides[1]) <= abs(strides[4])
    if pixel_outside and b.copies and strides[1] == b.itemsize and b.multiplier == 1:
        start = 0
        while start < width:
            column = get_int(columns, start)
            if column == NOWHERE:
                _fill_zeros(acc, row + start * pitch, b.pixel_channels, b.itemsize)
                start += 1
                continue
            stop = start + 1
            if strides[4] == pitch and count == b.pixel_channels:
                while stop < width and get_int(columns, stop) == column + (stop - start) * pitch:
                    stop += 1
            copy_bytes(
                row + start * pitch,
                base + first * b.itemsize + column,
                ((stop - start - 1) * pitch) + count * b.itemsize,
            )
            _fill_zeros(acc, row + start * pitch + count * b.itemsize, b.pixel_channels - count, b.itemsize)
            start = stop
        return
    run = count if pixel_outside else CHANNEL_RUN
    for i0 in range(0, count, run):
        i1 = min(i0 + run, count)
        for j in range(width):
            column, at = get_int(columns, j), row + j * pitch
            if column == NOWHERE:
                _fill_zeros(acc, at + i0 * b.itemsize, i1 - i0, b.itemsize)
            elif b.multiplier == 1:
                for i in range(i0, i1):
                    store(acc, at + i * b.itemsize, load(tag, base + column + (first + i) * strides[1]))
            else:
                for i in range(i0, i1):
                    channel = (first + i) // b.multiplier
                    store(acc, at + i * b.itemsize, load(tag, base + column + channel * strides[1]))
    if count < b.pixel_channels:
        for j in range(width):
            _fill_zeros(acc, row + j * pitch + count * b.itemsize, b.pixel_channels - count, b.itemsize)


@helper
def gather(
    tag: Any,
    acc: Any,
    b: Any,
    sample: int,
    strides: Any,
    first: int,
    count: int,
    origin: Any,
    stop: Any,
    box: int,
    columns: int,
) -> None:
    """Gather what outputs origin..stop-1 read of `count` filters' or channels' input, from `first` on, into the box."""
    width = box_length(b.w, stop[2] - origin[2])
    w_pitch = b.pixel_channels * b.itemsize
    h_pitch = box_length(b.w, b.w.block) * w_pitch
    d_pitch = box_length(b.h, b.h.block) * h_pitch
    for j in range(width):
        source = _source(b.w, origin[2], j, b.padding_mode)
        set_int(columns, j, NOWHERE if source < 0 else source * strides[4])
    for d in range(box_length(b.d, stop[0] - origin[0])):
        d_source = _source(b.d, origin[0], d, b.padding_mode)
        for h in range(box_length(b.h, stop[1] - origin[1])):
            h_source = _source(b.h, origin[1], h, b.padding_mode)
            row = box + d * d_pitch + h * h_pitch
            if d_source < 0 or h_source < 0:
                _fill_zeros(acc, row, width * b.pixel_channels, b.itemsize)
            else:
                base = sample + d_source * strides[2] + h_source * strides[3]
                _gather_row(tag, acc, b, base, strides, first, count, columns, width, row)
