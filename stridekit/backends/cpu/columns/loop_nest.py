"""Columns added up: each product of an output and a tap goes to the pixel that the tap read, in a fixed order.

A task is a box of pixels of one plane: threads share nothing, and the order of a pixel's sum is that of the outputs,
however they are cut into chunks, boxes and rows of lanes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from stridekit.backends.cpu.columns.runs import run_add, run_fill, run_store
from stridekit.backends.cpu.forward.epilogue import NO_ACTIVATION, activate
from stridekit.backends.cpu.runtime.compiler import entry, helper, inlined
from stridekit.backends.cpu.runtime.vector_memory import copy_bytes, load, next_task, read_ints, store, tags


class Line(NamedTuple):
    """One axis: what is added, and where it goes.

    Attributes
    ----------
    kernel, stride, dilation, pad : int
    first, last : int
        The outputs whose columns there are.
    low, high : int
        The pixels that are dealt with.
    block, blocks : int
        Pixels of a box; boxes.
    """

    kernel: int
    stride: int
    dilation: int
    pad: int
    first: int
    last: int
    low: int
    high: int
    block: int
    blocks: int


class Adding(NamedTuple):
    """A job: all of it int64, in a row in memory, after the three axes.

    Attributes
    ----------
    tasks, counter : how many boxes in all, and the address of the shared task counter
    planes, unit, itemsize : planes of a sample, neighbouring elements of a plane's pixel, bytes of a sum
    by_pixels : whether a run is the outputs of a row, rather than the taps of one
    columns, k_n, k_p, k_d, k_h, k_w : address of the first column; bytes to the next sample, plane and output
    t_d, t_h, t_w : bytes to the next tap
    sums, s_n, s_p, s_c, s_d, s_h, s_w : address and strides of the sums: to sample, plane, element of a pixel, pixel
    out, o_n, o_p, o_c, o_d, o_h, o_w : the same of the result; address 0 where the sums are the result
    bias, begins, ends : address of a sum for each channel; whether sums begin with it; whether they are then complete
    activation, slope : number in `finishing`, and address of its parameter in the type of the sums
    """

    tasks: int
    counter: int
    planes: int
    unit: int
    itemsize: int
    by_pixels: int
    columns: int
    k_n: int
    k_p: int
    k_d: int
    k_h: int
    k_w: int
    t_d: int
    t_h: int
    t_w: int
    sums: int
    s_n: int
    s_p: int
    s_c: int
    s_d: int
    s_h: int
    s_w: int
    out: int
    o_n: int
    o_p: int
    o_c: int
    o_d: int
    o_h: int
    o_w: int
    bias: int
    begins: int
    ends: int
    activation: int
    slope: int


_LINE_WORDS = len(Line._fields)
_read_line, _read_job = read_ints(_LINE_WORDS), read_ints(len(Adding._fields))


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
def _add_taps(acc: Any, j: Any, d: Any, h: Any, w: Any, low: Any, high: Any, sums: int, columns: int) -> None:
    """Add output after output, in rows of taps."""
    whole = w.dilation == 1 and j.s_c == j.itemsize and j.s_w == j.unit * j.itemsize
    d_first, d_last = _outputs(d, 0, (d.kernel - 1) * d.dilation, low[0], high[0])
    h_first, h_last = _outputs(h, 0, (h.kernel - 1) * h.dilation, low[1], high[1])
    w_first, w_last = _outputs(w, 0, (w.kernel - 1) * w.dilation, low[2], high[2])
    for od in range(d_first, d_last):
        td_first, td_last = _taps(d, od, low[0], high[0])
        for td in range(td_first, td_last):
            d_sums = sums + (od * d.stride - d.pad + td * d.dilation) * j.s_d
            d_columns = columns + (od - d.first) * j.k_d + td * j.t_d
            for oh in range(h_first, h_last):
                th_first, th_last = _taps(h, oh, low[1], high[1])
                for th in range(th_first, th_last):
                    h_sums = d_sums + (oh * h.stride - h.pad + th * h.dilation) * j.s_h
                    h_columns = d_columns + (oh - h.first) * j.k_h + th * j.t_h
                    for ow in range(w_first, w_last):
                        first, last = _taps(w, ow, low[2], high[2])
                        at = h_sums + (ow * w.stride - w.pad + first * w.dilation) * j.s_w
                        source = h_columns + (ow - w.first) * j.k_w + first * j.t_w
                        if whole:
                            run_add(acc, at, j.itemsize, source, j.itemsize, max(last - first, 0) * j.unit)
                        elif j.unit == 1:
                            run_add(acc, at, w.dilation * j.s_w, source, j.t_w, max(last - first, 0))
                        else:
                            for tap in range(last - first):
                                shift = tap * w.dilation * j.s_w
                                run_add(acc, at + shift, j.s_c, source + tap * j.t_w, j.itemsize, j.unit)


@helper
def _add_pixels(acc: Any, j: Any, d: Any, h: Any, w: Any, low: Any, high: Any, sums: int, columns: int) -> None:
    """Add tap after tap, in rows of outputs: the last tap first, so that each pixel's outputs come in order."""
    for td in range(d.kernel - 1, -1, -1):
        d_shift = td * d.dilation
        d_first, d_last = _outputs(d, d_shift, d_shift, low[0], high[0])
        for od in range(d_first, d_last):
            d_sums = sums + (od * d.stride - d.pad + d_shift) * j.s_d
            d_columns = columns + (od - d.first) * j.k_d + td * j.t_d
            for th in range(h.kernel - 1, -1, -1):
                h_shift = th * h.dilation
                h_first, h_last = _outputs(h, h_shift, h_shift, low[1], high[1])
                for oh in range(h_first, h_last):
                    h_sums = d_sums + (oh * h.stride - h.pad + h_shift) * j.s_h
                    h_columns = d_columns + (oh - h.first) * j.k_h + th * j.t_h
                    for tw in range(w.kernel - 1, -1, -1):
                        shift = tw * w.dilation
                        first, last = _outputs(w, shift, shift, low[2], high[2])
                        if first < last:
                            at = h_sums + (first * w.stride - w.pad + shift) * j.s_w
                            source = h_columns + (first - w.first) * j.k_w + tw * j.t_w
                            run_add(acc, at, w.stride * j.s_w, source, j.k_w, last - first)


