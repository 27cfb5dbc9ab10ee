"""How an output is shared out: into blocks that fit a cache, and among threads so that they end together.

Integers only. It moves work between threads and caches and changes no bit of a result.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from stridekit.problems.geometry import AxisGeometry

TASKS_PER_THREAD = 4
SUM_PIXELS = 96
"""Output pixels whose sums are held at once: 96 of 64 float32 are 24 KiB, which the first cache keeps."""
TASK_VECTORS = 4
"""Vectors of filters that are packed at once: their weights are hundreds of bytes in a row, which a processor fetches
ahead."""
_GATHERING = 0.1
_TASK_PIXELS = 8
"""To gather a pixel, and to begin a task, in units of a pixel's products with one block of filters."""


class Axis(NamedTuple):
    """One spatial axis as the kernels see it.

    A block of input is gathered into a box. Where neighbouring windows overlap or touch, box positions are input
    positions; else the box is `compact` and holds only what the windows read, `kernel` positions for each.
    """

    size: int
    out: int
    kernel: int
    stride: int
    dilation: int
    pad: int
    block: int
    blocks: int
    compact: int
    pixel_step: int
    tap_step: int


def cut_axis(axis: AxisGeometry, block: int) -> Axis:
    """Return an axis cut into blocks of `block` outputs."""
    pixel_step, tap_step = _steps(axis)
    return Axis(
        size=axis.size,
        out=axis.output_size,
        kernel=axis.kernel,
        stride=axis.stride,
        dilation=axis.dilation,
        pad=axis.pad_before,
        block=block,
        blocks=-(-axis.output_size // block),
        compact=int(axis.stride > axis.kernel_extent),
        pixel_step=pixel_step,
        tap_step=tap_step,
    )


def _steps(axis: AxisGeometry) -> tuple[int, int]:
    """Return the box positions from output to output and from tap to tap."""
    return (axis.kernel, 1) if axis.stride > axis.kernel_extent else (axis.stride, axis.dilation)


def box_length(axis: Axis, outputs: int) -> int:
    """Return the box positions that `outputs` neighbouring outputs need on an axis."""
    return (outputs - 1) * axis.pixel_step + axis.tap_step * (axis.kernel - 1) + 1


def block_sizes(geometry: tuple[AxisGeometry, ...], pixel_bytes: int, target: int) -> tuple[int, int, int]:
    """Choose the output block: whole rows if they fit, then as many rows and slices as `target` bytes of box hold."""

    steps = [_steps(axis) for axis in geometry]
    extents = [tap_step * (axis.kernel - 1) + 1 for axis, (_, tap_step) in zip(geometry, steps, strict=True)]

    def box_bytes(d: int, h: int, w: int) -> int:
        count = pixel_bytes
        for outputs, (pixel_step, _), extent in zip((d, h, w), steps, extents, strict=True):
            count *= (outputs - 1) * pixel_step + extent
        return count

    def even(out: int, block: int) -> int:
        return -(-out // -(-out // block))

    depth, height, width = (axis.output_size for axis in geometry)
    w = width
    while w > SUM_PIXELS // 4 and box_bytes(1, 1, w) > target:
        w = -(-w // 2)
    w = even(width, w)
    h = 1
    # Under a long dilated kernel neighbouring blocks gather much the same rows: then rather a larger box.
    while h < height and (box_bytes(1, min(2 * h, height), w) <= target or mostly_shared(geometry[1], h)):
        h = min(2 * h, height)
    h = even(height, h)
    d = 1
    while h == height and d < depth and box_bytes(min(2 * d, depth), h, w) <= target:
        d = min(2 * d, depth)
    return even(depth, d), h, w


def shared_out(
    geometry: tuple[AxisGeometry, ...],
    largest: tuple[int, int, int],
    parts: int,
    filter_blocks: int,
    chunks: tuple[int, ...],
    threads: int,
) -> tuple[tuple[int, int, int], int]:
    """Choose blocks no larger than `largest`, and filter blocks to a task, so that threads end together.

    A task costs its products, the gathering of its box and its start; the last thread to end decides.
    """
    d, h, w = largest
    depth, height, width = (axis.output_size for axis in geometry)
    rows = [(d, block, w) for block in _blocks(height, h, threads)] if height > 1 else []
    options = rows or [(d, h, block) for block in _blocks(width, w, threads)]
    best, least = (largest, filter_blocks), float("inf")
    for blocks in options:
        places = parts * -(-depth // d) * -(-height // blocks[1]) * -(-width // blocks[2])
        pixels = blocks[0] * blocks[1] * blocks[2]
        box = math.prod(box_length(cut_axis(axis, block), block) for axis, block in zip(geometry, blocks, strict=True))
        for number in chunks:
            chunk = -(-filter_blocks // number)
            tasks = places * -(-filter_blocks // chunk)
            time = -(-tasks // threads) * (pixels * chunk + box * _GATHERING + _TASK_PIXELS)
            if time < least:
                best, least = (blocks, chunk), time
    return best


def _blocks(size: int, largest: int, threads: int) -> list[int]:
    """Return even blocks no larger than `largest`, down to a few for each thread."""
    fewest = -(-size // largest)
    most = max(fewest, min(size, fewest + TASKS_PER_THREAD * threads)) if threads > 1 else fewest
    return list(dict.fromkeys(-(-size // count) for count in range(fewest, most + 1)))


def divisions(filter_blocks: int, threads: int) -> tuple[int, ...]:
    """Return into how many tasks the filters of a place may be divided."""
    return tuple(range(1, min(filter_blocks, TASKS_PER_THREAD * threads) + 1)) if threads > 1 else (1,)


def mostly_shared(axis: AxisGeometry, outputs: int) -> bool:
    """Say whether most of the rows that a block of `outputs` reads are read by the next block too."""
    return axis.kernel_extent - axis.stride > 2 * outputs * axis.stride
