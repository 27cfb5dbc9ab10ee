"""The loop nest of the weight gradient: draw a chain, lay its blocks, run the tile over them; then add chains up.

Any number of threads may run it at once, as the loop nest of `convolving`. All memory is named by address; axes are
(n, c, d, h, w) of the input, (n, k, d, h, w) of the output's gradient and (k, c, t, r, s) of the result.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from stridekit.backends.cpu.forward.address_tables import MOST_PIXELS, inside, repeat_last
from stridekit.backends.cpu.forward.epilogue import NO_ACTIVATION, Activation, finish
from stridekit.backends.cpu.forward.microkernel import Out, Rows, Run, Weights, by_vectors, run_tile
from stridekit.backends.cpu.forward.partition import SUM_PIXELS
from stridekit.backends.cpu.runtime.compiler import entry, helper, inlined, named
from stridekit.backends.cpu.runtime.processor import host
from stridekit.backends.cpu.runtime.vector_memory import load, next_task, read_ints, set_int, store, tags
from stridekit.backends.cpu.weight_gradient.blocking import Reduction, SummedAxis
from stridekit.backends.cpu.weight_gradient.pack_operands import gather_windows, lay_gradients, window_length

LEAST_IN_PLACE = 64
"""Outputs of a row that are worth tiles of their own where what is beside them needs the box."""


class Accumulation(NamedTuple):
    """What a call adds to a `Reduction`: all of it int64, in a row in memory.

    Attributes
    ----------
    words : address of the ``words`` of the `Reduction`
    scratch, scratch_step : address of ``r.scratch`` bytes for each thread, and bytes from one to the next
    partials : address of the sums of each task, if there are several chains
    counter : address of the shared task counter
    x, x_n, x_c, x_d, x_h, x_w : address of element (0, 0, 0, 0, 0) and strides in bytes
    g, g_n, g_k, g_d, g_h, g_w : the same of the output's gradient
    out, out_k, out_c, out_d, out_h, out_w : the same of the result
    """

    words: int
    scratch: int
    scratch_step: int
    partials: int
    counter: int
    x: int
    x_n: int
    x_c: int
    x_d: int
    x_h: int
    x_w: int
    g: int
    g_n: int
    g_k: int
    g_d: int
    g_h: int
    g_w: int
    out: int
    out_k: int
    out_c: int
    out_d: int
    out_h: int
    out_w: int


_AXIS_WORDS = len(SummedAxis._fields)
_read_axis, _read_others = read_ints(_AXIS_WORDS), read_ints(len(Reduction._fields) - 3)
_read_call = read_ints(len(Accumulation._fields))


@helper
def read_reduction(words: int) -> Reduction:
    """Read the `Reduction` whose ``words`` lie at an address."""
    d, h, w = _read_axis(words), _read_axis(words + 8 * _AXIS_WORDS), _read_axis(words + 16 * _AXIS_WORDS)
    return Reduction(SummedAxis(*d), SummedAxis(*h), SummedAxis(*w), *_read_others(words + 24 * _AXIS_WORDS))


def _over_rows(height: int, vectors: int) -> Any:
    """Return the loop of one tile over rows; what is left may take a tile half as high."""
    half = (height + 1) // 2
    whole_tile, half_tile = run_tile(height, vectors), run_tile(half, vectors)
    pitch = vectors * host().vector_bytes

    def loop(vectors: int, acc: Any, operands: Any) -> None:
        rows, run, weights, sums = operands
        p = 0
        while p < rows.number:
            here, to = Rows(rows.table + p * 8, rows.number - p, rows.start), sums + p * pitch
            if here.number > half:
                whole_tile(acc, here, run, weights, to)
                p += height
            else:
                half_tile(acc, here, run, weights, to)
                p += half

    return named(helper, loop, f"run_tile_{height}x{vectors}")


_run_tiles = by_vectors("run_tile", [(vectors, _over_rows(rows, vectors)) for vectors, rows in host().tiles.items()])


@helper
def _fill_pixels(table: int, r: Any, count: int, steps: Any) -> int:
    """Write where the first element of every channel and tap lies, from that of the first; return how many."""
    at = 0
    for c in range(count):
        for t in range(r.d.kernel):
            for h in range(r.h.kernel):
                address = c * steps[0] + t * r.d.dilation * steps[1] + h * r.h.dilation * steps[2]
                for _ in range(r.w.kernel):
                    set_int(table, at, address)
                    address += r.w.dilation * steps[3]
                    at += 1
    repeat_last(table, at)
    return at


@helper
def _place(r: Any, place: int) -> Any:
    """Decode a place: group, first channel and how many, first vector and how many, filters."""
    first = place % r.ranges * r.range_channels
    place //= r.ranges
    vector = place % r.filter_blocks * r.tile_vectors
    vectors = min(r.tile_vectors, r.vectors - vector)
    filters = min(vectors * r.lanes, r.filters - vector * r.lanes)
    return place // r.filter_blocks, first, min(r.range_channels, r.channels - first), vector, vectors, filters


@helper
def _store_sums(
    tag: Any, acc: Any, r: Any, call: Any, place: int, first_pixel: int, count: int, sums: int, targets: int
) -> None:
    """Store the sums of `count` channels and taps of a place from `first_pixel` on."""
    group, channel, _, vector, vectors, filters = _place(r, place)
    positions = r.d.kernel * r.h.kernel * r.w.kernel
    for p in range(count):
        pixel = first_pixel + p
        tap = pixel % positions
        t, h, w = tap // (r.h.kernel * r.w.kernel), tap // r.w.kernel % r.h.kernel, tap % r.w.kernel
        offset = (channel + pixel // positions) * call.out_c + t * call.out_d + h * call.out_h + w * call.out_w
        set_int(targets, p, call.out + offset)
    repeat_last(targets, count)
    plane = (group * r.filters + vector * r.lanes) * call.out_k
    none, out = Activation(NO_ACTIVATION, 0.0), Out(targets, plane, call.out_k)
    finish(tag, acc, r, sums, count, vectors, filters, none, out)


@helper
def _box_steps(r: Any, channels: int, pixels: bool) -> Any:
    """Return the bytes between channels, slices, rows and columns of the box: pixels of channels, or planes."""
    column = channels * r.itemsize if pixels and channels > 1 else r.itemsize
    row = window_length(r.w, r.w.block) * column
    plane = window_length(r.h, r.h.block) * row
    return r.itemsize if column > r.itemsize else window_length(r.d, 1) * plane, plane, row, column


@helper
def _in_place(r: Any, d: int, h: int, rows: int, first: int, last: int) -> Any:
    """Return the range of outputs first..last-1 of a block whose windows are read where they lie."""
    slices, lines, columns = inside(r.d, d, d + 1), inside(r.h, h, h + rows), inside(r.w, first, last)
    whole = slices[1] > slices[0] and lines[1] - lines[0] == rows
    if not r.copies or not whole or columns[1] - columns[0] < min(LEAST_IN_PLACE, last - first):
        return first, first
    return columns


@inlined
def _accumulate(tag: Any, acc: Any, job: int, worker: int) -> None:
    """Sum chains until none is left; `job` is an `Accumulation`."""
    call = Accumulation(*_read_call(job))
    r = read_reduction(call.words)
    scratch = call.scratch + worker * call.scratch_step
    slab, box, targets = scratch + r.slab, scratch + r.box, scratch + r.targets
    pixels, box_pixels = scratch + r.pixels, scratch + r.box_pixels
    x_steps = call.x_c, call.x_d, call.x_h, call.x_w
    places = r.tasks // r.chains
    tables_for = -1
    while True:
        task = next_task(call.counter)
        if task >= r.tasks:
            return
        chain, place = task // places, task % places
        group, channel, channels, vector, vectors, filters = _place(r, place)
        row = vectors * r.lanes * r.itemsize
        box_steps = _box_steps(r, channels, call.x_c == r.itemsize)
        count = channels * r.d.kernel * r.h.kernel * r.w.kernel
        if tables_for != channels:
            tables_for = channels
            _fill_pixels(pixels, r, channels, x_steps)
            _fill_pixels(box_pixels, r, channels, box_steps)
        sums = scratch + r.sums if r.chains == 1 else call.partials + task * r.region
        for at in range(sums, sums + (count + MOST_PIXELS) * row, r.itemsize):
            store(acc, at, acc)
        for block in range(chain * r.chain_blocks, min((chain + 1) * r.chain_blocks, r.summed)):
            w0 = block % r.w.blocks * r.w.block
            rest = block // r.w.blocks
            h0 = rest % r.h.blocks * r.h.block
            rest //= r.h.blocks
            d0, n = rest % r.d.blocks, rest // r.d.blocks
            rows, length = min(r.h.block, r.h.out - h0), min(r.w.block, r.w.out - w0)
            gradient = call.g + n * call.g_n + (group * r.filters + vector * r.lanes) * call.g_k
            gradient += d0 * call.g_d + h0 * call.g_h + w0 * call.g_w
            weights = Weights(gradient, call.g_h, call.g_w)
            if not r.copies or call.g_k != r.itemsize or filters < vectors * r.lanes:
                lay_gradients(tag, acc, r, weights, call.g_k, rows, length, filters, slab)
                weights = Weights(slab, length * row, row)
            corner = call.x + n * call.x_n + (group * r.channels + channel) * call.x_c
            low, high = _in_place(r, d0, h0, rows, w0, w0 + length)
            for part in range(3):
                # First what touches no padding, where it lies; then what is left and right of it, in the box.
                first = low if part == 0 else w0 if part == 1 else high
                last = high if part == 0 else low if part == 1 else w0 + length
                if first == last:
                    continue
                table, steps, start = pixels, x_steps, corner
                if part == 0:
                    start += (d0 * r.d.stride - r.d.pad) * call.x_d + (h0 * r.h.stride - r.h.pad) * call.x_h
                    start += (first * r.w.stride - r.w.pad) * call.x_w
                else:
                    table, steps, start = box_pixels, box_steps, box
                    gather_windows(
                        tag, acc, r, corner, x_steps, channels, (d0, h0, first), rows, last - first, box, box_steps
                    )
                run = Run(rows, r.h.stride * steps[2], last - first, r.w.stride * steps[3])
                part_of = Weights(weights.start + (first - w0) * weights.step, weights.line_step, weights.step)
                _run_tiles(vectors, acc, (Rows(table, count, start), run, part_of, sums))
        if r.chains == 1:
            for first in range(0, count, SUM_PIXELS):
                number = min(SUM_PIXELS, count - first)
                _store_sums(tag, acc, r, call, place, first, number, sums + first * row, targets)


@inlined
def _add_chains(tag: Any, acc: Any, job: int, worker: int) -> None:
    """Add the chains of every place up, in order, and store their sums; `job` is an `Accumulation`."""
    call = Accumulation(*_read_call(job))
    r = read_reduction(call.words)
    scratch = call.scratch + worker * call.scratch_step
    places = r.tasks // r.chains
    parts = r.finish_tasks // places
    while True:
        task = next_task(call.counter)
        if task >= r.finish_tasks:
            return
        place, first = task // parts, task % parts * SUM_PIXELS
        _, _, channels, _, vectors, _ = _place(r, place)
        row = vectors * r.lanes * r.itemsize
        count = min(SUM_PIXELS, channels * r.d.kernel * r.h.kernel * r.w.kernel - first)
        if count <= 0:
            continue
        source, sums = call.partials + place * r.region + first * row, scratch + r.sums
        for at in range(0, count * row, r.itemsize):
            store(acc, sums + at, load(acc, source + at))
        for chain in range(1, r.chains):
            other = source + chain * places * r.region
            for at in range(0, count * row, r.itemsize):
                store(acc, sums + at, load(acc, sums + at) + load(acc, other + at))
        _store_sums(tag, acc, r, call, place, first, count, sums, scratch + r.targets)


def accumulate(dtype: str) -> int:
    """Return the address of the compiled loop nest for arrays of `dtype`; a job is an `Accumulation`."""
    tag, acc = tags(dtype)

    def run(job: int, worker: int) -> None:
        _accumulate(tag, acc, job, worker)

    return entry(run, f"accumulate_{dtype}")


def add_chains(dtype: str) -> int:
    """Return the address of the compiled sum of chains; a job is an `Accumulation`."""
    tag, acc = tags(dtype)

    def run(job: int, worker: int) -> None:
        _add_chains(tag, acc, job, worker)

    return entry(run, f"add_chains_{dtype}")
