"""How a problem is cut for the vector tile: blocks of output, of filters and of channels. Integers only.

The order in which one output element is summed depends on `channel_block` alone, and that on the problem of one
sample and the device's cache. Everything else moves work between threads and caches and changes no bit.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from stridekit.backends.cpu.forward.partition import (
    SUM_PIXELS,
    Axis,
    block_sizes,
    box_length,
    cut_axis,
    divisions,
    shared_out,
)
from stridekit.backends.cpu.runtime.processor import CpuDevice
from stridekit.memory.dtypes import DTYPES
from stridekit.memory.workspace import WorkspaceLayout
from stridekit.problems.conv_problem import ConvProblem
from stridekit.problems.geometry import AxisGeometry
from stridekit.problems.padding import PADDING_MODES

SMALL_FLOPS = 2_000_000
"""Below this a second thread costs more than it saves: some 50 microseconds of work."""
MOST_SKIPPED_TAPS = 62
"""Taps that one integer can mark."""

_UNUSED = AxisGeometry(size=1, kernel=1, stride=1, dilation=1, pad_before=0, pad_after=0)


class Blocking(NamedTuple):
    """A problem cut into tasks; rank 1 and 2 have leading axes of size 1.

    Attributes
    ----------
    batch, groups : int
        N and G; a lanewise blocking has one group.
    channels, filters : int
        Input channels that one filter sums over, and filters, of one group.
    lanes, vectors, tile_vectors : int
        Elements of a vector; vectors that hold a group's filters; of these, how many a tile takes (the last fewer).
    filter_blocks, filter_chunk : int
        Tiles of a group, tiles of one task.
    channel_block, channel_blocks : int
        Input channels summed at once.
    multiplier, lanewise : int, bool
        Filters of each input channel, where every lane reads a channel of its own.
    subgroups, group_filters : int
        How many of the problem's groups are one group here, and how many filters each of them has.
    pixel_channels : int
        Channels of one box pixel.
    copies : bool
        Whether elements in memory have the type of the sums.
    skips : bool
        Whether it pays to leave out taps that read only zeros of the padding.
    padding_mode, itemsize : int
        Number of the mode; bytes of a sum.
    box, columns, box_taps, x_taps, some_taps, pixels, targets, residuals, reached, rows, sums : int
        Byte offsets of the parts of a thread's scratch.
    scratch, tasks, workers : int
        Its bytes; how many tasks there are; how many threads are worth it.
    """

    d: Axis
    h: Axis
    w: Axis
    batch: int
    groups: int
    channels: int
    filters: int
    lanes: int
    vectors: int
    tile_vectors: int
    filter_blocks: int
    filter_chunk: int
    channel_block: int
    channel_blocks: int
    multiplier: int
    pixel_channels: int
    lanewise: bool
    subgroups: int
    group_filters: int
    copies: bool
    skips: bool
    padding_mode: int
    itemsize: int
    box: int
    columns: int
    box_taps: int
    x_taps: int
    some_taps: int
    pixels: int
    targets: int
    residuals: int
    reached: int
    rows: int
    sums: int
    scratch: int
    tasks: int
    workers: int

    @property
    def positions(self) -> int:
        """Kernel positions."""
        return self.d.kernel * self.h.kernel * self.w.kernel

    @property
    def packed_elements(self) -> int:
        """Elements of the weights in tile order."""
        return self.bias_elements * self.positions * self.channels

    @property
    def bias_elements(self) -> int:
        """Elements of the bias, filled up to whole vectors."""
        return self.groups * self.vectors * self.lanes


def accumulator_itemsize(problem: ConvProblem) -> int:
    """Bytes of a sum: 16-bit and 32-bit inputs are summed in float32."""
    return DTYPES[problem.dtype].accumulator.nbytes


@lru_cache(maxsize=4096)
def broadcast_blocking(problem: ConvProblem, device: CpuDevice) -> Blocking:
    """Cut a problem for broadcast tiles: lanes are filters, groups are separate problems."""
    itemsize = accumulator_itemsize(problem)
    channels, filters = problem.group_in_channels, problem.group_out_channels
    tile_vectors = _tile_vectors(filters, itemsize, device)
    slab = problem.taps * channels * tile_vectors * device.vector_bytes
    channel_blocks = min(channels, -(-slab // (device.l2_bytes // 2)))
    return _cut(
        problem,
        device,
        groups=problem.groups,
        channels=channels,
        filters=filters,
        channel_block=-(-channels // channel_blocks),
    )


@lru_cache(maxsize=4096)
def paired_blocking(problem: ConvProblem, device: CpuDevice) -> Blocking:
    """Cut a problem for paired tiles: two groups of half a vector of filters each are one group."""
    channels = problem.group_in_channels
    return _cut(
        problem,
        device,
        groups=problem.groups // 2,
        channels=channels,
        filters=2 * problem.group_out_channels,
        channel_block=channels,
        subgroups=2,
    )


@lru_cache(maxsize=4096)
def lanewise_blocking(problem: ConvProblem, device: CpuDevice) -> Blocking:
    """Cut a depthwise problem for lanewise tiles: each lane is a filter with its own input channel."""
    return _cut(
        problem,
        device,
        groups=1,
        channels=1,
        filters=problem.out_channels,
        channel_block=1,
        multiplier=problem.group_out_channels,
        lanewise=True,
    )


def _tile_vectors(filters: int, itemsize: int, device: CpuDevice) -> int:
    """Share the vectors of `filters` out evenly: five are a tile of three and one of two, not four and one."""
    return evenly(-(-filters // device.lanes(itemsize)), max(device.tiles))


def evenly(count: int, most: int) -> int:
    """Return the size of the parts, of at most `most`, into which `count` things are shared out evenly."""
    return -(-count // -(-count // most))


def _cut(
    problem: ConvProblem,
    device: CpuDevice,
    *,
    groups: int,
    channels: int,
    filters: int,
    channel_block: int,
    multiplier: int = 1,
    lanewise: bool = False,
    subgroups: int = 1,
) -> Blocking:
    itemsize = accumulator_itemsize(problem)
    lanes = device.lanes(itemsize)
    vectors, tile_vectors = -(-filters // lanes), _tile_vectors(filters, itemsize, device)
    filter_blocks = -(-vectors // tile_vectors)
    channel_blocks = -(-channels // channel_block)
    pixel_channels = tile_vectors * lanes if lanewise else channels * subgroups
    geometry = (*(_UNUSED,) * (3 - problem.rank), *problem.geometry.axes)
    threads = device.threads if problem.flops >= SMALL_FLOPS else 1
    blocks = block_sizes(geometry, pixel_channels * itemsize, device.l2_bytes // 4)
    parts, chunks = problem.batch * groups, (filter_blocks,) if lanewise else divisions(filter_blocks, threads)
    blocks, filter_chunk = shared_out(geometry, blocks, parts, filter_blocks, chunks, threads)
    d, h, w = (cut_axis(axis, block) for axis, block in zip(geometry, blocks, strict=True))
    tasks = parts * d.blocks * h.blocks * w.blocks * -(-filter_blocks // filter_chunk)

    most_pixels = max(device.tiles.values())
    table = 8 * (d.block * h.block * w.block + 2 * most_pixels)
    tap_table = 16 * problem.taps * channel_blocks
    width = box_length(w, w.block)
    box = box_length(d, d.block) * box_length(h, h.block) * width * pixel_channels * itemsize
    sizes = {
        # A transpose writes whole vectors, an interleave four elements, past the last pixel too.
        "box": box + max(device.vector_bytes, 4 * itemsize),
        "columns": 16 * width,
        "box_taps": tap_table,
        "x_taps": tap_table,
        "some_taps": 16 * problem.taps,
        "pixels": table,
        "targets": table,
        "residuals": table * problem.residual,
        "reached": table,
        "rows": 8 * (SUM_PIXELS + most_pixels),
        "sums": (SUM_PIXELS + most_pixels) * tile_vectors * device.vector_bytes,
    }
    scratch = WorkspaceLayout(tuple(sizes.items()))
    return Blocking(
        d=d,
        h=h,
        w=w,
        batch=problem.batch,
        groups=groups,
        channels=channels,
        filters=filters,
        lanes=lanes,
        vectors=vectors,
        tile_vectors=tile_vectors,
        filter_blocks=filter_blocks,
        filter_chunk=filter_chunk,
        channel_block=channel_block,
        channel_blocks=channel_blocks,
        multiplier=multiplier,
        pixel_channels=pixel_channels,
        lanewise=lanewise,
        subgroups=subgroups,
        group_filters=problem.group_out_channels,
        copies=DTYPES[problem.dtype].sums_itself,
        skips=_skips(problem, channels),
        padding_mode=PADDING_MODES.index(problem.padding_mode),
        itemsize=itemsize,
        **scratch.offsets,
        scratch=scratch.nbytes,
        tasks=tasks,
        workers=max(1, min(threads, tasks)),
    )


def _skips(problem: ConvProblem, channels: int) -> bool:
    padded = any(axis.pad_before or axis.pad_after for axis in problem.geometry.axes)
    return padded and problem.padding_mode == "zeros" and channels >= 8 and problem.taps <= MOST_SKIPPED_TAPS
