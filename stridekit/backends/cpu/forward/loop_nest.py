"""The loop nest of the cpu backend: draw a block, gather its input, run the tile over it, finish the sums.

Any number of threads may run it at once on one problem, each with a scratch of its own: tasks are drawn from a
shared counter until none is left. All memory is named by address; axes are (n, c, d, h, w), strides in bytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from stridekit.backends.cpu.forward.address_tables import (
    MOST_PIXELS,
    fill_inner_table,
    fill_outer_table,
    fill_reached_table,
    fill_row_table,
    fill_tap_table,
    inside,
    read_blocking,
)
from stridekit.backends.cpu.forward.epilogue import NO_ACTIVATION, Activation, finish
from stridekit.backends.cpu.forward.macrokernel import Pixels, sum_pixels
from stridekit.backends.cpu.forward.microkernel import Out, Taps
from stridekit.backends.cpu.forward.pack_input import block_origin, box_length, gather
from stridekit.backends.cpu.forward.partition import SUM_PIXELS
from stridekit.backends.cpu.runtime.compiler import entry, inlined
from stridekit.backends.cpu.runtime.vector_memory import get_int, load, next_task, read_ints, tags


class Call(NamedTuple):
    """What a call adds to a `Blocking`: all of it int64, in a row in memory.

    Attributes
    ----------
    words : address of the ``words`` of the `Blocking`
    weights, unbounded, bias : addresses of what `packing` wrote: `unbounded` of the word after the weights
    activation, slope : number in `finishing`, and address of its parameter in the type of the sums
    in_place : whether a block that touches no padding may be read where it lies
    scratch : address of ``b.scratch`` bytes for each thread, `scratch_step` apart
    scratch_step : bytes
    counter : address of the shared task counter
    x, x_n, x_c, x_d, x_h, x_w : address of element (0, 0, 0, 0, 0) and strides in bytes
    out, out_n, out_c, out_d, out_h, out_w : the same
    """

    words: int
    weights: int
    unbounded: int
    bias: int
    activation: int
    slope: int
    in_place: int
    scratch: int
    scratch_step: int
    counter: int
    x: int
    x_n: int
    x_c: int
    x_d: int
    x_h: int
    x_w: int
    out: int
    out_n: int
    out_c: int
    out_d: int
    out_h: int
    out_w: int


_read_call = read_ints(len(Call._fields))
_CALL_BYTES = 8 * len(Call._fields)


@inlined
def _convolve(tag: Any, acc: Any, job: int, worker: int) -> None:
    """Compute output blocks until none is left, with elements of `tag` and sums of `acc`; `job` is a `Call`."""
    call = Call(*_read_call(job))
    b = read_blocking(call.words)
    x, x_strides = call.x, (call.x_n, call.x_c, call.x_d, call.x_h, call.x_w)
    out, out_strides = call.out, (call.out_n, call.out_c, call.out_d, call.out_h, call.out_w)
    weights, bias, counter = call.weights, call.bias, call.counter
    activation = Activation(call.activation, load(acc, call.slope))
    scratch = call.scratch + worker * call.scratch_step
    positions = b.d.kernel * b.h.kernel * b.w.kernel
    group_row = b.vectors * b.lanes * b.itemsize
    tile_channels = b.tile_vectors * b.lanes
    tile_row = tile_channels * b.itemsize
    chunks = -(-b.filter_blocks // b.filter_chunk)
    places = b.tasks // chunks
    w_pitch = b.pixel_channels * b.itemsize
    h_pitch = box_length(b.w, b.w.block) * w_pitch
    d_pitch = box_length(b.h, b.h.block) * h_pitch
    box, columns, sums = scratch + b.box, scratch + b.columns, scratch + b.sums
    pixels, targets, reached = scratch + b.pixels, scratch + b.targets, scratch + b.reached
    row_table, rows_of = scratch + b.rows, 0
    # A kernel row is one run of products where its channels lie end to end.
    runs = b.channel_blocks == 1 and b.channels == b.pixel_channels and not b.lanewise
    box_rows = runs and b.w.tap_step == 1 and not (b.skips and b.w.pad > 0)
    x_rows = runs and b.w.dilation == 1 and x_strides[4] == w_pitch
    box_length_, x_length = b.w.kernel if box_rows else 1, b.w.kernel if x_rows else 1
    room = scratch + b.some_taps
    box_taps = Taps(scratch + b.box_taps, positions // box_length_, box_length_, room)
    x_taps = Taps(scratch + b.x_taps, positions // x_length, x_length, room)
    fill_tap_table(box_taps.table, b, box_rows, b.d.tap_step * d_pitch, b.h.tap_step * h_pitch, b.w.tap_step * w_pitch)
    fill_tap_table(
        x_taps.table, b, x_rows, b.d.dilation * x_strides[2], b.h.dilation * x_strides[3], b.w.dilation * x_strides[4]
    )
    # A tap in the padding may be left out only if it adds zeros: not if its weight is infinite or NaN.
    skips = b.skips and get_int(call.unbounded, 0) == 0
    unfinished = (
        b.channel_blocks > 1 or call.activation != NO_ACTIVATION or out_strides[1] != b.itemsize or not b.copies
    )
    prepared, inner, outer = -1, 0, 0
    while True:
        task = next_task(counter)
        if task >= b.tasks:
            return
        place, chunk = task // chunks, task % chunks
        if b.lanewise:
            # Threads side by side in the channels of one pixel would fetch each other's lines.
            place, chunk = task % places, task // places
        first = chunk * b.filter_chunk
        last = min(first + b.filter_chunk, b.filter_blocks)
        d0, h0, w0, rest = block_origin(b, place)
        group, n = rest % b.groups, rest // b.groups
        # Lanewise, the box holds the channels of one filter block; else all that the group's filters read.
        wanted = task if b.lanewise else place
        if wanted != prepared:
            prepared = wanted
            channel, count = group * b.pixel_channels, b.pixel_channels
            if b.lanewise:
                channel = first * tile_channels
                count = min(tile_channels, b.filters - channel)
            origin = d0, h0, w0
            stop = min(d0 + b.d.block, b.d.out), min(h0 + b.h.block, b.h.out), min(w0 + b.w.block, b.w.out)
            low, high = origin, origin
            # A lane reads whole vectors: the last ones may lie past the end of x.
            if call.in_place != 0 and (not b.lanewise or count == tile_channels):
                d, h, w = inside(b.d, d0, stop[0]), inside(b.h, h0, stop[1]), inside(b.w, w0, stop[2])
                low, high = (d[0], h[0], w[0]), (d[1], h[1], w[1])
            sample = x + n * x_strides[0]
            inner = fill_inner_table(
                pixels,
                sample
                + channel * x_strides[1]
                - b.d.pad * x_strides[2]
                - b.h.pad * x_strides[3]
                - b.w.pad * x_strides[4],
                low,
                high,
                b.d.stride * x_strides[2],
                b.h.stride * x_strides[3],
                b.w.stride * x_strides[4],
            )
            corner = out + n * out_strides[0]
            fill_inner_table(targets, corner, low, high, out_strides[2], out_strides[3], out_strides[4])
            after = (inner + MOST_PIXELS) * 8
            corner += d0 * out_strides[2] + h0 * out_strides[3] + w0 * out_strides[4]
            outer = fill_outer_table(
                targets + after, corner, origin, low, high, stop, out_strides[2], out_strides[3], out_strides[4]
            )
            if outer > 0:
                gather(tag, acc, b, sample, x_strides, channel, count, origin, low, high, stop, box, columns)
                fill_outer_table(
                    pixels + after,
                    box,
                    origin,
                    low,
                    high,
                    stop,
                    b.d.pixel_step * d_pitch,
                    b.h.pixel_step * h_pitch,
                    b.w.pixel_step * w_pitch,
                )
                if skips:
                    fill_reached_table(reached, b, box_rows, origin, low, high, stop)
        for block in range(first, last):
            vectors = min(b.tile_vectors, b.vectors - block * b.tile_vectors)
            filters = min(tile_channels, b.filters - block * tile_channels)
            plane = (group * b.filters + block * tile_channels) * out_strides[1]
            direct = not unfinished and filters == vectors * b.lanes
            weight = weights + (group * group_row + block * tile_row) * positions * b.channels
            bias_row = bias + group * group_row + block * tile_row
            if not direct and rows_of != vectors:
                rows_of = vectors
                fill_row_table(row_table, sums, vectors * b.lanes * b.itemsize, SUM_PIXELS + MOST_PIXELS)
            for part in range(2):
                total = inner if part == 0 else outer
                shift = 0 if part == 0 else (inner + MOST_PIXELS) * 8
                for p in range(0, total, max(total, 1) if direct else SUM_PIXELS):
                    count = total if direct else min(SUM_PIXELS, total - p)
                    marks = reached + p * 8 if part == 1 and skips else 0
                    block_of = Pixels(pixels + shift + p * 8, count, marks)
                    taps = x_taps if part == 0 else box_taps
                    to = Out(targets + shift + p * 8, plane, out_strides[1])
                    out_of = to if direct else Out(row_table, 0, 0)
                    sum_pixels(acc, b, vectors, block_of, taps, weight, bias_row, sums, out_of)
                    if not direct:
                        finish(tag, acc, b, sums, count, vectors, filters, activation, to)


def convolve(dtype: str) -> int:
    """Return the address of the compiled loop nest for arrays of `dtype`; a job is a count, and so many `Call`."""
    tag, acc = tags(dtype)

    def run(job: int, worker: int) -> None:
        # Problems do not wait for each other: who finds no task left of one goes on to the next.
        for number in range(get_int(job, 0)):
            _convolve(tag, acc, job + 8 + number * _CALL_BYTES, worker)

    return entry(run, f"convolve_{dtype}")
