"""The loop nest of the cpu backend: draw a block, gather its input, run the tile over it, finish the sums.

Any number of threads may run it at once on one problem, each with a scratch of its own: tasks are drawn from a
shared counter until none is left. All memory is named by address; axes are (n, c, d, h, w), strides in bytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from stridekit.backends.cpu.forward.address_tables import (
    MOST_PIXELS,
    Block,
    Steps,
    fill_inner_table,
    fill_outer_table,
    fill_reached_table,
    fill_row_table,
    fill_tap_table,
    inside,
)
from stridekit.backends.cpu.forward.blocking import Blocking
from stridekit.backends.cpu.forward.epilogue import NO_ACTIVATION, ActivationCode, add_residual, finish
from stridekit.backends.cpu.forward.jobs import Call
from stridekit.backends.cpu.forward.macrokernel import Pixels, sum_pixels
from stridekit.backends.cpu.forward.microkernel import Out, Taps
from stridekit.backends.cpu.forward.pack_input import block_origin, box_steps, gather
from stridekit.backends.cpu.forward.partition import SUM_PIXELS
from stridekit.backends.cpu.runtime.compiler import entry, helper, inlined
from stridekit.backends.cpu.runtime.records import nbytes
from stridekit.backends.cpu.runtime.vector_memory import get_int, load, next_task, reader, tags

_read_call, _read_blocking = reader(Call), reader(Blocking)
_CALL_BYTES = nbytes(Call)


class Filters(NamedTuple):
    """A block of filters.

    Attributes
    ----------
    vectors, number : vectors that hold them, and how many they are
    weights, bias : addresses of theirs
    first : number of the first of them among all
    """

    vectors: int
    number: int
    weights: int
    bias: int
    first: int


@helper
def _fill_taps(b: Any, x: Any, scratch: int) -> Any:
    """Write the tables of the taps where pixels are read from x, and where from the box; return both."""
    box = box_steps(b)
    # A kernel row is one run of products where its channels lie end to end.
    runs = b.channel_blocks == 1 and b.channels == b.pixel_channels and not b.lanewise
    in_x = b.w.kernel if runs and b.w.dilation == 1 and x.w == box.w else 1
    in_box = b.w.kernel if runs and b.w.tap_step == 1 and not (b.skips and b.w.pad > 0) else 1
    positions, room = b.d.kernel * b.h.kernel * b.w.kernel, scratch + b.some_taps
    x_taps = Taps(scratch + b.x_taps, positions // in_x, in_x, room)
    box_taps = Taps(scratch + b.box_taps, positions // in_box, in_box, room)
    fill_tap_table(x_taps, b, Steps(b.d.dilation * x.d, b.h.dilation * x.h, b.w.dilation * x.w))
    fill_tap_table(box_taps, b, Steps(b.d.tap_step * box.d, b.h.tap_step * box.h, b.w.tap_step * box.w))
    return x_taps, box_taps


@helper
def _cut_block(b: Any, d0: int, h0: int, w0: int, in_place: bool) -> Block:
    """Return the block that begins at a pixel; it has inner pixels only where x may be read in place."""
    stop = min(d0 + b.d.block, b.d.out), min(h0 + b.h.block, b.h.out), min(w0 + b.w.block, b.w.out)
    low, high = (d0, h0, w0), (d0, h0, w0)
    if in_place:
        d, h, w = inside(b.d, d0, stop[0]), inside(b.h, h0, stop[1]), inside(b.w, w0, stop[2])
        low, high = (d[0], h[0], w[0]), (d[1], h[1], w[1])
    return Block((d0, h0, w0), low, high, stop)


@helper
def _prepare(tag: Any, acc: Any, b: Any, call: Any, scratch: int, place: int, first: int, whole_rows: bool) -> Any:
    """Write where the pixels of a block lie and go, and gather what the outer ones read.

    Returns
    -------
    inner, outer : int
        How many there are of each; their tables follow each other, `MOST_PIXELS` apart.
    """
    x, box = call.x, box_steps(b)
    d0, h0, w0, rest = block_origin(b, place)
    group, n = rest % b.groups, rest // b.groups
    # Lanewise, the box holds the channels of one filter block; else all that the group's filters read.
    channel, count, in_place = group * b.pixel_channels, b.pixel_channels, call.in_place != 0
    if b.lanewise:
        channel = first * b.tile_vectors * b.lanes
        count = min(b.tile_vectors * b.lanes, b.filters - channel)
        # A lane reads whole vectors: the last ones may lie past the end of x.
        in_place = in_place and count == b.tile_vectors * b.lanes
    block = _cut_block(b, d0, h0, w0, in_place)
    pixels = scratch + b.pixels

    sample = x.start + n * x.n
    corner = sample + channel * x.c - b.d.pad * x.d - b.h.pad * x.h - b.w.pad * x.w
    inner = fill_inner_table(pixels, corner, block, Steps(b.d.stride * x.d, b.h.stride * x.h, b.w.stride * x.w))
    after = (inner + MOST_PIXELS) * 8
    outer = 0
    for adds in range(call.adds + 1):
        array, table = (call.residual, scratch + b.residuals) if adds else (call.out, scratch + b.targets)
        steps, corner = Steps(array.d, array.h, array.w), array.start + n * array.n
        fill_inner_table(table, corner, block, steps)
        outer = fill_outer_table(table + after, corner + d0 * array.d + h0 * array.h + w0 * array.w, block, steps)
    if outer > 0:
        gather(tag, acc, b, x, sample, channel, count, block, scratch)
        steps = Steps(b.d.pixel_step * box.d, b.h.pixel_step * box.h, b.w.pixel_step * box.w)
        fill_outer_table(pixels + after, scratch + b.box, block, steps)
        if b.skips:
            fill_reached_table(scratch + b.reached, b, whole_rows, block)
    return inner, outer


@helper
def _filters(b: Any, call: Any, group: int, block: int) -> Filters:
    """Return block number `block` of a group's filters."""
    lanes, row = b.tile_vectors * b.lanes, b.vectors * b.lanes * b.itemsize
    vectors = min(b.tile_vectors, b.vectors - block * b.tile_vectors)
    before = group * row + block * lanes * b.itemsize
    weights = call.weights + before * b.d.kernel * b.h.kernel * b.w.kernel * b.channels
    first = group * b.filters + block * lanes
    return Filters(vectors, min(lanes, b.filters - block * lanes), weights, call.bias + before, first)


