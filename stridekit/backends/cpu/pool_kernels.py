"""Pooling, compiled: lines of the result shared out, each computed in rows of lanes.

Lanes are the channels of a pixel where these are neighbours in memory, else the pixels of a line. A gradient is
gathered: every pixel of the input sums its own, tap after tap in order, so that threads share nothing.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

from stridekit.backends.cpu.compiling import entry, helper
from stridekit.backends.cpu.lanes import (
    lanes_add,
    lanes_add_divided,
    lanes_add_where,
    lanes_divide,
    lanes_max,
    lanes_max_indexed,
    lanes_store,
    room,
)
from stridekit.backends.cpu.vector import get_int, load, next_task, read_ints, set_int, store, tags

LANES = 512
"""Lanes at once: a row of sums and one of indices take 8 KiB, which the first cache keeps."""
_row_room = room(3 * LANES * 8)


class Window(NamedTuple):
    """One axis; `low` and `high` bound the input coordinates that an average counts."""

    size: int
    out: int
    kernel: int
    stride: int
    dilation: int
    pad: int
    low: int
    high: int


class Pooled(NamedTuple):
    """A job: all of it int64, in a row in memory, after the three axes.

    Attributes
    ----------
    largest, forward : whether it is a maximum's, and from the input to the output
    channels : int
    x, y, i and their strides : address of element (0, 0, 0, 0, 0) and strides in bytes
        Of the input (or its gradient), the output (or its gradient), the indices; address 0 for none.
    by_channels : whether lanes are channels
    lines, lines_per_task : lines of the result, and how many of them a task takes
    counter : address of the shared task counter
    """

    largest: int
    forward: int
    channels: int
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
    by_channels: int
    lines: int
    lines_per_task: int
    counter: int


_AXIS_WORDS = len(Window._fields)
_read_axis, _read_job = read_ints(_AXIS_WORDS), read_ints(len(Pooled._fields))
_MINUS_INFINITY = -math.inf


@helper
def _counted(axis: Any, output: int) -> Any:
    """Return how many taps of a window an average counts."""
    start = output * axis.stride - axis.pad
    # Nearly all windows; the divisions would take longer than their sums.
    if start >= axis.low and start + (axis.kernel - 1) * axis.dilation < axis.high:
        return axis.kernel
    first = max(0, -((start - axis.low) // axis.dilation))
    stop = min(axis.kernel, -((start - axis.high) // axis.dilation))
    return max(0, stop - first)


@helper
def _fill(acc: Any, row: int, found: int, itemsize: int, count: int, value: float) -> None:
    for lane in range(count):
        store(acc, row + lane * itemsize, value)
    if found != 0:
        for lane in range(count):
            set_int(found, lane, -1)


@helper
def _take(
    tag: Any, largest: bool, row: int, found: int, itemsize: int, source: int, step: int, count: int, index: int,
    index_step: int,
) -> None:  # fmt: skip
    if not largest:
        lanes_add(tag, row, itemsize, source, step, count)
    elif found != 0:
        lanes_max_indexed(tag, row, found, source, step, count, index, index_step)
    else:
        lanes_max(tag, row, source, step, count)


@helper
def _keep(tag: Any, target: int, step: int, row: int, count: int, indices: int, index_step: int, found: int) -> None:
    if target != 0:
        lanes_store(tag, target, step, row, count)
    if found != 0:
        for lane in range(count):
            set_int(indices + lane * index_step, 0, get_int(found, lane))


@helper
def _forward_line(
    tag: Any, acc: Any, itemsize: int, largest: bool, p: Any, d: Any, h: Any, w: Any, n: int, c: int, od: int, oh: int,
    row: int, found: int,
) -> None:  # fmt: skip
    start = acc + _MINUS_INFINITY if largest else acc
    y = p.y + n * p.yn + c * p.yc + od * p.yd + oh * p.yh if p.y != 0 else 0
    indices = p.i + n * p.i_n + c * p.i_c + od * p.i_d + oh * p.i_h
    x = p.x + n * p.xn + c * p.xc
    rows = _counted(d, od) * _counted(h, oh)
    lanes = p.channels if p.by_channels != 0 else w.out
    # Channels: window after window of the line, all its channels. Pixels: all windows of the line at once.
    for ow in range(w.out if p.by_channels != 0 else 1):
        for first in range(0, lanes, LANES):
            count = min(LANES, lanes - first)
            _fill(acc, row, found, itemsize, count, start)
            for t in range(d.kernel):
                di = od * d.stride - d.pad + t * d.dilation
                if di < 0 or di >= d.size:
                    continue
                for r in range(h.kernel):
                    hi = oh * h.stride - h.pad + r * h.dilation
                    if hi < 0 or hi >= h.size:
                        continue
                    line, number = x + di * p.xd + hi * p.xh, (di * h.size + hi) * w.size
                    for s in range(w.kernel):
                        offset = s * w.dilation - w.pad
                        if p.by_channels != 0:
                            wi = ow * w.stride + offset
                            if wi >= 0 and wi < w.size:
                                source = line + wi * p.xw + first * p.xc
                                _take(tag, largest, row, found, itemsize, source, p.xc, count, number + wi, 0)
                        else:
                            begin = max(first, -(offset // w.stride))
                            stop = min(first + count, (w.size - 1 - offset) // w.stride + 1)
                            if begin < stop:
                                wi, skipped = begin * w.stride + offset, begin - first
                                own = found + skipped * 8 if found != 0 else 0
                                _take(tag, largest, row + skipped * itemsize, own, itemsize, line + wi * p.xw,
                                      w.stride * p.xw, stop - begin, number + wi, w.stride)  # fmt: skip
            if p.by_channels != 0:
                if not largest:
                    lanes_divide(tag, row, count, max(1, rows * _counted(w, ow)))
                target = y + ow * p.yw + first * p.yc if p.y != 0 else 0
                _keep(tag, target, p.yc, row, count, indices + ow * p.i_w + first * p.i_c, p.i_c, found)
            else:
                if not largest:
                    for lane in range(count):
                        divisor = max(1, rows * _counted(w, first + lane))
                        store(acc, row + lane * itemsize, load(acc, row + lane * itemsize) / type(acc)(divisor))
                target = y + first * p.yw if p.y != 0 else 0
                _keep(tag, target, p.yw, row, count, indices + first * p.i_w, p.i_w, found)


@helper
def _backward_line(
    tag: Any, acc: Any, itemsize: int, largest: bool, p: Any, d: Any, h: Any, w: Any, n: int, c: int, di: int, hi: int,
    row: int, shares: int,
) -> None:  # fmt: skip
    x = p.x + n * p.xn + c * p.xc + di * p.xd + hi * p.xh
    number = (di * h.size + hi) * w.size
    lanes = p.channels if p.by_channels != 0 else w.size
    for wi in range(w.size if p.by_channels != 0 else 1):
        for first in range(0, lanes, LANES):
            count = min(LANES, lanes - first)
            _fill(acc, row, 0, itemsize, count, acc)
            for t in range(d.kernel):
                od, rest = (di + d.pad - t * d.dilation) // d.stride, (di + d.pad - t * d.dilation) % d.stride
                if rest != 0 or od < 0 or od >= d.out:
                    continue
                for r in range(h.kernel):
                    oh, rest = (hi + h.pad - r * h.dilation) // h.stride, (hi + h.pad - r * h.dilation) % h.stride
                    if rest != 0 or oh < 0 or oh >= h.out:
                        continue
                    line = p.y + n * p.yn + c * p.yc + od * p.yd + oh * p.yh
                    found = p.i + n * p.i_n + c * p.i_c + od * p.i_d + oh * p.i_h
                    rows = _counted(d, od) * _counted(h, oh)
                    for s in range(w.kernel):
                        offset = s * w.dilation - w.pad
                        if p.by_channels != 0:
                            ow, rest = (wi - offset) // w.stride, (wi - offset) % w.stride
                            if rest == 0 and ow >= 0 and ow < w.out:
                                source = line + ow * p.yw + first * p.yc
                                if largest:
                                    own = found + ow * p.i_w + first * p.i_c
                                    lanes_add_where(tag, row, source, p.yc, own, count, number + wi)
                                else:
                                    lanes_add_divided(tag, row, source, p.yc, count, rows * _counted(w, ow))
                        else:
                            begin = max(0, -((offset - first) // w.stride))
                            stop = min(w.out, (first + count - 1 - offset) // w.stride + 1)
                            _add_line(tag, acc, itemsize, largest, p, w, line, found, rows, row, first, number, offset,
                                      begin, stop)  # fmt: skip
            if p.by_channels != 0:
                lanes_store(tag, x + wi * p.xw + first * p.xc, p.xc, row, count)
            else:
                lanes_store(tag, x + first * p.xw, p.xw, row, count)


@helper
def _add_line(
    tag: Any, acc: Any, itemsize: int, largest: bool, p: Any, w: Any, line: int, found: int, rows: int, row: int,
    first: int, number: int, offset: int, begin: int, stop: int,
) -> None:  # fmt: skip
    """Add what windows begin..stop-1 of a line give to the pixel under one tap of each."""
    for ow in range(begin, stop):
        wi = ow * w.stride + offset
        at = row + (wi - first) * itemsize
        value = load(tag, line + ow * p.yw)
        if largest:
            if get_int(found + ow * p.i_w, 0) == number + wi:
                store(acc, at, load(acc, at) + value)
        else:
            store(acc, at, load(acc, at) + value / type(acc)(rows * _counted(w, ow)))


@helper
def _pool(tag: Any, acc: Any, itemsize: int, job: int) -> None:
    d, h, w = (
        Window(*_read_axis(job)),
        Window(*_read_axis(job + 8 * _AXIS_WORDS)),
        Window(*_read_axis(job + 16 * _AXIS_WORDS)),
    )
    p = Pooled(*_read_job(job + 24 * _AXIS_WORDS))
    row = _row_room()
    largest, forward = p.largest != 0, p.forward != 0
    found = row + LANES * 8 if p.i != 0 and forward else 0
    depth, height = (d.out, h.out) if forward else (d.size, h.size)
    while True:
        begin = next_task(p.counter) * p.lines_per_task
        if begin >= p.lines:
            return
        for line in range(begin, min(begin + p.lines_per_task, p.lines)):
            at_h, rest = line % height, line // height
            at_d, rest = rest % depth, rest // depth
            n, c = (rest, 0) if p.by_channels != 0 else (rest // p.channels, rest % p.channels)
            if forward:
                _forward_line(tag, acc, itemsize, largest, p, d, h, w, n, c, at_d, at_h, row, found)
            else:
                _backward_line(tag, acc, itemsize, largest, p, d, h, w, n, c, at_d, at_h, row, row + LANES * 8)


@cache
def pooling(dtype: str) -> int:
    """Return the address of the compiled poolings of `dtype`; a job is the three `Window`, then a `Pooled`."""
    tag, acc = tags(dtype)
    itemsize = acc.itemsize

    def run(job: int, worker: int) -> None:
        _pool(tag, acc, itemsize, job)

    return entry(run, f"pooling_{dtype}")
