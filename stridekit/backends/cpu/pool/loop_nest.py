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
from stridekit.backends.cpu.runtime.compiler import entry, helper
from stridekit.backends.cpu.runtime.row_operations import (
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
    VECTOR_BYTES,
    get_int,
    load,
    next_task,
    read_ints,
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


class Window(NamedTuple):
    """One axis.

    Attributes
    ----------
    low, high : bounds of the input coordinates that an average counts
    period : steps from one window with a tap at some coordinate to the next
    index_step : from one pixel's index to the next pixel's
    block, blocks : pixels of the result in a block, and blocks
    """

    size: int
    out: int
    kernel: int
    stride: int
    dilation: int
    pad: int
    low: int
    high: int
    period: int
    index_step: int
    block: int
    blocks: int


class Pooled(NamedTuple):
    """A job: all of it int64, in a row in memory, after the three axes.

    Attributes
    ----------
    largest, forward : whether it is a maximum's, and from the input to the output
    lanes, most_lanes : how many there are, and in a block
    lane_blocks : blocks of them
    inside : whether neighbouring blocks are of the same pixels
    first_index, lane_index : index of the first pixel, and from one lane's to the next lane's
    x, y, i and their steps : addresses, and bytes from one outer part, lane, slice, line and pixel to the next
        Of the input (or its gradient), the output (or its gradient), the indices; address 0 for none.
    blocks, blocks_per_task : blocks of the result, and how many of them a task takes
    counter : address of the shared task counter
    """

    largest: int
    forward: int
    lanes: int
    most_lanes: int
    lane_blocks: int
    inside: int
    first_index: int
    lane_index: int
    x: int
    xn: int
    xc: int
    xd: int
    xh: int
    xw: int
    y: int
    yn: int
    yc: int
    yd: int
    yh: int
    yw: int
    i: int
    i_n: int
    i_c: int
    i_d: int
    i_h: int
    i_w: int
    blocks: int
    blocks_per_task: int
    counter: int


class Part(NamedTuple):
    """A block's part of an axis: pixels of the result, `first` to `last` of what they are made of; exclusive ends."""

    start: int
    stop: int
    first: int
    last: int


class Rows(NamedTuple):
    """A block's rows: their addresses, the lanes in use, and a pixel's vectors and bytes."""

    source: int
    row: int
    row_found: int
    sums: int
    found: int
    lanes: int
    vectors: int
    pitch: int
    found_pitch: int


_AXIS_WORDS = len(Window._fields)
_read_axis, _read_job = read_ints(_AXIS_WORDS), read_ints(len(Pooled._fields))
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
        count = min(width, r.lanes - lane)
        lanes_take(tag, r.source + lane * itemsize, r.pitch, address + lane * lane_step, lane_step, pixel_step, count,
                   pixels)  # fmt: skip


@helper
def _put(
    tag: Any, itemsize: int, lanes: int, row: int, pitch: int, target: int, lane_step: int, slice_step: int,
    line_step: int, step: int, depth: int, height: int, pixels: int,
) -> None:  # fmt: skip
    """Write a block, as many lines at a time as are neighbours in memory."""
    width = VECTOR_BYTES // itemsize
    lines = height if line_step == pixels * step else 1
    slices = depth if lines == height and slice_step == lines * pixels * step else 1
    for d in range(0, depth, slices):
        for h in range(0, height, lines):
            come = row + (d * height + h) * pixels * pitch
            to = target + d * slice_step + h * line_step
            for lane in range(0, lanes, width):
                lanes_put(tag, to + lane * lane_step, lane_step, step, come + lane * itemsize, pitch,
                          min(width, lanes - lane), pixels * lines * slices)  # fmt: skip


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
def _clear(itemsize: int, row: int, found: int, vectors: int, largest: int) -> None:
    """Fill rows with what the first of a window replaces; `found` may be 0."""
    lanes_fill(_INDEX, row, vectors, (_LOWEST_DOUBLE if itemsize == 8 else _LOWEST_FLOAT) if largest != 0 else 0)
    if found != 0:
        lanes_fill(_INDEX, found, vectors * (8 // itemsize), -1)


@helper
def _along(
    tag: Any, acc: Any, itemsize: int, in_place: bool, job: int, wp: Any, r: Any, line: int, step: int, index: int,
    row: int, row_found: int,
) -> None:  # fmt: skip
    """Take to a row all windows of a block along one line of the input, which begins at `line`."""
    w, p = Window(*_read_axis(job + 16 * _AXIS_WORDS)), Pooled(*_read_job(job + 24 * _AXIS_WORDS))
    begin = _next_read(w, wp, wp.first)
    while begin < wp.last:
        end, source, pitch = wp.last, line, step
        if not in_place:
            end = min(begin + SOURCE_VECTORS // r.vectors, wp.last)
            _take(tag, itemsize, r, line + begin * step, p.xc, step, end - begin)
            source, pitch = r.source - begin * r.pitch, r.pitch
        output, stop = _spanning(w, begin, end, wp.start, wp.stop)
        first, last = _inner(w, begin, end, output, stop)
        while output < stop:
            count = last - output if first <= output < last else 1
            tap, tap_stop = _taps(w, output, begin, end)
            if tap < tap_stop:
                at, wi = output - wp.start, output * w.stride - w.pad + tap * w.dilation
                to, come = row + at * r.pitch, source + wi * pitch
                if p.largest == 0:
                    lanes_add(acc, to, come, count, r.vectors, w.stride * pitch, w.dilation * pitch, tap_stop - tap)
                elif row_found == 0:
                    lanes_max(acc, to, come, count, r.vectors, w.stride * pitch, w.dilation * pitch, tap_stop - tap)
                else:
                    found = row_found + at * r.found_pitch
                    lanes_max_indexed(acc, to, found, come, count, r.vectors, w.stride * pitch, w.dilation * pitch,
                                      tap_stop - tap, index + wi, w.stride, w.dilation)  # fmt: skip
            output += count
        begin = _next_read(w, wp, end)


@helper
def _merge(
    acc: Any, p: Any, d: Any, h: Any, dp: Any, hp: Any, d_first: int, d_stop: int, h_first: int, h_stop: int,
    columns: int, r: Any,
) -> None:  # fmt: skip
    """Take a line's windows to all lines of the output that it is a part of."""
    for od in range(d_first, d_stop, d.period):
        for oh in range(h_first, h_stop, h.period):
            at = ((od - dp.start) * (hp.stop - hp.start) + oh - hp.start) * columns
            sums, count = r.sums + at * r.pitch, columns * r.vectors
            if p.largest == 0:
                lanes_add(acc, sums, r.row, 1, count, 0, 0, 1)
            elif r.found == 0:
                lanes_max(acc, sums, r.row, 1, count, 0, 0, 1)
            else:
                lanes_merge_indexed(acc, sums, r.found + at * r.found_pitch, count, r.row, r.row_found)


@helper
def _forward(tag: Any, acc: Any, itemsize: int, in_place: bool, job: int, dp: Any, hp: Any, wp: Any, r: Any,
             x: int) -> None:  # fmt: skip
    d, h = Window(*_read_axis(job)), Window(*_read_axis(job + 8 * _AXIS_WORDS))
    w, p = Window(*_read_axis(job + 16 * _AXIS_WORDS)), Pooled(*_read_job(job + 24 * _AXIS_WORDS))
    columns, height, width = wp.stop - wp.start, hp.stop - hp.start, wp.last - wp.first
    # Short lines that are neighbours in memory are taken together.
    most = SOURCE_VECTORS // (r.vectors * max(1, width))
    together = most if not in_place and p.xh == width * p.xw and h.stride <= h.kernel else 0
    # No line is part of two windows: each can go to its output at once.
    apart = d.stride > (d.kernel - 1) * d.dilation and h.stride > (h.kernel - 1) * h.dilation
    di = _next_read(d, dp, dp.first)
    while di < dp.last:
        d_first, d_stop = _holding(d, di, dp.start, dp.stop)
        begun, taken = hp.first, hp.first
        hi = _next_read(h, hp, hp.first) if d_first < d_stop else hp.last
        while hi < hp.last:
            h_first, h_stop = _holding(h, hi, hp.start, hp.stop)
            if h_first < h_stop:
                line, step = x + di * p.xd + hi * p.xh, p.xw
                if together > 1:
                    if hi >= taken:
                        begun, taken = hi, min(hi + together, hp.last)
                        _take(tag, itemsize, r, line + wp.first * step, p.xc, step, (taken - begun) * width)
                    line, step = r.source + ((hi - begun) * width - wp.first) * r.pitch, r.pitch
                index, in_rows = p.first_index + di * d.index_step + hi * h.index_step, in_place or together > 1
                if apart:
                    at = ((d_first - dp.start) * height + h_first - hp.start) * columns
                    found = r.found + at * r.found_pitch if r.found != 0 else 0
                    _along(tag, acc, itemsize, in_rows, job, wp, r, line, step, index, r.sums + at * r.pitch, found)
                else:
                    _clear(itemsize, r.row, r.row_found, columns * r.vectors, p.largest)
                    _along(tag, acc, itemsize, in_rows, job, wp, r, line, step, index, r.row, r.row_found)
                    _merge(acc, p, d, h, dp, hp, d_first, d_stop, h_first, h_stop, columns, r)
            hi = _next_read(h, hp, hi + 1)
        di = _next_read(d, dp, di + 1)
    if p.largest == 0:
        for od in range(dp.start, dp.stop):
            for oh in range(hp.start, hp.stop):
                at = ((od - dp.start) * height + oh - hp.start) * columns
                _divide(acc, w, _counted(d, od) * _counted(h, oh), r.sums + at * r.pitch, r, wp.start, wp.stop)


@helper
def _spread(tag: Any, acc: Any, itemsize: int, job: int, dp: Any, hp: Any, wp: Any, r: Any, y: int) -> None:
    """Give each window's gradient to its pixels, in equal parts: along a line first, then to all of its lines."""
    d, h = Window(*_read_axis(job)), Window(*_read_axis(job + 8 * _AXIS_WORDS))
    w, p = Window(*_read_axis(job + 16 * _AXIS_WORDS)), Pooled(*_read_job(job + 24 * _AXIS_WORDS))
    columns, height = wp.stop - wp.start, hp.stop - hp.start
    od = _next_window(d, dp, dp.first)
    while od < dp.last:
        d_tap, d_stop = _taps(d, od, dp.start, dp.stop)
        oh = _next_window(h, hp, hp.first) if d_tap < d_stop else hp.last
        while oh < hp.last:
            h_tap, h_stop = _taps(h, oh, hp.start, hp.stop)
            if h_tap < h_stop:
                lanes_fill(_INDEX, r.row, columns * r.vectors, 0)
                begin = _next_window(w, wp, wp.first)
                while begin < wp.last:
                    end = min(begin + SOURCE_VECTORS // r.vectors, wp.last)
                    _take(tag, itemsize, r, y + od * p.yd + oh * p.yh + begin * p.yw, p.yc, p.yw, end - begin)
                    _divide(acc, w, _counted(d, od) * _counted(h, oh), r.source, r, begin, end)
                    first, last = _inner(w, wp.start, wp.stop, begin, end)
                    output = begin
                    while output < end:
                        count = last - output if first <= output < last else 1
                        tap, stop = _taps(w, output, wp.start, wp.stop)
                        if tap < stop:
                            at = output * w.stride - w.pad + tap * w.dilation - wp.start
                            lanes_spread(acc, r.row + at * r.pitch, r.source + (output - begin) * r.pitch, count,
                                         r.vectors, w.stride * r.pitch, w.dilation * r.pitch, stop - tap)  # fmt: skip
                        output += count
                    begin = _next_window(w, wp, end)
                for t in range(d_tap, d_stop):
                    di = od * d.stride - d.pad + t * d.dilation - dp.start
                    hi = oh * h.stride - h.pad + h_tap * h.dilation - hp.start
                    line = columns * r.pitch
                    lanes_spread(acc, r.sums + (di * height + hi) * line, r.row, 1, columns * r.vectors, 0,
                                 h.dilation * line, h_stop - h_tap)  # fmt: skip
            oh = _next_window(h, hp, oh + 1)
        od = _next_window(d, dp, od + 1)


@helper
def _scatter(tag: Any, acc: Any, itemsize: int, job: int, dp: Any, hp: Any, wp: Any, r: Any, y: int,
             i: int) -> None:  # fmt: skip
    """Give each window's gradient to the pixel of its index; the block's are numbered without a gap."""
    d, h = Window(*_read_axis(job)), Window(*_read_axis(job + 8 * _AXIS_WORDS))
    w, p = Window(*_read_axis(job + 16 * _AXIS_WORDS)), Pooled(*_read_job(job + 24 * _AXIS_WORDS))
    start = p.first_index + dp.start * d.index_step + hp.start * h.index_step + wp.start * w.index_step
    pixels = (dp.stop - dp.start) * (hp.stop - hp.start) * (wp.stop - wp.start)
    od = _next_window(d, dp, dp.first)
    while od < dp.last:
        oh = _next_window(h, hp, hp.first)
        while oh < hp.last:
            ow = _next_window(w, wp, wp.first)
            while ow < wp.last:
                come = y + od * p.yd + oh * p.yh + ow * p.yw
                found = i + od * p.i_d + oh * p.i_h + ow * p.i_w
                for lane in range(r.lanes):
                    at = get_int(found + lane * p.i_c, 0) - start - lane * p.lane_index
                    # Those of other blocks go to a pixel that is left behind: a branch would be guessed wrong.
                    at = at if 0 <= at < pixels else pixels
                    to = r.sums + at * r.pitch + lane * itemsize
                    store(acc, to, load(acc, to) + load(tag, come + lane * p.yc))
                ow = _next_window(w, wp, ow + 1)
            oh = _next_window(h, hp, oh + 1)
        od = _next_window(d, dp, od + 1)


@cache
def pooling(dtype: str) -> int:
    """Return the address of the compiled poolings of `dtype`; a job is the three `Window`, then a `Pooled`."""
    tag, acc = tags(dtype)
    itemsize, wide = acc.itemsize, DTYPES[dtype].sums_itself
    width = VECTOR_BYTES // itemsize

    def run(job: int, worker: int) -> None:
        d, h = Window(*_read_axis(job)), Window(*_read_axis(job + 8 * _AXIS_WORDS))
        w, p = Window(*_read_axis(job + 16 * _AXIS_WORDS)), Pooled(*_read_job(job + 24 * _AXIS_WORDS))
        source, row, sums = _source_room(), _row_room(), _sum_room()
        forward, indexed = p.forward != 0, p.forward != 0 and p.i != 0
        row_found = row + ROW_VECTORS * VECTOR_BYTES if indexed else 0
        found = sums + (SUM_VECTORS + SPARE) * VECTOR_BYTES if indexed else 0
        block = next_task(p.counter) * p.blocks_per_task
        while block < p.blocks:
            for number in range(block, min(block + p.blocks_per_task, p.blocks)):
                # Blocks of the same pixels come one after the other if their lanes are neighbours in memory.
                part, rest = (number % p.lane_blocks, number // p.lane_blocks) if p.inside != 0 else (0, number)
                wp, rest = _part(w, rest % w.blocks, p.forward), rest // w.blocks
                hp, rest = _part(h, rest % h.blocks, p.forward), rest // h.blocks
                dp, n = _part(d, rest % d.blocks, p.forward), rest // d.blocks
                if p.inside == 0:
                    part, n = n % p.lane_blocks, n // p.lane_blocks
                lane = part * p.most_lanes
                lanes = min(p.most_lanes, p.lanes - lane)
                vectors = -(-lanes // width)
                r = Rows(source, row, row_found, sums, found, lanes, vectors, vectors * VECTOR_BYTES,
                         vectors * width * 8)  # fmt: skip
                depth, height, columns = dp.stop - dp.start, hp.stop - hp.start, wp.stop - wp.start
                x, y, i = p.x + n * p.xn + lane * p.xc, p.y + n * p.yn + lane * p.yc, p.i + n * p.i_n + lane * p.i_c
                _clear(itemsize, sums, found, depth * height * columns * vectors, p.largest if forward else 0)
                target, step = x + dp.start * p.xd + hp.start * p.xh + wp.start * p.xw, (p.xc, p.xd, p.xh, p.xw)
                if forward:
                    in_place = wide and p.xc == itemsize and lanes == vectors * width
                    _forward(tag, acc, itemsize, in_place, job, dp, hp, wp, r, x)
                    target, step = y + dp.start * p.yd + hp.start * p.yh + wp.start * p.yw, (p.yc, p.yd, p.yh, p.yw)
                elif p.largest != 0:
                    _scatter(tag, acc, itemsize, job, dp, hp, wp, r, y, i)
                else:
                    _spread(tag, acc, itemsize, job, dp, hp, wp, r, y)
                if not forward or p.y != 0:
                    _put(tag, itemsize, r.lanes, sums, r.pitch, target, *step, depth, height, columns)
                if indexed:
                    if p.lane_index != 0:
                        lanes_number(acc, found, depth * height * columns, p.lane_index)
                    target = i + dp.start * p.i_d + hp.start * p.i_h + wp.start * p.i_w
                    _put(_INDEX, 8, r.lanes, found, r.found_pitch, target, p.i_c, p.i_d, p.i_h, p.i_w, depth, height,
                         columns)  # fmt: skip
            block = next_task(p.counter) * p.blocks_per_task

    return entry(run, f"pooling_{dtype}")
