"""Weights and bias in the order in which the tile reads them, in the type of the sums, filled up to whole vectors."""

from __future__ import annotations

from typing import Any

from stridekit.backends.cpu.compiling import helper, kernel
from stridekit.backends.cpu.tables import read_blocking
from stridekit.backends.cpu.vector import copy_vectors, load, next_task, set_int, square, store, transpose


@helper
def _column(b: Any, row: int, c: int, tap: int) -> int:
    """Byte offset, within a filter block, of the row of one input channel and tap."""
    positions = b.d.kernel * b.h.kernel * b.w.kernel
    block = c // b.channel_block
    depth = min(b.channel_block, b.channels - block * b.channel_block)
    return (block * b.channel_block * positions + tap * depth + c - block * b.channel_block) * row


@helper
def _pack_flat(acc: Any, b: Any, row: int, source: int, step: int, filters: int, packed: int) -> int:
    """Pack one vector of filters whose weights lie end to end, square by square; return how many columns that was."""
    positions = b.d.kernel * b.h.kernel * b.w.kernel
    pitch = b.lanes * b.itemsize
    whole = positions * b.channels // b.lanes * b.lanes
    turned = square(acc)
    c, tap = 0, 0
    for first in range(0, whole, b.lanes):
        transpose(acc, turned, pitch, source + first * b.itemsize, step, filters, b.lanes)
        for i in range(b.lanes):
            copy_vectors(packed + _column(b, row, c, tap), turned + i * pitch, 1)
            tap += 1
            if tap == positions:
                c, tap = c + 1, 0
    return whole


@kernel
def pack_weights(
    tag: Any, acc: Any, words: int, weight: int, strides: Any, flat: bool, packed: int, counter: int
) -> None:
    """Write weights (k, c, t, r, s) as ``[group][filter block][channel block][tap][channel][lane]``.

    Tasks are vectors of filters, drawn from `counter`. `flat` says that each filter's weights lie end to end.
    The lanes beyond the last filter are never stored, whatever they hold.
    """
    b = read_blocking(words)
    positions = b.d.kernel * b.h.kernel * b.w.kernel
    while True:
        task = next_task(counter)
        if task >= b.groups * b.vectors:
            return
        group, number = task // b.vectors, task % b.vectors
        block, within = number // b.tile_vectors, number % b.tile_vectors
        vectors = min(b.tile_vectors, b.vectors - block * b.tile_vectors)
        row = vectors * b.lanes * b.itemsize
        start = packed + (group * b.vectors + block * b.tile_vectors) * b.lanes * b.itemsize * positions * b.channels
        start += within * b.lanes * b.itemsize
        filters = min(b.lanes, b.filters - number * b.lanes)
        source = weight + (group * b.filters + number * b.lanes) * strides[0]
        done = 0
        if flat and b.copies:
            done = _pack_flat(acc, b, row, source, strides[0], filters, start)
        for column in range(done, positions * b.channels):
            c, tap = column // positions, column % positions
            t, r, s = tap // (b.h.kernel * b.w.kernel), tap // b.w.kernel % b.h.kernel, tap % b.w.kernel
            at = source + c * strides[1] + t * strides[2] + r * strides[3] + s * strides[4]
            target = start + _column(b, row, c, tap)
            for lane in range(filters):
                store(acc, target + lane * b.itemsize, load(tag, at + lane * strides[0]))
            for lane in range(filters, b.lanes):
                store(acc, target + lane * b.itemsize, acc)


@kernel
def pack_bias(tag: Any, acc: Any, words: int, bias: int, stride: int, packed: int, counters: int) -> None:
    """Write a bias as ``[group][lane]``, address 0 standing for none and giving zeros, and set both counters to 0."""
    b = read_blocking(words)
    set_int(counters, 0, 0)
    set_int(counters, 1, 0)
    padded = b.vectors * b.lanes
    for group in range(b.groups):
        for k in range(padded):
            at = packed + (group * padded + k) * b.itemsize
            if bias != 0 and k < b.filters:
                store(acc, at, load(tag, bias + (group * b.filters + k) * stride))
            else:
                store(acc, at, acc)
