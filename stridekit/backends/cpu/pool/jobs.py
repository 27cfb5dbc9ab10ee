"""The job of the kernels that pool, as it lies in memory: a `Pooled`."""

from __future__ import annotations

from typing import NamedTuple

from stridekit.backends.cpu.runtime.records import Strided


class PoolWindow(NamedTuple):
    """One axis.

    Attributes
    ----------
    low, high : bounds of the input coordinates that an average counts
    period : steps from one window with a tap at some coordinate to the next
    index_step : from one pixel's index to the next pixel's
    block, blocks : pixels of the result in a block, and blocks
    """

    size: int
    out: int
    kernel: int
    stride: int
    dilation: int
    pad: int
    low: int
    high: int
    period: int
    index_step: int
    block: int
    blocks: int


class Pooled(NamedTuple):
    """A job.

    Attributes
    ----------
    d, h, w : PoolWindow
    largest, forward : whether it is a maximum's, and from the input to the output
    lanes, most_lanes : how many there are, and in a block
    lane_blocks : blocks of them
    inside : whether neighbouring blocks are of the same pixels
    first_index, lane_index : index of the first pixel, and from one lane's to the next lane's
    x, y, i : Strided of the input (or its gradient), the output (or its gradient), the indices; address 0 for none
        `n` is from one outer part to the next, `c` from one lane to the next.
    blocks, blocks_per_task : blocks of the result, and how many of them a task takes
    counter : address of the shared task counter
    """

    d: PoolWindow
    h: PoolWindow
    w: PoolWindow
    largest: int
    forward: int
    lanes: int
    most_lanes: int
    lane_blocks: int
    inside: int
    first_index: int
    lane_index: int
    x: Strided
    y: Strided
    i: Strided
    blocks: int
    blocks_per_task: int
    counter: int
