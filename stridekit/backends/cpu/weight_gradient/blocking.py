"""How a weight gradient is cut: its long sum over samples and output pixels into chains of blocks. Integers only.

Filters are the lanes, the result's channels and taps are the pixels of the tile, and the output's pixels are summed.
Each chain is one sum of its own, block after block; the chains are added up at the end, in order. Chains depend on the
problem and the cache alone, so that the order of the sum does; everything else moves work between threads and caches.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from stridekit.backends.cpu.forward.blocking import SMALL_FLOPS, accumulator_itemsize, evenly
from stridekit.backends.cpu.forward.partition import SUM_PIXELS, mostly_shared
from stridekit.backends.cpu.runtime.processor import CpuDevice
from stridekit.memory.dtypes import DTYPES
from stridekit.memory.workspace import WorkspaceLayout, align
from stridekit.problems.conv_problem import ConvProblem
from stridekit.problems.geometry import AxisGeometry
from stridekit.problems.padding import PADDING_MODES

MOST_TASKS = 16
"""Chains are made until there are so many tasks; more would only be more to add up."""
CHAIN_PRODUCTS = 1 << 19
"""Multiply-adds that a chain is worth: some 20 microseconds."""
LEAST_CHANNELS = 16
"""Channels for which a block is made small enough that the cache holds their windows."""
CHAIN_BYTES = 16 << 20
"""What the sums of all chains together may take."""


class SummedAxis(NamedTuple):
    """One spatial axis: sizes, steps, and outputs of one block."""

    size: int
    out: int
    kernel: int
    stride: int
    dilation: int
    pad: int
    block: int
    blocks: int


class Reduction(NamedTuple):
    """A weight gradient cut into tasks; rank 1 and 2 have leading axes of size 1.

    Attributes
    ----------
    batch, groups, channels, filters : int
        N, G, and C and K of one group.
    lanes, vectors, tile_vectors, filter_blocks : int
        Elements of a vector; vectors that hold a group's filters; of these, how many a tile takes; tiles.
    range_channels, ranges : int
        Channels of one task, and how many tasks share the channels out.
    summed, chains, chain_blocks : int
        Blocks of outputs; chains; blocks of one chain.
    copies : bool
        Whether elements in memory have the type of the sums.
    padding_mode, itemsize : int
        Number of the mode; bytes of a sum.
    rows, region : int
        Rows of sums of a task, those beyond the last pixel included; their bytes.
    slab, box, pixels, box_pixels, targets, sums : int
        Byte offsets of the parts of a thread's scratch.
    scratch, tasks, finish_tasks, workers : int
        Its bytes; how many tasks there are, and to add up chains; how many threads are worth it.
    """

    d: SummedAxis
    h: SummedAxis
    w: SummedAxis
    batch: int
    groups: int
    channels: int
    filters: int
    lanes: int
    vectors: int
    tile_vectors: int
    filter_blocks: int
    range_channels: int
    ranges: int
    summed: int
    chains: int
    chain_blocks: int
    copies: bool
    padding_mode: int
    itemsize: int
    rows: int
    region: int
    slab: int
    box: int
    pixels: int
    box_pixels: int
    targets: int
    sums: int
    scratch: int
    tasks: int
    finish_tasks: int
    workers: int

    @property
    def partial_bytes(self) -> int:
        """Bytes of the sums of all chains; none are kept where there is one chain."""
        return self.tasks * self.region if self.chains > 1 else 0


_UNUSED = AxisGeometry(size=1, kernel=1, stride=1, dilation=1, pad_before=0, pad_after=0)


def window_length(axis: SummedAxis, outputs: int) -> int:
    """Return the input positions, padding included, that `outputs` neighbouring outputs span."""
    return (outputs - 1) * axis.stride + axis.dilation * (axis.kernel - 1) + 1


@lru_cache(maxsize=4096)
def reduction(problem: ConvProblem, device: CpuDevice) -> Reduction:
    """Cut a weight gradient."""
    itemsize = accumulator_itemsize(problem)
    lanes = device.lanes(itemsize)
    channels, filters, taps = problem.group_in_channels, problem.group_out_channels, problem.taps
    vectors = -(-filters // lanes)
    tile_vectors = evenly(vectors, max(device.tiles))
    filter_blocks = -(-vectors // tile_vectors)
    row_bytes = tile_vectors * device.vector_bytes
    room = device.l2_bytes // 4
    axes = (*(_UNUSED,) * (3 - problem.rank), *problem.geometry.axes)
    d, h, w = _blocks(axes, min(channels, LEAST_CHANNELS) * itemsize, row_bytes, room)
    box = itemsize * math.prod(window_length(axis, axis.block) for axis in (d, h, w))
    range_channels = evenly(channels, max(1, min(room // (taps * row_bytes), room // box)))
    ranges = -(-channels // range_channels)
    # A sum over no samples is planned as if over one; there is nothing to run.
    batch = max(problem.batch, 1)
    summed = batch * d.blocks * h.blocks * w.blocks
    places = problem.groups * filter_blocks * ranges
    rows = range_channels * taps + max(device.tiles.values())
    region = align(rows * row_bytes)
    products = problem.flops // 2
    wanted = min(-(-MOST_TASKS // places), products // CHAIN_PRODUCTS, CHAIN_BYTES // (places * region), summed)
    chain_blocks = -(-summed // max(1, wanted))
    chains = -(-summed // chain_blocks)
    threads = device.threads if problem.flops >= SMALL_FLOPS else 1
    sizes = {
        "slab": h.block * w.block * row_bytes,
        "box": range_channels * box,
        "pixels": 8 * rows,
        "box_pixels": 8 * rows,
        "targets": 8 * (SUM_PIXELS + max(device.tiles.values())),
        # What a task sums; where chains have their own, what is added up of them at once.
        "sums": region if chains == 1 else SUM_PIXELS * row_bytes,
    }
    scratch = WorkspaceLayout(tuple(sizes.items()))
    tasks = chains * places
    finish_tasks = places * -(-range_channels * taps // SUM_PIXELS) if chains > 1 else 0
    return Reduction(
        d=d,
        h=h,
        w=w,
        batch=batch,
        groups=problem.groups,
        channels=channels,
        filters=filters,
        lanes=lanes,
        vectors=vectors,
        tile_vectors=tile_vectors,
        filter_blocks=filter_blocks,
        range_channels=range_channels,
        ranges=ranges,
        summed=summed,
        chains=chains,
        chain_blocks=chain_blocks,
        copies=DTYPES[problem.dtype].sums_itself,
        padding_mode=PADDING_MODES.index(problem.padding_mode),
        itemsize=itemsize,
        rows=rows,
        region=region,
        **scratch.offsets,
        scratch=scratch.nbytes,
        tasks=tasks,
        finish_tasks=finish_tasks,
        workers=max(1, min(threads, tasks)),
    )


def _blocks(
    axes: tuple[AxisGeometry, ...], position_bytes: int, row_bytes: int, room: int
) -> tuple[SummedAxis, SummedAxis, SummedAxis]:
    """Cut the outputs into pieces of rows, or into whole rows, whose gradients and windows stay in the cache."""

    def cut(axis: AxisGeometry, block: int) -> SummedAxis:
        size, out = axis.size, axis.output_size
        return SummedAxis(size, out, axis.kernel, axis.stride, axis.dilation, axis.pad_before, block, -(-out // block))

    def slab(h_block: int, w_block: int) -> int:
        return h_block * w_block * row_bytes

    def box(h_block: int, w_block: int) -> int:
        lengths = (window_length(cut(axis, n), n) for axis, n in zip(axes, (1, h_block, w_block), strict=True))
        return math.prod(lengths) * position_bytes

    height, width = axes[1].output_size, axes[2].output_size
    w = width
    # Squares of a transpose are at most sixteen wide: no piece is shorter for the sake of the cache.
    while w > 64 and (slab(1, w) > room // 2 or box(1, w) > room):
        w = -(-w // 2)
    w = min(width, align(w, 16))
    h = 1
    # Under a long dilated kernel neighbouring rows read much the same: then rather a larger box of fewer channels.
    while w == width and h < height and slab(min(2 * h, height), w) <= room // 2:
        if box(min(2 * h, height), w) > room and not mostly_shared(axes[1], h):
            break
        h = min(2 * h, height)
    h = evenly(height, h)
    return cut(axes[0], 1), cut(axes[1], h), cut(axes[2], w)
