"""Weights and bias in the order in which the tile reads them, in the type of the sums, filled up to whole tiles."""

from __future__ import annotations

from typing import Any

from stridekit.backends.cpu.compiling import kernel
from stridekit.backends.cpu.vector import load, next_task, store


@kernel
def pack_weights(tag: Any, acc: Any, b: Any, weight: int, strides: Any, packed: int, counter: int) -> None:
    """Write weights (k, c, t, r, s) as ``[group][filter block][channel block][tap][channel][lane]``.

    Tasks are filter blocks, drawn from `counter`. The spare lanes of the last block are zero (`acc` is).
    """
    lanes, itemsize = b.tile_channels, b.itemsize
    taps = b.d.kernel * b.h.kernel * b.w.kernel
    slab = taps * b.channels * lanes * itemsize
    while True:
        task = next_task(counter)
        if task >= b.groups * b.filter_blocks:
            return
        first = task % b.filter_blocks * lanes
        filters = min(lanes, b.filters - first)
        source = weight + (task // b.filter_blocks * b.filters + first) * strides[0]
        for c in range(b.channels):
            block = c // b.channel_block
            depth = min(b.channel_block, b.channels - block * b.channel_block)
            within = c - block * b.channel_block
            column = packed + task * slab + (block * b.channel_block * taps + within) * lanes * itemsize
            tap = 0
            for t in range(b.d.kernel):
                for r in range(b.h.kernel):
                    for s in range(b.w.kernel):
                        at = source + c * strides[1] + t * strides[2] + r * strides[3] + s * strides[4]
                        row = column + tap * depth * lanes * itemsize
                        for lane in range(filters):
                            store(acc, row + lane * itemsize, load(tag, at + lane * strides[0]))
                        for lane in range(filters, lanes):
                            store(acc, row + lane * itemsize, acc)
                        tap += 1


@kernel
def pack_bias(tag: Any, acc: Any, b: Any, bias: int, stride: int, packed: int) -> None:
    """Write a bias as ``[group][filter block][lane]``; address 0 stands for none and gives zeros."""
    padded = b.filter_blocks * b.tile_channels
    for group in range(b.groups):
        for k in range(padded):
            at = packed + (group * padded + k) * b.itemsize
            if bias != 0 and k < b.filters:
                store(acc, at, load(tag, bias + (group * b.filters + k) * stride))
            else:
                store(acc, at, acc)
