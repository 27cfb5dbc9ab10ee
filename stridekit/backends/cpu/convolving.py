"""The loop nest of the cpu backend: draw a block, gather its input, run the tile over it, finish the sums.

Any number of threads may run it at once on one problem, each with a scratch of its own: tasks are drawn from a
shared counter until none is left. All memory is named by address; axes are (n, c, d, h, w), strides in bytes.
"""

from __future__ import annotations

from typing import Any

from stridekit.backends.cpu.blocking import SUM_PIXELS
from stridekit.backends.cpu.compiling import helper, kernel
from stridekit.backends.cpu.finishing import finish
from stridekit.backends.cpu.gathering import (
    block_origin,
    box_length,
    fill_pixel_table,
    fill_tap_table,
    gather,
    inside,
)
from stridekit.backends.cpu.vector import TILE_PIXELS, broadcast_tile, lanewise_tile, next_task


@helper
def _sum_block(
    acc: Any, b: Any, pixels: int, count: int, taps: int, whole_rows: bool, weights: int, bias: int, sums: int
) -> None:
    """Sum the products of `count` pixels with one filter block, channel block after channel block."""
    row = b.tile_channels * b.itemsize
    positions = b.d.kernel * b.h.kernel * b.w.kernel
    tap_count = positions // b.w.kernel if whole_rows else positions
    for c in range(b.channel_blocks):
        depth = min(b.channel_block, b.channels - c * b.channel_block)
        length = depth * b.w.kernel if whole_rows else depth
        tap_table = taps + c * tap_count * 8
        weight = weights + c * b.channel_block * positions * row
        for p in range(0, count, TILE_PIXELS):
            total = sums + p * row
            # The first channel block starts every pixel from the bias, the others from the sums so far.
            start, step = (bias, 0) if c == 0 else (total, row)
            if b.lanewise:
                lanewise_tile(acc, pixels + p * 8, tap_table, tap_count, length, weight, start, step, total)
            else:
                broadcast_tile(acc, pixels + p * 8, tap_table, tap_count, length, weight, start, step, total)


@kernel
def convolve(
    tag: Any,
    acc: Any,
    b: Any,
    x: int,
    x_strides: Any,
    weights: int,
    bias: int,
    out: int,
    out_strides: Any,
    activation: int,
    slope: Any,
    in_place: bool,
    scratch: int,
    counter: int,
) -> None:
    """Compute output blocks until none is left.

    Parameters
    ----------
    tag, acc : tags of the arrays' elements and of the sums
    b : Blocking
    x, out : addresses of element (0, 0, 0, 0, 0), with their strides
    weights, bias : addresses of what `pack_weights` and `pack_bias` wrote
    activation, slope : number in `finishing`, and its parameter in the type of the sums
    in_place : whether a block that touches no padding may be read where it lies
    scratch : address of this thread's ``b.scratch`` bytes
    counter : address of the shared task counter
    """
    lanes = b.tile_channels
    positions = b.d.kernel * b.h.kernel * b.w.kernel
    slab = positions * b.channels * lanes * b.itemsize
    chunks = -(-b.filter_blocks // b.filter_chunk)
    w_pitch = b.pixel_channels * b.itemsize
    h_pitch = box_length(b.w, b.w.block) * w_pitch
    d_pitch = box_length(b.h, b.h.block) * h_pitch
    box, columns, sums = scratch + b.box, scratch + b.columns, scratch + b.sums
    pixels, targets = scratch + b.pixels, scratch + b.targets
    # A kernel row is one run of products where its channels lie end to end.
    box_rows = b.channel_blocks == 1 and b.w.tap_step == 1 and not b.lanewise
    x_rows = b.channel_blocks == 1 and b.w.dilation == 1 and x_strides[4] == w_pitch
    box_taps, x_taps = scratch + b.box_taps, scratch + b.x_taps
    fill_tap_table(box_taps, b, box_rows, b.d.tap_step * d_pitch, b.h.tap_step * h_pitch, b.w.tap_step * w_pitch)
    fill_tap_table(
        x_taps, b, x_rows, b.d.dilation * x_strides[2], b.h.dilation * x_strides[3], b.w.dilation * x_strides[4]
    )
    gathered, here = -1, False
    while True:
        task = next_task(counter)
        if task >= b.tasks:
            return
        place = task // chunks
        first = task % chunks * b.filter_chunk
        last = min(first + b.filter_chunk, b.filter_blocks)
        d0, h0, w0, rest = block_origin(b, place)
        d1, h1, w1 = min(d0 + b.d.block, b.d.out), min(h0 + b.h.block, b.h.out), min(w0 + b.w.block, b.w.out)
        depth, height, width = d1 - d0, h1 - h0, w1 - w0
        group, n = rest % b.groups, rest // b.groups
        # Lanewise, the box holds the channels of one filter block; else all channels of the group.
        wanted = task if b.lanewise else place
        if wanted != gathered:
            gathered = wanted
            sample = x + n * x_strides[0]
            here = in_place and inside(b.d, d0, d1) and inside(b.h, h0, h1) and inside(b.w, w0, w1)
            if here:
                corner = sample + group * b.channels * x_strides[1]
                corner += (d0 * b.d.stride - b.d.pad) * x_strides[2]
                corner += (h0 * b.h.stride - b.h.pad) * x_strides[3]
                corner += (w0 * b.w.stride - b.w.pad) * x_strides[4]
                d_step, h_step = b.d.stride * x_strides[2], b.h.stride * x_strides[3]
                fill_pixel_table(pixels, corner, depth, height, width, d_step, h_step, b.w.stride * x_strides[4])
            else:
                channel = first * lanes if b.lanewise else group * b.channels
                count = min(lanes, b.filters - channel) if b.lanewise else b.channels
                gather(tag, acc, b, sample, x_strides, channel, count, (d0, h0, w0), (d1, h1, w1), box, columns)
                d_step, h_step = b.d.pixel_step * d_pitch, b.h.pixel_step * h_pitch
                fill_pixel_table(pixels, box, depth, height, width, d_step, h_step, b.w.pixel_step * w_pitch)
            corner = out + n * out_strides[0] + d0 * out_strides[2] + h0 * out_strides[3] + w0 * out_strides[4]
            fill_pixel_table(targets, corner, depth, height, width, out_strides[2], out_strides[3], out_strides[4])
        for block in range(first, last):
            at = group * b.filter_blocks + block
            filters = min(lanes, b.filters - block * lanes)
            plane = (group * b.filters + block * lanes) * out_strides[1]
            for p in range(0, depth * height * width, SUM_PIXELS):
                count = min(SUM_PIXELS, depth * height * width - p)
                _sum_block(
                    acc,
                    b,
                    pixels + p * 8,
                    count,
                    x_taps if here else box_taps,
                    x_rows if here else box_rows,
                    weights + at * slab,
                    bias + at * lanes * b.itemsize,
                    sums,
                )
                finish(tag, acc, b, sums, count, filters, activation, slope, targets + p * 8, plane, out_strides[1])
