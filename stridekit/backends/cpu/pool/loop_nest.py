"""Pooling, compiled: blocks of the result shared out, each computed in rows of lanes.

Lanes are as many channels or planes as a vector or several hold. A window is taken along its rows first, then the rows
are put together, so that windows that overlap share them: a pixel's cost grows with the sum of a window's sides, not
with their product. A gradient is the same in reverse. One thread computes a block, in an order that is its own:
threads share nothing.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from stridekit.backends.cpu.pool.blocking import ROW_VECTORS, SOURCE_VECTORS, SUM_VECTORS
from stridekit.backends.cpu.pool.jobs import Pooled
from stridekit.backends.cpu.runtime.compiler import entry, helper
from stridekit.backends.cpu.runtime.elements import VECTOR_BYTES
from stridekit.backends.cpu.runtime.records import Strided
from stridekit.backends.cpu.runtime.row_operations import (
    Indices,
    Taps,
    Windows,
    lanes_add,
    lanes_divide,
    lanes_fill,
    lanes_max,
    lanes_max_indexed,
    lanes_merge_indexed,
    lanes_number,
    lanes_put,
    lanes_spread,
    lanes_take,
    room,
)
from stridekit.backends.cpu.runtime.vector_memory import (
    TAGS,
    get_int,
    load,
    next_task,
    reader,
    store,
    tags,
)
from stridekit.memory.dtypes import DTYPES

SPARE = VECTOR_BYTES // 4
"""Vectors that are written and read beyond those: the rest of a square."""
_source_room = room((SOURCE_VECTORS + SPARE) * VECTOR_BYTES)
# An index takes as much as two sums of float32.
_row_room = room(3 * ROW_VECTORS * VECTOR_BYTES)
_sum_room = room(3 * (SUM_VECTORS + SPARE) * VECTOR_BYTES)


class Part(NamedTuple):
    """A block's part of an axis: pixels of the result, `first` to `last` of what they are made of; exclusive ends."""

    start: int
    stop: int
    first: int
    last: int


class Block(NamedTuple):
    """A block's parts of the axes."""

    d: Part
    h: Part
    w: Part


class Row(NamedTuple):
    """Address of a row of windows, and of their indices, or 0."""

    start: int
    found: int


class Line(NamedTuple):
    """A line of the input: address of its first pixel, bytes from pixel to pixel, index of the first."""

    start: int
    step: int
    first_index: int


class Rows(NamedTuple):
    """A block's rows: room for pixels, a row, all results; the lanes in use, a pixel's vectors and bytes."""

    source: int
    row: Row
    sums: Row
    lanes: int
    vectors: int
    pitch: int
    found_pitch: int


_read_job = reader(Pooled)
_LOWEST_DOUBLE = int(np.array(-np.inf).view(np.int64))
_LOWEST_FLOAT = int(np.full(2, -np.inf, np.float32).view(np.int64)[0])
_INDEX = TAGS["float64"]
"""Indices move as numbers of 64 bits, whose bits nothing looks at."""


# Which pixels a window has.


