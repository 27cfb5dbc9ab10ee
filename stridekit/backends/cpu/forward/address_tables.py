"""Address tables: where each pixel and each tap of a block lies, and which taps lie inside the input."""

from __future__ import annotations

from typing import Any

from stridekit.backends.cpu.forward.blocking import Blocking
from stridekit.backends.cpu.forward.partition import Axis
from stridekit.backends.cpu.runtime.compiler import helper
from stridekit.backends.cpu.runtime.processor import host
from stridekit.backends.cpu.runtime.vector_memory import get_int, read_ints, set_int

_AXIS_WORDS = len(Axis._fields)
_OTHER_WORDS = len(Blocking._fields) - 3
_read_axis, _read_others = read_ints(_AXIS_WORDS), read_ints(_OTHER_WORDS)
MOST_PIXELS = max(host().tiles.values())


@helper
def read_blocking(words: int) -> Blocking:
    """Read the `Blocking` whose ``words`` lie at an address: far cheaper to pass than fifty fields."""
    d, h, w = _read_axis(words), _read_axis(words + 8 * _AXIS_WORDS), _read_axis(words + 16 * _AXIS_WORDS)
    return Blocking(Axis(*d), Axis(*h), Axis(*w), *_read_others(words + 24 * _AXIS_WORDS))


@helper
def inside(axis: Any, start: int, stop: int) -> Any:
    """Return the first and one past the last of outputs start..stop-1 whose windows touch no padding on this axis."""
    extent = axis.dilation * (axis.kernel - 1)
    low = min(max(-(-axis.pad // axis.stride), start), stop)
    high = min((axis.size - 1 - extent + axis.pad) // axis.stride + 1, stop) if axis.size > extent else 0
    return low, max(low, high)


@helper
def fill_tap_table(table: int, b: Any, whole_rows: bool, d_step: int, h_step: int, w_step: int) -> None:
    """Write every tap, for every channel block: bytes to its input, rows of packed weights before it.

    With `whole_rows` only those that begin a kernel row are written.
    """
    at = 0
    for block in range(b.channel_blocks):
        depth = min(b.channel_block, b.channels - block * b.channel_block)
        for t in range(b.d.kernel):
            for r in range(b.h.kernel):
                for s in range(1 if whole_rows else b.w.kernel):
                    offset = t * d_step + r * h_step + s * w_step
                    set_int(table, at, offset + block * b.channel_block * b.itemsize)
                    set_int(table, at + 1, ((t * b.h.kernel + r) * b.w.kernel + s) * depth)
                    at += 2


@helper
def fill_row_table(table: int, start: int, step: int, count: int) -> None:
    """Write `count` addresses `step` bytes apart."""
    for at in range(count):
        set_int(table, at, start + at * step)


@helper
def fill_inner_table(table: int, corner: int, low: Any, high: Any, d_step: int, h_step: int, w_step: int) -> int:
    """Write the addresses of pixels low..high-1, given that of pixel (0, 0, 0); return how many there are."""
    at = 0
    for d in range(low[0], high[0]):
        for h in range(low[1], high[1]):
            address = corner + d * d_step + h * h_step + low[2] * w_step
            for _ in range(low[2], high[2]):
                set_int(table, at, address)
                address += w_step
                at += 1
    repeat_last(table, at)
    return at


@helper
def fill_outer_table(
    table: int, corner: int, origin: Any, low: Any, high: Any, stop: Any, d_step: int, h_step: int, w_step: int
) -> int:
    """Write the addresses of pixels origin..stop-1 without low..high-1, given that of pixel `origin`."""
    at = 0
    for d in range(origin[0], stop[0]):
        for h in range(origin[1], stop[1]):
            row = corner + (d - origin[0]) * d_step + (h - origin[1]) * h_step
            left, right = _outer_columns(d, h, origin, low, high, stop)
            for w in range(left - origin[2]):
                set_int(table, at, row + w * w_step)
                at += 1
            for w in range(right - origin[2], stop[2] - origin[2]):
                set_int(table, at, row + w * w_step)
                at += 1
    repeat_last(table, at)
    return at


@helper
def _outer_columns(d: int, h: int, origin: Any, low: Any, high: Any, stop: Any) -> Any:
    """Return where, in row (d, h), the outer pixels on the left end and those on the right begin."""
    if low[0] <= d < high[0] and low[1] <= h < high[1] and low[2] < high[2]:
        return low[2], high[2]
    return stop[2], stop[2]


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
def fill_reached_table(table: int, b: Any, whole_rows: bool, origin: Any, low: Any, high: Any, stop: Any) -> None:
    """Write for every pixel of `fill_outer_table` one bit for each tap, set where the tap lies inside the input."""
    spread = 1 if whole_rows else b.w.kernel
    at = 0
    for d in range(origin[0], stop[0]):
        # Bits of one axis lie apart by the taps of the axes inside it, so products place them.
        d_bits = _reached(b.d, d, b.h.kernel * spread)
        for h in range(origin[1], stop[1]):
            rows = d_bits * _reached(b.h, h, spread)
            left, right = _outer_columns(d, h, origin, low, high, stop)
            for w in range(origin[2], stop[2]):
                if w < left or w >= right:
                    set_int(table, at, rows if whole_rows else rows * _reached(b.w, w, 1))
                    at += 1
    repeat_last(table, at)