@helper
def _begin(acc: Any, j: Any, row: int, count: int, bias: int) -> None:
    """Write the bias to a row of pixels."""
    pitch = j.unit * j.itemsize
    if j.unit == 1:
        run_fill(acc, row, j.s_w, bias, count)
    elif j.s_c == j.itemsize and j.s_w == pitch:
        copy_bytes(row, bias, pitch)
        done = 1
        while done < count:
            more = min(done, count - done)
            copy_bytes(row + done * pitch, row, more * pitch)
            done += more
    else:
        for pixel in range(count):
            for c in range(j.unit):
                store(acc, row + pixel * j.s_w + c * j.s_c, load(acc, bias + c * j.itemsize))


@helper
def _end(tag: Any, acc: Any, j: Any, row: int, target: int, count: int, slope: float) -> None:
    """Activate a row of pixels, and write it to where the result lies unless it is there."""
    pitch = j.unit * j.itemsize
    if j.s_w == pitch and (j.unit == 1 or j.s_c == j.itemsize):
        if j.activation != NO_ACTIVATION:
            activate(acc, row, count * j.unit, j.itemsize, j.activation, slope)
        if j.out != 0 and (j.unit == 1 or j.o_w == j.unit * j.o_c):
            run_store(tag, target, j.o_w if j.unit == 1 else j.o_c, row, count * j.unit)
        elif j.out != 0:
            for pixel in range(count):
                run_store(tag, target + pixel * j.o_w, j.o_c, row + pixel * pitch, j.unit)
        return
    for pixel in range(count):
        for c in range(j.unit):
            at = row + pixel * j.s_w + c * j.s_c
            if j.activation != NO_ACTIVATION:
                activate(acc, at, 1, j.itemsize, j.activation, slope)
            if j.out != 0:
                store(tag, target + pixel * j.o_w + c * j.o_c, load(acc, at))


@inlined
def _add_columns(tag: Any, acc: Any, job: int, worker: int) -> None:
    """Add up boxes until none is left; `job` is three `Line` and an `Adding`."""
    d, h, w = (
        Line(*_read_line(job)),
        Line(*_read_line(job + 8 * _LINE_WORDS)),
        Line(*_read_line(job + 16 * _LINE_WORDS)),
    )
    j = Adding(*_read_job(job + 24 * _LINE_WORDS))
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
        sums = j.sums + n * j.s_n + plane * j.s_p
        columns = j.columns + n * j.k_n + plane * j.k_p
        # Rows that lie end to end, in the result too, are one.
        count, rows, slices = high[2] - w_low, high[1] - h_low, high[0] - d_low
        if j.s_h == count * j.s_w and (j.out == 0 or j.o_h == count * j.o_w):
            count, rows = count * rows, 1
            if j.s_d == count * j.s_w and (j.out == 0 or j.o_d == count * j.o_w):
                count, slices = count * slices, 1
        if j.begins != 0:
            for z in range(d_low, d_low + slices):
                for y in range(h_low, h_low + rows):
                    row = sums + z * j.s_d + y * j.s_h + w_low * j.s_w
                    _begin(acc, j, row, count, j.bias + plane * j.unit * j.itemsize)
        if j.by_pixels != 0:
            _add_pixels(acc, j, d, h, w, low, high, sums, columns)
        else:
            _add_taps(acc, j, d, h, w, low, high, sums, columns)
        if j.ends != 0 and (j.out != 0 or j.activation != NO_ACTIVATION):
            out = j.out + n * j.o_n + plane * j.o_p
            for z in range(d_low, d_low + slices):
                for y in range(h_low, h_low + rows):
                    row = sums + z * j.s_d + y * j.s_h + w_low * j.s_w
                    _end(tag, acc, j, row, out + z * j.o_d + y * j.o_h + w_low * j.o_w, count, slope)


def add_columns(dtype: str) -> int:
    """Return the address of the compiled addition of columns to a result of `dtype`; a job is an `Adding`."""
    tag, acc = tags(dtype)

    def run(job: int, worker: int) -> None:
        _add_columns(tag, acc, job, worker)

    return entry(run, f"add_columns_{dtype}")