@helper
def _taps(axis: Any, output: int, low: int, high: int) -> Any:
    """Return from and to which tap a window lies at the coordinates low to high - 1."""
    start = output * axis.stride - axis.pad
    # Nearly all windows; the divisions would take longer than their sums.
    if start >= low and start + (axis.kernel - 1) * axis.dilation < high:
        return 0, axis.kernel
    if axis.dilation == 1:
        return max(0, low - start), min(axis.kernel, high - start)
    return max(0, -((start - low) // axis.dilation)), min(axis.kernel, -((start - high) // axis.dilation))


@helper
def _counted(axis: Any, output: int) -> Any:
    """Return how many taps of a window an average counts."""
    first, stop = _taps(axis, output, axis.low, axis.high)
    return max(0, stop - first)


@helper
def _spanning(axis: Any, low: int, high: int, start: int, stop: int) -> Any:
    """Return from and to which of the windows start to stop - 1 they span one of the coordinates low to high - 1."""
    before = low + axis.pad - (axis.kernel - 1) * axis.dilation
    return max(start, -(-before // axis.stride)), min(stop, (high - 1 + axis.pad) // axis.stride + 1)


@helper
def _inner(axis: Any, low: int, high: int, start: int, stop: int) -> Any:
    """Return from and to which of the windows start to stop - 1 all taps are among the coordinates low to high - 1."""
    end = high - 1 + axis.pad - (axis.kernel - 1) * axis.dilation
    return max(start, -(-(low + axis.pad) // axis.stride)), min(stop, end // axis.stride + 1)


@helper
def _holding(axis: Any, position: int, start: int, stop: int) -> Any:
    """Return the first of the windows start to stop - 1 with a tap at a coordinate, and an end of the others.

    They are `axis.period` apart.
    """
    first, last = _spanning(axis, position, position + 1, start, stop)
    if axis.dilation > 1:
        for output in range(first, min(last, first + axis.period)):
            if (position + axis.pad - output * axis.stride) % axis.dilation == 0:
                return output, last
        return last, last
    return first, last


@helper
def _next_read(axis: Any, part: Any, position: int) -> Any:
    """Return the next coordinate from `position` that taps of the part's windows surround; its end if there is none."""
    if axis.dilation > 1:
        first, last = part.start * axis.stride - axis.pad, (part.stop - 1) * axis.stride - axis.pad
        tap = max(0, -((last - position) // axis.dilation))
        position = max(position, first + tap * axis.dilation) if tap < axis.kernel else part.last
    return min(position, part.last)


@helper
def _next_window(axis: Any, part: Any, output: int) -> Any:
    """Return the next window from `output` that may have a tap in the part; its end if there is none."""
    if axis.dilation > 1 and output < part.last:
        tap = min(axis.kernel - 1, (part.stop - 1 + axis.pad - output * axis.stride) // axis.dilation)
        output = max(output, -(-(part.start + axis.pad - tap * axis.dilation) // axis.stride))
    return min(output, part.last)


@helper
def _part(axis: Any, number: int, forward: int) -> Any:
    start = number * axis.block
    if forward != 0:
        stop = min(start + axis.block, axis.out)
        first = start * axis.stride - axis.pad
        last = (stop - 1) * axis.stride - axis.pad + (axis.kernel - 1) * axis.dilation + 1
        return Part(start, stop, max(0, first), min(axis.size, last))
    stop = min(start + axis.block, axis.size)
    first, last = _spanning(axis, start, stop, 0, axis.out)
    return Part(start, stop, first, last)


# Between arrays and rows.


@helper
def _take(tag: Any, itemsize: int, r: Any, address: int, lane_step: int, pixel_step: int, pixels: int) -> None:
    width = VECTOR_BYTES // itemsize
    for lane in range(0, r.lanes, width):
        to, come, lanes = r.source + lane * itemsize, address + lane * lane_step, min(width, r.lanes - lane)
        lanes_take(tag, to, r.pitch, come, lane_step, pixel_step, lanes, pixels)


@helper
def _put(tag: Any, itemsize: int, lanes: int, row: int, pitch: int, y: Any, block: Any) -> None:
    """Write a block to its place in `y`, as many lines at a time as are neighbours in memory."""
    width, depth = VECTOR_BYTES // itemsize, block.d.stop - block.d.start
    height, pixels = block.h.stop - block.h.start, block.w.stop - block.w.start
    target = y.start + block.d.start * y.d + block.h.start * y.h + block.w.start * y.w
    lines = height if y.h == pixels * y.w else 1
    slices = depth if lines == height and y.d == lines * pixels * y.w else 1
    for d in range(0, depth, slices):
        for h in range(0, height, lines):
            source, to = row + (d * height + h) * pixels * pitch, target + d * y.d + h * y.h
            for lane in range(0, lanes, width):
                come, number = source + lane * itemsize, min(width, lanes - lane)
                lanes_put(tag, to + lane * y.c, y.c, y.w, come, pitch, number, pixels * lines * slices)


# A block.


@helper
def _divide(acc: Any, axis: Any, lines: int, row: int, r: Any, start: int, stop: int) -> None:
    """Divide the row of windows start to stop - 1 by what each counts, of so many lines."""
    first, last = _inner(axis, axis.low, axis.high, start, stop)
    output = start
    while output < stop:
        count = last - output if first <= output < last else 1
        divisor = max(1, lines * _counted(axis, output))
        lanes_divide(acc, row + (output - start) * r.pitch, r.vectors * count, divisor)
        output += count


@helper
def _clear(itemsize: int, row: Any, vectors: int, largest: int) -> None:
    """Fill rows with what the first of a window replaces."""
    lowest = _LOWEST_DOUBLE if itemsize == 8 else _LOWEST_FLOAT
    lanes_fill(_INDEX, row.start, vectors, lowest if largest != 0 else 0)
    if row.found != 0:
        lanes_fill(_INDEX, row.found, vectors * (8 // itemsize), -1)


@helper
def _moved(row: Any, r: Any, pixels: int) -> Row:
    """Return a row so many pixels further on."""
    return Row(row.start + pixels * r.pitch, row.found + pixels * r.found_pitch if row.found != 0 else 0)


@helper
def _along(tag: Any, acc: Any, itemsize: int, in_place: bool, job: int, wp: Any, r: Any, line: Any, row: Any) -> None:
    """Take to a row all windows of a block along one line of the input."""
    p = _read_job(job)
    w, begin = p.w, _next_read(p.w, wp, wp.first)
    while begin < wp.last:
        end, source, pitch = wp.last, line.start, line.step
        if not in_place:
            end = min(begin + SOURCE_VECTORS // r.vectors, wp.last)
            _take(tag, itemsize, r, line.start + begin * line.step, p.x.c, line.step, end - begin)
            source, pitch = r.source - begin * r.pitch, r.pitch
        output, stop = _spanning(w, begin, end, wp.start, wp.stop)
        first, last = _inner(w, begin, end, output, stop)
        while output < stop:
            count = last - output if first <= output < last else 1
            tap, tap_stop = _taps(w, output, begin, end)
            if tap < tap_stop:
                to, wi = _moved(row, r, output - wp.start), output * w.stride - w.pad + tap * w.dilation
                come, windows = source + wi * pitch, Windows(count, r.vectors, w.stride * pitch)
                taps = Taps(tap_stop - tap, w.dilation * pitch)
                if p.largest == 0:
                    lanes_add(acc, to.start, come, windows, taps)
                elif to.found == 0:
                    lanes_max(acc, to.start, come, windows, taps)
                else:
                    indices = Indices(line.first_index + wi, w.stride, w.dilation)
                    lanes_max_indexed(acc, to.start, to.found, come, windows, taps, indices)
            output += count
        begin = _next_read(w, wp, end)


@helper
def _merge(acc: Any, p: Any, block: Any, d_windows: Any, h_windows: Any, r: Any) -> None:
    """Take a line's windows to all lines of the output that it is a part of."""
    columns = block.w.stop - block.w.start
    once, tap = Windows(1, columns * r.vectors, 0), Taps(1, 0)
    for od in range(d_windows[0], d_windows[1], p.d.period):
        for oh in range(h_windows[0], h_windows[1], p.h.period):
            at = ((od - block.d.start) * (block.h.stop - block.h.start) + oh - block.h.start) * columns
            sums = _moved(r.sums, r, at)
            if p.largest == 0:
                lanes_add(acc, sums.start, r.row.start, once, tap)
            elif sums.found == 0:
                lanes_max(acc, sums.start, r.row.start, once, tap)
            else:
                lanes_merge_indexed(acc, sums.start, sums.found, columns * r.vectors, r.row.start, r.row.found)


@helper
def _forward(tag: Any, acc: Any, itemsize: int, in_place: bool, job: int, block: Any, r: Any, x: int) -> None:
    """Compute a block of the output from the input of its lanes, which begins at `x`."""
    p, (dp, hp, wp) = _read_job(job), block
    d, h, w = p.d, p.h, p.w
    columns, height, width = wp.stop - wp.start, hp.stop - hp.start, wp.last - wp.first
    # Short lines that are neighbours in memory are taken together.
    most = SOURCE_VECTORS // (r.vectors * max(1, width))
    together = most if not in_place and p.x.h == width * p.x.w and h.stride <= h.kernel else 0
    # No line is part of two windows: each can go to its output at once.
    apart = d.stride > (d.kernel - 1) * d.dilation and h.stride > (h.kernel - 1) * h.dilation
    di = _next_read(d, dp, dp.first)
    while di < dp.last:
        d_windows = _holding(d, di, dp.start, dp.stop)
        begun, taken = hp.first, hp.first
        hi = _next_read(h, hp, hp.first) if d_windows[0] < d_windows[1] else hp.last
        while hi < hp.last:
            h_windows = _holding(h, hi, hp.start, hp.stop)
            if h_windows[0] < h_windows[1]:
                start, step = x + di * p.x.d + hi * p.x.h, p.x.w
                if together > 1:
                    if hi >= taken:
                        begun, taken = hi, min(hi + together, hp.last)
                        _take(tag, itemsize, r, start + wp.first * step, p.x.c, step, (taken - begun) * width)
                    start, step = r.source + ((hi - begun) * width - wp.first) * r.pitch, r.pitch
                line = Line(start, step, p.first_index + di * d.index_step + hi * h.index_step)
                in_rows = in_place or together > 1
                if apart:
                    at = ((d_windows[0] - dp.start) * height + h_windows[0] - hp.start) * columns
                    _along(tag, acc, itemsize, in_rows, job, wp, r, line, _moved(r.sums, r, at))
                else:
                    _clear(itemsize, r.row, columns * r.vectors, p.largest)
                    _along(tag, acc, itemsize, in_rows, job, wp, r, line, r.row)
                    _merge(acc, p, block, d_windows, h_windows, r)
            hi = _next_read(h, hp, hi + 1)
        di = _next_read(d, dp, di + 1)
    if p.largest == 0:
        for od in range(dp.start, dp.stop):
            for oh in range(hp.start, hp.stop):
                row = _moved(r.sums, r, ((od - dp.start) * height + oh - hp.start) * columns)
                _divide(acc, w, _counted(d, od) * _counted(h, oh), row.start, r, wp.start, wp.stop)


@helper
def _spread_row(tag: Any, acc: Any, itemsize: int, p: Any, wp: Any, r: Any, y: int, lines: int) -> None:
    """Give the gradients of a line's windows, which begins at `y`, to a row; each counts so many lines."""
    w, begin = p.w, _next_window(p.w, wp, wp.first)
    while begin < wp.last:
        end = min(begin + SOURCE_VECTORS // r.vectors, wp.last)
        _take(tag, itemsize, r, y + begin * p.y.w, p.y.c, p.y.w, end - begin)
        _divide(acc, w, lines, r.source, r, begin, end)
        first, last = _inner(w, wp.start, wp.stop, begin, end)
        output = begin
        while output < end:
            count = last - output if first <= output < last else 1
            tap, stop = _taps(w, output, wp.start, wp.stop)
            if tap < stop:
                at = output * w.stride - w.pad + tap * w.dilation - wp.start
                windows, taps = Windows(count, r.vectors, w.stride * r.pitch), Taps(stop - tap, w.dilation * r.pitch)
                lanes_spread(acc, r.row.start + at * r.pitch, r.source + (output - begin) * r.pitch, windows, taps)
            output += count
        begin = _next_window(w, wp, end)


@helper
def _spread(tag: Any, acc: Any, itemsize: int, job: int, block: Any, r: Any, y: int) -> None:
    """Give each window's gradient to its pixels, in equal parts: along a line first, then to all of its lines."""
    p, (dp, hp, wp) = _read_job(job), block
    d, h, columns, height = p.d, p.h, wp.stop - wp.start, hp.stop - hp.start
    line = columns * r.pitch
    od = _next_window(d, dp, dp.first)
    while od < dp.last:
        d_tap, d_stop = _taps(d, od, dp.start, dp.stop)
        oh = _next_window(h, hp, hp.first) if d_tap < d_stop else hp.last
        while oh < hp.last:
            h_tap, h_stop = _taps(h, oh, hp.start, hp.stop)
            if h_tap < h_stop:
                lanes_fill(_INDEX, r.row.start, columns * r.vectors, 0)
                lines = _counted(d, od) * _counted(h, oh)
                _spread_row(tag, acc, itemsize, p, wp, r, y + od * p.y.d + oh * p.y.h, lines)
                once, taps = Windows(1, columns * r.vectors, 0), Taps(h_stop - h_tap, h.dilation * line)
                hi = oh * h.stride - h.pad + h_tap * h.dilation - hp.start
                for t in range(d_tap, d_stop):
                    di = od * d.stride - d.pad + t * d.dilation - dp.start
                    lanes_spread(acc, r.sums.start + (di * height + hi) * line, r.row.start, once, taps)
            oh = _next_window(h, hp, oh + 1)
        od = _next_window(d, dp, od + 1)


@helper
def _scatter(tag: Any, acc: Any, itemsize: int, job: int, block: Any, r: Any, y: int, i: int) -> None:
    """Give each window's gradient to the pixel of its index; the block's are numbered without a gap."""
    p, (dp, hp, wp) = _read_job(job), block
    d, h, w = p.d, p.h, p.w
    start = p.first_index + dp.start * d.index_step + hp.start * h.index_step + wp.start * w.index_step
    pixels = (dp.stop - dp.start) * (hp.stop - hp.start) * (wp.stop - wp.start)
    od = _next_window(d, dp, dp.first)
    while od < dp.last:
        oh = _next_window(h, hp, hp.first)
        while oh < hp.last:
            ow = _next_window(w, wp, wp.first)
            while ow < wp.last:
                come = y + od * p.y.d + oh * p.y.h + ow * p.y.w
                found = i + od * p.i.d + oh * p.i.h + ow * p.i.w
                for lane in range(r.lanes):
                    at = get_int(found + lane * p.i.c, 0) - start - lane * p.lane_index
                    # Those of other blocks go to a pixel that is left behind: a branch would be guessed wrong.
                    at = at if 0 <= at < pixels else pixels
                    to = r.sums.start + at * r.pitch + lane * itemsize
                    store(acc, to, load(acc, to) + load(tag, come + lane * p.y.c))
                ow = _next_window(w, wp, ow + 1)
            oh = _next_window(h, hp, oh + 1)
        od = _next_window(d, dp, od + 1)


@helper
def _lane_of(x: Any, n: int, lane: int) -> Strided:
    """Return an array from a lane of an outer part on."""
    return Strided(x.start + n * x.n + lane * x.c, x.n, x.c, x.d, x.h, x.w)


@cache
def pooling(dtype: str) -> int:
    """Return the address of the compiled poolings of `dtype`; a job is a `Pooled`."""
    tag, acc = tags(dtype)
    itemsize, wide = acc.itemsize, DTYPES[dtype].sums_itself
    width = VECTOR_BYTES // itemsize

    def run(job: int, worker: int) -> None:
        p = _read_job(job)
        source, row, sums = _source_room(), _row_room(), _sum_room()
        forward, indexed = p.forward != 0, p.forward != 0 and p.i.start != 0
        row_of = Row(row, row + ROW_VECTORS * VECTOR_BYTES if indexed else 0)
        sums_of = Row(sums, sums + (SUM_VECTORS + SPARE) * VECTOR_BYTES if indexed else 0)
        task = next_task(p.counter) * p.blocks_per_task
        while task < p.blocks:
            for number in range(task, min(task + p.blocks_per_task, p.blocks)):
                # Blocks of the same pixels come one after the other if their lanes are neighbours in memory.
                part, rest = (number % p.lane_blocks, number // p.lane_blocks) if p.inside != 0 else (0, number)
                wp, rest = _part(p.w, rest % p.w.blocks, p.forward), rest // p.w.blocks
                hp, rest = _part(p.h, rest % p.h.blocks, p.forward), rest // p.h.blocks
                dp, n = _part(p.d, rest % p.d.blocks, p.forward), rest // p.d.blocks
                if p.inside == 0:
                    part, n = n % p.lane_blocks, n // p.lane_blocks
                lane, block = part * p.most_lanes, Block(dp, hp, wp)
                lanes = min(p.most_lanes, p.lanes - lane)
                vectors = -(-lanes // width)
                r = Rows(source, row_of, sums_of, lanes, vectors, vectors * VECTOR_BYTES, vectors * width * 8)
                x, y, i = _lane_of(p.x, n, lane), _lane_of(p.y, n, lane), _lane_of(p.i, n, lane)
                pixels = (dp.stop - dp.start) * (hp.stop - hp.start) * (wp.stop - wp.start)
                _clear(itemsize, r.sums, pixels * vectors, p.largest if forward else 0)
                if forward:
                    in_place = wide and x.c == itemsize and lanes == vectors * width
                    _forward(tag, acc, itemsize, in_place, job, block, r, x.start)
                elif p.largest != 0:
                    _scatter(tag, acc, itemsize, job, block, r, y.start, i.start)
                else:
                    _spread(tag, acc, itemsize, job, block, r, y.start)
                if not forward or p.y.start != 0:
                    _put(tag, itemsize, lanes, sums, r.pitch, y if forward else x, block)
                if indexed:
                    if p.lane_index != 0:
                        lanes_number(acc, r.sums.found, pixels, p.lane_index)
                    _put(_INDEX, 8, lanes, r.sums.found, r.found_pitch, i, block)
            task = next_task(p.counter) * p.blocks_per_task

    return entry(run, f"pooling_{dtype}")
