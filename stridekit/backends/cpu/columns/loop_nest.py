"""Columns added up: each product of an output and a tap goes to the pixel that the tap read, in a fixed order.

A task is a box of pixels of one plane: threads share nothing, and the order of a pixel's sum is that of the outputs,
however they are cut into chunks, boxes and rows of lanes.
"""

from __future__ import annotations

from typing import Any

from stridekit.backends.cpu.columns.jobs import Adding
from stridekit.backends.cpu.columns.runs import run_add, run_fill, run_store
from stridekit.backends.cpu.forward.epilogue import NO_ACTIVATION, activate
from stridekit.backends.cpu.runtime.compiler import entries, helper, inlined
from stridekit.backends.cpu.runtime.vector_memory import copy_bytes, load, next_task, reader, store

_read_job = reader(Adding)


@helper
def _taps(line: Any, output: int, low: int, high: int) -> Any:
    """Return the range of an output's taps that read pixels low..high-1."""
    start = output * line.stride - line.pad
    first, last = 0, line.kernel
    # Nearly all windows lie in one box; the divisions would take longer than their sums.
    if start < low:
        first = -((start - low) // line.dilation)
    if start + (line.kernel - 1) * line.dilation >= high:
        last = -((start - high) // line.dilation)
    return first, min(last, line.kernel)


@helper
def _outputs(line: Any, before: int, after: int, low: int, high: int) -> Any:
    """Return the range of outputs that read pixels low..high-1 by a tap `before` to `after` pixels into the window."""
    first = -((after - line.pad - low) // line.stride)
    last = -((before - line.pad - high) // line.stride)
    return max(first, line.first), min(last, line.last)


@helper
def _add_taps(acc: Any, j: Any, low: Any, high: Any, sums: int, columns: int) -> None:
    """Add output after output, in rows of taps."""
    d, h, w = j.d, j.h, j.w
    whole = w.dilation == 1 and j.sums.c == j.itemsize and j.sums.w == j.unit * j.itemsize
    d_first, d_last = _outputs(d, 0, (d.kernel - 1) * d.dilation, low[0], high[0])
    h_first, h_last = _outputs(h, 0, (h.kernel - 1) * h.dilation, low[1], high[1])
    w_first, w_last = _outputs(w, 0, (w.kernel - 1) * w.dilation, low[2], high[2])
    for od in range(d_first, d_last):
        td_first, td_last = _taps(d, od, low[0], high[0])
        for td in range(td_first, td_last):
            d_sums = sums + (od * d.stride - d.pad + td * d.dilation) * j.sums.d
            d_columns = columns + (od - d.first) * j.columns.d + td * j.columns.tap_d
            for oh in range(h_first, h_last):
                th_first, th_last = _taps(h, oh, low[1], high[1])
                for th in range(th_first, th_last):
                    h_sums = d_sums + (oh * h.stride - h.pad + th * h.dilation) * j.sums.h
                    h_columns = d_columns + (oh - h.first) * j.columns.h + th * j.columns.tap_h
                    for ow in range(w_first, w_last):
                        first, last = _taps(w, ow, low[2], high[2])
                        at = h_sums + (ow * w.stride - w.pad + first * w.dilation) * j.sums.w
                        source = h_columns + (ow - w.first) * j.columns.w + first * j.columns.tap_w
                        if whole:
                            run_add(acc, at, j.itemsize, source, j.itemsize, max(last - first, 0) * j.unit)
                        elif j.unit == 1:
                            run_add(acc, at, w.dilation * j.sums.w, source, j.columns.tap_w, max(last - first, 0))
                        else:
                            for tap in range(last - first):
                                shift = tap * w.dilation * j.sums.w
                                run_add(acc, at + shift, j.sums.c, source + tap * j.columns.tap_w, j.itemsize, j.unit)


@helper
def _add_pixels(acc: Any, j: Any, low: Any, high: Any, sums: int, columns: int) -> None:
    """Add tap after tap, in rows of outputs: the last tap first, so that each pixel's outputs come in order."""
    d, h, w = j.d, j.h, j.w
    for td in range(d.kernel - 1, -1, -1):
        d_shift = td * d.dilation
        d_first, d_last = _outputs(d, d_shift, d_shift, low[0], high[0])
        for od in range(d_first, d_last):
            d_sums = sums + (od * d.stride - d.pad + d_shift) * j.sums.d
            d_columns = columns + (od - d.first) * j.columns.d + td * j.columns.tap_d
            for th in range(h.kernel - 1, -1, -1):
                h_shift = th * h.dilation
                h_first, h_last = _outputs(h, h_shift, h_shift, low[1], high[1])
                for oh in range(h_first, h_last):
                    h_sums = d_sums + (oh * h.stride - h.pad + h_shift) * j.sums.h
                    h_columns = d_columns + (oh - h.first) * j.columns.h + th * j.columns.tap_h
                    for tw in range(w.kernel - 1, -1, -1):
                        shift = tw * w.dilation
                        first, last = _outputs(w, shift, shift, low[2], high[2])
                        if first < last:
                            at = h_sums + (first * w.stride - w.pad + shift) * j.sums.w
                            source = h_columns + (first - w.first) * j.columns.w + tw * j.columns.tap_w
                            run_add(acc, at, w.stride * j.sums.w, source, j.columns.w, last - first)


@helper
def _begin(acc: Any, j: Any, row: int, count: int, bias: int) -> None:
    """Write the bias to a row of pixels."""
    pitch = j.unit * j.itemsize
    if j.unit == 1:
        run_fill(acc, row, j.sums.w, bias, count)
    elif j.sums.c == j.itemsize and j.sums.w == pitch:
        copy_bytes(row, bias, pitch)
        done = 1
        while done < count:
            more = min(done, count - done)
            copy_bytes(row + done * pitch, row, more * pitch)
            done += more
    else:
        for pixel in range(count):
            for c in range(j.unit):
                store(acc, row + pixel * j.sums.w + c * j.sums.c, load(acc, bias + c * j.itemsize))


@helper
def _end(tag: Any, acc: Any, j: Any, row: int, target: int, count: int, slope: float) -> None:
    """Activate a row of pixels, and write it to where the result lies unless it is there."""
    pitch = j.unit * j.itemsize
    if j.sums.w == pitch and (j.unit == 1 or j.sums.c == j.itemsize):
        if j.activation != NO_ACTIVATION:
            activate(acc, row, count * j.unit, j.itemsize, j.activation, slope)
        if j.out.start != 0 and (j.unit == 1 or j.out.w == j.unit * j.out.c):
            run_store(tag, target, j.out.w if j.unit == 1 else j.out.c, row, count * j.unit)
        elif j.out.start != 0:
            for pixel in range(count):
                run_store(tag, target + pixel * j.out.w, j.out.c, row + pixel * pitch, j.unit)
        return
    for pixel in range(count):
        for c in range(j.unit):
            at = row + pixel * j.sums.w + c * j.sums.c
            if j.activation != NO_ACTIVATION:
                activate(acc, at, 1, j.itemsize, j.activation, slope)
            if j.out.start != 0:
                store(tag, target + pixel * j.out.w + c * j.out.c, load(acc, at))


@inlined
def _add_columns(tag: Any, acc: Any, job: int, worker: int) -> None:
    """Add up boxes until none is left; `job` is an `Adding`."""
    j = _read_job(job)
    d, h, w = j.d, j.h, j.w
    slope = load(acc, j.slope)
    while True:
        task = next_task(j.counter)
        if task >= j.tasks:
            return
        w_low = w.low + task % w.blocks * w.block
        rest = task // w.blocks
        h_low = h.low + rest % h.blocks * h.block
        rest //= h.blocks
        d_low = d.low + rest % d.blocks * d.block
        rest //= d.blocks
        plane, n = rest % j.planes, rest // j.planes
        low = d_low, h_low, w_low
        high = min(d_low + d.block, d.high), min(h_low + h.block, h.high), min(w_low + w.block, w.high)
        sums = j.sums.start + n * j.sums.n + plane * j.sums.p
        columns = j.columns.start + n * j.columns.n + plane * j.columns.p
        # Rows that lie end to end, in the result too, are one.
        count, rows, slices = high[2] - w_low, high[1] - h_low, high[0] - d_low
        if j.sums.h == count * j.sums.w and (j.out.start == 0 or j.out.h == count * j.out.w):
            count, rows = count * rows, 1
            if j.sums.d == count * j.sums.w and (j.out.start == 0 or j.out.d == count * j.out.w):
                count, slices = count * slices, 1
        if j.begins != 0:
            for z in range(d_low, d_low + slices):
                for y in range(h_low, h_low + rows):
                    row = sums + z * j.sums.d + y * j.sums.h + w_low * j.sums.w
                    _begin(acc, j, row, count, j.bias + plane * j.unit * j.itemsize)
        if j.by_pixels != 0:
            _add_pixels(acc, j, low, high, sums, columns)
        else:
            _add_taps(acc, j, low, high, sums, columns)
        if j.ends != 0 and (j.out.start != 0 or j.activation != NO_ACTIVATION):
            out = j.out.start + n * j.out.n + plane * j.out.p
            for z in range(d_low, d_low + slices):
                for y in range(h_low, h_low + rows):
                    row = sums + z * j.sums.d + y * j.sums.h + w_low * j.sums.w
                    _end(tag, acc, j, row, out + z * j.out.d + y * j.out.h + w_low * j.out.w, count, slope)


add_columns = entries("add_columns", _add_columns)
"""Return the address of the compiled addition of columns to a result of a dtype; a job is an `Adding`."""
