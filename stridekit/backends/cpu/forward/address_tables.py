"""Address tables: where each pixel and each tap of a block lies, and which taps lie inside the input."""

from __future__ import annotations

from typing import Any, NamedTuple

from stridekit.backends.cpu.runtime.compiler import helper
from stridekit.backends.cpu.runtime.processor import host
from stridekit.backends.cpu.runtime.vector_memory import get_int, set_int

MOST_PIXELS = max(host().tiles.values())
Place = tuple[int, int, int]


class Block(NamedTuple):
    """An output block: pixels `origin` to `stop` - 1, of which `low` to `high` - 1 are the inner ones."""

    origin: Place
    low: Place
    high: Place
    stop: Place


class Steps(NamedTuple):
    """Bytes from one to the next on each axis."""

    d: int
    h: int
    w: int


@helper
def inside(axis: Any, start: int, stop: int) -> Any:
    """Return the first and one past the last of outputs start..stop-1 whose windows touch no padding on this axis."""
    extent = axis.dilation * (axis.kernel - 1)
    low = min(max(-(-axis.pad // axis.stride), start), stop)
    high = min((axis.size - 1 - extent + axis.pad) // axis.stride + 1, stop) if axis.size > extent else 0
    return low, max(low, high)


@helper
def fill_tap_table(taps: Any, b: Any, steps: Any) -> None:
    """Write `taps`, for every channel block: bytes to a tap's input, rows of packed weights before it.

    If one takes a whole kernel row, only those that begin one are written.
    """
    at = 0
    for block in range(b.channel_blocks):
        depth = min(b.channel_block, b.channels - block * b.channel_block)
        for t in range(b.d.kernel):
            for r in range(b.h.kernel):
                for s in range(0, b.w.kernel, taps.length):
                    offset = t * steps.d + r * steps.h + s * steps.w
                    set_int(taps.table, at, offset + block * b.channel_block * b.itemsize)
                    set_int(taps.table, at + 1, ((t * b.h.kernel + r) * b.w.kernel + s) * depth)
                    at += 2


@helper
def fill_row_table(table: int, start: int, step: int, count: int) -> None:
    """Write `count` addresses `step` bytes apart."""
    for at in range(count):
        set_int(table, at, start + at * step)


@helper
def fill_inner_table(table: int, corner: int, block: Any, steps: Any) -> int:
    """Write the addresses of inner pixels, given that of pixel (0, 0, 0); return how many there are."""
    low, high = block.low, block.high
    at = 0
    for d in range(low[0], high[0]):
        for h in range(low[1], high[1]):
            address = corner + d * steps.d + h * steps.h + low[2] * steps.w
            for _ in range(low[2], high[2]):
                set_int(table, at, address)
                address += steps.w
                at += 1
    repeat_last(table, at)
    return at


@helper
def fill_outer_table(table: int, corner: int, block: Any, steps: Any) -> int:
    """Write the addresses of outer pixels, given that of pixel `origin`; return how many there are."""
    origin, stop = block.origin, block.stop
    at = 0
    for d in range(origin[0], stop[0]):
        for h in range(origin[1], stop[1]):
            row = corner + (d - origin[0]) * steps.d + (h - origin[1]) * steps.h
            left, right = _outer_columns(d, h, block)
            for w in range(left - origin[2]):
                set_int(table, at, row + w * steps.w)
                at += 1
            for w in range(right - origin[2], stop[2] - origin[2]):
                set_int(table, at, row + w * steps.w)
                at += 1
    repeat_last(table, at)
    return at


@helper
def _outer_columns(d: int, h: int, block: Any) -> Any:
    """Return where, in row (d, h), the outer pixels on the left end and those on the right begin."""
    low, high = block.low, block.high
    if low[0] <= d < high[0] and low[1] <= h < high[1] and low[2] < high[2]:
        return low[2], high[2]
    return block.stop[2], block.stop[2]


@helper
def repeat_last(table: int, count: int) -> None:
    """Fill up a table for the last tile, which then computes its last pixel again."""
    if count > 0:
        last = get_int(table, count - 1)
        for at in range(count, count + MOST_PIXELS):
            set_int(table, at, last)


@helper
def _reached(axis: Any, output: int, spread: int) -> int:
    """Mark the taps of this axis that lie inside the input with bits `spread` apart."""
    bits = 0
    for tap in range(axis.kernel):
        position = output * axis.stride + tap * axis.dilation - axis.pad
        if 0 <= position < axis.size:
            bits |= 1 << (tap * spread)
    return bits


@helper
def fill_reached_table(table: int, b: Any, whole_rows: bool, block: Any) -> None:
    """Write for every pixel of `fill_outer_table` one bit for each tap, set where the tap lies inside the input."""
    origin, stop = block.origin, block.stop
    spread = 1 if whole_rows else b.w.kernel
    at = 0
    for d in range(origin[0], stop[0]):
        # Bits of one axis lie apart by the taps of the axes inside it, so products place them.
        d_bits = _reached(b.d, d, b.h.kernel * spread)
        for h in range(origin[1], stop[1]):
            rows = d_bits * _reached(b.h, h, spread)
            left, right = _outer_columns(d, h, block)
            for w in range(origin[2], stop[2]):
                if w < left or w >= right:
                    set_int(table, at, rows if whole_rows else rows * _reached(b.w, w, 1))
                    at += 1
    repeat_last(table, at)
