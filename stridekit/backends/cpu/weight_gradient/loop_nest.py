"""The loop nest of the weight gradient: draw a chain, lay its blocks, run the tile over them; then add chains up.

Any number of threads may run it at once, as that of `forward`. All memory is named by address; axes are
(n, c, d, h, w) of the input, (n, k, d, h, w) of the output's gradient and (k, c, t, r, s) of the result.
"""

from __future__ import annotations

from typing import Any

from stridekit.backends.cpu.forward.address_tables import MOST_PIXELS, inside, repeat_last
from stridekit.backends.cpu.forward.epilogue import NO_ACTIVATION, ActivationCode, finish
from stridekit.backends.cpu.forward.microkernel import Out, Rows, Run, Weights, by_vectors, run_tile
from stridekit.backends.cpu.forward.partition import SUM_PIXELS
from stridekit.backends.cpu.runtime.compiler import entries, helper, inlined, named
from stridekit.backends.cpu.runtime.processor import host
from stridekit.backends.cpu.runtime.records import Strided
from stridekit.backends.cpu.runtime.vector_memory import load, next_task, reader, set_int, store
from stridekit.backends.cpu.weight_gradient.blocking import Reduction
from stridekit.backends.cpu.weight_gradient.jobs import Accumulation
from stridekit.backends.cpu.weight_gradient.pack_operands import behind, gather_windows, lay_gradients, window_length

LEAST_IN_PLACE = 64
"""Outputs of a row that are worth tiles of their own where what is beside them needs the box."""


_read_call, _read_reduction = reader(Accumulation), reader(Reduction)


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
def _fill_pixels(table: int, r: Any, count: int, x: Any) -> None:
    """Write where the first element of every channel and tap lies, from that of the first."""
    at = 0
    for c in range(count):
        for t in range(r.d.kernel):
            for h in range(r.h.kernel):
                address = c * x.c + t * r.d.dilation * x.d + h * r.h.dilation * x.h
                for _ in range(r.w.kernel):
                    set_int(table, at, address)
                    address += r.w.dilation * x.w
                    at += 1
    repeat_last(table, at)


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
    positions, out = r.d.kernel * r.h.kernel * r.w.kernel, call.out
    for p in range(count):
        pixel = first_pixel + p
        tap = pixel % positions
        t, h, w = tap // (r.h.kernel * r.w.kernel), tap // r.w.kernel % r.h.kernel, tap % r.w.kernel
        offset = (channel + pixel // positions) * out.c + t * out.d + h * out.h + w * out.w
        set_int(targets, p, out.start + offset)
    repeat_last(targets, count)
    to = Out(targets, (group * r.filters + vector * r.lanes) * out.k, out.k)
    finish(tag, acc, r, sums, count, vectors, filters, ActivationCode(NO_ACTIVATION, 0.0), to)


@helper
def _box(r: Any, start: int, channels: int, pixels: bool) -> Strided:
    """Return how the box lies, that begins at `start`: pixels of channels, or planes."""
    column = channels * r.itemsize if pixels and channels > 1 else r.itemsize
    row = window_length(r.w, r.w.block) * column
    plane = window_length(r.h, r.h.block) * row
    channel = r.itemsize if column > r.itemsize else window_length(r.d, 1) * plane
    return Strided(start, 0, channel, plane, row, column)


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
    call = _read_call(job)
    x, g, r = call.x, call.gradient, _read_reduction(call.reduction)
    scratch = call.scratch + worker * call.scratch_step
    slab, targets = scratch + r.slab, scratch + r.targets
    pixels, box_pixels = scratch + r.pixels, scratch + r.box_pixels
    places = r.tasks // r.chains
    tables_for = -1
    while True:
        task = next_task(call.counter)
        if task >= r.tasks:
            return
        chain, place = task // places, task % places
        group, channel, channels, vector, vectors, filters = _place(r, place)
        row = vectors * r.lanes * r.itemsize
        box = _box(r, scratch + r.box, channels, x.c == r.itemsize)
        count = channels * r.d.kernel * r.h.kernel * r.w.kernel
        if tables_for != channels:
            tables_for = channels
            _fill_pixels(pixels, r, channels, x)
            _fill_pixels(box_pixels, r, channels, box)
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
            gradient = g.start + n * g.n + (group * r.filters + vector * r.lanes) * g.c
            gradient += d0 * g.d + h0 * g.h + w0 * g.w
            weights = Weights(gradient, g.h, g.w)
            if not r.copies or g.c != r.itemsize or filters < vectors * r.lanes:
                lay_gradients(tag, acc, r, weights, g.c, rows, length, filters, slab)
                weights = Weights(slab, length * row, row)
            sample = behind(x, n * x.n + (group * r.channels + channel) * x.c)
            low, high = _in_place(r, d0, h0, rows, w0, w0 + length)
            for part in range(3):
                # First what touches no padding, where it lies; then what is left and right of it, in the box.
                first = low if part == 0 else w0 if part == 1 else high
                last = high if part == 0 else low if part == 1 else w0 + length
                if first == last:
                    continue
                table, read = box_pixels, box
                if part == 0:
                    before = (d0 * r.d.stride - r.d.pad) * x.d + (h0 * r.h.stride - r.h.pad) * x.h
                    table, read = pixels, behind(sample, before + (first * r.w.stride - r.w.pad) * x.w)
                else:
                    gather_windows(tag, acc, r, sample, channels, (d0, h0, first), rows, last - first, box)
                run = Run(rows, r.h.stride * read.h, last - first, r.w.stride * read.w)
                part_of = Weights(weights.start + (first - w0) * weights.step, weights.line_step, weights.step)
                _run_tiles(vectors, acc, (Rows(table, count, read.start), run, part_of, sums))
        if r.chains == 1:
            for first in range(0, count, SUM_PIXELS):
                number = min(SUM_PIXELS, count - first)
                _store_sums(tag, acc, r, call, place, first, number, sums + first * row, targets)


@inlined
def _add_chains(tag: Any, acc: Any, job: int, worker: int) -> None:
    """Add the chains of every place up, in order, and store their sums; `job` is an `Accumulation`."""
    call = _read_call(job)
    r = _read_reduction(call.reduction)
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


accumulate = entries("accumulate", _accumulate)
"""Return the address of the compiled loop nest for arrays of a dtype; a job is an `Accumulation`."""
add_chains = entries("add_chains", _add_chains)
"""Return the address of the compiled sum of chains; a job is an `Accumulation`."""