@inlined
def _convolve(tag: Any, acc: Any, job: int, worker: int) -> None:
    """Compute output blocks until none is left, with elements of `tag` and sums of `acc`; `job` is a `Call`.

    A block of the output, here of 4 x 10 pixels in the corner of an image::

        o o o o o o o o o o   o  outer: its window reaches into the padding, or x cannot be read in place;
        o i i i i i i i i i      read from the box, where padding is resolved and channels lie end to end
        o i i i i i i i i i   i  inner: its window is read where it lies in x
        o i i i i i i i i i

    For each block of filters the tile runs over the inner pixels, then over the outer ones. Sums go to the output at
    once where nothing is to be done to them; else `SUM_PIXELS` rows of them at a time to scratch, and from there.
    """
    call = _read_call(job)
    b = _read_blocking(call.blocking)
    scratch = call.scratch + worker * call.scratch_step
    pixels, targets, sums = scratch + b.pixels, scratch + b.targets, scratch + b.sums
    x_taps, box_taps = _fill_taps(b, call.x, scratch)
    activation = ActivationCode(call.activation, load(acc, call.slope))
    # A tap in the padding may be left out only if it adds zeros: not if its weight is infinite or NaN.
    skips = b.skips and get_int(call.unbounded, 0) == 0
    unfinished = b.channel_blocks > 1 or call.activation != NO_ACTIVATION or call.out.c != b.itemsize or not b.copies
    unfinished = unfinished or call.adds != 0
    chunks = -(-b.filter_blocks // b.filter_chunk)
    prepared, inner, outer, rows_of = -1, 0, 0, 0
    while True:
        task = next_task(call.counter)
        if task >= b.tasks:
            return
        place, chunk = task // chunks, task % chunks
        if b.lanewise:
            # Threads side by side in the channels of one pixel would fetch each other's lines.
            place, chunk = task % (b.tasks // chunks), task // (b.tasks // chunks)
        first = chunk * b.filter_chunk
        wanted = task if b.lanewise else place
        if wanted != prepared:
            prepared = wanted
            inner, outer = _prepare(tag, acc, b, call, scratch, place, first, box_taps.length > 1)
        group = block_origin(b, place)[3] % b.groups
        for block in range(first, min(first + b.filter_chunk, b.filter_blocks)):
            filters = _filters(b, call, group, block)
            direct = not unfinished and filters.number == filters.vectors * b.lanes
            if not direct and rows_of != filters.vectors:
                rows_of = filters.vectors
                pitch = filters.vectors * b.lanes * b.itemsize
                fill_row_table(scratch + b.rows, sums, pitch, SUM_PIXELS + MOST_PIXELS)
            for part in range(2):
                total, shift = (inner, 0) if part == 0 else (outer, (inner + MOST_PIXELS) * 8)
                taps = x_taps if part == 0 else box_taps
                for p in range(0, total, max(total, 1) if direct else SUM_PIXELS):
                    number = total if direct else min(SUM_PIXELS, total - p)
                    reached = scratch + b.reached + p * 8 if part == 1 and skips else 0
                    some = Pixels(pixels + shift + p * 8, number, reached)
                    out = Out(targets + shift + p * 8, filters.first * call.out.c, call.out.c)
                    to = out if direct else Out(scratch + b.rows, 0, 0)
                    sum_pixels(acc, b, filters, some, taps, sums, to)
                    if call.adds:
                        step = call.residual.c
                        place = Out(scratch + b.residuals + shift + p * 8, filters.first * step, step)
                        add_residual(tag, acc, b, sums, number, filters.vectors, filters.number, place)
                    if not direct:
                        finish(tag, acc, b, sums, number, filters.vectors, filters.number, activation, out)


def convolve(dtype: str) -> int:
    """Return the address of the compiled loop nest for arrays of `dtype`; a job is a count, and so many `Call`."""
    tag, acc = tags(dtype)

    def run(job: int, worker: int) -> None:
        # Problems are not synchronised: a thread that finds no task left in one moves on to the next.
        for number in range(get_int(job, 0)):
            _convolve(tag, acc, job + 8 + number * _CALL_BYTES, worker)

    return entry(run, f"convolve_{dtype}")
